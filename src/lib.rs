//! Wherry: containers small enough for a router.

// ---- roles: each is one process ----
pub mod keeper;
// ---- roles ----
pub mod agent;

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

// ---- the floor ----
#[allow(unsafe_code)]
pub mod sys;
