//! Manifests as files: each of `manifests/good` is taken, each of `manifests/bad` is refused with exactly the faults in its `.expected`.
//! `WHERRY_BLESS=1 cargo test --test manifests` writes these anew; read the difference before you commit it.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use wherry::manifest::{self, Body, Content, Faults, MAX_PAYLOAD, Manifest, Mount, RestartPolicy, Seccomp};
use wherry::protocol::{Detail, Reason};

fn files(dir: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(dir);
    let mut files: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    files
}

fn good(name: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/manifests/good/{name}.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn parsed(bytes: &[u8]) -> Manifest {
    manifest::parse(bytes).unwrap_or_else(|faults| panic!("{}\n{faults}", String::from_utf8_lossy(bytes)))
}

fn check_bad(path: &PathBuf) {
    let faults = manifest::parse(&fs::read(path).unwrap()).expect_err(&format!("{} must be refused", path.display()));
    assert!(faults.is_refusal(), "{}", path.display());
    let (printed, expected) = (faults.to_string(), path.with_extension("expected"));
    assert!(!printed.contains(|c: char| c.is_control() && c != '\n'), "{}: a control character is printed", path.display());
    if std::env::var_os("WHERRY_BLESS").is_some() {
        fs::write(&expected, &printed).unwrap();
    }
    let wanted = fs::read_to_string(&expected).unwrap_or_else(|e| panic!("cannot read {}: {e}", expected.display()));
    assert_eq!(printed, wanted, "{}", path.display());
    let named = path.file_stem().unwrap().to_str().unwrap();
    let reason = faults.first_reason();
    for (prefix, right) in [
        ("unsupported_", Reason::Unsupported),
        ("unknown_", Reason::UnknownField),
        ("syntax_", Reason::Malformed),
        ("twice_", Reason::Malformed),
    ] {
        assert!(!named.starts_with(prefix) || reason == right, "{named}: first reason is {reason}");
    }
}

#[test]
fn every_bad_manifest_is_refused_with_its_faults() {
    let files = files("bad");
    assert!(files.len() >= 150);
    files.iter().for_each(check_bad);
}

#[test]
fn every_good_manifest_is_taken_and_comes_back_from_its_rendering() {
    let files = files("good");
    assert!(files.len() >= 15);
    for path in files {
        let manifest = parsed(&fs::read(&path).unwrap());
        let rendered = manifest::render(&manifest);
        assert_eq!(parsed(rendered.as_bytes()), manifest, "{}\n{rendered}", path.display());
        assert_eq!(manifest::render(&parsed(rendered.as_bytes())), rendered, "{}", path.display());
    }
}

#[test]
fn only_the_file_made_for_it_has_warnings() {
    for path in files("good") {
        let warnings = manifest::check(&fs::read(&path).unwrap()).1;
        let expected = if path.ends_with("warnings_do_not_refuse.json") { 4 } else { 0 };
        assert_eq!(warnings.0.len(), expected, "{}\n{warnings}", path.display());
    }
}

#[test]
fn every_field_arrives_with_its_value() {
    let m = parsed(&good("everything"));
    assert_eq!((m.app.as_str(), m.seq, m.not_after), ("web", Some(1_763_909_000_123), Some(1_798_761_599_000)));
    let Body::Run(containers) = &m.body else { panic!() };
    let c = &containers[0];
    assert_eq!((c.image.size, c.image.unpacked), (Some(12 << 20), Some(32_505_856)));
    assert_eq!(c.env, [("SITE", "${var.site}"), ("EMPTY", ""), ("a.b", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!((c.resources.memory_max, c.resources.memory_high, c.resources.swap_max), (Some(64 << 20), Some(48 << 20), Some(0)));
    assert_eq!((c.resources.cpu_quota_milli, c.resources.cpu_weight, c.resources.pids_max), (Some(500), Some(100), Some(64)));
    assert!(c.resources.required && !c.init && !c.security.no_new_privileges);
    assert_eq!(c.security.seccomp, Seccomp::Unconfined);
    assert_eq!(c.security.cap_add, [caps::Capability::CAP_NET_BIND_SERVICE, caps::Capability::CAP_CHOWN]);
    let limits: Vec<_> = c.rlimits.iter().map(|l| (l.soft, l.hard)).collect();
    assert_eq!(limits, [(1024, 4096), (0, u64::MAX), (64 << 10, 1 << 20)]);
    assert_eq!(c.mounts[1], Mount::Tmpfs { target: "/tmp".into(), size: 8 << 20 });
    assert_eq!((c.stop.signal, c.stop.timeout.as_millis()), (Some(3), 1500));
    assert_eq!((c.restart.policy, c.restart.delay.as_millis(), c.restart.max_delay.as_secs()), (RestartPolicy::OnFailure, 100, 3600));
}

#[test]
fn absent_fields_have_the_documented_defaults() {
    let Body::Run(containers) = parsed(&good("smallest")).body else { panic!() };
    let c = &containers[0];
    assert_eq!((c.rootfs.readonly, c.rootfs.upper, c.log.ring, c.log.full), (false, 16 << 20, 64 << 10, manifest::Full::Drop));
    assert_eq!((c.stop.signal, c.stop.timeout.as_secs()), (None, 10));
    assert_eq!((c.restart.policy, c.restart.delay.as_secs(), c.restart.max_delay.as_secs()), (RestartPolicy::Always, 1, 300));
    assert_eq!((c.network, c.security.seccomp), (manifest::Network::None, Seccomp::Default));
    assert!(c.init && c.security.no_new_privileges && c.command.is_none() && c.args.is_none());
    assert_eq!(c.resources, manifest::Resources::default());
}

#[test]
fn containers_keep_the_order_of_the_document() {
    let Body::Run(containers) = parsed(&good("eight_containers_in_order")).body else { panic!() };
    let names: Vec<_> = containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha", "mid", "1", "2", "3", "4", "z-9"]);
}

#[test]
fn dropping_all_leaves_what_is_added() {
    let Body::Run(containers) = parsed(&good("drop_all_but_one")).body else { panic!() };
    let security = &containers[0].security;
    assert_eq!(security.cap_drop.len(), caps::all().len() - 1);
    assert!(!security.cap_drop.contains(&caps::Capability::CAP_NET_RAW));
}

#[test]
fn an_ack_tells_the_first_fault_and_the_further_ones() {
    let path = files("bad").into_iter().find(|p| p.ends_with("many_faults_at_once.json")).unwrap();
    let faults = manifest::parse(&fs::read(path).unwrap()).unwrap_err();
    let detail = Detail::of(&faults);
    assert_eq!(detail.path.as_deref(), Some("app"));
    let further: Vec<_> = detail.further.iter().map(|f| (f.path.as_str(), f.reason)).collect();
    assert_eq!(
        further[..3],
        [
            ("containers.nginx.image.digest", Reason::BadValue),
            ("containers.nginx.resources.memory.max", Reason::BadValue),
            ("containers.nginx.resources.cpus", Reason::UnknownField),
        ]
    );
    assert_eq!(further.len(), 7, "warnings are no reasons to refuse: {further:?}");
}

// ---- variables ----

fn vars(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn expanded(text: &[u8], list: &[(&str, &str)]) -> Result<manifest::Container, Faults> {
    let m = manifest::parse_for(text, &manifest::Device { id: "router-17", variables: &vars(list) })?;
    let Body::Run(mut containers) = m.body else { panic!() };
    Ok(containers.remove(0))
}

#[test]
fn variables_are_put_in_where_the_contract_allows_them() {
    let c = expanded(&good("everything"), &[("site", "north")]).unwrap();
    assert_eq!((c.env[0].1.as_str(), c.workdir.as_deref(), c.hostname.as_deref()), ("north", Some("/srv/north"), Some("web-north")));
    let c = expanded(&good("escapes_and_unicode"), &[]).unwrap();
    let args = c.args.unwrap();
    assert_eq!(args[0..6], ["tab\there", "quote\"", "\\", "ü", "🚣", "🚣"]);
    assert_eq!(args[7..], ["${HOME}", "${var.x}"], "shell text stays, `$$` escapes");
    let c = expanded(&good("files_and_secrets"), &[("site", "north")]).unwrap();
    assert_eq!(c.mounts[1], Mount::Bind { source: "/srv/north".into(), target: "/srv".into(), readonly: false });
    let text = "site=north\ndevice=router-17\napp=web/main\nshell=${var.site} ${app} $5\n";
    assert_eq!(c.files[0].content, Content::Text(text.into()));
    assert_eq!((c.files[0].mode, c.files[1].mode, c.files[2].mode), (0o644, 0o600, 0o440));
}

#[test]
fn what_a_variable_puts_in_is_not_looked_at_again() {
    let c = expanded(&good("everything"), &[("site", "x")]).unwrap();
    assert_eq!(c.env[0].1, "x");
    let text = String::from_utf8(good("smallest")).unwrap().replace("\"oci:/i\"}", "\"oci:/i\"},\"args\":[\"${var.a}\"]");
    let c = expanded(text.as_bytes(), &[("a", "${var.b}$${\"], \"init\": false"), ("b", "secret")]).unwrap();
    assert_eq!((c.args.unwrap()[0].as_str(), c.init), ("${var.b}$${\"], \"init\": false", true));
}

#[test]
fn every_unknown_variable_is_a_fault_with_its_place() {
    let faults = expanded(&good("everything"), &[("other", "x")]).unwrap_err();
    let places: Vec<_> = faults.0.iter().map(|f| (f.path.as_str(), f.line, f.column)).collect();
    let nginx = |rest: &str| format!("containers.nginx.{rest}");
    let (env, workdir, hostname) = (nginx("env.SITE"), nginx("workdir"), nginx("hostname"));
    assert_eq!(places, [(env.as_str(), 8, 23), (&workdir, 8, 99), (&hostname, 8, 131)]);
    assert!(faults.to_string().contains("no variable \"site\" (it has: other)"), "{faults}");
    for (text, why) in [
        ("${var.}", "no variable \"\""),
        ("${var.site", "no closing `}`"),
        ("${device.name}", "no variable \"device.name\"; known are"),
        ("${app.}", "known are device.id, app.name"),
        ("${container.id}", "known are device.id, app.name"),
    ] {
        let document = String::from_utf8(good("smallest")).unwrap().replace("\"oci:/i\"}", &format!("\"oci:/i\"}},\"args\":[\"{text}\"]"));
        let faults = expanded(document.as_bytes(), &[("site", "x")]).unwrap_err();
        assert_eq!((faults.0.len(), faults.0[0].path.as_str(), faults.0[0].line), (1, "containers.a.args[0]", 1), "{text}: {faults}");
        assert!(faults.to_string().contains(why), "{text}: {faults}");
    }
}

#[test]
fn a_variable_cannot_make_a_value_that_the_manifest_could_not() {
    for (name, value, path) in [
        ("everything", "../../etc", "containers.nginx.workdir"),
        ("everything", "a b", "containers.nginx.hostname"),
        ("everything", "/", "containers.nginx.workdir"),
        ("files_and_secrets", "../etc", "containers.main.mounts[1].source"),
        ("files_and_secrets", "", "containers.main.mounts[1].source"),
    ] {
        let faults = expanded(&good(name), &[("site", value)]).unwrap_err();
        assert!(faults.0.iter().any(|f| f.path == path && f.line > 1), "{value}: {faults}");
    }
    let long = "a".repeat(50_000);
    assert_eq!(expanded(&good("everything"), &[("site", &long)]).unwrap_err().0.len(), 3);
}

#[test]
fn many_variables_cannot_make_one_container_too_large_to_start() {
    let args = vec!["\"${var.a}${var.a}\""; 200].join(",");
    let text = String::from_utf8(good("smallest")).unwrap().replace("\"oci:/i\"}", &format!("\"oci:/i\"}},\"args\":[{args}]"));
    assert!(expanded(text.as_bytes(), &[("a", "x")]).is_ok());
    let faults = expanded(text.as_bytes(), &[("a", &"x".repeat(1000))]).unwrap_err();
    assert!(faults.0[0].path == "containers.a.args[20]" && faults.to_string().contains("too long"), "{faults}");
}

// ---- the schema ----

/// Whether a value obeys a schema; of JSON Schema only what ours uses, without patterns of values.
fn obeys(value: &Value, schema: &Value) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {value} against {schema}"));
    if schema == &Value::Bool(true) {
        return Ok(());
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return if choices.iter().filter(|c| obeys(value, c).is_ok()).count() == 1 { Ok(()) } else { wrong("not one of") };
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return wrong("no such word");
    }
    let right = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("the schema has a type {other}"),
    };
    let number = value.as_f64().unwrap_or(0.0);
    if !right || schema["minimum"].as_f64().is_some_and(|m| number < m) || schema["maximum"].as_f64().is_some_and(|m| number > m) {
        return wrong("wrong type or range");
    }
    let count = value.as_array().map(Vec::len).or(value.as_object().map(serde_json::Map::len)).unwrap_or(0) as u64;
    for (least, most) in [("minItems", "maxItems"), ("minProperties", "maxProperties")] {
        if schema[least].as_u64().is_some_and(|m| count < m) || schema[most].as_u64().is_some_and(|m| count > m) {
            return wrong("too few or too many");
        }
    }
    value.as_array().into_iter().flatten().try_for_each(|item| obeys(item, &schema["items"]))?;
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            return wrong("something required is missing");
        }
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, _) if name.starts_with("x-") && schema["patternProperties"]["^x-"] == true => {}
            (Value::Null, Value::Bool(false)) => return wrong(name),
            (Value::Null, Value::Null) => {}
            (Value::Null, other) | (other, _) => obeys(inner, other)?,
        }
    }
    Ok(())
}

#[test]
fn every_good_manifest_and_its_rendering_obey_the_schema() {
    let schema: Value = serde_json::from_str(&manifest::schema()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for path in files("good") {
        let bytes = fs::read(&path).unwrap();
        for text in [bytes.clone(), manifest::render(&parsed(&bytes)).into_bytes()] {
            let value = serde_json::from_slice(&text).unwrap();
            obeys(&value, &schema).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}

#[test]
fn the_schema_refuses_unknown_fields_wrong_types_and_ranges() {
    let schema: Value = serde_json::from_str(&manifest::schema()).unwrap();
    let mut refused = 0;
    for path in files("bad") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if !["unknown_", "cpu_", "pids_", "containers_nine", "mount_no_type", "image_no_ref"].iter().any(|p| name.starts_with(p)) {
            continue;
        }
        let value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(obeys(&value, &schema).is_err(), "{name} obeys the schema");
        refused += 1;
    }
    assert!(refused >= 15);
}

// ---- hostile input ----

#[test]
fn every_strict_prefix_of_a_good_manifest_is_refused() {
    for path in files("good") {
        let bytes = fs::read(&path).unwrap();
        let whole = bytes.trim_ascii();
        (0..whole.len()).for_each(|end| drop(manifest::parse(&whole[..end]).expect_err("a prefix was taken")));
    }
}

/// Numbers of a linear congruential generator (Knuth's MMIX constants): the same on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

#[test]
fn twenty_thousand_damaged_manifests_are_taken_or_refused_with_a_reason() {
    let seeds: Vec<_> = files("good").iter().map(|p| fs::read(p).unwrap()).collect();
    let mut dice = Dice(1);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = seeds[dice.below(seeds.len())].clone();
        for _ in 0..=dice.below(3) {
            let at = dice.below(bytes.len());
            match dice.below(4) {
                0 => bytes[at] ^= 1 << dice.below(8),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"{}[],:\"\\0-x"[dice.below(11)]),
                _ => bytes[at] = dice.below(256) as u8,
            }
        }
        match manifest::parse(&bytes) {
            Ok(m) => {
                taken += 1;
                assert_eq!(parsed(manifest::render(&m).as_bytes()), m);
            }
            Err(faults) => {
                refused += 1;
                assert!(faults.is_refusal() && faults.0.iter().all(|f| f.reason != Reason::Internal), "{faults}");
                assert!(faults.to_string().len() < 64 * 1024);
            }
        }
    }
    assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
}

#[test]
fn the_largest_payload_is_taken_and_one_byte_more_is_not() {
    let mut text = good("smallest");
    text.resize(MAX_PAYLOAD, b' ');
    parsed(&text);
    text.push(b' ');
    assert_eq!(manifest::parse(&text).unwrap_err().first_reason(), Reason::Oversize);
}
