//! The runtime's only input. Manifest, OCI `config.json` and LXC configuration all end here.

use crate::cgroup::Layout;
use crate::manifest::{Mount, Network, Placed, Resources, Rlimit, Seccomp, Stdin};
use serde::{Deserialize, Serialize};

/// Everything that decides what a container is. Says nothing about where keeper keeps its things: that is [`Wiring`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Program and arguments, at least one.
    pub argv: Vec<String>,
    /// `NAME=value`; PATH, HOME and HOSTNAME are added by init where missing.
    pub env: Vec<String>,
    /// Absolute path in the container; created where missing.
    pub workdir: String,
    /// `user[:group]`, names or numbers, resolved by the container's own /etc/passwd and /etc/group; empty for root.
    pub user: String,
    /// UTS host name.
    pub hostname: String,
    /// Bits of the capabilities that the payload keeps (`1 << CAP_*`).
    pub capabilities: u64,
    /// System call filter.
    pub seccomp: Seccomp,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// No upper layer: the root file system cannot be written.
    pub readonly: bool,
    /// Bytes of the tmpfs upper layer.
    pub upper: u64,
    /// Bind mounts and tmpfs, in order.
    pub mounts: Vec<Mount>,
    /// Network namespace.
    pub network: Network,
    /// POSIX limits.
    pub rlimits: Vec<Rlimit>,
    /// Own pid 1 that reaps and forwards signals; otherwise the payload is pid 1.
    pub init: bool,
    /// cgroup limits.
    pub resources: Resources,
    /// Those of `capabilities` that a payload keeps even when it is not root (ambient): the ones asked for by name. The rest of the
    /// set is then only the bound of what set-user-id programs can gain, as with other runtimes.
    pub ambient: u64,
    /// Files put into it. A secret is only named here: what is in it never leaves launch but into the container.
    pub files: Vec<Placed>,
    /// It has a terminal of its own devpts as standard input, output and error.
    pub terminal: bool,
    /// Its standard input.
    pub stdin: Stdin,
}

impl Spec {
    /// Its pid 1 carries input to it.
    pub fn has_console(&self) -> bool {
        self.terminal || self.stdin != Stdin::None
    }
}

/// Where the host side of one start is: what launch needs beside the [`Spec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wiring {
    /// `app/container`, for messages.
    pub name: String,
    /// Absolute directories of the unpacked layers, bottom first.
    pub layers: Vec<String>,
    /// An empty directory below keeper's runtime tmpfs, where launch mounts in its own mount namespace.
    pub scratch: String,
    /// The cgroup hierarchies as keeper found them.
    pub layout: Layout,
    /// The container's group below each hierarchy, `wherry/app/container`; made by launch.
    pub group: String,
    /// Directories that bind sources must be in, all links followed; `None` for a document applied locally, which may name any path.
    pub allowed: Option<Vec<String>>,
    /// Directory of the device's secrets.
    pub secrets: String,
}
