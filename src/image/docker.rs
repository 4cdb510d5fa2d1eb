//! `docker save` archives: `manifest.json`, and what its names promise.

use super::fault::fault;
use super::layout::check_layer_count;
use super::{Digest, RelPath};
use crate::ipc::Failure;
use crate::protocol::Reason;
use serde::Deserialize;

/// One image of an archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    /// Name of the configuration's entry.
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    /// Names of the layers' entries, bottom first.
    layers: Vec<String>,
}

impl Image {
    /// The configuration's entry.
    pub fn config(&self) -> Result<RelPath, Failure> {
        entry(&self.config)
    }

    /// The layers' entries, bottom first.
    pub fn layers(&self) -> Result<Vec<RelPath>, Failure> {
        check_layer_count(self.layers.len())?;
        self.layers.iter().map(|l| entry(l)).collect()
    }
}

fn entry(name: &str) -> Result<RelPath, Failure> {
    RelPath::parse(name.as_bytes()).map_err(|why| fault(Reason::HostileArchive, format!("an entry of manifest.json {why}")))
}

/// Picks the image of this name from `manifest.json`, or the only one.
pub fn choose(bytes: &[u8], name: Option<&str>) -> Result<Image, Failure> {
    let all: Vec<Image> =
        serde_json::from_slice(bytes).map_err(|e| fault(Reason::HostileArchive, format!("cannot read manifest.json: {e}")))?;
    let matching: Vec<&Image> = match name {
        Some(name) => all.iter().filter(|i| tags(i).any(|t| full(t) == full(name))).collect(),
        None => all.iter().collect(),
    };
    match (&matching[..], name) {
        ([one], _) => Ok((*one).clone()),
        ([], None) => Err(fault(Reason::ImageMissing, "the archive has no images")),
        ([first, ..], Some(_)) => Ok((*first).clone()),
        ([], Some(name)) => Err(fault(Reason::ImageMissing, format!("the archive has no image {name:?}, there are: {}", names(&all)))),
        (_, None) => Err(fault(Reason::ImageMissing, format!("the archive has several images, say which one: {}", names(&all)))),
    }
}

fn tags(image: &Image) -> impl Iterator<Item = &str> {
    image.repo_tags.iter().flatten().map(String::as_str)
}

fn names(all: &[Image]) -> String {
    const MOST: usize = 20;
    let names: Vec<&str> = all.iter().flat_map(tags).take(MOST).collect();
    if names.is_empty() { "(none has a name)".to_owned() } else { names.join(", ") }
}

/// `busybox` and `docker.io/library/busybox:latest` are the same name.
fn full(name: &str) -> String {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let has_tag = short.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if has_tag { short.to_owned() } else { format!("{short}:latest") }
}

/// The digest that an entry's name promises: `blobs/sha256/<hex>`, `<hex>.json`, `<hex>.tar`, `sha256:<hex>`, `<hex>.tar.gz`.
pub fn promised(entry: &RelPath) -> Option<Digest> {
    let (_, name) = entry.split()?;
    let name = name.to_str()?;
    let name = name.strip_prefix("sha256:").unwrap_or(name);
    let hex = name.split('.').next()?;
    format!("sha256:{hex}").parse().ok()
}

/// What a layer's bytes must hash to.
///
/// `docker save` binds layers to the image by `diff_ids` in the configuration: digests of the uncompressed tar. A name with a digest binds
/// the bytes only to itself, so where the image is pinned (`pinned`), the two must be the same.
pub fn expected(layer: &RelPath, diff_id: Digest, pinned: bool) -> Result<Digest, Failure> {
    match promised(layer) {
        Some(named) if named != diff_id && pinned => Err(fault(
            Reason::Unsupported,
            format!("layer {layer} is compressed and cannot be checked against the pinned configuration; use oci-archive: instead"),
        )),
        // Old archives name the directory by a random id; only the digests in the last component count.
        Some(named) => Ok(named),
        None => Ok(diff_id),
    }
}

#[cfg(test)]
mod tests {
    use super::{choose, expected, promised};
    use crate::image::{Digest, RelPath};
    use crate::protocol::Reason;

    const TWO: &str = r#"[{"Config":"a.json","RepoTags":["one:1"],"Layers":["x/layer.tar"]},
        {"Config":"b.json","RepoTags":["docker.io/library/two:latest"],"Layers":["y/layer.tar"]}]"#;

    #[test]
    fn an_image_is_found_by_any_spelling_of_its_name() {
        for name in ["two", "two:latest", "docker.io/library/two", "docker.io/library/two:latest"] {
            assert_eq!(choose(TWO.as_bytes(), Some(name)).unwrap().config().unwrap().to_string(), "b.json");
        }
    }

    #[test]
    fn a_wrong_or_needed_name_lists_those_that_exist() {
        for name in [Some("three"), None] {
            let failure = choose(TWO.as_bytes(), name).unwrap_err();
            assert_eq!(failure.reason, Reason::ImageMissing);
            assert!(failure.message.contains("one:1, docker.io/library/two:latest"), "{}", failure.message);
        }
    }

    #[test]
    fn digests_are_read_from_the_names_that_tools_write() {
        let digest = Digest::of(b"x");
        let hex = digest.hex();
        for name in [format!("blobs/sha256/{hex}"), format!("{hex}.json"), format!("{hex}.tar"), format!("sha256:{hex}")] {
            assert_eq!(promised(&RelPath::parse(name.as_bytes()).unwrap()), Some(digest), "{name}");
        }
        assert_eq!(promised(&RelPath::parse(format!("{hex}/layer.tar").as_bytes()).unwrap()), None);
    }

    #[test]
    fn a_pinned_image_takes_no_layer_that_only_its_own_name_vouches_for() {
        let layer = RelPath::parse(format!("blobs/sha256/{}", Digest::of(b"gz").hex()).as_bytes()).unwrap();
        let diff_id = Digest::of(b"tar");
        assert_eq!(expected(&layer, diff_id, false).unwrap(), Digest::of(b"gz"));
        assert_eq!(expected(&layer, diff_id, true).unwrap_err().reason, Reason::Unsupported);
    }
}
