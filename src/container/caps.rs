//! Which capabilities a container keeps, and taking the others away for good.

use super::fail::{OrFail, launch};
use crate::ipc::Failure;
use crate::sys::caps::{self as raw, Sets};
use ::caps::Capability;

/// Docker's fourteen: what software in images expects of root, without a way to mount, load modules, or configure the network.
const DEFAULT: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// Bits of the default set.
pub fn default_set() -> u64 {
    bits(&DEFAULT)
}

/// Bits `1 << CAP_*` of a list.
pub fn bits(list: &[Capability]) -> u64 {
    list.iter().fold(0, |set, c| set | c.bitmask())
}

/// The names of a set, as a manifest writes them.
pub fn names(set: u64) -> String {
    let mut all: Vec<Capability> = ::caps::all().into_iter().filter(|c| set & c.bitmask() != 0).collect();
    all.sort_by_key(Capability::index);
    all.iter().map(|c| c.to_string().trim_start_matches("CAP_").to_owned()).collect::<Vec<_>>().join(", ")
}

/// The default set without `drop`, with `add`: what is in both lists stays, so that "drop all, add one" works.
pub fn adjusted(add: &[Capability], drop: &[Capability]) -> u64 {
    (default_set() & !bits(drop)) | bits(add)
}

/// Empties the bounding set except for `keep`, and answers what is left: a later [`settle`] can keep no more. Everything that the kernel knows
/// is walked, not what this program knows: an unknown newer capability would stay otherwise. Needs `CAP_SETPCAP`, so it comes before the
/// other sets shrink.
pub fn bound(keep: u64) -> Result<u64, Failure> {
    let all = raw::bounding();
    for number in (0..raw::NUMBERS).filter(|n| all & !keep & (1 << n) != 0) {
        raw::drop_bounding(number).or_fail(|| format!("drop capability {number} from the bounding set"))?;
    }
    Ok(all & keep)
}

/// Sets permitted and effective to `keep`, inheritable and ambient to `ambient`, and looks whether the kernel did so.
///
/// Root keeps nothing inheritable: a filled inheritable set gives file capabilities to programs that should have none (CVE-2022-24769).
/// For any other user, ambient is the only way through exec under no_new_privs, and it wants the same bits inheritable.
pub fn settle(keep: u64, ambient: u64) -> Result<(), Failure> {
    let wanted = Sets { effective: keep, permitted: keep, inheritable: ambient };
    raw::clear_ambient().or_fail(|| "clear the ambient capabilities")?;
    raw::set(wanted).or_fail(|| "set the capabilities")?;
    for number in (0..raw::NUMBERS).filter(|n| ambient & (1 << n) != 0) {
        raw::raise_ambient(number).or_fail(|| format!("raise ambient capability {number}"))?;
    }
    let found = raw::get().or_fail(|| "read the capabilities back")?;
    if found == wanted {
        Ok(())
    } else {
        Err(launch(format!("cannot reduce the capabilities: wanted {wanted:x?}, the kernel has {found:x?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(default_set(), 0xa804_25fb);
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        let all: Vec<Capability> = ::caps::all().into_iter().collect();
        assert_eq!(adjusted(&[Capability::CAP_NET_RAW], &all), 1 << 13);
    }

    #[test]
    fn an_added_capability_joins_the_default_set_and_a_dropped_one_leaves_it() {
        assert_eq!(adjusted(&[Capability::CAP_SYS_TIME], &[Capability::CAP_CHOWN]), 0xa804_25fb & !1 | 1 << 25);
    }
}
