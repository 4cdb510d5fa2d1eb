//! One container: its checked [`Spec`] and the parts that launch and pid 1 put together.

pub mod seccomp;
mod spec;

pub use spec::{Spec, Wiring};
