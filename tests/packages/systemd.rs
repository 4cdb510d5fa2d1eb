//! The layer's unit under a real systemd, which is pid 1 of a machine of its own (`packages/systemd`).
//!
//! Debian 12's systemd is older than DelegateSubgroup, so that line alone is not seen here.

use crate::harness::eventually;
use crate::inside::Inside;
use crate::root::{Scratch, fails, program, tree};
use std::process::{Command, Stdio};

const UNIT: &str = "yocto/meta-wherry/recipes-containers/wherry/files/wherry.service";

struct Booted {
    inside: Inside,
    _root: Scratch,
}

impl std::ops::Deref for Booted {
    type Target = Inside;

    fn deref(&self) -> &Inside {
        &self.inside
    }
}

impl Booted {
    fn new() -> Self {
        let root = Scratch::new();
        let mut script = Command::new(tree("tests/packages/systemd"));
        script.arg(root.path()).arg(program()).arg(tree(UNIT)).arg(crate::harness::image::dir());
        Self { inside: Inside::start(&mut script, root.name(), "/usr/lib/systemd/systemd"), _root: root }
    }

    fn property(&self, name: &str) -> String {
        self.run(&["systemctl", "show", "--property", name, "--value", "wherry.service"])
    }

    /// Keeper's pid, once it answers.
    fn keeper(&self) -> String {
        eventually("keeper answers", || {
            let answer = self.command(&["wherry", "ls"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            answer.is_ok_and(|status| status.success()).then(|| self.property("MainPID"))
        })
    }

    /// The container's first process.
    fn payload(&self) -> String {
        eventually("the container runs", || {
            let pids = self.run(&["cat", "/sys/fs/cgroup/system.slice/wherry.service/web/main/cgroup.procs"]);
            pids.lines().next().map(str::to_owned)
        })
    }

    fn write_settings(&self, id: &str) {
        let text = format!("{{\"device\": \"{id}\", \"cgroup\": \"system.slice/wherry.service\", \"import_dirs\": [\"/images\"]}}");
        self.run(&["sh", "-c", "printf %s \"$1\" >/etc/wherry/settings.json", "sh", &text]);
    }
}

#[test]
fn under_systemd_keeper_comes_up_again_and_containers_run_on() {
    let machine = Booted::new();
    let first = machine.keeper();
    machine.run(&["wherry", "run", "--detach", "--name", "web", "oci:/images/layout:plain", "sleep", "100000"]);
    let payload = machine.payload();

    machine.run(&["kill", "-KILL", &first]);
    let second = eventually("keeper is started again", || Some(machine.keeper()).filter(|pid| *pid != first && pid != "0"));
    assert_eq!(machine.payload(), payload);

    machine.write_settings("second");
    machine.run(&["systemctl", "reload", "wherry"]);
    let status = || String::from_utf8(machine.command(&["wherry", "status"]).output().unwrap().stdout).unwrap();
    eventually("the settings are read anew", || status().contains("second").then_some(()));
    assert_eq!(machine.keeper(), second, "a reload keeps the pid");
    machine.write_settings("no id");
    fails(&mut machine.command(&["systemctl", "reload", "wherry"]));
    assert_eq!((machine.keeper(), machine.property("ActiveState")), (second.clone(), "active".into()), "nobody is told of wrong settings");
    machine.write_settings("third");

    machine.run(&["systemctl", "restart", "wherry"]);
    assert_ne!(machine.keeper(), second);
    assert_eq!(machine.payload(), payload);

    machine.run(&["systemctl", "stop", "wherry"]);
    assert_eq!(
        (machine.property("ActiveState"), machine.payload()),
        ("inactive".into(), payload.clone()),
        "a stop leaves containers alone"
    );
    machine.run(&["systemctl", "start", "wherry"]);
    machine.keeper();
    assert_eq!(machine.payload(), payload);
    machine.run(&["wherry", "rm", "web"]);
    let groups = || machine.run(&["ls", "/sys/fs/cgroup/system.slice/wherry.service"]);
    eventually("nothing of the app is left", || (!groups().contains("web")).then_some(()));
}
