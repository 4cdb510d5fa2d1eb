//! State that could not be written to flash: tried again until it is there, and told meanwhile.
//!
//! Until then the store is not cleaned: the record on flash may still name what the state in memory no longer does.

use crate::image::fault;
use crate::ipc::Failure;
use crate::keeper::Keeper;
use crate::protocol::Reason;
use std::fs::File;
use std::io;
use std::time::Duration;

/// Between two attempts. A file system that went read-only comes back by somebody's hand; a full one is cleaned sooner or later.
const RETRY: Duration = Duration::from_secs(10);

/// The last attempt failed.
#[derive(Debug)]
pub struct Unsaved {
    /// When it is tried again, since boot.
    pub retry: Duration,
    /// The sentence.
    pub why: String,
}

impl Keeper {
    /// Has the state as it is now on flash, at once or as soon as that can be done.
    pub fn save_state(&mut self) {
        let failed = self.store.save(&self.desired).map_err(|e| self.unwritten("cannot record the desired state", e));
        let before = self.unsaved.take();
        match failed {
            Ok(()) if before.is_some() => {
                log::info!("the desired state is on record again");
                self.ctx.dirty = true;
                self.collect();
            }
            Ok(()) => {}
            Err(f) => {
                if before.is_none() {
                    log::error!("{}; it is tried again every {} s", f.message, RETRY.as_secs());
                }
                self.ctx.dirty |= before.is_none();
                self.unsaved = Some(Unsaved { retry: self.now() + RETRY, why: f.message });
            }
        }
    }

    /// Tries again when it is time.
    pub fn save_if_due(&mut self, now: Duration) {
        if self.unsaved.as_ref().is_some_and(|u| now >= u.retry) {
            self.save_state();
        }
    }

    /// A failed write below the data directory.
    pub fn unwritten(&self, doing: &str, e: io::Error) -> Failure {
        match File::open(&self.ctx.settings.data_dir) {
            Ok(data) => fault::writing(data, doing, e),
            Err(_) => fault::fault(Reason::Io, format!("{doing}: {e}")),
        }
    }
}
