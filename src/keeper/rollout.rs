//! Which devices a document is for, when it is for a part of them. Pure.

use crate::image::Digest;
use crate::manifest::{Id, Manifest, Rollout};

/// Parts of the whole: a hundredth of a percent each.
pub const WHOLE: u64 = 10_000;

/// Where a device stands, from 0 to 9999: the first eight bytes of the SHA-256 of salt and device id, as a big-endian number, modulo 10000. With
/// the same salt it stands in the same place in every rollout.
pub fn place(salt: &str, device: &Id) -> u64 {
    let hash = Digest::of(&[salt.as_bytes(), device.as_str().as_bytes()].concat());
    let (first, _) = hash.bytes().split_at(8);
    first.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)) % WHOLE
}

/// Why a document is not for this device yet.
pub fn outside(m: &Manifest, device: &Id) -> Option<String> {
    let Rollout { share, salt, .. } = m.rollout.as_ref()?;
    let place = place(salt.as_deref().unwrap_or(m.app.as_str()), device);
    let percent = |parts: u64| format!("{}.{:02}", parts / 100, parts % 100);
    (place >= u64::from(*share))
        .then(|| format!("it is rolled out to {} % of the devices, and this one stands at {}", percent(u64::from(*share)), percent(place)))
}

/// Nothing that runs would be another after this document than after that one.
pub fn is_same(a: &Manifest, b: &Manifest) -> bool {
    (&a.app, &a.body) == (&b.app, &b.body)
}

#[cfg(test)]
mod tests {
    use super::{WHOLE, is_same, outside, place};
    use crate::manifest::{Id, Manifest, parse};

    fn document(rollout: &str, command: &str) -> Manifest {
        let containers = format!(r#"{{"main": {{"image": {{"ref": "oci:/i"}}, "command": ["{command}"]}}}}"#);
        parse(format!(r#"{{"wherry": 1, "app": "web", "seq": 1{rollout}, "containers": {containers}}}"#).as_bytes())
            .unwrap_or_else(|e| panic!("{e}"))
    }

    fn device(n: usize) -> Id {
        format!("router-{n}").parse().unwrap()
    }

    /// As `printf %s 'webrouter-0' | sha256sum` says, so that other programs can tell it too.
    #[test]
    fn a_devices_place_is_what_sha256_says() {
        for (salt, n, expect) in [("web", 0, 5708), ("web", 1, 5055), ("salt", 17, 8547)] {
            assert_eq!(place(salt, &device(n)), expect, "{salt} {n}");
        }
    }

    #[test]
    fn a_share_of_the_devices_is_inside_and_a_larger_one_has_all_of_them() {
        let inside = |percent: &str| -> Vec<usize> {
            let m = document(&format!(r#", "rollout": {{"percent": {percent}}}"#), "a");
            (0..5000).filter(|n| outside(&m, &device(*n)).is_none()).collect()
        };
        let (none, few, more, all) = (inside("0"), inside("10"), inside("12.5"), inside("100"));
        assert!(none.is_empty() && all.len() == 5000);
        assert!((400..600).contains(&few.len()) && few.iter().all(|n| more.contains(n)) && more.len() > few.len(), "{}", few.len());
        let m = document(r#", "rollout": {"percent": 10, "salt": "other"}"#, "a");
        assert_ne!((0..5000).filter(|n| outside(&m, &device(*n)).is_none()).collect::<Vec<_>>(), few);
        assert!(place("web", &device(3)) < WHOLE);
        assert!(outside(&document("", "a"), &device(1)).is_none());
    }

    #[test]
    fn only_what_runs_makes_a_difference() {
        let m = |percent: u32| document(&format!(r#", "rollout": {{"percent": {percent}}}"#), "a");
        assert!(is_same(&m(10), &m(50)) && is_same(&m(10), &document("", "a")));
        assert!(!is_same(&m(10), &document(r#", "rollout": {"percent": 10}"#, "b")));
    }
}
