//! What a document may ask for, by who sent it. Pure.

use crate::config::Settings;
use crate::config::policy::Policy;
use crate::container::caps;
use crate::ipc::{Origin, Refusal};
use crate::manifest::{Body, Container, Manifest, Mount, Network, Seccomp};
use crate::protocol::Reason;
use std::path::Path;

/// Everything in a document from the network that this device's settings and policy do not allow. What root applies at the device is not
/// held to them.
pub fn check(m: &Manifest, origin: &Origin, settings: &Settings, policy: &Policy) -> Vec<Refusal> {
    let Body::Run(containers) = &m.body else { return Vec::new() };
    if *origin == Origin::Local {
        return Vec::new();
    }
    let mut rules = Rules { settings, policy, path: String::new(), found: Vec::new() };
    for c in containers {
        rules.path = format!("containers.{}", c.name);
        rules.paths(c);
        rules.rights(c);
        rules.memory(c);
    }
    rules.found
}

struct Rules<'a> {
    settings: &'a Settings,
    policy: &'a Policy,
    path: String,
    found: Vec<Refusal>,
}

impl Rules<'_> {
    fn refuse(&mut self, field: &str, message: String) {
        self.found.push(Refusal { reason: Reason::Policy, path: format!("{}.{field}", self.path), message });
    }

    /// Breaks a rule of the policy file.
    fn breaks(&mut self, rule: &str, field: &str, what: &str) {
        let file = &self.settings.policy;
        self.refuse(field, format!("a document from the network may not {what} (rule \"{rule}\" of {file})"));
    }

    /// Paths of the device, only below the directories that the settings list. What is downloaded has a digest, and touches none.
    fn paths(&mut self, c: &Container) {
        if let Some(Err(message)) = c.image.reference.source.path().map(|p| inside(p, &self.settings.import_dirs, "import_dirs")) {
            self.refuse("image.ref", message);
        }
        for (i, mount) in c.mounts.iter().enumerate() {
            if let Mount::Bind { source, .. } = mount
                && let Err(message) = inside(source, &self.settings.bind_sources, "bind_sources")
            {
                self.refuse(&format!("mounts[{i}].source"), message);
            }
        }
    }

    fn rights(&mut self, c: &Container) {
        if c.network == Network::Host && !self.policy.host_network {
            self.breaks("host_network", "network.mode", "use the device's own network");
        }
        if c.security.seccomp == Seccomp::Unconfined && !self.policy.unconfined {
            self.breaks("unconfined", "security.seccomp", "be without the system call filter");
        }
        if !c.security.no_new_privileges && !self.policy.unconfined {
            self.breaks("unconfined", "security.no_new_privileges", "be without no_new_privileges");
        }
        let ceiling = self.policy.capabilities.unwrap_or_else(caps::default_set);
        let over = caps::adjusted(&c.security.cap_add, &c.security.cap_drop) & !ceiling;
        if over != 0 {
            self.breaks("capabilities", "security.capabilities", &format!("have {}", caps::names(over)));
        }
    }

    fn memory(&mut self, c: &Container) {
        if c.resources.memory_max.is_none() && self.policy.memory_required {
            self.breaks("memory_required", "resources.memory.max", "be without a memory limit");
        }
    }
}

fn inside(path: &str, allowed: &[String], setting: &str) -> Result<(), String> {
    // Component by component: /srv/www-old is not below /srv/www. `..` was refused when the path was parsed.
    if allowed.iter().any(|dir| Path::new(path).starts_with(dir)) {
        return Ok(());
    }
    Err(format!("a document from the network may not name {path}; this device allows {} (setting \"{setting}\")", list(allowed)))
}

fn list(allowed: &[String]) -> String {
    if allowed.is_empty() { "no directory".into() } else { allowed.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::config::{self, Settings, policy::Policy};
    use crate::container::{self, Spec, caps};
    use crate::image::Config;
    use crate::ipc::Origin;
    use crate::manifest::{Body, Manifest, Mount, Network, Seccomp, parse};
    use serde_json::{Value, json};

    const IMAGE: &str = "oci:/images/box:1";

    fn settings() -> Settings {
        config::parse(br#"{"import_dirs": ["/images"], "bind_sources": ["/srv/www"], "policy": "/p.json"}"#).unwrap()
    }

    fn document(more: Value) -> Manifest {
        let mut container = json!({"image": {"ref": IMAGE}, "command": ["/x"]});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse(json!({"wherry": 1, "app": "web", "containers": {"main": container}}).to_string().as_bytes())
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// The fields that are refused, each with what its message must name.
    fn refused(more: Value, policy: &Policy, expect: &[(&str, &str)]) {
        let m = document(more);
        for origin in [Origin::Device, Origin::Group("g".parse().unwrap())] {
            let found = check(&m, &origin, &settings(), policy);
            let paths: Vec<_> = found.iter().map(|r| r.path.as_str()).collect();
            let wanted: Vec<_> = expect.iter().map(|(field, _)| format!("containers.main.{field}")).collect();
            assert_eq!(paths, wanted, "{found:?}");
            found.iter().zip(expect).for_each(|(r, (_, part))| assert!(r.message.contains(part), "{part}: {r:?}"));
        }
        assert_eq!(check(&m, &Origin::Local, &settings(), policy), []);
    }

    #[test]
    fn without_a_policy_file_a_container_has_what_one_has_by_default() {
        let safe = Policy::default();
        refused(json!({}), &safe, &[]);
        refused(json!({"security": {"capabilities": {"add": ["CHOWN"], "drop": ["NET_RAW"]}}}), &safe, &[]);
        refused(json!({"network": {"mode": "host"}}), &safe, &[("network.mode", "\"host_network\" of /p.json")]);
        refused(json!({"security": {"seccomp": "unconfined"}}), &safe, &[("security.seccomp", "\"unconfined\" of /p.json")]);
        refused(json!({"security": {"no_new_privileges": false}}), &safe, &[("security.no_new_privileges", "\"unconfined\"")]);
        let add = json!({"security": {"capabilities": {"add": ["SYS_ADMIN", "NET_ADMIN"]}}});
        refused(add, &safe, &[("security.capabilities", "have NET_ADMIN, SYS_ADMIN")]);
    }

    #[test]
    fn every_rule_that_is_broken_is_named_at_once() {
        let policy = Policy { capabilities: Some(1), memory_required: true, ..Policy::default() };
        let all = json!({
            "image": {"ref": "oci:/etc/box"}, "network": {"mode": "host"},
            "mounts": [{"type": "tmpfs", "target": "/t"}, {"type": "bind", "source": "/srv/www-old", "target": "/w"}],
            "security": {"seccomp": "unconfined", "no_new_privileges": false, "capabilities": {"drop": ["ALL"], "add": ["KILL"]}},
        });
        refused(
            all,
            &policy,
            &[
                ("image.ref", "import_dirs"),
                ("mounts[1].source", "bind_sources"),
                ("network.mode", "host_network"),
                ("security.seccomp", "unconfined"),
                ("security.no_new_privileges", "unconfined"),
                ("security.capabilities", "have KILL "),
                ("resources.memory.max", "memory_required"),
            ],
        );
    }

    #[test]
    fn what_the_default_set_has_and_the_policy_has_not_must_be_dropped() {
        let policy = Policy { capabilities: Some(caps::default_set() & !(1 << 13)), ..Policy::default() };
        refused(json!({}), &policy, &[("security.capabilities", "have NET_RAW ")]);
        refused(json!({"security": {"capabilities": {"drop": ["NET_RAW"]}}}), &policy, &[]);
    }

    fn dice(state: &mut u64, sides: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % sides
    }

    fn any_policy(dice: &mut impl FnMut(u64) -> u64) -> Policy {
        Policy {
            host_network: dice(2) == 0,
            unconfined: dice(2) == 0,
            capabilities: (dice(3) > 0).then(|| (dice(1 << 30) << 11 ^ dice(1 << 30)) | if dice(2) == 0 { caps::default_set() } else { 0 }),
            memory: None,
            memory_required: dice(3) == 0,
            ..Policy::default()
        }
    }

    fn any_container(dice: &mut impl FnMut(u64) -> u64) -> Value {
        let names: Vec<String> = ::caps::all().iter().map(ToString::to_string).collect();
        let mut pick = |list: &[&str]| list[dice(list.len() as u64) as usize].to_owned();
        let image = pick(&["oci:/images/box:1", "oci:/image/box:1", "oci:/etc/box"]);
        let source = pick(&["/srv/www", "/srv/www/a", "/srv", "/srv/www-old", "/etc"]);
        let (mode, seccomp) = (pick(&["none", "host"]), pick(&["default", "unconfined"]));
        let add: Vec<&String> = names.iter().filter(|_| dice(12) == 0).collect();
        let drop: Vec<&String> = names.iter().filter(|name| dice(4) == 0 && !add.contains(name)).collect();
        let mut container = json!({
            "image": {"ref": image}, "network": {"mode": mode},
            "security": {"seccomp": seccomp, "no_new_privileges": dice(2) == 0, "capabilities": {"add": add, "drop": drop}},
        });
        if dice(2) == 0 {
            container["mounts"] = json!([{"type": "bind", "source": source, "target": "/m"}]);
        }
        if dice(2) == 0 {
            container["resources"] = json!({"memory": {"max": "1M"}});
        }
        container
    }

    /// What the container would really be, against what the policy says.
    fn is_within(spec: &Spec, image: &str, policy: &Policy) -> bool {
        let binds = spec.mounts.iter().all(|m| match m {
            Mount::Bind { source, .. } => source == "/srv/www" || source.starts_with("/srv/www/"),
            Mount::Tmpfs { .. } => true,
        });
        binds
            && image.starts_with("oci:/images/")
            && (policy.host_network || spec.network == Network::None)
            && (policy.unconfined || (spec.seccomp == Seccomp::Default && spec.no_new_privileges))
            && (spec.capabilities | spec.ambient) & !policy.capabilities.unwrap_or_else(caps::default_set) == 0
            && (spec.resources.memory_max.is_some() || !policy.memory_required)
    }

    #[test]
    fn whatever_a_document_asks_for_its_containers_get_no_more_than_the_policy_and_are_refused_for_no_less() {
        let mut state = 11;
        let mut dice = |sides| dice(&mut state, sides);
        let mut seen = [0; 2];
        for _ in 0..4000 {
            let (policy, m) = (any_policy(&mut dice), document(any_container(&mut dice)));
            let Body::Run(containers) = &m.body else { unreachable!("it has containers") };
            let spec = container::build(&containers[0], &Config::default(), "h").unwrap();
            let allowed = check(&m, &Origin::Device, &settings(), &policy).is_empty();
            assert_eq!(allowed, is_within(&spec, &containers[0].image.reference.text, &policy), "{m:?} under {policy:?}");
            seen[usize::from(allowed)] += 1;
        }
        assert!(seen.iter().all(|n| *n > 40), "{seen:?}");
    }
}
