//! Wherry: containers small enough for a router.

// ---- roles: each is one process ----
pub mod agent;
pub mod cli;
pub mod hash;
pub mod init;
pub mod keeper;
pub mod launch;
pub mod stage;
pub mod unpack;

// ---- steps that run inside a role ----
pub mod finish;

// ---- meaning: pure types and decisions, no input, no output, no clock ----
pub mod config;
pub mod manifest;
pub mod protocol;
pub mod stats;

// ---- building blocks ----
pub mod cgroup;
pub mod confine;
pub mod container;
pub mod device;
pub mod image;
pub mod ipc;

// ---- what every role shares ----
pub mod exit;
pub mod log;

// ---- the floor ----
#[allow(unsafe_code)]
pub mod sys;
