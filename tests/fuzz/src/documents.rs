//! Documents in JSON: what comes with an image, by MQTT, or from the device's owner.

use std::collections::BTreeMap;
use wherry::image::layout::{self, Manifest, Wanted};
use wherry::image::{Digest, Host, config, docker};
use wherry::manifest::{self, MAX_PAYLOAD};
use wherry::trust::{Envelope, Grant, KeysetDocument, PublicKey, signers};

/// Index, manifest and configuration of OCI images, manifest of `docker save`.
pub fn image(data: &[u8]) {
    let Some((reader, json)) = super::choice(data, 5) else { return };
    let host = Host::new("x86_64", "x86_64");
    let message = match reader {
        0 => index(json, Wanted { tag: Some("v1"), digest: None, host: &host }),
        1 => index(json, Wanted { tag: None, digest: Some(Digest::of(b"")), host: &host }),
        2 => Manifest::parse(json).map(|m| assert!((1..=127).contains(&m.layers.len()))).err().map(|f| f.message),
        3 => config::parse(json, &host).err().map(|f| f.message),
        _ => docker_manifest(json),
    };
    super::is_printable(&message.unwrap_or_default());
}

fn index(json: &[u8], wanted: Wanted<'_>) -> Option<String> {
    layout::choose(json, "index.json", wanted).map(|d| d.is_index()).err().map(|f| f.message)
}

fn docker_manifest(json: &[u8]) -> Option<String> {
    let chosen = docker::choose(json, None).or_else(|_| docker::choose(json, Some("app:v1")));
    let read = chosen.and_then(|image| {
        let promised = docker::promised(&image.config()?);
        for layer in image.layers()? {
            let _ = docker::expected(&layer, promised.unwrap_or(Digest::of(b"")), promised.is_some());
        }
        Ok(())
    });
    read.err().map(|f| f.message)
}

/// What is taken comes back from its rendering, with its variables too; what is refused is refused in printable words.
pub fn manifest(data: &[u8]) {
    let (parsed, faults) = manifest::check(data);
    super::is_printable(&faults.to_string());
    assert_eq!(parsed.is_none(), faults.is_refusal());
    let Some(one) = parsed else { return };
    comes_back(&one);
    let variables = BTreeMap::from([("a".to_owned(), "value".to_owned()), ("long".to_owned(), "x".repeat(5000))]);
    if let Err(faults) = manifest::parse_for(data, &manifest::Device { id: "router-17", variables: &variables }) {
        super::is_printable(&faults.to_string());
    }
}

fn comes_back(one: &manifest::Manifest) {
    let text = manifest::render(one);
    if text.len() <= MAX_PAYLOAD {
        let again = manifest::parse(text.as_bytes()).unwrap_or_else(|f| panic!("the rendering is refused: {f}\n{text}"));
        assert_eq!(*one, again, "{text}");
        assert_eq!(manifest::render(&again), text);
    }
}

/// Either settings or faults, in printable words.
pub fn settings(data: &[u8]) {
    let (settings, faults) = wherry::config::check(data);
    super::is_printable(&faults.to_string());
    assert_eq!(settings.is_none(), faults.is_refusal());
}

/// Commands by MQTT, and topics.
pub fn command(data: &[u8]) {
    if let Err(faults) = wherry::protocol::parse_command(data) {
        super::is_printable(&faults.to_string());
    }
    let (device, group) = ("router-17".parse().unwrap(), "lab".parse().unwrap());
    let topic = String::from_utf8_lossy(data);
    let _ = wherry::protocol::topics::parse("wherry", &device, &[group], &topic);
}

/// Envelopes, keysets and key files: what is taken is written as it was read, and nobody's signature becomes good by chance.
pub fn signed(data: &[u8]) {
    if let Ok(key) = PublicKey::of_file(&String::from_utf8_lossy(data)) {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    if let Err(faults) = KeysetDocument::parse(data) {
        super::is_printable(&faults.to_string());
    }
    match Envelope::parse(data) {
        Ok(envelope) => {
            let again = Envelope::parse(&envelope.encode());
            assert!(again.is_ok_and(|again| again == envelope));
            let good = signers(&[Grant::root(GOLDEN_KEY.parse().unwrap())], &envelope).is_ok();
            assert!(!good || envelope.payload == golden_payload());
        }
        Err(faults) => super::is_printable(&faults.to_string()),
    }
}

/// The key of the envelope in `tests/wire`, of which nobody has the secret part any more.
const GOLDEN_KEY: &str = "RWSqhL6E6Z4PUsioQjGqJfAT8Zo7hyAy4MsYC4AJCTWmw0HZdDeHXUgc";

fn golden_payload() -> Vec<u8> {
    super::files("wire", "tombstone.json").swap_remove(0).1.trim_ascii_end().to_vec()
}

/// The envelope and the keyset of the wire contract, and a key.
pub fn signed_seeds() -> Vec<Vec<u8>> {
    let wire = ["envelope.json", "keyset.json", "manifest.json"].into_iter().flat_map(|name| super::files("wire", name));
    let key = format!("untrusted comment: seed\n{GOLDEN_KEY}\n").into_bytes();
    wire.map(|(_, bytes)| bytes).chain([key]).collect()
}

/// From the tests' own layouts.
pub fn image_seeds() -> Vec<Vec<u8>> {
    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let oci = "application/vnd.oci.image";
    let platform = r#""platform":{"os":"linux","architecture":"amd64","variant":"v8"}"#;
    let tag = r#""annotations":{"org.opencontainers.image.ref.name":"v1"}"#;
    let one = |kind: &str| format!(r#"{{"mediaType":"{oci}.{kind}","digest":"{D}","size":7,{platform},{tag}}}"#);
    let layers = ["layer.v1.tar", "layer.v1.tar+gzip", "layer.v1.tar+zstd"].map(one).join(",");
    let texts = [
        format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, one("manifest.v1+json"), one("index.v1+json")),
        format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#, one("config.v1+json")),
        format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Entrypoint":["/e"],"Cmd":["c"],"Env":["A=1"],"User":"7:8","WorkingDir":"/w",
            "StopSignal":"SIGUSR1"}},"rootfs":{{"type":"layers","diff_ids":["{D}"]}}}}"#
        ),
        format!(r#"[{{"Config":"blobs/sha256/{0}","RepoTags":["app:v1"],"Layers":["1/layer.tar","blobs/sha256/{0}"]}}]"#, &D[7..]),
    ];
    super::with_choices(texts.map(String::into_bytes), 5)
}

/// Good and bad ones.
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    super::files("manifests", ".json").into_iter().map(|(_, bytes)| bytes).collect()
}

/// The example of the manual.
pub fn settings_seeds() -> Vec<Vec<u8>> {
    vec![wherry::config::example().as_bytes().to_vec(), br#"{"wherry":1,"device":"a","variables":{"a":"b"}}"#.to_vec()]
}

/// The payloads of the wire contract, and topics.
pub fn command_seeds() -> Vec<Vec<u8>> {
    let topics = ["wherry/v1/d/router-17/in/desired/web", "wherry/v1/g/lab/desired/web", "wherry/v1/d/router-17/in/cmd/a1"];
    let wire = super::files("wire", "").into_iter().map(|(_, bytes)| bytes);
    wire.chain(topics.map(|t| t.as_bytes().to_vec())).collect()
}
