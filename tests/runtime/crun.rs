//! The same questions to crun.

use crate::bundle::config;
use crate::stand::{Host, shell};
use std::fs;
use std::process::Command;
use wherry::container::Spec;
use wherry::manifest::Seccomp;

/// Each with the shell commands that answer it. `/dev/core`, a link to the masked `/proc/kcore`, is crun's alone.
const QUESTIONS: [(&str, &str); 16] = [
    ("root", "touch /x 2>&1 && rm /x; cut -d' ' -f2,4 /proc/self/mounts | grep '^/ ' | cut -d, -f1 | cut -d' ' -f2"),
    ("groups", "id -G; grep ^Groups /proc/self/status"),
    ("capabilities", "grep ^Cap /proc/self/status"),
    ("privileges", "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status"),
    ("signals", "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"),
    ("devices", "cd /dev; ls -1 | grep -vx core; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty pts/ptmx"),
    (
        "masked",
        "for p in kcore keys latency_stats timer_list sched_debug; do [ -e /proc/$p ] && stat -c '%n %t:%T' /proc/$p; done; for p in /proc/acpi /proc/scsi /sys/firmware; do [ -e $p ] && ls $p | wc -l; done",
    ),
    ("read-only", "for p in bus fs irq sys; do touch /proc/$p/x 2>&1; done; echo x 2>&1 > /proc/sysrq-trigger; touch /sys/x 2>&1"),
    ("mounts", "cut -d' ' -f2,3 /proc/self/mounts | grep -E '^/(proc|sys|dev|dev/(pts|shm|mqueue)) ' | sort"),
    ("mount options", "cut -d' ' -f2,4 /proc/self/mounts | grep -E '^/(proc|sys|dev/(pts|shm|mqueue)) ' | cut -d, -f1-4 | sort"),
    ("identity", "id; pwd; hostname; echo $HOME $PATH"),
    ("descriptors", "ls /proc/self/fd | wc -l"),
    ("umask", "umask"),
    ("limits", "ulimit -c; cat /proc/self/oom_score_adj"),
    ("processes", "echo $$; [ $(ls -d /proc/[0-9]* | wc -l) -lt 8 ] && echo few"),
    ("network", "ls /sys/class/net; cat /sys/class/net/lo/flags"),
];

/// Where the two differ, and why we are right.
const DIFFERENCES: [(&str, &str); 1] =
    [("signals", "crun hands down real-time signals that its caller ignored; ours start with the default action")];

/// One image, one container in our words and in OCI's, the same questions.
fn check(change: impl FnOnce(&mut Spec), patch: impl FnOnce(&mut serde_json::Value)) {
    let host = Host::new();
    // crun mounts over these and makes them in the image if missing, so both get the same image.
    for dir in ["proc", "sys", "dev"] {
        fs::create_dir(host.layer().join(dir)).unwrap();
    }
    let script: String = QUESTIONS.iter().map(|(name, ask)| format!("echo '## {name}'\n({ask}) 2>&1\n")).collect();
    let mut wanted = Spec { init: false, seccomp: Seccomp::Unconfined, ..shell(&script) };
    change(&mut wanted);
    let mut theirs = config(host.layer(), &["/bin/sh", "-c", &script]);
    patch(&mut theirs);
    let (ours, theirs) = (host.run(&wanted).output, crun(&host, &theirs));
    let (ours, theirs) = (answers(&ours), answers(&theirs));
    let known = |name: &str| DIFFERENCES.iter().any(|(n, _)| *n == name);
    let pairs = QUESTIONS.iter().map(|(name, _)| (name, ours.get(name), theirs.get(name)));
    let different: Vec<_> = pairs.filter(|(name, a, b)| a.is_none() || (a != b && !known(name))).collect();
    assert!(different.is_empty(), "question, ours, theirs: {different:#?}");
}

#[test]
fn crun_answers_the_same_questions_alike() {
    check(|_| {}, |_| {});
}

#[test]
fn crun_answers_alike_for_a_user_that_is_not_root() {
    check(
        |ours| {
            ours.user = "app".into();
            ours.workdir = "/home/app".into();
        },
        |theirs| {
            theirs["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1001, "additionalGids": [20]});
            theirs["process"]["cwd"] = "/home/app".into();
            theirs["process"]["env"][1] = "HOME=/home/app".into();
            // What docker makes of its default for such a user: the bounding set alone.
            theirs["process"]["capabilities"]["effective"] = serde_json::json!([]);
            theirs["process"]["capabilities"]["permitted"] = serde_json::json!([]);
        },
    );
}

#[test]
fn crun_answers_alike_for_an_ambient_capability() {
    let named = serde_json::json!(["CAP_NET_BIND_SERVICE"]);
    check(
        |ours| {
            ours.user = "1000:1001".into();
            (ours.capabilities, ours.ambient) = (1 << 10, 1 << 10);
            ours.env = vec!["HOME=/".into()];
        },
        |theirs| {
            theirs["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1001});
            theirs["process"]["env"][1] = "HOME=/".into();
            for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
                theirs["process"]["capabilities"][set] = named.clone();
            }
        },
    );
}

#[test]
fn crun_answers_alike_without_no_new_privs_on_a_read_only_root() {
    check(
        |ours| (ours.no_new_privileges, ours.readonly) = (false, true),
        |theirs| {
            theirs["process"]["noNewPrivileges"] = false.into();
            theirs["root"]["readonly"] = true.into();
        },
    );
}

fn answers(text: &str) -> std::collections::BTreeMap<&str, &str> {
    text.split("## ").filter_map(|part| part.split_once('\n')).collect()
}

fn crun(host: &Host, config: &serde_json::Value) -> String {
    let bundle = host.dir.join("bundle");
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let id = host.dir.file_name().unwrap();
    // crun refuses a hybrid whose v2 tree has a controller of its own: it gets a view without that tree.
    let crun = Command::new("unshare")
        .args(["--mount", "sh", "-c", "umount -l /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"", "sh"])
        .args(["crun", "--cgroup-manager=disabled", "--root"])
        .arg(host.dir.join("crun"))
        .arg("run")
        .arg("--bundle")
        .arg(&bundle)
        .arg(id)
        // Not /dev/null: crun gives its standard input to the container's user, and that would be the host's.
        .stdin(fs::File::open(bundle.join("config.json")).unwrap())
        .output()
        .expect("crun must be installed");
    assert!(crun.status.success(), "{}", String::from_utf8_lossy(&crun.stderr));
    String::from_utf8(crun.stdout).unwrap()
}
