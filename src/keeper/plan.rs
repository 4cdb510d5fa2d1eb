//! From one set of containers to the next: what to leave alone, change live, replace, start and stop. Pure.

use crate::container::Spec;
use crate::image::Digest;
use crate::keeper::lifecycle::{Life, Rules};
use crate::manifest::{Check, Log, Name};
use crate::protocol::ContainerState;
use serde::{Deserialize, Serialize};

/// One container, ready to start: everything that decides how it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its name.
    pub name: Name,
    /// The reference as written, for people.
    pub image: String,
    /// What it resolved to.
    pub digest: Digest,
    /// What it is.
    pub spec: Spec,
    /// When it is started again, and how it is stopped.
    pub rules: Rules,
    /// What happens to its output.
    pub log: Log,
    /// Its document came from the network: its bind sources are held to the settings.
    pub network: bool,
    /// How its health is checked. Not on record, as no process of it depends on that: each start of keeper takes it from the document.
    #[serde(skip)]
    pub health: Option<Check>,
    /// Whom it waits for before it starts; likewise.
    #[serde(skip)]
    pub after: Vec<Name>,
}

/// What becomes of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that its processes could notice changed.
    Keep,
    /// Only its limits changed: they are set live.
    Update,
    /// It must be stopped and started anew.
    Replace,
    /// It is new.
    Start,
    /// It is no longer wanted.
    Stop,
}

/// Every container of either set, in the order of the new one, those to stop last.
pub fn changes(old: &[Ready], new: &[Ready]) -> Vec<(Name, Change)> {
    let wanted = new.iter().map(|n| (n.name.clone(), old.iter().find(|o| o.name == n.name).map_or(Change::Start, |o| change(o, n))));
    let unwanted = old.iter().filter(|o| !new.iter().any(|n| n.name == o.name)).map(|o| (o.name.clone(), Change::Stop));
    wanted.chain(unwanted).collect()
}

fn change(old: &Ready, new: &Ready) -> Change {
    let same_but_limits = Spec { resources: new.spec.resources.clone(), ..old.spec.clone() };
    if (same_but_limits, &old.digest) != (new.spec.clone(), &new.digest) {
        Change::Replace
    } else if old.spec.resources != new.spec.resources {
        Change::Update
    } else {
        Change::Keep
    }
}

/// Whether one that is left alone or changed live, and that nobody holds, is started (again) with a version that is being deployed or restored.
/// One that ended `unseen`, in a run of this very version while no keeper was there, has run: recovery alone is no reason to run it once more.
pub fn starts(life: &Life, deploying: bool, unseen: bool) -> bool {
    // One that is still being stopped starts again once it is gone; a crash loop of before gets its chance with the new document.
    let looping = deploying && life.state == ContainerState::Restarting;
    let down = life.state == ContainerState::Stopping || life.is_over() || looping;
    let has_run = unseen && life.state == ContainerState::Exited;
    down && !has_run
}

#[cfg(test)]
mod tests {
    use super::{Change, Ready, changes};
    use crate::container::Spec;
    use crate::image::Digest;
    use crate::keeper::lifecycle::Rules;
    use crate::manifest::{Check, Content, Full, How, Log, Network, Placed, Resources, Restart, RestartPolicy, Seccomp, Stdin, Stop};
    use std::time::Duration;

    fn ready(name: &str) -> Ready {
        let spec = Spec {
            argv: vec!["/bin/true".into()],
            env: Vec::new(),
            workdir: "/".into(),
            user: String::new(),
            hostname: name.into(),
            capabilities: 0,
            ambient: 0,
            seccomp: Seccomp::Default,
            no_new_privileges: true,
            readonly: false,
            upper: 1 << 20,
            mounts: Vec::new(),
            network: Network::None,
            rlimits: Vec::new(),
            init: true,
            resources: Resources::default(),
            files: Vec::new(),
            terminal: false,
            stdin: Stdin::None,
        };
        let restart = Restart { policy: RestartPolicy::No, delay: Duration::ZERO, max_delay: Duration::ZERO };
        let rules = Rules { restart, stop: Stop { signal: None, timeout: Duration::ZERO } };
        let log = Log { ring: 1, full: Full::Drop, syslog: None };
        let (name, image, digest) = (name.parse().unwrap(), "i".into(), Digest::of(b"i"));
        Ready { name, image, digest, spec, rules, log, network: true, health: None, after: Vec::new() }
    }

    fn check(edit: impl Fn(&mut Ready), expect: Change) {
        let (old, mut new) = (ready("a"), ready("a"));
        edit(&mut new);
        assert_eq!(changes(&[old], &[new]), [("a".parse().unwrap(), expect)]);
    }

    #[test]
    fn an_equal_container_is_left_alone() {
        check(|_| {}, Change::Keep);
    }

    #[test]
    fn a_changed_restart_or_stop_rule_touches_no_process() {
        check(|n| n.rules.stop.timeout = Duration::from_secs(3), Change::Keep);
    }

    #[test]
    fn a_changed_health_check_or_order_touches_no_process() {
        let (how, zero) = (How::File("/x".into()), Duration::ZERO);
        let check_of = Check { how, start_period: zero, interval: zero, timeout: zero, retries: 1 };
        check(|n| n.health = Some(check_of.clone()), Change::Keep);
        check(|n| n.after.push("b".parse().unwrap()), Change::Keep);
    }

    #[test]
    fn a_changed_limit_is_set_live() {
        check(|n| n.spec.resources.memory_max = Some(1 << 20), Change::Update);
    }

    #[test]
    fn a_changed_program_environment_or_image_replaces() {
        check(|n| n.spec.argv.push("x".into()), Change::Replace);
        check(|n| n.spec.env.push("A=1".into()), Change::Replace);
        check(|n| n.digest = Digest::of(b"j"), Change::Replace);
        let file = Placed { path: "/t".into(), content: Content::Secret("token".into()), mode: 0o400, user: None };
        check(|n| n.spec.files.push(file.clone()), Change::Replace);
        check(
            |n| {
                n.spec.resources.pids_max = Some(3);
                n.spec.readonly = true;
            },
            Change::Replace,
        );
    }

    #[test]
    fn new_names_start_and_missing_names_stop() {
        let name = |s: &str| s.parse().unwrap();
        let got = changes(&[ready("a"), ready("b")], &[ready("b"), ready("c")]);
        assert_eq!(got, [(name("b"), Change::Keep), (name("c"), Change::Start), (name("a"), Change::Stop)]);
    }
}
