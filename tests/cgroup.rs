//! Control groups on the real kernel: every figure moves as a known load predicts, every limit bites. Needs root and works below
//! `/wherry/cg-<pid>` of each hierarchy; nothing is left behind.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use wherry::cgroup::{Group, Kind, Layout};
use wherry::manifest::Resources;

const PARENT: &str = "wherry";

/// A fresh group of this test, killed and removed when it goes out of scope.
struct Scene {
    group: Group,
}

impl Scene {
    fn new(r: &Resources) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let layout = Layout::detect().expect("this machine has control groups");
        layout.prepare(PARENT).expect("the parent group can be made");
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = layout.group(&format!("{PARENT}/cg-{}/t{n}", std::process::id()));
        let missing = group.create(r).expect("the group can be made");
        assert_eq!(missing, [], "this kernel cannot enforce what the test needs");
        Self { group }
    }

    fn plain() -> Self {
        Self::new(&Resources::default())
    }

    /// A shell in the group. It waits for a line, so that all it does happens inside.
    fn sh(&self, script: &str) -> Child {
        use std::io::Write;
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        self.group.attach(child.id() as i32).expect("the shell can be attached");
        child.stdin.take().unwrap().write_all(b"go\n").expect("the shell reads");
        child
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let gone = until(Duration::from_secs(10), || {
            let _ = self.group.freeze(false);
            let _ = self.group.kill();
            self.group.remove().unwrap_or(false)
        });
        if !gone && !std::thread::panicking() {
            panic!("group {} could not be removed", self.group.path());
        }
    }
}

fn until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn used(n: Option<u64>) -> u64 {
    n.expect("this kernel has the figure")
}

#[test]
fn a_quota_of_half_a_cpu_throttles() {
    let scene = Scene::new(&Resources { cpu_quota_milli: Some(500), ..Resources::default() });
    let mut busy = scene.sh("while :; do :; done");
    std::thread::sleep(Duration::from_millis(1000));
    busy.kill().unwrap();
    busy.wait().unwrap();
    let s = scene.group.sample(None, false);
    let usage = used(s.cpu_usage_us);
    assert!((300_000..=650_000).contains(&usage), "{usage} µs in a second");
    assert!(used(s.cpu_nr_throttled) > 0 && used(s.cpu_throttled_us) > 0, "{s:?}");
}

#[test]
fn a_process_in_the_group_is_listed_and_kill_empties_it() {
    let scene = Scene::plain();
    let mut child = scene.sh("sleep 60");
    assert!(scene.group.populated());
    assert!(scene.group.pids().contains(&(child.id() as i32)));
    scene.group.kill().unwrap();
    child.wait().unwrap();
    assert!(until(Duration::from_secs(5), || !scene.group.populated()));
}

#[test]
fn this_machine_says_what_it_is() {
    let layout = Layout::detect().unwrap();
    let text = layout.describe();
    assert!(text.starts_with(&layout.kind().to_string()), "{text}");
    assert_eq!(layout.kind() == Kind::V1, layout.unified.is_none());
}
