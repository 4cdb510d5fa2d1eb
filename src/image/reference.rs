//! Image references: where an image comes from, and in which form.

use crate::image::{Digest, Url};
use crate::manifest::forms;
use crate::protocol::Reason;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An image reference as written, with its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// As written.
    pub text: String,
    /// What it means.
    pub source: Source,
}

/// Where an image is: a path on the device, or a file that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// `oci:/path[:tag]`: an OCI image layout directory (image-spec 1.1, image-layout.md).
    OciDir {
        /// The directory.
        path: String,
        /// `org.opencontainers.image.ref.name` of the wanted manifest.
        tag: Option<String>,
    },
    /// `oci-archive:/path.tar[:tag]`: the same as one tar file.
    OciArchive {
        /// The file.
        path: String,
        /// As in `OciDir`.
        tag: Option<String>,
    },
    /// `docker-archive:/path.tar[:name]`: what `docker save` writes.
    DockerArchive {
        /// The file.
        path: String,
        /// One of its `RepoTags`.
        name: Option<String>,
    },
    /// `rootfs:/path.tar[.gz|.zst]`: a root file system without configuration.
    Rootfs {
        /// The file.
        path: String,
    },
    /// `https://…`: what is behind it is said by the manifest's `type`.
    Http {
        /// The file.
        url: Url,
        /// What the file is.
        form: Form,
    },
}

/// What a downloaded file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// A root file system without configuration, as in [`Source::Rootfs`].
    Rootfs,
    /// An OCI image layout as one tar file, as in [`Source::OciArchive`].
    OciArchive,
    /// What `docker save` writes, as in [`Source::DockerArchive`].
    DockerArchive,
}

impl Form {
    /// As the manifest's `type` has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rootfs => "rootfs",
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
        }
    }
}

impl Source {
    /// The path on the device, if it is one.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::OciDir { path, .. } | Self::OciArchive { path, .. } | Self::DockerArchive { path, .. } | Self::Rootfs { path } => {
                Some(path)
            }
            Self::Http { .. } => None,
        }
    }

    /// The identity that the image has in the store, where the digest that a document names for it tells. The digest of a downloaded
    /// archive is that of the file, which as a root file system would be another image.
    pub fn identity(&self, pinned: Option<Digest>) -> Option<Digest> {
        match self {
            Self::Http { form: form @ (Form::OciArchive | Form::DockerArchive), .. } => {
                pinned.map(|file| file.part(form.word().as_bytes()))
            }
            _ => pinned,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Longest tag or name behind a path: a repository name of 255 and a tag of 128 (distribution-spec 1.1, "Pulling manifests").
const MAX_TAG: usize = 384;

/// Why a text is no reference that this version can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceError {
    /// A form of the contract that this version does not build.
    Unsupported(String),
    /// No form of the contract.
    Malformed(String),
}

impl ReferenceError {
    /// The word of the wire contract.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unsupported(_) => Reason::Unsupported,
            Self::Malformed(_) => Reason::BadValue,
        }
    }
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unsupported(message) | Self::Malformed(message)) = self;
        f.write_str(message)
    }
}

impl std::error::Error for ReferenceError {}

impl std::str::FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let made = |source| Ok(Self { text: text.to_owned(), source });
        let Some((scheme, rest)) = text.split_once(':') else { return Err(by_name(text)) };
        match scheme {
            "oci" => path_and_tag(rest).and_then(|(path, tag)| made(Source::OciDir { path, tag })),
            "oci-archive" => path_and_tag(rest).and_then(|(path, tag)| made(Source::OciArchive { path, tag })),
            "docker-archive" => path_and_tag(rest).and_then(|(path, name)| made(Source::DockerArchive { path, name })),
            "rootfs" => match path_and_tag(rest)? {
                (path, None) => made(Source::Rootfs { path }),
                _ => Err(malformed("a rootfs reference has no tag")),
            },
            "squashfs" => path_and_tag(rest).and_then(|_| Err(unsupported("squashfs images"))),
            // The manifest's `type` sets the form.
            "https" | "http" if rest.starts_with("//") => {
                made(Source::Http { url: text.parse().map_err(ReferenceError::Malformed)?, form: Form::Rootfs })
            }
            "docker" if rest.starts_with("//") => Err(malformed("is a registry reference: leave out docker://")),
            _ => Err(by_name(text)),
        }
    }
}

fn malformed(message: &str) -> ReferenceError {
    ReferenceError::Malformed(message.to_owned())
}

fn unsupported(what: &str) -> ReferenceError {
    ReferenceError::Unsupported(format!("{what} are not supported by this version"))
}

fn path_and_tag(rest: &str) -> Result<(String, Option<String>), ReferenceError> {
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    forms::path(path).map_err(|(_, why)| ReferenceError::Malformed(format!("the path {why}")))?;
    let control = |t: &str| t.chars().any(char::is_control);
    match tag {
        _ if path == "/" || control(path) => Err(malformed("the path must name a file or directory, without control characters")),
        Some(t) if t.is_empty() || t.len() > MAX_TAG || control(t) => {
            Err(malformed("the tag must have 1 to 384 characters, without control characters"))
        }
        _ => Ok((path.to_owned(), tag.map(str::to_owned))),
    }
}

/// What has none of our schemes is a registry reference, or nothing.
fn by_name(text: &str) -> ReferenceError {
    if text.starts_with(['/', '.']) {
        return malformed("a path needs its form before it: oci:, oci-archive:, docker-archive: or rootfs:");
    }
    if is_registry_name(text) { unsupported("registry references") } else { malformed("is no image reference") }
}

/// `[registry[:port]/]name[:tag]` (distribution-spec 1.1, "Pulling manifests").
fn is_registry_name(text: &str) -> bool {
    let word = |w: &str, more: &[u8]| !w.is_empty() && w.bytes().all(|c| c.is_ascii_alphanumeric() || more.contains(&c));
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    };
    let mut parts = name.split('/').enumerate();
    tag.is_none_or(|t| t.len() <= 128 && word(t, b"_.-"))
        && text.len() <= MAX_TAG
        && parts.all(|(i, part)| if i == 0 && name.contains('/') { word(part, b"_.-:") } else { word(part, b"_.-") })
}

#[cfg(test)]
mod tests {
    use super::{Form, Reference, ReferenceError, Source};

    fn some(s: &str) -> Option<String> {
        Some(s.to_owned())
    }

    #[test]
    fn every_form_that_names_a_path_is_read() {
        let path = || "/srv/a.tar".to_owned();
        for (text, source) in [
            ("oci:/srv/a.tar", Source::OciDir { path: path(), tag: None }),
            ("oci:/srv/a.tar:1.0", Source::OciDir { path: path(), tag: some("1.0") }),
            ("oci-archive:/srv/a.tar:v", Source::OciArchive { path: path(), tag: some("v") }),
            ("docker-archive:/srv/a.tar", Source::DockerArchive { path: path(), name: None }),
            ("docker-archive:/srv/a.tar:reg:5000/a/busybox:1", Source::DockerArchive { path: path(), name: some("reg:5000/a/busybox:1") }),
            ("rootfs:/srv/a.tar", Source::Rootfs { path: path() }),
            ("http://h:8080/a.tar?v", Source::Http { url: "http://h:8080/a.tar?v".parse().unwrap(), form: Form::Rootfs }),
        ] {
            let read: Reference = text.parse().unwrap();
            assert_eq!(read.source, source);
            assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn forms_that_are_not_built_are_unsupported() {
        for text in ["squashfs:/a.sqfs", "busybox", "busybox:1.36", "registry.example/a/nginx:1.27", "localhost:5000/nginx"] {
            assert!(matches!(text.parse::<Reference>(), Err(ReferenceError::Unsupported(_))), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_malformed() {
        let long = format!("oci:/a:{}", "t".repeat(385));
        for text in [
            "",
            ":",
            "oci:",
            "oci:relative",
            "oci:/a/../b",
            "oci:/a//b",
            "oci:/",
            "oci:/a:",
            "rootfs:/a.tar:tag",
            "/a.tar",
            "./a.tar",
            "http://h/x#y",
            "https:///x",
            "docker://busybox",
            "squashfs:x",
            "a b",
            "busybox:",
            "a//b",
            "ftp://h/x",
            "oci:/a\u{1b}[2J",
            "oci:/a:\n",
            long.as_str(),
        ] {
            assert!(matches!(text.parse::<Reference>(), Err(ReferenceError::Malformed(_))), "{text}");
        }
    }
}
