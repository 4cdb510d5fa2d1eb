//! Image references: where an image comes from, and in which form.

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

/// The forms of a reference that name a path on the device.
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
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
