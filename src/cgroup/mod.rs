//! Control groups: which hierarchies the kernel has, the groups of our containers in them, limits and readings.
//!
//! Two versions, and a hybrid of both, are real on routers. [`Layout`] says once which controller lives where; [`Group`] is one path
//! in every hierarchy that we limit or read. What a kernel lacks is answered as missing with its reason, never as a failure
//! (unless the manifest says `required`) and never as a 0.
//!
//! | room | what it knows |
//! |---|---|
//! | `detect` | mountinfo → [`Layout`] |
//! | `prepare` | our parent group, and switching controllers on, one at a time |
//! | `limits` | [`Resources`](crate::manifest::Resources) → file and value, pure |
//! | `group` | making, joining, killing, freezing, removing |
//! | `read` | [`Sample`](crate::stats::Sample) from the files; `parse` knows their formats, pure |

mod detect;
mod error;
mod files;
mod group;
mod limits;
pub mod parse;
mod prepare;
mod read;

pub use detect::{Kind, Layout};
pub use error::Error;
pub use group::Group;
pub use limits::{shares_from_weight, weight_from_shares};
