//! Whether a device has what a document needs, decided before anything is downloaded for it. Pure.

use crate::image::Digest;
use crate::ipc::Refusal;
use crate::manifest::{Body, Container, Manifest, Resources};
use crate::protocol::Reason;

/// What a device has left.
#[derive(Debug, Clone, Default)]
pub struct Device<'a> {
    /// Bytes of memory for all apps together; `None`: nobody decides about that for this document.
    pub memory: Option<u64>,
    /// Bytes that the limits of all other apps add up to.
    pub memory_taken: u64,
    /// Free bytes on the file system of the data directory that images may take.
    pub flash: Option<u64>,
    /// Controllers that this kernel or machine withholds, with why.
    pub missing: &'a [(String, String)],
}

/// Everything that is missing, at once. `stored` tells whether an image is there already.
pub fn check(m: &Manifest, device: &Device, stored: impl Fn(&Digest) -> bool) -> Vec<Refusal> {
    let Body::Run(containers) = &m.body else { return Vec::new() };
    let whole = [memory(containers, device), flash(containers, device, stored)].into_iter().flatten();
    whole.chain(containers.iter().flat_map(|c| features(c, device))).collect()
}

/// Bytes that the limits of a document's containers add up to.
pub fn limits(m: &Manifest) -> u64 {
    let Body::Run(containers) = &m.body else { return 0 };
    sum(containers.iter().filter_map(|c| c.resources.memory_max))
}

fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

fn memory(containers: &[Container], device: &Device) -> Option<Refusal> {
    let wanted = sum(containers.iter().filter_map(|c| c.resources.memory_max));
    let (budget, taken) = (device.memory?, device.memory_taken);
    let message = format!(
        "the memory limits of its containers add up to {}; this device has {} for all apps, of which {} are taken",
        mib(wanted),
        mib(budget),
        mib(taken)
    );
    (wanted > 0 && taken.saturating_add(wanted) > budget).then(|| refusal(Reason::NoMemory, "containers", message))
}

/// Of images that say how large they are. What others need shows while they are unpacked.
fn flash(containers: &[Container], device: &Device, stored: impl Fn(&Digest) -> bool) -> Option<Refusal> {
    let mut images: Vec<(Option<Digest>, u64)> = Vec::new();
    for image in containers.iter().map(|c| &c.image) {
        let (identity, size) = (image.identity(), image.unpacked.unwrap_or(0));
        let there = identity.is_some_and(|d| stored(&d) || images.iter().any(|(other, _)| *other == Some(d)));
        if !there {
            images.push((identity, size));
        }
    }
    let (wanted, free) = (sum(images.iter().map(|(_, size)| *size)), device.flash?);
    let message = format!("its images need {} unpacked, {} are free for images", mib(wanted), mib(free));
    (wanted > free).then(|| refusal(Reason::NoSpace, "containers", message))
}

/// Limits that must hold, and that nothing here can enforce.
fn features(c: &Container, device: &Device) -> Vec<Refusal> {
    let r = &c.resources;
    let wanted = |controller: &str| {
        let Resources { memory_max, memory_high, swap_max, cpu_quota_milli, cpu_weight, pids_max, .. } = r;
        match controller {
            "memory" => memory_max.is_some() || memory_high.is_some() || swap_max.is_some(),
            "cpu" => cpu_quota_milli.is_some() || cpu_weight.is_some(),
            "pids" => pids_max.is_some(),
            _ => false,
        }
    };
    let missing = device.missing.iter().filter(|(controller, _)| r.required && wanted(controller));
    let one = |(controller, why): &(String, String)| {
        let message = format!("the limit of {controller} is required, and nothing on this device can enforce it: {why}");
        refusal(Reason::NoFeature, &format!("containers.{}.resources.{controller}", c.name), message)
    };
    missing.map(one).collect()
}

fn refusal(reason: Reason, path: &str, message: String) -> Refusal {
    Refusal { reason, path: path.to_owned(), message }
}

fn mib(bytes: u64) -> String {
    // Rounded up: what is short by a page is not told as equal.
    format!("{}M", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::{Device, check, limits};
    use crate::image::Digest;
    use crate::manifest::{Manifest, parse};
    use crate::protocol::Reason;

    const DIGEST: &str = "9b1f00000000000000000000000000000000000000000000000000000000aaaa";

    fn document(containers: &[(&str, &str)]) -> Manifest {
        let one =
            |(name, more): &(&str, &str)| format!(r#""{name}": {{"image": {{"ref": "https://x/{name}.tar", "type": "rootfs", {more}"#);
        let text = containers.iter().map(one).collect::<Vec<_>>().join("}, ");
        parse(format!(r#"{{"wherry": 1, "app": "web", "containers": {{{text}}}}}}}"#).as_bytes()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// An image that unpacks to so many MiB, and the rest of its container.
    fn of(mib: u32, other: u8, rest: &str) -> String {
        let digest = DIGEST.replace("aaaa", &format!("aa{other:02}"));
        format!(r#""digest": "sha256:{digest}", "unpacked": "{mib}M"}}, "resources": {{{rest}}}"#)
    }

    fn refused(m: &Manifest, device: &Device, stored: bool, expect: &[(Reason, &str)]) {
        let found = check(m, device, |_: &Digest| stored);
        assert_eq!(found.iter().map(|r| (r.reason, r.path.as_str())).collect::<Vec<_>>(), expect, "{found:?} on {device:?}");
    }

    #[test]
    fn limits_of_all_apps_must_fit_the_devices_memory() {
        let (a, b) = (of(1, 1, r#""memory": {"max": "48M"}"#), of(1, 2, r#""memory": {"max": "16M"}"#));
        let m = document(&[("a", &a), ("b", &b)]);
        assert_eq!(limits(&m), 64 << 20);
        let device = |budget: u64, taken: u64| Device { memory: Some(budget << 20), memory_taken: taken << 20, ..Device::default() };
        refused(&m, &device(96, 32), false, &[]);
        refused(&m, &device(96, 33), false, &[(Reason::NoMemory, "containers")]);
        refused(&m, &device(63, 0), false, &[(Reason::NoMemory, "containers")]);
        refused(&m, &Device { memory: None, memory_taken: u64::MAX, ..Device::default() }, false, &[]);
        refused(&document(&[("a", &of(1, 1, ""))]), &device(1, 5), false, &[]);
    }

    #[test]
    fn what_is_unpacked_must_fit_what_is_free_and_a_stored_image_needs_nothing() {
        let device = |mib: u64| Device { flash: Some(mib << 20), ..Device::default() };
        let two = document(&[("a", &of(10, 1, "")), ("b", &of(20, 2, ""))]);
        refused(&two, &device(30), false, &[]);
        refused(&two, &device(29), false, &[(Reason::NoSpace, "containers")]);
        refused(&two, &device(0), true, &[]);
        let same = document(&[("a", &of(20, 1, "")), ("b", &of(20, 1, ""))]);
        refused(&same, &device(20), false, &[]);
        refused(&two, &Device::default(), false, &[]);
    }

    #[test]
    fn a_required_limit_that_nothing_enforces_is_named_and_any_other_is_not() {
        let missing = [("memory".to_owned(), "CONFIG_MEMCG".to_owned()), ("pids".to_owned(), "CONFIG_CGROUP_PIDS".to_owned())];
        let device = Device { missing: &missing, ..Device::default() };
        let all = r#""memory": {"max": "1M"}, "pids": {"max": 5}, "cpu": {"quota": 1}"#;
        refused(&document(&[("a", &of(1, 1, all))]), &device, false, &[]);
        let required = format!(r#""required": true, {all}"#);
        let expect = [(Reason::NoFeature, "containers.a.resources.memory"), (Reason::NoFeature, "containers.a.resources.pids")];
        refused(&document(&[("a", &of(1, 1, &required))]), &device, false, &expect);
        refused(&document(&[("a", &of(1, 1, r#""required": true, "cpu": {"quota": 1}"#))]), &device, false, &[]);
    }

    #[test]
    fn all_that_is_missing_is_told_at_once() {
        let missing = [("pids".to_owned(), String::new())];
        let device = Device { memory: Some(1 << 20), memory_taken: 0, flash: Some(0), missing: &missing };
        let m = document(&[("a", &of(1, 1, r#""required": true, "memory": {"max": "2M"}, "pids": {"max": 1}"#))]);
        let expect =
            [(Reason::NoMemory, "containers"), (Reason::NoSpace, "containers"), (Reason::NoFeature, "containers.a.resources.pids")];
        refused(&m, &device, false, &expect);
    }
}
