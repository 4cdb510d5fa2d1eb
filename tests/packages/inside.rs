//! A machine in namespaces of its own: a script of ours that becomes `unshare`, and the first process in there.

use crate::harness::device::{hierarchies, remove_groups};
use crate::harness::{eventually, is_alive};
use crate::root::run;
use std::fs;
use std::process::{Child, Command, Stdio};

pub struct Inside {
    /// `unshare`: all inside dies with it.
    child: Child,
    pid1: i32,
    /// Its control groups, below `wherry` in each hierarchy.
    group: String,
}

impl Inside {
    /// Starts the script and waits until the first process inside runs the program `first`.
    pub fn start(script: &mut Command, group: &str, first: &str) -> Self {
        let child = script.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        // Before it is started, the script's own helpers are such children.
        let word = format!("{first}\0");
        let runs = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(word.as_bytes()));
        let pid1 = eventually("the first process runs", || fs::read_to_string(&children).ok()?.trim().parse().ok().filter(runs));
        Self { child, pid1, group: group.to_owned() }
    }

    /// A command in there.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid1)).args(["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin:/opt"]).args(words);
        command
    }

    /// Runs a command that must succeed; what it printed.
    pub fn run(&self, words: &[&str]) -> String {
        run(&mut self.command(words)).trim_end().to_owned()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        eventually("all inside is gone", || (!is_alive(self.pid1)).then_some(()));
        for hierarchy in hierarchies() {
            let group = hierarchy.join("wherry").join(&self.group);
            eventually("its groups are gone", || {
                remove_groups(&group);
                (!group.exists()).then_some(())
            });
        }
    }
}
