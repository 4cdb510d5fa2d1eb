//! Wherry: containers small enough for a router.
//!
//! One program, several processes; each role's `main` is a module here. Start reading with [`keeper`]: it decides everything. Roles come first, then
//! meaning (pure), then building blocks, then the floor.
//!
//! # Who may do what
//!
//! | role | lives | privileges | does |
//! |---|---|---|---|
//! | [`keeper`] | always | root, one thread, no network | owns the desired state, decides, starts every other role, waits for none |
//! | [`agent`] | child of keeper | own user, no capabilities, system call filter | MQTT, HTTP and TLS; ferries bytes, decides nothing |
//! | [`stage`] | per image | root, no network | brings one image into the store; may block, so keeper does not |
//! | [`hash`] | per blob | own user; may read, write, exit | the digest; parses nothing, so no parser vouches for its own input |
//! | [`unpack`] | per layer, or per downloaded archive | own user, pid, net and mount namespaces, caged in the staging directory | decompresses and unpacks |
//! | [`finish`] | inside stage, once unpack is dead | root | whiteouts, opaque marks, the rename that makes a layer |
//! | [`launch`] | per start | root, own mount namespace | mounts and clones pid 1 as keeper's child, then is gone |
//! | [`init`] | pid 1 of a container | the container's, less | reaps, forwards signals, carries the bytes of a console, writes the exit record |
//! | [`probe`] | per tcp or http health check | own user, the container's network, no capabilities, system call filter | connects, asks, reads one line |
//! | [`cli`] | on demand | the caller's | the local command line |
//!
//! `stage` stands between keeper and hash/unpack because planning an image means waiting for one process after the other: in keeper it would be a
//! second state machine, in a process of its own it is a sequence, and a kill at any point leaves only `staging/`.
//!
//! # Invariants
//!
//! 1. Unsafe code stands only in [`sys`], each block with a SAFETY sentence.
//! 2. `agent` names nothing of `container cgroup keeper launch`; `keeper` names nothing of `agent`, MQTT, TLS, HTTP, archives.
//! 3. `manifest config protocol trust stats` and keeper's `desired record work plan lifecycle health trial guard policy admission rollout window ring pace` do
//!    no input or output and never read a clock.
//! 4. Everything read from a process, a file or the network has a written maximum.
//! 5. Keeper never waits for a less trusted process: sockets do not block, queues are bounded, who does not keep up is ended.
//! 6. No container exists unrecorded: its pid is on record before pid 1 gets `Go`; without it, pid 1 exits by itself.
//! 7. Every mount of a container lives in its own mount namespace: the kernel cleans up after any crash.
//! 8. Only `main.rs` and [`exit`] print an error and end the process.
//! 9. Where a key is trusted, nothing in a document from the network is read before a signature over it was verified.
//!
//! The first four and the eighth are held by `tests/tidy.rs`, the last by `tests/trust.rs`, the rest by `tests/recovery.rs` and `tests/runtime/`.

// ---- roles: each is one process ----
pub mod keeper;
pub mod agent;
pub mod stage;
pub mod hash;
pub mod unpack;
pub mod finish;
pub mod launch;
pub mod init;
pub mod probe;
pub mod cli;

// ---- wherryctl, the operator's program: no part of a device ----
#[cfg(feature = "fleet")]
pub mod fleet;

// ---- meaning: pure types and decisions, no input, no output, no clock ----
pub mod manifest;
pub mod config;
pub mod protocol;
pub mod trust;
pub mod stats;

// ---- building blocks ----
pub mod container;
pub mod allowed;
pub mod secrets;
pub mod cgroup;
pub mod confine;
pub mod copy;
pub mod device;
pub mod image;
pub mod ipc;

// ---- what every role shares ----
pub mod exit;
pub mod log;

// ---- the floor ----
#[allow(unsafe_code)]
pub mod sys;
