//! Keeper: root, one thread, no network. Owns the desired state and every decision.

pub mod desired;
pub mod lifecycle;
pub mod plan;
pub mod store;
