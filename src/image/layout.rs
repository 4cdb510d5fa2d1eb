//! OCI image layout documents: index, manifest, and the choice among them (image-spec 1.1; the Docker schema 2 types beside them).

use super::fault::fault;
use super::{Digest, Host};
use crate::ipc::Failure;
use crate::protocol::Reason;
use serde::Deserialize;

/// Longest JSON document of an image, in bytes.
pub const MAX_JSON: usize = 1 << 20;
/// Most layers of one image. Overlay takes 500 lower directories from Linux 5.8 on, the classic limit of image tools is 127.
pub const MAX_LAYERS: usize = 127;
/// Deepest nesting of indexes in indexes.
pub const MAX_NESTING: usize = 4;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const INDEXES: [&str; 2] = ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] = ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// A pointer to content.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it points to.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Free words; the tag is among them.
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
    /// Where it runs.
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// Which image of an index is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// By this name.
    pub tag: Option<&'a str>,
    /// With this digest.
    pub digest: Option<Digest>,
    /// For this machine.
    pub host: &'a Host,
}

impl Descriptor {
    fn tag(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(REF_NAME).map(String::as_str)
    }

    /// Points to an index, not to a manifest.
    pub fn is_index(&self) -> bool {
        INDEXES.contains(&self.media_type.as_str())
    }

    fn is_image(&self) -> bool {
        self.is_index() || MANIFESTS.contains(&self.media_type.as_str())
    }

    /// How well it suits: `None` for not at all; a descriptor without platform may suit.
    fn rank(&self, host: &Host) -> Option<u8> {
        self.platform.as_ref().map_or(Some(0), |p| host.rank(&p.architecture, &p.os, p.variant.as_deref()))
    }
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|e| fault(Reason::HostileArchive, format!("cannot read {what}: {e}")))
}

/// Of what an index offers, a message names no more.
const MOST_NAMED: usize = 20;

/// Picks the one descriptor of an index that is meant: by name, by digest, by platform, in this order.
pub fn choose(bytes: &[u8], what: &str, wanted: Wanted<'_>) -> Result<Descriptor, Failure> {
    let all: Vec<Descriptor> = json::<Index>(bytes, what)?.manifests.unwrap_or_default().into_iter().filter(Descriptor::is_image).collect();
    let named: Vec<&Descriptor> = match wanted.tag {
        Some(tag) => all.iter().filter(|d| d.tag() == Some(tag)).collect(),
        None => all.iter().collect(),
    };
    if named.is_empty() {
        return Err(missing(what, wanted.tag, &all));
    }
    if let Some(exact) = named.iter().find(|d| Some(d.digest) == wanted.digest) {
        return Ok((*exact).clone());
    }
    by_platform(&named, what, wanted.host)
}

fn by_platform(named: &[&Descriptor], what: &str, host: &Host) -> Result<Descriptor, Failure> {
    let best = named.iter().filter_map(|d| d.rank(host)).max();
    let Some(best) = best else {
        let seen: Vec<String> =
            named.iter().filter_map(|d| d.platform.as_ref()).map(|p| format!("{}/{}", p.os, p.architecture)).take(MOST_NAMED).collect();
        return Err(fault(Reason::Unsupported, format!("{what} has no image for {host}, only for {}", seen.join(", "))));
    };
    let mut fit = named.iter().filter(|d| d.rank(host) == Some(best));
    let first = fit.next().expect("the best rank belongs to one of them");
    if fit.all(|other| other.digest == first.digest) {
        return Ok((*first).clone());
    }
    let names = tags(named.iter().copied());
    Err(fault(Reason::ImageMissing, format!("{what} has several images, say which one by its tag: {names}")))
}

fn missing(what: &str, tag: Option<&str>, all: &[Descriptor]) -> Failure {
    let message = match (tag, all.is_empty()) {
        (_, true) => format!("{what} has no images"),
        (Some(tag), _) => format!("{what} has no image with the tag {tag:?}, there are: {}", tags(all.iter())),
        (None, _) => format!("{what} has no image"),
    };
    fault(Reason::ImageMissing, message)
}

fn tags<'a>(of: impl Iterator<Item = &'a Descriptor>) -> String {
    let names: Vec<&str> = of.filter_map(Descriptor::tag).take(MOST_NAMED).collect();
    if names.is_empty() { "(none has a tag)".to_owned() } else { names.join(", ") }
}

/// An image manifest: configuration and layers, bottom layer first.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// Not JSON, not an image, too many layers, or layers that cannot be unpacked.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let manifest: Self = json(bytes, "the image manifest")?;
        let kind = manifest.config.media_type.as_str();
        if !matches!(kind, "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json") {
            return Err(fault(Reason::Unsupported, format!("the manifest is no container image: its configuration has the type {kind:?}")));
        }
        check_layer_count(manifest.layers.len())?;
        manifest.layers.iter().try_for_each(check_layer_type)?;
        Ok(manifest)
    }
}

/// An image has at least one layer, and at most [`MAX_LAYERS`].
pub(super) fn check_layer_count(n: usize) -> Result<(), Failure> {
    match n {
        0 => Err(fault(Reason::Unsupported, "the image has no layers")),
        n if n > MAX_LAYERS => Err(fault(Reason::Unsupported, format!("the image has {n} layers, at most {MAX_LAYERS} are allowed"))),
        _ => Ok(()),
    }
}

fn check_layer_type(layer: &Descriptor) -> Result<(), Failure> {
    let kind = layer.media_type.as_str();
    if LAYERS.contains(&kind) {
        return Ok(());
    }
    let why =
        if kind.contains("nondistributable") || kind.contains("foreign") { "is kept elsewhere by its owner" } else { "is not supported" };
    Err(fault(Reason::Unsupported, format!("layer {} has the type {kind:?}, which {why}", layer.digest)))
}

#[cfg(test)]
mod tests {
    use super::{Manifest, Wanted, choose};
    use crate::image::{Digest, Host};
    use crate::protocol::Reason;

    const HOST: Host = Host { arch: "arm", variant: Some(7) };

    fn entry(n: u8, extra: &str) -> String {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":7{extra}}}"#, Digest::from([n; 32]))
    }

    fn pick(entries: &[String], tag: Option<&str>, digest: Option<Digest>) -> Result<u8, (Reason, String)> {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let wanted = Wanted { tag, digest, host: &HOST };
        choose(index.as_bytes(), "index.json", wanted).map(|d| d.digest.bytes()[0]).map_err(|f| (f.reason, f.message))
    }

    fn tagged(n: u8, tag: &str) -> String {
        entry(n, &format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}"#))
    }

    fn platform(n: u8, arch: &str, variant: &str) -> String {
        entry(n, &format!(r#","platform":{{"os":"linux","architecture":"{arch}","variant":"{variant}"}}"#))
    }

    #[test]
    fn the_tag_decides_and_a_missing_one_names_those_that_exist() {
        let index = [tagged(1, "a"), tagged(2, "b")];
        assert_eq!(pick(&index, Some("b"), None), Ok(2));
        let (reason, message) = pick(&index, Some("c"), None).unwrap_err();
        assert_eq!(reason, Reason::ImageMissing);
        assert!(message.contains("a, b"), "{message}");
        assert!(pick(&index, None, None).unwrap_err().1.contains("several"));
        assert_eq!(pick(&index, None, Some(Digest::from([2; 32]))), Ok(2));
    }

    #[test]
    fn the_platform_decides_and_the_highest_variant_that_runs_wins() {
        let index = [platform(1, "amd64", ""), platform(2, "arm", "v6"), platform(3, "arm", "v7"), platform(4, "arm64", "v8")];
        assert_eq!(pick(&index, None, None), Ok(3));
        assert_eq!(pick(&index[..2], None, None), Ok(2));
        assert_eq!(pick(&index[..1], None, None).unwrap_err().0, Reason::Unsupported);
    }

    #[test]
    fn names_from_an_index_neither_steer_a_terminal_nor_fill_it() {
        let index: Vec<String> = (0..100).map(|n| platform(n, r"a\u007f\u001b[2J", "")).collect();
        let message = pick(&index, None, None).unwrap_err().1;
        assert!(message.contains(r"linux/a\u{7f}\u{1b}[2J") && !message.contains(char::is_control), "{message:?}");
        assert!(message.len() < 1_000, "{message}");
        let (_, message) = pick(&[tagged(1, r"b\u0000")], Some("c"), None).unwrap_err();
        assert!(message.contains(r"b\u{0}"), "{message:?}");
    }

    #[test]
    fn an_index_of_nothing_is_said_so() {
        assert!(pick(&[], Some("a"), None).unwrap_err().1.contains("no images"));
    }

    fn manifest(layer_type: &str, n: usize) -> Result<Manifest, crate::ipc::Failure> {
        let d = Digest::from([1; 32]);
        let layer = format!(r#"{{"mediaType":"{layer_type}","digest":"{d}","size":1}}"#);
        let config = format!(r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{d}","size":1}}"#);
        Manifest::parse(format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, vec![layer; n].join(",")).as_bytes())
    }

    #[test]
    fn foreign_layers_and_too_many_layers_are_refused() {
        assert!(manifest("application/vnd.oci.image.layer.v1.tar+zstd", 127).is_ok());
        for (kind, n) in [
            ("application/vnd.oci.image.layer.v1.tar", 128),
            ("application/vnd.oci.image.layer.v1.tar", 0),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 1),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", 1),
            ("text/plain", 1),
        ] {
            assert_eq!(manifest(kind, n).unwrap_err().reason, Reason::Unsupported, "{kind} {n}");
        }
    }
}
