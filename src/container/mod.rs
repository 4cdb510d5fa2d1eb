//! One container: its checked [`Spec`] and the parts that launch and pid 1 put together.

mod spec;

pub use spec::{Spec, Wiring};
