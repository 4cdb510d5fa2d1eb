//! The packages for OpenWrt and Yocto: what they hold, what their scripts do on a device, and that what is listed twice agrees.
//!
//! A device is a root directory with busybox and OpenWrt's own `uci` and `jshn`, entered by chroot. procd, rc.common and functions.sh are
//! stand-ins (`packages/root`): what they are asked is seen here, what the real ones make of it is not.

mod harness;
#[path = "packages/ipk.rs"]
mod ipk;
#[path = "packages/inside.rs"]
mod inside;
#[path = "packages/layer.rs"]
mod layer;
#[path = "packages/root.rs"]
mod root;
#[path = "packages/router.rs"]
mod router;
#[path = "packages/scripts.rs"]
mod scripts;
#[path = "packages/service.rs"]
mod service;
#[path = "packages/settings.rs"]
mod settings;
#[path = "packages/sysvinit.rs"]
mod sysvinit;
#[path = "packages/systemd.rs"]
mod systemd;
