//! Control groups: which hierarchies the kernel has, the groups of our containers in them, limits and readings.

mod detect;

pub use detect::Layout;
