//! The container runtime against a real kernel, seen from inside and outside; as root, with busybox-static and crun installed. This
//! process stands in keeper's place: it spawns `launch`, and what launch clones is our child.

mod attacks;
#[path = "../harness/bundle.rs"]
mod bundle;
mod crun;
mod ends;
mod exec;
mod files;
mod inside;
mod older;
mod outside;
mod placed;
mod stand;
