//! Policy and admission on the real device: what comes from the network is refused with its rule, or with what is missing, before anything is downloaded
//! or stopped for it.

#[path = "policy/asked.rs"]
mod asked;
mod harness;
#[path = "policy/kernel.rs"]
mod kernel;
#[path = "commands/taken.rs"]
mod taken;

use asked::Dice;
use harness::server::{Server, begin};
use harness::{Device, Signal, Value, eventually, json, manifest, numbered, sleeper, steadily, with};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;
use taken::Taken;
use wherry::ipc::{FromAgent, Origin};

fn device(policy: &Value) -> Device {
    let mut device = Device::prepared(json!({}));
    device.file("policy.json", policy.to_string());
    device.broker.up();
    device.start();
    device.online();
    device
}

/// Fields and what each refusal must name, in the order of the answer.
fn check_refused(device: &Device, document: &Value, reason: &str, expect: &[(&str, &str)]) {
    let ack = device.refused(&device.publish(document), "rejected", reason);
    let further = ack["detail"]["further"].as_array().cloned().unwrap_or_default();
    let all: Vec<&Value> = std::iter::once(&ack["detail"]).chain(&further).collect();
    assert_eq!(
        all.iter().map(|r| r["path"].as_str().unwrap_or_default()).collect::<Vec<_>>(),
        expect.iter().map(|e| e.0).collect::<Vec<_>>()
    );
    all.iter().zip(expect).for_each(|(r, (_, part))| assert!(r["message"].as_str().unwrap().contains(part), "{part}: {r}"));
}

const HOST_NETWORK: &str = "\"host_network\" of ";

fn greedy() -> Value {
    let security = json!({"seccomp": "unconfined", "no_new_privileges": false, "capabilities": {"add": ["NET_ADMIN"]}});
    with(sleeper(), json!({"network": {"mode": "host"}, "security": security}))
}

#[test]
fn what_the_policy_forbids_is_refused_rule_by_rule_and_what_runs_runs_on() {
    let device = device(&json!({"memory_required": true}));
    let limited = json!({"resources": {"memory": {"max": "16M"}}});
    device.deploy(&manifest("web", with(sleeper(), limited.clone())));
    let pid = device.running("web");
    check_refused(
        &device,
        &manifest("web", greedy()),
        "policy",
        &[
            ("containers.main.network.mode", HOST_NETWORK),
            ("containers.main.security.seccomp", "\"unconfined\" of "),
            ("containers.main.security.no_new_privileges", "\"unconfined\" of "),
            ("containers.main.security.capabilities", "NET_ADMIN (rule \"capabilities\" of "),
            ("containers.main.resources.memory.max", "\"memory_required\" of "),
        ],
    );
    let other = with(sleeper(), with(limited, json!({"network": {"mode": "host"}})));
    check_refused(&device, &manifest("other", other), "policy", &[("containers.main.network.mode", device.dir.to_str().unwrap())]);
    assert_eq!((device.running("web"), device.app("other").is_none()), (pid, true));
}

#[test]
fn what_the_policy_allows_is_what_the_container_has() {
    let device = device(&json!({"host_network": true, "unconfined": true, "capabilities": ["NET_ADMIN", "CHOWN"]}));
    let security = json!({"seccomp": "unconfined", "no_new_privileges": false, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}});
    device.deploy(&manifest("web", with(sleeper(), json!({"network": {"mode": "host"}, "security": security}))));
    let pid = device.running("web");
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(network(&pid.to_string()), network("self"));
    let status = device.exec("web", &["grep", "-E", "^(CapBnd|NoNewPrivs|Seccomp):", "/proc/self/status"]);
    assert_eq!(status, "CapBnd:\t0000000000001000\nNoNewPrivs:\t0\nSeccomp:\t0");
}

#[test]
fn root_at_the_device_is_not_held_to_the_policy() {
    let device = device(&json!({"memory": "1M", "memory_required": true}));
    device.applied(&manifest("web", greedy()));
    device.running("web");
}

/// Each takes the place of a good policy.
fn spoil(path: &Path, how: &str) {
    let mode = |bits| fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    let _ = fs::remove_file(path);
    match how {
        "a directory" => fs::create_dir(path).unwrap(),
        "a FIFO" => nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap(),
        _ => fs::write(path, if how == "no JSON" { "{\"host_network\": true" } else { "{\"host_network\": true}" }).unwrap(),
    }
    match how {
        "writable for its group" => mode(0o664),
        "writable for all" => mode(0o646),
        "somebody else's" => chown(path, Some(1000), None).unwrap(),
        "too large" => fs::write(path, format!("{{\"host_network\": true{}}}", " ".repeat(17 << 10))).unwrap(),
        "wrong in a field" => fs::write(path, "{\"host_network\": 1}").unwrap(),
        _ => {}
    }
}

#[test]
fn a_policy_that_cannot_be_trusted_allows_nothing_from_the_network_and_stops_nothing() {
    let mut device = device(&json!({"host_network": true}));
    let path = device.dir.join("policy.json");
    device.deploy(&manifest("web", with(sleeper(), json!({"network": {"mode": "host"}}))));
    device.deploy(&manifest("old", sleeper()));
    let pid = device.running("web");
    let faults = [
        "no JSON",
        "wrong in a field",
        "writable for its group",
        "writable for all",
        "somebody else's",
        "too large",
        "a directory",
        "a FIFO",
    ];
    for (n, how) in faults.into_iter().enumerate() {
        spoil(&path, how);
        device.end(Signal::SIGTERM);
        device.start();
        device.online();
        assert_eq!(device.running("web"), pid, "{how}");
        let harmless = with(sleeper(), json!({"env": {"N": n.to_string()}}));
        check_refused(&device, &manifest("new", harmless), "policy", &[("", path.to_str().unwrap())]);
        device.reported(how, |r| r["about"]["missing"]["policy"].as_str().is_some_and(|why| why.contains("policy.json")));
        if how == "a directory" {
            fs::remove_dir(&path).unwrap()
        }
    }
    device.ack(&device.publish(&json!({"wherry": 1, "app": "old", "remove": true})), "removed");
    device.applied(&manifest("local", sleeper()));
    spoil(&path, "good again");
    device.ok(&["upgrade"]);
    device.reported("a policy", |r| r["about"]["missing"]["policy"].is_null());
    device.deploy(&manifest("new", with(sleeper(), json!({"network": {"mode": "host"}}))));
    assert_eq!(device.running("web"), pid);
}

// ---- an agent that somebody has taken over ----

/// CAP_CHOWN, CAP_KILL and CAP_NET_BIND_SERVICE.
const ALLOWED: [u32; 3] = [0, 5, 10];

/// Says so much of what could be asked, in the agent's place, for apps `a` to `f`.
fn ask(device: &Device, taken: &Taken, dice: &mut Dice, documents: usize) {
    let image = format!("rootfs:{}", harness::image::rootfs().display());
    let names = ["a", "b", "c", "d", "e", "f"];
    let origins = [Origin::Device, Origin::Group("lab".parse().unwrap()), Origin::Group("strangers".parse().unwrap()), Origin::Local];
    for _ in 0..documents {
        let app = dice.of(&names);
        let mut document = manifest(app, asked::container(dice, &image, &device.dir.join("private")));
        if dice.once_in(10) {
            document = json!({"wherry": 1, "app": app, "remove": true});
        }
        let mut payload = document.to_string().into_bytes();
        if dice.once_in(20) {
            let at = dice.below(payload.len());
            payload[at] ^= 1 << dice.below(8);
        }
        let origin = origins[dice.below(origins.len() + 2) % origins.len()].clone();
        let topic = if dice.once_in(20) { dice.of(&names) } else { app };
        let message = FromAgent::Desired { origin, app: topic.parse().unwrap(), payload };
        // The socket is full while keeper works.
        eventually("keeper listens", || {
            taken.listen();
            taken.say(&message).then_some(())
        });
    }
}

#[test]
fn whoever_has_the_agent_can_have_nothing_run_beyond_the_policy() {
    let policy = json!({"capabilities": ["CHOWN", "KILL", "NET_BIND_SERVICE"], "memory": "64M", "memory_required": true});
    let mut device = Device::prepared(json!({"groups": ["lab"]}));
    device.file("policy.json", policy.to_string());
    fs::create_dir(device.dir.join("private")).unwrap();
    device.broker.up();
    device.start();
    device.online();
    let modest = json!({"security": {"capabilities": {"drop": ["ALL"]}}, "resources": {"memory": {"max": "4M"}}});
    device.applied(&manifest("modest", with(sleeper(), modest)));
    let (ceiling, mounts) = (kernel::capabilities(&ALLOWED), kernel::mounts(device.running("modest")));
    let taken = Taken::over(device.agent());
    let mut dice = Dice(1);
    let mut ran = std::collections::BTreeSet::new();
    for round in 0..60 {
        ask(&device, &taken, &mut dice, 10);
        eventually("all has begun", || {
            taken.listen();
            let on_its_way = |a: &Value| ["accepted", "fetching", "staged", "starting"].iter().any(|state| a["state"] == *state);
            (!device.json(&["ls"]).as_array().unwrap().iter().any(on_its_way)).then_some(())
        });
        for group in device.group_names().iter().filter(|g| g.contains('/') && !g.starts_with("modest")) {
            // Before it is the program, it is on its way to be confined.
            for pid in device.tasks(group).into_iter().filter(|pid| kernel::is_running(*pid, "sleep")) {
                let found = kernel::excesses(pid, ceiling, 64 << 20, &mounts);
                assert!(found.is_empty(), "round {round}: {group}: {found:?}");
                ran.insert(pid);
            }
        }
    }
    assert!(ran.len() >= 20, "only {} containers ran: nothing is shown", ran.len());
    assert!(!device.log().contains("the agent"), "it was left to speak: {}", device.log());
}

fn with_memory(mib: u64) -> Value {
    with(sleeper(), json!({"resources": {"memory": {"max": format!("{mib}M")}}}))
}

#[test]
fn memory_that_is_promised_already_is_not_promised_again() {
    let device = device(&json!({"memory": "64M"}));
    device.deploy(&manifest("one", with_memory(40)));
    check_refused(
        &device,
        &manifest("two", with_memory(25)),
        "no_memory",
        &[("containers", "add up to 25M; this device has 64M for all apps, of which 40M are taken")],
    );
    device.deploy(&manifest("two", with_memory(24)));
    check_refused(&device, &manifest("one", with_memory(41)), "no_memory", &[("containers", "of which 24M are taken")]);
    // Its own older version is no rival, and a removed app none any more.
    device.deploy(&manifest("one", with_memory(30)));
    device.ack(&device.publish(&json!({"wherry": 1, "app": "two", "remove": true})), "removed");
    device.deploy(&manifest("one", with_memory(64)));
    device.deploy(&manifest("free", sleeper()));
}

#[test]
fn a_version_that_failed_does_not_hide_what_runs_in_its_place() {
    let device = device(&json!({"memory": "64M"}));
    device.deploy(&manifest("one", with_memory(40)));
    let broken = with(with_memory(1), json!({"command": ["/bin/nothing"]}));
    device.refused(&device.publish(&manifest("one", broken)), "failed", "exec");
    check_refused(&device, &manifest("two", with_memory(25)), "no_memory", &[("containers", "of which 40M are taken")]);
}

#[test]
fn a_number_that_was_refused_for_want_of_room_stays_refused() {
    let device = device(&json!({"memory": "64M"}));
    device.deploy(&numbered("one", 1, with_memory(40)));
    let sha = device.publish(&numbered("two", 1, with_memory(30)));
    device.refused(&sha, "rejected", "no_memory");
    device.ack(&device.publish(&json!({"wherry": 1, "app": "one", "seq": 2, "remove": true})), "removed");
    let before = device.acks(&sha).len();
    harness::kill(device.agent(), Signal::SIGKILL);
    harness::eventually("the broker repeats it", || (device.acks(&sha).len() > before).then_some(()));
    steadily(Duration::from_millis(500), "refused", || {
        device.acks(&sha).iter().all(|a| a["state"] == "rejected" || a["state"] == "received")
    });
    device.deploy(&numbered("two", 2, with_memory(30)));
}

#[test]
fn what_does_not_fit_is_refused_with_all_reasons_and_nothing_is_downloaded() {
    let device = device(&json!({"memory": "64M"}));
    let files = Server::plain(|_, line| begin(&[], 0, "", line));
    let digest = format!("sha256:{}", "0".repeat(64));
    let far = json!({"ref": files.url("http", "/root.tar"), "type": "rootfs", "digest": digest, "unpacked": "900G"});
    let document = manifest("web", with(with_memory(65), json!({"image": far, "network": {"mode": "host"}})));
    check_refused(
        &device,
        &document,
        "policy",
        &[
            ("containers.main.network.mode", HOST_NETWORK),
            ("containers", "add up to 65M"),
            ("containers", "its images need 921600M unpacked"),
        ],
    );
    steadily(Duration::from_millis(500), "no request", || files.asked().is_empty());
    assert!(fs::read_dir(device.dir.join("data/staging")).unwrap().next().is_none(), "nothing is staged");
}
