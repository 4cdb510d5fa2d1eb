//! What makes a container easy to live with, on a whole device: files, secrets and variables of manifests, events, copies, and the support bundle.

mod harness;

use harness::{Device, Signal, Value, json, kill, manifest, numbered, shell, sleeper, steadily, with};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const CANARY: &str = "canary-7d41e0";

/// A device with this secret.
fn with_secret(name: &str, content: &str) -> Device {
    let mut device = Device::prepared(json!({}));
    device.settings["secrets_dir"] = json!(device.dir.join("secrets"));
    fs::create_dir(device.dir.join("secrets")).unwrap();
    keep(&device, name, content);
    device.broker.up();
    device.start();
    device.online();
    device
}

fn keep(device: &Device, name: &str, content: &str) {
    let path = device.dir.join("secrets").join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

fn reader(secret: &str) -> Value {
    with(shell("cat /run/token; echo; exec sleep 100000"), json!({"files": [{"path": "/run/token", "secret": secret}]}))
}

// ---- files and secrets ----

#[test]
fn a_secret_reaches_its_container_and_nobody_else() {
    let device = with_secret("token", CANARY);
    device.deploy(&manifest("web", reader("token")));
    device.says("web", CANARY);
    device.reported("web runs", |r| r["apps"]["web"]["state"] == "running");
    for said in [device.ok(&["info", "web"]), device.ok(&["--json", "info", "web"]), device.ok(&["ls", "--json"]), device.log()] {
        assert!(!said.contains(CANARY), "{said}");
    }
    for message in device.broker.messages() {
        assert!(!message.payload.to_string().contains(CANARY), "{}", message.topic);
    }
    let record = fs::read(device.dir.join("run/containers/web/main/record")).unwrap();
    assert!(!String::from_utf8_lossy(&record).contains(CANARY));
    // Adopted by the next keeper, and changed by the next start.
    keep(&device, "token", "another one");
    device.ok(&["restart", "web"]);
    device.says("web", "another one");
}

#[test]
fn a_document_that_names_a_missing_or_open_secret_is_refused_and_what_runs_runs_on() {
    let device = with_secret("token", "one");
    fs::write(device.dir.join("secrets/open"), CANARY).unwrap();
    fs::set_permissions(device.dir.join("secrets/open"), Permissions::from_mode(0o644)).unwrap();
    device.deploy(&numbered("web", 1, reader("token")));
    let pid = device.running("web");
    for (seq, name, reason) in [(2, "absent", "io"), (3, "open", "policy")] {
        let sha = device.publish(&numbered("web", seq, reader(name)));
        let ack = device.refused(&sha, "rejected", reason);
        assert_eq!(ack["detail"]["path"], "containers.main.files[0].secret", "{ack}");
        assert!(ack["detail"]["message"].as_str().unwrap().contains(name) && !ack.to_string().contains(CANARY), "{ack}");
    }
    steadily(Duration::from_millis(300), "the old version runs", || device.pid("web") == Some(pid));
    // It vanishes while the container runs: the next start fails with the reason, and works again once it is back.
    fs::remove_file(device.dir.join("secrets/token")).unwrap();
    kill(pid, Signal::SIGKILL);
    let row = device.becomes("web", "restarting");
    assert!(row["last_exit"] == json!({"signal": 9}), "{row}");
    harness::eventually("the missing secret is named", || {
        device.container("web")?["error"].as_str()?.contains("has no such file").then_some(())
    });
    keep(&device, "token", "two");
    device.running("web");
    device.says("web", "two");
}

// ---- variables ----

#[test]
fn variables_of_the_device_are_put_in_and_a_change_counts_from_keepers_next_start() {
    let mut device = Device::prepared(json!({"variables": {"site": "north"}}));
    let source = device.dir.join("data-north");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("from"), "bound\n").unwrap();
    device.broker.up();
    device.start();
    device.online();
    let own = json!({
        "env": {"SITE": "${var.site}"}, "hostname": "${app.name}-${var.site}",
        "files": [{"path": "/etc/site", "content": "${device.id} ${app.name}/${container.name} $${var.site} $SITE\n"}],
        "mounts": [{"type": "bind", "source": format!("{}/data-${{var.site}}", device.dir.display()), "target": "/data"}],
    });
    let web = manifest("web", with(shell("echo $SITE $(hostname) ${var}; cat /etc/site /data/from; exec sleep 100000"), own));
    device.applied(&web);
    let expected = format!("north web-north\n{} web/main ${{var.site}} $SITE\nbound\n", device.id);
    device.says("web", &expected);
    let pid = device.running("web");
    device.end(Signal::SIGTERM);
    device.start();
    assert_eq!(device.running("web"), pid, "nothing changed, so nothing is started anew");
    device.end(Signal::SIGTERM);
    fs::rename(&source, device.dir.join("data-south")).unwrap();
    device.settings["variables"]["site"] = json!("south");
    device.start();
    device.says("web", "south web-south\n");
    assert_ne!(device.running("web"), pid);
}

#[test]
fn an_unknown_variable_is_refused_with_its_place() {
    let device = Device::with(json!({"variables": {"site": "north"}}));
    let sha = device.publish(&manifest("web", with(sleeper(), json!({"env": {"A": "${var.sight}"}, "args": ["${device.name}"]}))));
    let ack = device.refused(&sha, "rejected", "bad_value");
    let message = ack["detail"].to_string();
    for part in
        ["no variable \\\"sight\\\" (it has: site)", "device.name", "(line 1, column ", "containers.main.env.A", "containers.main.args[0]"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
}

// ---- events ----

fn past(device: &Device, args: &[&str]) -> Vec<Value> {
    let out = device.ok(&[&["events", "--past", "--json"], args].concat());
    out.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

fn words(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["what"].as_str().unwrap()).collect()
}

#[test]
fn what_happened_to_an_app_is_told_in_its_order() {
    let mut device = Device::new();
    device.deploy(&manifest("web", with(shell("sleep 0.2; exit 3"), json!({"restart": {"policy": "on-failure", "delay": "50ms"}}))));
    harness::eventually("it ended twice", || {
        (words(&past(&device, &["web"])).iter().filter(|w| **w == "exited").count() >= 2).then_some(())
    });
    let events = past(&device, &["web"]);
    let containers: Vec<_> = events.iter().filter(|e| !e["container"].is_null()).cloned().collect();
    assert_eq!(words(&containers)[..6], ["image", "started", "exited", "restarting", "started", "exited"], "{events:?}");
    assert_eq!((&containers[2]["ended"], &containers[3]["detail"]), (&json!({"code": 3}), &json!("in 50ms")));
    let steps: Vec<_> = events.iter().filter(|e| e["what"] == "app").map(|e| e["detail"].as_str().unwrap()).collect();
    assert_eq!(steps, ["received", "accepted", "fetching", "staged", "starting", "running"]);
    let numbers: Vec<_> = past(&device, &[]).iter().map(|e| e["number"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
    assert!(words(&past(&device, &[])).contains(&"link") && past(&device, &["nobody"]).is_empty());
    assert!(past(&device, &["--since", "1ms", "nobody"]).is_empty());
    let text = device.ok(&["events", "--past", "web"]);
    assert!(text.lines().any(|l| l.contains(" ago") && l.contains("web/main") && l.ends_with("code 3")), "{text}");
    device.applied(&manifest("calm", sleeper()));
    device.end(Signal::SIGTERM);
    device.start();
    let events = past(&device, &[]);
    assert!(words(&events).contains(&"keeper") && words(&past(&device, &["calm"])).contains(&"adopted"), "{events:?}");
    for wrong in [&["events", "--since", "soon"][..], &["events", "a/b"], &["events", "a", "b"]] {
        assert_eq!(device.fails(wrong).0, 64, "{wrong:?}");
    }
}

#[test]
fn a_kill_for_lack_of_memory_and_the_loss_of_the_link_are_events() {
    let mut device = Device::new();
    let greedy = json!({"resources": {"memory": {"max": "16M", "swap": 0}}, "restart": {"policy": "no"}});
    device.applied(&manifest("web", with(shell("sleep 0.3; x=$(yes | head -c 100000000); echo $x | wc -c; exit 9"), greedy)));
    harness::eventually("the kill is told", || words(&past(&device, &["web"])).contains(&"oom").then_some(()));
    device.broker.down();
    let down = || past(&device, &[]).into_iter().find(|e| e["what"] == "link" && e["detail"].as_str().unwrap().starts_with("down"));
    harness::eventually("the loss of the link is told", down);
}

#[test]
fn events_are_followed_as_they_happen_also_after_a_pause_and_those_of_others_are_no_loss() {
    use std::io::{BufRead, BufReader};
    let device = Device::new();
    let mut follower = device.command(&["events", "--json", "web"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    // What came before is there, too.
    device.applied(&manifest("web", sleeper()));
    let started = |l: &String| l.contains("\"started\"");
    assert!(lines.by_ref().map(Result::unwrap).any(|l| started(&l)));
    // More of another app than keeper's memory holds, while it takes nothing.
    kill(follower.id() as i32, Signal::SIGSTOP);
    let noisy = json!({"restart": {"policy": "always", "delay": "10ms", "max_delay": "10ms"}});
    device.applied(&manifest("noise", with(shell("exit 1"), noisy)));
    let newest = || past(&device, &[]).last().unwrap()["number"].as_u64().unwrap();
    let from = newest();
    harness::eventually("many events", || (newest() > from + 300).then_some(()));
    kill(follower.id() as i32, Signal::SIGCONT);
    device.ok(&["stop", "web"]);
    let rest: Vec<String> = lines.by_ref().map(Result::unwrap).take_while(|l| !l.contains("\"exited\"")).collect();
    assert!(rest.iter().any(|l| l.contains("\"stopping\"")), "{rest:?}");
    kill(follower.id() as i32, Signal::SIGTERM);
    follower.wait().unwrap();
}

// ---- copies ----

/// A device with a running container, and an empty directory to copy to.
fn copying(extra: Value) -> (Device, String) {
    let device = Device::new();
    let script = "mkdir -p /data/sub; echo one > /data/a; echo two > /data/sub/b; ln -s a /data/l; chmod 4755 /data/a; exec sleep 100000";
    device.applied(&manifest("web", with(shell(script), extra)));
    harness::eventually("the files are there", || (device.wherry(&["exec", "web", "cat", "/data/sub/b"]).code == 0).then_some(()));
    let dir = device.dir.join("copies");
    fs::create_dir(&dir).unwrap();
    let dir = dir.to_str().unwrap().to_owned();
    (device, dir)
}

#[test]
fn files_and_trees_are_copied_out_and_in() {
    let (device, dir) = copying(json!({"user": "app", "mounts": [{"type": "tmpfs", "target": "/data"}]}));
    let read = |path: &str| fs::read_to_string(format!("{dir}/{path}")).unwrap_or_else(|e| panic!("{path}: {e}"));
    device.ok(&["cp", "web:/data", &dir]);
    assert_eq!((read("data/a"), read("data/sub/b")), ("one\n".into(), "two\n".into()));
    assert_eq!(fs::read_link(format!("{dir}/data/l")).unwrap().to_str(), Some("a"));
    assert_eq!(fs::metadata(format!("{dir}/data/a")).unwrap().permissions().mode() & 0o7777, 0o755, "no set-user-id bit comes out");
    device.ok(&["cp", "web/main:/data/.", &format!("{dir}/new")]);
    device.ok(&["cp", "web:/data/sub/b", &format!("{dir}/b2")]);
    device.ok(&["cp", "web:/proc/1/comm", &dir]);
    assert_eq!((read("new/sub/b"), read("b2"), read("comm")), ("two\n".into(), "two\n".into(), "wherry-init\n".into()));
    let archive = device.command(&["cp", "web:/data", "-"]).output().unwrap();
    fs::write(format!("{dir}/x.tar"), &archive.stdout).unwrap();
    let listed = std::process::Command::new("tar").args(["-tf", &format!("{dir}/x.tar")]).output().unwrap();
    let mut names: Vec<&str> = std::str::from_utf8(&listed.stdout).unwrap().lines().map(|l| l.trim_end_matches('/')).collect();
    names.sort_unstable();
    assert_eq!(names, ["data", "data/a", "data/l", "data/sub", "data/sub/b"]);
    // Into it: as the container's root, whoever its program is.
    fs::write(format!("{dir}/data/own"), "own\n").unwrap();
    device.ok(&["cp", &format!("{dir}/data"), "web:/tmp"]);
    device.ok(&["cp", &format!("{dir}/data/own"), "web:/tmp/renamed"]);
    device.ok(&["cp", &format!("{dir}/data/sub/."), "web:/tmp/data"]);
    assert_eq!(device.exec("web", &["cat", "/tmp/data/own", "/tmp/renamed", "/tmp/data/b", "/tmp/data/l"]), "own\nown\ntwo\none");
    assert_eq!(device.exec("web", &["sh", "-c", "ls -ln /tmp/renamed | tr -s ' ' | cut -d' ' -f3,4"]), "0 0");
    std::os::unix::fs::chown(format!("{dir}/b2"), Some(1234), Some(1235)).unwrap();
    device.ok(&["cp", "-a", &format!("{dir}/b2"), "web:/tmp"]);
    assert_eq!(device.exec("web", &["sh", "-c", "ls -ln /tmp/b2 | tr -s ' ' | cut -d' ' -f3,4"]), "1234 1235");
    let tar = fs::File::open(format!("{dir}/x.tar")).unwrap();
    let in_by_pipe = device.command(&["cp", "-", "web:/work"]).stdin(tar).output().unwrap();
    assert!(in_by_pipe.status.success(), "{in_by_pipe:?}");
    assert_eq!(device.exec("web", &["cat", "/work/data/sub/b"]), "two");
    let large = vec![7u8; 3 << 20];
    fs::write(format!("{dir}/large"), &large).unwrap();
    device.ok(&["cp", &format!("{dir}/large"), "web:/tmp"]);
    device.ok(&["cp", "web:/tmp/large", &format!("{dir}/back")]);
    assert_eq!(fs::read(format!("{dir}/back")).unwrap(), large);
}

#[test]
fn a_copy_that_cannot_be_is_refused_and_leaves_nothing() {
    let (device, dir) = copying(json!({"mounts": [{"type": "tmpfs", "target": "/data"}], "rootfs": {"readonly": true}}));
    fs::write(format!("{dir}/file"), "x").unwrap();
    let file = format!("{dir}/file");
    let inside = |name: &str| format!("{dir}/{name}");
    for (args, code, why) in [
        (vec!["web:/data/none", &dir], 1, "No such file or directory"),
        (vec!["web:/data", &file], 1, "cannot take the place of a file"),
        (vec!["web:/data/a", &inside("none/")], 1, "no such directory"),
        (vec!["web:/data/a", &inside("none/deep")], 1, "No such file or directory"),
        (vec![&inside("none"), "web:/data"], 1, "No such file or directory"),
        (vec![&file, "web:/etc"], 1, "Read-only file system"),
        (vec![&file, "web:/none/deep"], 1, "No such file or directory"),
        (vec!["web:/dev/null", &dir], 1, "neither a file"),
        (vec!["nobody:/etc", &dir], 65, "there is no app nobody"),
        (vec!["web/other:/etc", &dir], 65, "there is no container web/other"),
        (vec!["web:/a", "web:/b"], 64, "between a container and this device"),
        (vec![&file, &dir], 64, "between a container and this device"),
        (vec!["web:data", &dir], 64, "must be absolute"),
        (vec!["web:/data/..", &dir], 64, "must not end in"),
    ] {
        let (got, error) = device.fails(&[&["cp"][..], &args].concat());
        assert!(got == code && error.contains(why), "{args:?}: {got} {error}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    device.ok(&["cp", "web:/etc/passwd", &dir]);
    let broken = device.command(&["cp", "-", "web:/data"]).stdin(fs::File::open(&file).unwrap()).output().unwrap();
    assert!(broken.status.code() == Some(1) && String::from_utf8_lossy(&broken.stderr).contains("archive"), "{broken:?}");
    device.ok(&["stop", "web"]);
    let (code, error) = device.fails(&["cp", "web:/data", &dir]);
    assert!(code == 1 && error.contains("it is not running"), "{error}");
}

#[test]
fn a_link_that_the_container_exchanges_during_a_copy_leads_nowhere_but_into_the_container() {
    let swap = "mkdir /decoy /decoy/etc; echo decoy > /decoy/etc/canary; while true; do ln -sfn / /swap; ln -sfn /decoy /swap; done";
    let device = Device::new();
    let unique = format!("wherry-canary-{}", std::process::id());
    let host = std::path::Path::new("/tmp").join(&unique);
    fs::create_dir(&host).unwrap();
    fs::write(host.join("canary"), CANARY).unwrap();
    device.applied(&manifest("web", shell(&swap.replace("/etc", &format!("/{unique}")).replace("mkdir", "mkdir -p"))));
    harness::eventually("the link is there", || (device.wherry(&["exec", "web", "ls", "/swap"]).code == 0).then_some(()));
    let dir = device.dir.join("copies");
    fs::create_dir(&dir).unwrap();
    for i in 0..30 {
        let to = dir.join(i.to_string());
        let _ = device.wherry(&["cp", &format!("web:/swap/tmp/{unique}/canary"), to.to_str().unwrap()]);
        let _ = device.wherry(&["cp", &format!("web:/swap/{unique}"), to.to_str().unwrap()]);
        device.wherry(&["cp", "/etc/hostname", &format!("web:/swap/tmp/{unique}")]);
    }
    let found = std::process::Command::new("grep").args(["-rl", CANARY]).arg(&dir).output().unwrap();
    let names: Vec<_> = fs::read_dir(&host).unwrap().map(|e| e.unwrap().file_name()).collect();
    fs::remove_dir_all(&host).unwrap();
    assert!(found.stdout.is_empty(), "a file of the device came out");
    assert_eq!(names, ["canary"], "a file went to the device");
}

// ---- the support bundle ----

#[test]
fn the_support_bundle_has_what_helps_and_no_secret() {
    let canary = |what: &str| format!("{CANARY}-{what}");
    let broker_login = canary("password");
    let mut device = Device::prepared_with_login(json!({}), Some(("router", &broker_login)));
    device.settings["brokers"][0]["username"] = json!("router");
    device.settings["brokers"][0]["password"] = json!(broker_login);
    device.settings["brokers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"host": "127.0.0.1", "port": 9, "username": "u", "password": canary("second")}));
    device.settings["variables"] = json!({"token": canary("variable")});
    device.settings["secrets_dir"] = json!(device.dir.join("secrets"));
    fs::create_dir(device.dir.join("secrets")).unwrap();
    keep(&device, "token", &canary("secret"));
    device.broker.up();
    device.start();
    device.online();
    let own = json!({
        "env": {"A": canary("env"), "B": "${var.token}"}, "args": [canary("args")], "workdir": format!("/tmp/{}", canary("workdir")),
        "files": [{"path": "/etc/a", "content": canary("content")}, {"path": "/run/token", "secret": "token"}],
    });
    let script = format!("echo {}; cat /run/token; exec sleep 100000", canary("output"));
    device.deploy(&manifest("web", with(shell(&script), own)));
    device.says("web", &canary("output"));
    let bad = json!({"env": {"A": "${var.nothing}", "C": canary("refused")}, "image": {"ref": format!("https://user:{}@127.0.0.1/x?t={}", canary("url"), canary("query"))}});
    device.publish(&manifest("bad", with(sleeper(), bad.clone())));
    device.wherry(&["apply", &device.file("bad.json", manifest("bad", with(sleeper(), bad)).to_string())]);
    device.publish(&manifest(
        "broken",
        with(sleeper(), json!({"command": ["/none", canary("argument")], "hostname": canary("bad_hostname")})),
    ));
    device.publish_bytes("garbage", format!("{{\"wherry\": 1, \"{}\"", canary("syntax")).as_bytes());
    device.publish(&manifest("failing", with(shell("true"), json!({"command": ["/none", canary("argument")]}))));
    harness::eventually("a failure is on record", || (device.app("failing")?["state"] == "failed").then_some(()));
    let text = device.ok(&["diag"]);
    assert!(!text.contains(CANARY), "{}", text.lines().filter(|l| l.contains(CANARY)).collect::<Vec<_>>().join("\n"));
    let bundle: Value = serde_json::from_str(&text).unwrap();
    let keeper = &bundle["keeper"];
    assert_eq!((&bundle["check"]["usable"], &bundle["status"]["link"]["state"]), (&json!(true), &json!("online")));
    assert_eq!((&keeper["settings"]["brokers"][1]["password"], &keeper["settings"]["variables"]), (&json!(true), &json!(["token"])));
    let web = &keeper["documents"].as_array().unwrap().iter().find(|d| d["app"] == "web").unwrap()["containers"][0];
    assert_eq!((&web["env"], &web["files"][1]["content"]), (&json!(["A", "B"]), &json!({"secret": "token"})));
    assert!(web["files"][0]["content"]["bytes"].as_u64().unwrap() > 10 && web["program"] == "/bin/sh");
    for (part, least) in [("containers", 1), ("images", 1), ("mounts", 3), ("log", 5)] {
        assert!(keeper[part].as_array().unwrap().len() >= least, "{part}: {}", keeper[part]);
    }
    assert!(keeper["images"][0]["unpacked"].as_u64().unwrap() > 100_000);
    assert!(bundle["events"].as_array().unwrap().iter().any(|e| e["what"] == "started") && bundle["apps"][0]["app"].is_string());
    // Into a new file of the caller's own, and never over another.
    let file = device.dir.join("bundle.json");
    device.ok(&["diag", "-o", file.to_str().unwrap()]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(device.fails(&["diag", "-o", file.to_str().unwrap()]).0, 73);
    // A device in trouble has something to tell, too.
    device.end(Signal::SIGTERM);
    let without: Value = serde_json::from_str(&device.ok(&["diag"])).unwrap();
    assert!(without["check"]["usable"] == true && without["keeper"]["error"].as_str().unwrap().contains("not running"), "{without}");
    device.start();
}
