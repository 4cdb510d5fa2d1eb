//! Images: what a reference means, what a digest is, and the store on flash.

pub mod beneath;
pub mod config;
pub mod crc;
mod digest;
pub mod docker;
pub mod fault;
pub mod layout;
mod path;
mod reference;
pub mod store;
pub mod url;

pub use config::Host;
pub use digest::{Digest, Hasher};
pub(crate) use path::climbs_out;
pub use path::printable;
pub use path::{MAX_NAME, RelPath};
pub use reference::{Form, Reference, ReferenceError, Source};
pub use url::Url;

use serde::{Deserialize, Serialize};

/// What the store knows of an image that is unpacked and ready. One file each in `images/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The image's identity: of the manifest, of the config (docker-archive), or of the file (plain root file system);
    /// for archives from the network see [`Source::identity`].
    pub digest: Digest,
    /// Bottom layer first; each is a directory `layers/<digest hex>/<shift>` of the store.
    pub layers: Vec<Digest>,
    /// What the image says about running it.
    pub config: Config,
    /// Bytes of all layers unpacked, as counted while unpacking.
    pub unpacked: u64,
}

/// The part of an OCI image configuration that a runtime honours (image-spec 1.1, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of the OCI image configuration")]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    pub workdir: String,
    /// Signal number, if the image names one.
    pub stop_signal: Option<i32>,
}
