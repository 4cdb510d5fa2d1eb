//! The clocks: seconds and milliseconds since boot, and the boot id that says which boot.

use nix::libc;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since boot, suspend included (`CLOCK_BOOTTIME`). The only clock that keeper's decisions use: a router
/// without a battery clock starts in 1970 and jumps.
pub fn boottime() -> Duration {
    let t = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    Duration::new(t.tv_sec().max(0) as u64, t.tv_nsec().max(0) as u32)
}

/// Wall clock in milliseconds since 1970. May be wrong by decades. Everything here that wants it asks here: for 32-bit musl Rust's standard
/// library calls the C library's 32-bit `clock_gettime`, which refuses a year after 2038, and then panics.
pub fn unix_ms() -> u64 {
    let t = clock_gettime(ClockId::CLOCK_REALTIME).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    t.tv_sec().max(0) as u64 * 1000 + t.tv_nsec().max(0) as u64 / 1_000_000
}

/// Somebody keeps the wall clock right, and says so to the kernel (NTP, PTP, GPS): `STA_UNSYNC` is off. adjtimex(2) answers `TIME_ERROR` otherwise, and
/// the kernel turns it on again by itself once nobody has set the clock for hours.
pub fn is_clock_right() -> bool {
    const TIME_ERROR: libc::c_long = 5;
    // No modes: it only tells. The layout of what it tells does not matter, and differs; 208 bytes are the most (64-bit kernels).
    let mut told = [0u64; 32];
    // SAFETY: the kernel writes a struct timex of at most 208 bytes into the 256 that are there.
    let state = unsafe { libc::syscall(libc::SYS_adjtimex, told.as_mut_ptr()) };
    (0..TIME_ERROR).contains(&state)
}

/// The kernel's random id of this boot, in its printed form of 36 characters.
pub fn boot_id() -> std::io::Result<String> {
    const MAX: usize = 64;
    let raw = super::fd::read_file("/proc/sys/kernel/random/boot_id", MAX)?;
    Ok(String::from_utf8_lossy(&raw).trim().to_owned())
}
