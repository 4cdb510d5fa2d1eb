//! The layer's init script with a real keeper: who starts it again, and what becomes of containers.

use crate::harness::{Device, Signal, Value, eventually, is_alive, json, kill, manifest, role_of, sleeper, with};
use crate::root::tree;
use std::fs;
use std::process::{Command, Stdio};

const SCRIPT: &str = "yocto/meta-wherry/recipes-containers/wherry/files/wherry.init";

/// A device whose keeper is started by the init script, which is the layer's but for the paths in it.
struct Machine {
    device: Device,
    shell: &'static [&'static str],
}

impl Machine {
    fn new(shell: &'static [&'static str]) -> Self {
        let device = Device::prepared(json!({"brokers": []}));
        let at = |name: &str| device.dir.join(name).to_str().unwrap().to_owned();
        let mut script = fs::read_to_string(tree(SCRIPT)).unwrap();
        for (old, new) in [
            ("DAEMON=/usr/bin/wherry\n", format!("DAEMON={}\n", device.program.display())),
            ("SETTINGS=/etc/wherry/settings.json\n", format!("SETTINGS={}\n", at("settings.json"))),
            ("RUN=/run/wherry.supervisor\n", format!("RUN={}\n", at("supervisor"))),
            ("DELAY=5\n", "DELAY=1\n".into()),
            ("SELF=/etc/init.d/wherry\n", format!("SELF={}\n", at("init"))),
        ] {
            assert_eq!(script.matches(old).count(), 1, "{old}");
            script = script.replace(old, &new);
        }
        device.file("init", script);
        let machine = Self { device, shell };
        machine.configure("first");
        machine
    }

    /// Writes settings with another id of the device.
    fn configure(&self, id: &str) {
        let settings = with(self.device.settings.clone(), json!({"device": id}));
        self.device.file("settings.json", settings.to_string());
    }

    /// Waits until keeper calls the device so; while it execs itself it does not answer.
    fn becomes(&self, id: &str) {
        let status = || serde_json::from_str::<Value>(&self.device.wherry(&["--json", "status"]).out).ok();
        eventually("the settings are read anew", || (status()?["device"] == id).then_some(()));
    }

    /// Calls the script as init does; answers its status.
    fn call(&self, action: &str, runlevel: Option<&str>) -> i32 {
        let mut command = Command::new(self.shell[0]);
        command.args(&self.shell[1..]).arg(self.device.dir.join("init")).arg(action).env_remove("RUNLEVEL");
        command.envs(runlevel.map(|level| ("RUNLEVEL", level))).stdin(Stdio::null()).stdout(Stdio::null());
        command.status().unwrap().code().unwrap()
    }

    fn keeper(&self) -> i32 {
        let supervisor = || fs::read_to_string(self.device.dir.join("supervisor/pid")).ok()?.trim().parse().ok();
        let pid = eventually("keeper has been started", || role_of(supervisor()?, "keeper"));
        self.device.answers();
        pid
    }
}

fn keeps_keeper_up_and_containers_alone(shell: &'static [&'static str]) {
    let machine = Machine::new(shell);
    let device = &machine.device;
    assert_eq!((machine.call("status", None), machine.call("reload", None), machine.call("stop", None)), (3, 7, 0));
    assert_eq!(machine.call("start", None), 0);
    let first = machine.keeper();
    device.applied(&manifest("web", sleeper()));
    let payload = device.running("web");

    kill(first, Signal::SIGKILL);
    let second = eventually("keeper is started again", || Some(machine.keeper()).filter(|pid| *pid != first));
    assert_eq!((machine.call("start", None), machine.call("status", None), machine.keeper()), (0, 0, second), "a second start is none");

    machine.configure("second");
    assert_eq!((machine.call("reload", None), machine.keeper()), (0, second), "a reload keeps the pid");
    machine.becomes("second");
    machine.configure("no id");
    assert_eq!((machine.call("reload", None), machine.keeper()), (6, second), "nobody is told of wrong settings");
    machine.configure("third");
    assert_eq!(machine.call("restart", None), 0);
    assert_ne!(machine.keeper(), second);
    assert_eq!(device.running("web"), payload);

    assert_eq!((machine.call("stop", None), machine.call("status", None)), (0, 3));
    assert!(is_alive(payload), "a stop leaves containers alone");
    assert_eq!(machine.call("start", None), 0);
    machine.keeper();
    assert_eq!(device.running("web"), payload);
    assert_eq!(machine.call("stop", Some("6")), 0);
    assert!(!is_alive(payload), "a reboot ends containers in order");
    assert_eq!(device.leftovers(), Vec::<String>::new());
}

#[test]
fn the_init_script_keeps_keeper_up_and_leaves_containers_alone() {
    keeps_keeper_up_and_containers_alone(&["dash"]);
}

#[test]
fn the_init_script_does_the_same_under_busybox() {
    keeps_keeper_up_and_containers_alone(&["busybox", "sh"]);
}
