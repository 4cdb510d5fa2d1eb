//! Keys of a fleet that come and go: keysets made, signed, published and followed by `wherryctl`, on real devices.

use super::*;

/// Two devices of group `north` that trust the key in `root.pub`. Keys are made in the first one's directory, where commands run.
fn trusting(keys: &[&str]) -> Fleet {
    let mut one = Device::prepared(json!({"groups": ["north"]}));
    let brokers = json!([{"host": "127.0.0.1", "port": one.broker.port}]);
    let mut two = Device::prepared(json!({"brokers": brokers, "groups": ["north"]}));
    for key in keys {
        let made: Outcome = bare(&one.dir, &["keygen", key]).output().unwrap().into();
        assert_eq!(made.code, 0, "{made:?}");
    }
    for device in [&mut one, &mut two] {
        fs::create_dir(device.dir.join("trust")).unwrap();
        device.settings["trust_dir"] = json!(device.dir.join("trust"));
    }
    for device in [&one, &two] {
        fs::copy(one.dir.join("root.pub"), device.dir.join("trust/root.pub")).unwrap();
    }
    one.broker.up();
    for device in [&mut one, &mut two] {
        device.start();
        device.online();
    }
    Fleet { two, one }
}

impl Fleet {
    /// Makes a file of what a command prints.
    fn make(&self, name: &str, args: &[&str]) -> String {
        self.file(name, &self.ok(args))
    }

    /// The number of a key.
    fn key(&self, name: &str) -> String {
        let text = fs::read_to_string(self.one.dir.join(format!("{name}.pub"))).unwrap();
        text.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned()
    }

    /// Waits until both devices have said that they trust these keys.
    fn trusts(&self, keys: &[&str]) {
        let wanted: Vec<String> = keys.iter().map(|name| self.key(name)).collect();
        for id in [&self.one.id, &self.two.id] {
            let topic = format!("wherry/v1/d/{id}/out/reported");
            self.keeps(&topic, "a report of these keys", |kept| kept["about"]["keys"] == json!(wanted));
        }
    }
}

const GROUP: &str = "wherry/v1/g/north/keyset";

#[test]
fn a_key_that_signs_is_replaced_on_a_whole_group_without_a_visit() {
    let f = trusting(&["root", "old", "new", "stranger"]);
    let web = f.file("web.json", &manifest("web", pinned(sleeper())).to_string());
    let both = |keyset: &str| {
        let out = f.ok(&["apply", "-g", "north", "--expect", "2", "-k", "root.sec", keyset]);
        for id in [&f.one.id, &f.two.id] {
            assert!(out.contains(&format!("{id} keyset: accepted\n")), "{out}");
        }
    };
    // The old key.
    let first = f.make("first.json", &["keyset", "new", "-k", "old.pub"]);
    both(&first);
    let kept = f.keeps(GROUP, "the first keyset", |kept| kept["type"] == "keyset");
    f.trusts(&["root", "old"]);
    f.ok(&["apply", "-d", &f.one.id, "-k", "old.sec", &web]);
    f.fails(&["apply", "-d", &f.one.id, "-k", "new.sec", &web], 1, "rejected (unknown_key)");
    // Both of them; a signature of the old one is not enough for that.
    let overlap = f.make("overlap.json", &["keyset", "new", "-k", "old.pub", "-k", "new.pub"]);
    let outcome = f.ctl(&["apply", "-g", "north", "--expect", "2", "-k", "old.sec", &overlap]);
    check_failure(&outcome, &["apply"], 1, "cannot apply keyset: ");
    let warning = format!("warning: keyset of group north: key {}, which signs it, is no root key by the keyset before", f.key("old"));
    assert!(outcome.err.contains("keyset: rejected (out_of_scope): ") && outcome.err.contains(&warning), "{outcome:?}");
    f.keeps(GROUP, "the first keyset again", |now| *now == kept);
    let outcome = f.ctl(&["apply", "-g", "north", "--expect", "2", "-k", "stranger.sec", &overlap]);
    check_failure(&outcome, &["apply"], 1, "keyset: rejected (unknown_key): ");
    f.fails(&["apply", "-g", "north", &overlap], 64, "nobody signs");
    both(&overlap);
    f.trusts(&["root", "old", "new"]);
    f.ok(&["apply", "-d", &f.one.id, "-k", "old.sec", &web]);
    f.ok(&["apply", "-d", &f.one.id, "-k", "new.sec", &web]);
    // The new one alone, signed on a machine without a network.
    f.make("last.json", &["keyset", "new", "-g", "north", "-k", "new.pub"]);
    let last = f.make("last.envelope", &["sign", "-k", "root.sec", "last.json"]);
    let outcome = f.ctl(&["apply", "--expect", "2", &last]);
    assert!(outcome.code == 0 && outcome.out.matches("keyset: accepted").count() == 2, "{outcome:?}");
    assert!(outcome.err.contains(&format!("keyset of group north: key {} counts no more", f.key("old"))), "{outcome:?}");
    assert!(!outcome.err.contains("warning"), "{outcome:?}");
    f.trusts(&["root", "new"]);
    f.fails(&["apply", "-d", &f.one.id, "-k", "old.sec", &web], 1, "rejected (unknown_key)");
    f.ok(&["apply", "-d", &f.one.id, "-k", "new.sec", &web]);
    let shown = f.ok(&["keyset", "show", "-g", "north"]);
    assert!(shown.contains(&f.key("new")) && !shown.contains(&f.key("old")), "{shown}");
    let shown = lines(&f.ok(&["--json", "keyset", "show"])).remove(0);
    assert_eq!(shown["devices"][0]["keys"], json!([f.key("root"), f.key("new")]), "{shown}");
    // An older one comes again: by our own hand, by somebody else's, and where the broker has forgotten the newer one.
    let old = f.file("old.envelope", &kept.to_string());
    f.fails(&["apply", &old], 65, "is there already");
    f.one.broker.publish(GROUP, b"", true);
    f.keeps(GROUP, "nothing", |kept| kept.is_null());
    f.fails(&["apply", "--expect", "2", &old], 1, "keyset: rejected (stale): ");
    let shown = lines(&f.ok(&["--json", "keyset", "show", "-g", "north"])).remove(0);
    assert_eq!(shown["keysets"], json!([]), "what was refused is taken back");
    f.trusts(&["root", "new"]);
    f.ok(&["apply", "-d", &f.two.id, "-k", "new.sec", &web]);
}

#[test]
fn a_refused_keyset_does_not_come_before_one_that_was_published_meanwhile() {
    let f = trusting(&["root", "old", "new", "stranger"]);
    let keys = f.make("keys.json", &["keyset", "new", "-k", "old.pub"]);
    f.ok(&["apply", "-g", "north", "--expect", "2", "-k", "root.sec", &keys]);
    let better = f.make("better.json", &["keyset", "new", "-k", "new.pub"]);
    std::thread::scope(|scope| {
        // It waits for a third device, which there is not.
        let refused = scope.spawn(|| f.ctl(&["apply", "-g", "north", "--expect", "3", "--timeout", "6s", "-k", "stranger.sec", &keys]));
        let answers = |f: &Fleet| f.one.broker.messages().iter().filter(|m| m.payload["reason"] == "unknown_key").count();
        eventually("both have refused it", || (answers(&f) >= 2).then_some(()));
        f.ok(&["apply", "-g", "north", "--expect", "2", "-k", "root.sec", &better]);
        let outcome = refused.join().unwrap();
        assert!(outcome.code != 0 && !outcome.err.contains("again"), "{outcome:?}");
    });
    let newest = f.keeps(GROUP, "a keyset", |kept| kept["type"] == "keyset");
    f.trusts(&["root", "new"]);
    assert_eq!(f.keeps(GROUP, "a keyset", |kept| kept["type"] == "keyset"), newest);
    let shown = f.ok(&["keyset", "show", "-g", "north"]);
    assert!(shown.contains(&f.key("new")) && !shown.contains(&f.key("old")), "{shown}");
}

#[test]
fn the_last_root_key_stays_whatever_is_published() {
    let mut f = trusting(&["root", "next", "team"]);
    let first = f.make("first.json", &["keyset", "new", "--root-key", "next.pub", "-k", "team.pub"]);
    let id = f.one.id.clone();
    assert!(f.ok(&["apply", "-d", &id, "-k", "root.sec", &first]).ends_with(&format!("{id} keyset: accepted\n")));
    // The first root key goes from the device; it is known by its keyset alone now.
    fs::remove_file(f.one.dir.join("trust/root.pub")).unwrap();
    f.one.end(Signal::SIGINT);
    f.one.start();
    f.one.online();
    let reported = format!("wherry/v1/d/{id}/out/reported");
    f.keeps(&reported, "a report without the file", |kept| kept["about"]["keys"] == json!([f.key("next"), f.key("team")]));
    let rootless = f.make("rootless.json", &["keyset", "new", "-k", "team.pub"]);
    let outcome = f.ctl(&["apply", "-d", &id, "-k", "next.sec", &rootless]);
    check_failure(&outcome, &["apply"], 1, &format!("cannot apply keyset: {id} keyset: rejected (policy): the keyset leaves no root key"));
    assert!(outcome.err.contains(&format!("{id}, which has no key in a file, refuses it")), "{outcome:?}");
    let outcome = f.ctl(&["apply", "-d", &id, "-k", "root.sec", "--dry-run", &first]);
    assert!(outcome.code == 0 && outcome.err.contains(&format!("warning: {id} does not trust key {}", f.key("root"))), "{outcome:?}");
    f.ok(&["apply", "-d", &id, "-k", "next.sec", &first]);
}

#[test]
fn keysets_with_a_fault_are_refused_before_anything_is_published() {
    let f = trusting(&["root", "team"]);
    let one = &f.one.id;
    let good = f.make("good.json", &["keyset", "new", "-k", "team.pub"]);
    let again = f.make("again.json", &["keyset", "new", "-k", "root.pub"]);
    let bad = f.file("bad.json", &fs::read_to_string(&good).unwrap().replace("desired", "wishes"));
    let sealed = {
        f.make("named.json", &["keyset", "new", "-d", one, "-k", "team.pub"]);
        f.make("named.envelope", &["sign", "-k", "root.sec", "named.json"])
    };
    for (args, code, sentence) in [
        (&["keyset", "new"][..], 64, "names no key"),
        (&["keyset", "new", "-k", "team.pub", "--root-key", "team.pub"], 64, "is named twice"),
        (&["keyset", "new", "-k", "team.sec"], 65, "team.sec"),
        (&["keyset", "new", "-k", "no.pub"], 66, "cannot read the key no.pub"),
        (&["keyset", "new", "-w", "arch=arm64", "-k", "team.pub"], 64, "a keyset is for one device or one group"),
        (&["keyset", "burn"], 64, "keyset does not know burn"),
        (&["apply", "-k", "root.sec", &good], 64, "nothing says whom it is for"),
        (&["apply", "-d", one, "-k", "root.sec", &good, &again], 65, "are both keysets"),
        (&["apply", "-d", one, "-k", "root.sec", &bad], 65, "one fault (above)"),
        (&["apply", "-d", one, "-k", "root.sec", &sealed], 64, "is signed already"),
        (&["apply", "-g", "north", &sealed], 64, "and the command line for somebody else"),
        (&["sign", "-k", "root.sec", "good.json"], 65, "cannot sign good.json"),
    ] {
        f.fails(args, code, sentence);
    }
    let outcome = f.ctl(&["apply", "-d", one, "-k", "root.sec", &bad]);
    assert!(outcome.err.contains(&format!("{bad}:7:")), "{outcome:?}");
    let sent = f.one.broker.messages().into_iter().filter(|m| m.topic.ends_with("/in/keyset")).count();
    assert_eq!(sent, 0);
}
