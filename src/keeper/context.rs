//! What every part of keeper works with: the settings, the sealed program, the stores, the kernel's hierarchies, the epoll set.

use crate::cgroup::Layout;
use crate::config::Settings;
use crate::config::policy::Policy;
use crate::image::store::Store as Images;
use crate::ipc::{Happening, What};
use crate::keeper::events::Events;
use crate::keeper::pace::Pace;
use crate::keeper::poll::{Key, Poll};
use crate::keeper::runtime::Runtime;
use crate::keeper::syslog::Syslog;
use crate::sys::process::{self, Child, Ended, Spawn};
use crate::sys::signal::pidfd_send;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Shared by all of keeper.
pub struct Context {
    /// The device's settings.
    pub settings: Settings,
    /// What documents from the network may ask for; or why nobody knows, and they may ask for nothing.
    pub policy: Result<Policy, String>,
    /// Our program, sealed.
    pub exe: OwnedFd,
    /// The cgroup hierarchies.
    pub layout: Layout,
    /// Controllers that the kernel refused, with why.
    pub missing: Vec<(String, String)>,
    /// Unpacked images.
    pub images: Images,
    /// The runtime directory.
    pub runtime: Runtime,
    /// The epoll set.
    pub poll: Poll,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Keeper's count of fresh starts.
    pub boot: u64,
    /// Something that `reported` shows has changed.
    pub dirty: bool,
    /// Output that all containers together have got rid of lately.
    pub pace: Pace,
    /// The device's system log.
    pub syslog: Syslog,
    /// All rings together want more memory than they may have.
    pub short_of_rings: bool,
    /// A launch died before it could name the process it had cloned.
    pub strays: bool,
    /// The last events.
    pub events: Events,
    /// Ended children that could not be waited for at once.
    dead: Vec<Child>,
}

impl Context {
    /// Puts the parts together.
    #[allow(clippy::too_many_arguments, reason = "one call, in keeper's start")]
    pub fn new(
        settings: Settings,
        policy: Result<Policy, String>,
        exe: OwnedFd,
        layout: Layout,
        missing: Vec<(String, String)>,
        images: Images,
        runtime: Runtime,
        boot_id: String,
        boot: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            settings,
            policy,
            exe,
            layout,
            missing,
            images,
            runtime,
            poll: Poll::new()?,
            boot_id,
            boot,
            dirty: true,
            pace: Pace::default(),
            syslog: Syslog::default(),
            short_of_rings: false,
            strays: false,
            events: Events::default(),
            dead: Vec::new(),
        })
    }

    /// Keeps an event, for whoever asks.
    pub fn happened(&mut self, event: Happening) {
        let at_ms = u64::try_from(crate::sys::time::boottime().as_millis()).unwrap_or(u64::MAX);
        self.events.push(Happening { at_ms, ..event });
    }

    /// The same for a container.
    pub fn happened_to(&mut self, key: &Key, what: What, ended: Option<Ended>, detail: String) {
        let (app, container) = (Some(key.app.clone()), Some(key.container.clone()));
        self.happened(Happening { app, container, ended, ..Happening::new(what, detail) });
    }

    /// Path of a container's group below each hierarchy.
    pub fn group_path(&self, key: &Key) -> String {
        format!("{}/{}/{}", self.settings.cgroup, key.app, key.container)
    }

    /// Starts a role from the sealed program; `fds` become its descriptors from 3 on.
    pub fn spawn(&self, role: &str, fds: &[BorrowedFd<'_>]) -> io::Result<Child> {
        let text = |s: String| CString::new(s).map_err(io::Error::other);
        let argv = [text("wherry".into())?, text(role.into())?];
        // Nothing of keeper's own environment reaches a role but the wish for more log lines.
        let env = std::env::var("WHERRY_LOG").ok().map(|v| text(format!("WHERRY_LOG={v}"))).transpose()?;
        process::spawn(&Spawn { exe: self.exe.as_fd(), argv: &argv, env: env.as_slice(), fds, flags: 0 })
    }

    /// Takes over a child that has ended or is about to: keeper waits for nobody.
    pub fn reap_later(&mut self, child: Child) {
        self.dead.push(child);
        self.reap();
    }

    /// Ends a child that turned out to be of no use.
    pub fn discard(&mut self, child: Child) {
        let _ = pidfd_send(&child.pidfd, nix::libc::SIGKILL);
        self.reap_later(child);
    }

    /// Waits for those that have ended by now.
    pub fn reap(&mut self) {
        self.dead.retain(|child| matches!(process::try_reap(child.pid), Ok(None)));
    }

    /// Children that have still to be waited for.
    pub fn dead(&self) -> impl Iterator<Item = i32> {
        self.dead.iter().map(|child| child.pid)
    }
}
