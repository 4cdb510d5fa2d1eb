//! Copies between a container and the device, as a tar stream through descriptors of the caller.
//!
//! The container's side is a process of ours inside the container, with its namespaces, limits, capabilities and filter: whatever links
//! the container exchanges meanwhile lead nowhere but into the container (CVE-2018-15664). The other side takes the stream as hostile.
//!
//! | room | what it does |
//! |---|---|
//! | `rules` | where a copy goes, by what is there; pure |
//! | `pack` | a tree into a stream |
//! | `place` | a stream into a tree |

pub mod pack;
pub mod place;
pub mod rules;

use crate::exit::note;
use crate::ipc::{Copying, Way};
use std::fs::File;
use std::os::fd::AsFd;

/// Most bytes of remarks: they must fit the pipe that nobody reads until the end.
const MAX_REMARKS: usize = 3 * 1024;

/// The container's side, with the stream on standard input or output and remarks on standard error; the exit code.
pub fn inside(what: &Copying) -> i32 {
    let mut left = MAX_REMARKS;
    let mut remark = |text: String| {
        left = left.saturating_sub(text.len() + 1);
        if left > 0 {
            note(&text);
        }
    };
    match run(what, &mut remark) {
        Ok(()) => 0,
        Err(why) => {
            note(&why);
            1
        }
    }
}

fn run(what: &Copying, remark: &mut dyn FnMut(String)) -> Result<(), String> {
    let own = |fd: std::io::Result<std::os::fd::OwnedFd>| fd.map(File::from).map_err(|e| format!("cannot use the stream: {e}"));
    match what.way {
        Way::Out => pack::pack(&what.path, own(std::io::stdout().as_fd().try_clone_to_owned())?, remark),
        Way::In { merge, owners } => {
            let policy = place::Policy { owners, bits: 0o7777 };
            place::tree(own(std::io::stdin().as_fd().try_clone_to_owned())?, &what.path, None, merge, policy)
        }
        Way::Stream { owners } => {
            let policy = place::Policy { owners, bits: 0o7777 };
            place::all(own(std::io::stdin().as_fd().try_clone_to_owned())?, &what.path, policy)
        }
    }
}
