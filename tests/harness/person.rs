//! A person at a terminal: a command of ours as the only one on a pseudo-terminal of its own.

use super::{PATIENCE, Signal, device::Device, kill, within};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{Termios, cfmakeraw, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Who types and reads.
pub struct Person {
    /// Gone once hung up.
    master: Option<File>,
    /// Stays open here, so that the mode can be asked for after the command's end.
    line: OwnedFd,
    child: Child,
    /// All that was shown so far.
    pub seen: Vec<u8>,
    before: Termios,
}

impl Person {
    /// Types this command on a terminal of 40 rows and 100 columns.
    pub fn types(device: &Device, args: &[&str]) -> Self {
        let size = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        for fd in [&pty.master, &pty.slave] {
            // A window that some child still has open cannot be closed.
            wherry::sys::fd::set_cloexec(fd.as_fd(), true).unwrap();
        }
        let before = tcgetattr(&pty.slave).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        // A session of its own with this as its terminal, under the same process id.
        let inner = device.command(args);
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(inner.get_program()).args(inner.get_args());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("util-linux is installed");
        Self { master: Some(pty.master.into()), line: pty.slave, child, seen: Vec::new(), before }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Types these bytes.
    pub fn type_in(&mut self, bytes: impl AsRef<[u8]>) {
        self.master.as_mut().unwrap().write_all(bytes.as_ref()).unwrap();
    }

    /// Makes the window another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        // The kernel tells who is on the line.
        wherry::sys::pty::resize(self.master.as_ref().unwrap(), (rows, columns)).unwrap();
    }

    /// Reads until `text` was shown behind what was read before; what was shown since.
    pub fn reads(&mut self, text: &str) -> String {
        let start = self.seen.len();
        self.reads_until(&format!("{text:?} is shown"), |new| String::from_utf8_lossy(new).contains(text), start)
    }

    /// Reads so many bytes.
    pub fn reads_bytes(&mut self, count: usize) -> Vec<u8> {
        let start = self.seen.len();
        self.reads_until(&format!("{count} bytes"), |new| new.len() >= count, start);
        self.seen[start..].to_vec()
    }

    fn reads_until(&mut self, what: &str, holds: impl Fn(&[u8]) -> bool, start: usize) -> String {
        let end = Instant::now() + PATIENCE;
        while !holds(&self.seen[start..]) {
            let over = !self.look(200) && self.child.try_wait().unwrap().is_some() && !self.look(200);
            let shown = String::from_utf8_lossy(&self.seen[start..]);
            assert!(!over, "the command ended before {what}: {shown:?}");
            assert!(Instant::now() < end, "waited too long for: {what}, only {shown:?}");
        }
        String::from_utf8_lossy(&self.seen[start..]).into_owned()
    }

    /// Takes what is shown within so many milliseconds, if anything.
    fn look(&mut self, millis: u16) -> bool {
        let master = self.master.as_mut().unwrap();
        let mut set = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut set, PollTimeout::from(millis)), Ok(n) if n > 0) {
            return false;
        }
        let mut buf = [0; 4096];
        let n = master.read(&mut buf).unwrap_or(0);
        self.seen.extend_from_slice(&buf[..n]);
        n > 0
    }

    /// Closes the window.
    pub fn hangs_up(&mut self) {
        self.master = None;
    }

    /// Sends the command a signal.
    pub fn kills(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// The command's exit code, 128 and the signal if one ended it. What it shows last is read, and its terminal must be as it was before.
    pub fn ends(&mut self) -> i32 {
        let code = self.ends_whatever_its_mode();
        let now = tcgetattr(&self.line).unwrap();
        let modes = |t: &Termios| (t.input_flags, t.output_flags, t.control_flags, t.local_flags);
        assert_eq!(modes(&now), modes(&self.before), "the terminal is as before");
        code
    }

    /// The same after a kill, which leaves the terminal as it is.
    pub fn ends_whatever_its_mode(&mut self) -> i32 {
        let ended = within(PATIENCE, || {
            let ended = self.child.try_wait().unwrap();
            while self.master.is_some() && self.look(1) {}
            ended
        });
        let status = ended.unwrap_or_else(|| panic!("it does not end, and shows {:?}", String::from_utf8_lossy(&self.seen)));
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// From here on nothing of the terminal changes bytes, as while our command has it.
    pub fn is_raw(&self) -> bool {
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        tcgetattr(&self.line).is_ok_and(|now| now.local_flags == raw.local_flags && now.output_flags == raw.output_flags)
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
