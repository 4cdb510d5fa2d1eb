//! Capability sets of this thread, raw: one call sets three sets at once, and numbers that this program has never heard of are reached too.

use nix::libc::{self, c_ulong};
use std::io;

/// One past the largest number that the kernel's 64 bit sets can ever hold.
pub const NUMBERS: u32 = 64;

/// `capget(2)` and `capset(2)` version 3: two halves of 32 bits.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// The three sets that capset(2) sets, as bits `1 << CAP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sets {
    /// What counts now.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What survives exec of a file that inherits it, and what may be ambient.
    pub inheritable: u64,
}

/// Sets all three at once.
pub fn set(sets: Sets) -> io::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Half {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes exactly two halves; both structures live through the call.
    super::cvt(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(|_| ())
}

/// The sets in force.
pub fn get() -> io::Result<Sets> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Half::default(); 2];
    // SAFETY: version 3 writes exactly two halves; both structures live through the call.
    super::cvt(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let whole = |pick: fn(&Half) -> u32| u64::from(pick(&data[0])) | u64::from(pick(&data[1])) << 32;
    Ok(Sets { effective: whole(|h| h.effective), permitted: whole(|h| h.permitted), inheritable: whole(|h| h.inheritable) })
}

/// The bounding set: every number that the kernel knows, also newer ones than ours. They have no gaps; behind the last it answers EINVAL.
pub fn bounding() -> u64 {
    let known = (0..NUMBERS).map_while(|n| Some((n, prctl(libc::PR_CAPBSET_READ, n.into(), 0).ok()?)));
    known.fold(0, |set, (n, answer)| if answer == 1 { set | 1 << n } else { set })
}

/// Takes one capability from the bounding set; needs `CAP_SETPCAP`.
pub fn drop_bounding(number: u32) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, number.into(), 0).map(|_| ())
}

/// Empties the ambient set.
pub fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong, 0).map(|_| ())
}

/// Adds to the ambient set one that is permitted and inheritable.
pub fn raise_ambient(number: u32) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as c_ulong, number.into()).map(|_| ())
}

fn prctl(option: libc::c_int, a: c_ulong, b: c_ulong) -> io::Result<libc::c_int> {
    let zero: c_ulong = 0;
    // SAFETY: the options used here take integers only; unused arguments must be zero.
    super::cvt(unsafe { libc::prctl(option, a, b, zero, zero) }.into()).map(|r| r as libc::c_int)
}
