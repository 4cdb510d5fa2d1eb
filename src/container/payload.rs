//! The last steps before exec. Their order is the security: each takes away what the ones before it still needed.

use super::fail::{OrFail, launch};
use super::resolve::{Kind, ensure_in, open_in};
use super::user::{self, Person};
use super::{Spec, caps, merge, rlimits, seccomp};
use crate::ipc::Failure;
use crate::manifest::{Rlimit, Seccomp};
use crate::protocol::Reason;
use crate::sys;
use ::caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, execve, fchdir, fchown, getcwd, setgroups, setresgid, setresuid, setsid};
use std::borrow::Cow;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What other runtimes put in when neither image nor manifest says anything.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit code of a process that could not run its program, as shells have it.
const NOT_RUN: i32 = 127;

/// What to run, as text; an exec asks for other things than the container's own program.
pub struct Wanted<'a> {
    /// Program and arguments.
    pub argv: &'a [String],
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`.
    pub user: &'a str,
    /// Absolute path in the container.
    pub workdir: &'a str,
    /// Make the working directory if it is missing.
    pub make_workdir: bool,
    /// It is somebody's for as long as keeper, its parent, can tell him of its end.
    pub with_keeper: bool,
}

/// A program ready to be run in the container whose root is ours.
pub struct Payload {
    argv: Vec<CString>,
    env: Vec<CString>,
    candidates: Vec<CString>,
    person: Person,
    workdir: (String, OwnedFd),
    confined: bool,
    with_keeper: bool,
    filter: Option<Cow<'static, [u8]>>,
    capabilities: u64,
    ambient: u64,
    no_new_privileges: bool,
    rlimits: Vec<Rlimit>,
}

impl Payload {
    /// Turns names into numbers and paths into descriptors, while we are still root and may open files. Our root is the container's already.
    pub fn prepare(spec: &Spec, wanted: Wanted<'_>) -> Result<Self, Failure> {
        let person = person(wanted.user)?;
        let workdir = (wanted.workdir.to_owned(), workdir(&wanted, &person)?);
        let env = complete(wanted.env, &person, &spec.hostname);
        let filter = match spec.seccomp {
            Seccomp::Unconfined => None,
            Seccomp::Default => Some(seccomp::default_program(spec.capabilities).map_err(no_filter)?),
        };
        Ok(Self {
            candidates: candidates(wanted.argv, &env)?,
            argv: c_strings(wanted.argv)?,
            env: c_strings(&env)?,
            person,
            workdir,
            confined: false,
            with_keeper: wanted.with_keeper,
            filter,
            capabilities: spec.capabilities,
            ambient: spec.ambient & spec.capabilities,
            no_new_privileges: spec.no_new_privileges,
            rlimits: spec.rlimits.clone(),
        })
    }

    /// Gives the user what is written to: `/dev/stdout` leads to it, and opening asks for permission again.
    pub fn own(&self, output: BorrowedFd<'_>) -> Result<(), Failure> {
        fchown(output, Some(Uid::from_raw(self.person.uid)), None).or_fail(|| "give the output to the container's user")
    }

    /// Its user and group.
    pub fn owner(&self) -> (u32, u32) {
        (self.person.uid, self.person.gid)
    }

    /// For who makes a process in a container that already runs, before making it: whatever else runs there may have the right to trace it
    /// (`CAP_SYS_PTRACE`), so from its birth it holds no more than the payload may, and what the steps on the way there take.
    pub fn confine(&mut self) -> Result<(), Failure> {
        self.enter_workdir()?;
        let left = caps::bound(self.capabilities)?;
        // Wherry's own root may lack some of them: then the step that wants it says so.
        let have = sys::caps::get().or_fail(|| "read the capabilities")?.permitted;
        caps::settle(left | self.way() & have, 0)?;
        self.confined = true;
        Ok(())
    }

    /// The descriptor that it needs until exec.
    pub fn needs(&self) -> BorrowedFd<'_> {
        self.workdir.1.as_fd()
    }

    fn way(&self) -> u64 {
        let mut way = vec![Capability::CAP_SETUID, Capability::CAP_SETGID];
        if !self.rlimits.is_empty() {
            way.push(Capability::CAP_SYS_RESOURCE);
        }
        if !self.no_new_privileges && self.filter.is_some() {
            way.push(Capability::CAP_SYS_ADMIN);
        }
        caps::bits(&way)
    }

    /// Runs it. Comes back only with what went wrong.
    pub fn exec(&self, terminal: Option<BorrowedFd<'_>>) -> Failure {
        self.settle(terminal).map_or_else(|failure| failure, |()| self.try_candidates())
    }

    /// Becomes what the program would be, for good.
    pub fn settle(&self, terminal: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
        // A session of its own: with ours, TIOCSTI could type into a terminal of the host, and a stray terminal could become the controlling one.
        setsid().or_fail(|| "start a session")?;
        if let Some(terminal) = terminal {
            sys::pty::control(terminal).or_fail(|| "take the terminal")?;
        }
        // Whatever else we hold, known or not, closes at exec (CVE-2024-21626).
        sys::fd::cloexec_from(sys::fd::FIRST).or_fail(|| "mark descriptors close-on-exec")?;
        // A limit may be raised only with CAP_SYS_RESOURCE.
        rlimits::set(&self.rlimits)?;
        if !self.confined {
            self.enter_workdir()?;
        }
        // The bounding set shrinks while CAP_SETPCAP is there.
        let left = caps::bound(self.capabilities)?;
        if !self.no_new_privileges {
            // Without no_new_privs a filter wants CAP_SYS_ADMIN, so it comes before that goes. It must let the rest of these steps pass; the built-in does.
            self.load_filter()?;
        }
        self.become_user(left)?;
        umask(Mode::from_bits_truncate(0o022));
        // A forwarded signal that waited until now is delivered here.
        sys::signal::reset().or_fail(|| "reset the signals")?;
        if self.with_keeper {
            // After the change of user, which takes it back (prctl(2)).
            prctl::set_pdeathsig(nix::sys::signal::Signal::SIGHUP).or_fail(|| "ask for a signal at keeper's end")?;
        }
        if self.no_new_privileges {
            prctl::set_no_new_privs().or_fail(|| "set no_new_privs")?;
            // Last: from here on the kernel refuses us what it will refuse the payload.
            self.load_filter()?;
        }
        Ok(())
    }

    /// By descriptor, so that the directory is the one that was resolved; then the kernel must be able to name it: a directory outside the
    /// root reads as unreachable (CVE-2024-21626).
    fn enter_workdir(&self) -> Result<(), Failure> {
        let (path, dir) = &self.workdir;
        fchdir(dir).or_fail(|| format!("enter working directory {path}"))?;
        let here = getcwd().or_fail(|| format!("enter working directory {path}"))?;
        if here.is_absolute() {
            Ok(())
        } else {
            Err(launch(format!("cannot enter working directory {path}: it lies outside the container")))
        }
    }

    /// Groups before user (only root may set them), capabilities kept across the change of user, then set for good.
    fn become_user(&self, bound: u64) -> Result<(), Failure> {
        let who = &self.person;
        prctl::set_keepcaps(true).or_fail(|| "keep capabilities")?;
        let groups: Vec<Gid> = who.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).or_fail(|| "set the supplementary groups")?;
        let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
        setresgid(gid, gid, gid).or_fail(|| format!("become group {gid}"))?;
        setresuid(uid, uid, uid).or_fail(|| format!("become user {uid}"))?;
        prctl::set_keepcaps(false).or_fail(|| "stop keeping capabilities")?;
        let ambient = self.ambient & bound;
        if uid.is_root() { caps::settle(bound, 0) } else { caps::settle(ambient, ambient) }
    }

    fn load_filter(&self) -> Result<(), Failure> {
        self.filter.as_deref().map_or(Ok(()), |f| sys::seccomp::load(f).or_fail(|| "load the system call filter"))
    }

    /// As execvp(3): the first that can be run; one that may not be run is remembered, one that is missing is not.
    fn try_candidates(&self) -> Failure {
        let mut worst = Errno::ENOENT;
        for path in &self.candidates {
            let Err(errno) = execve(path, &self.argv, &self.env);
            let exists = !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) || nix::sys::stat::stat(path.as_c_str()).is_ok();
            match errno {
                Errno::EACCES => worst = errno,
                _ if exists => return self.not_run(errno, Some(path)),
                _ => {}
            }
        }
        self.not_run(worst, None)
    }

    fn not_run(&self, errno: Errno, found: Option<&CString>) -> Failure {
        let program = found.unwrap_or(&self.argv[0]).to_string_lossy();
        let hint = match (errno, found) {
            (Errno::ENOENT, None) if program.contains('/') => " (the image has no such file)",
            (Errno::ENOENT, None) => " (not found in the container's PATH)",
            (Errno::ENOENT, Some(_)) => " (the file is there, but its interpreter or loader is not: built for another C library?)",
            (Errno::ENOEXEC, _) => " (built for another processor, or a script without #! line)",
            (Errno::EACCES, _) => " (not executable by the container's user)",
            _ => "",
        };
        Failure { reason: Reason::Exec, message: format!("cannot run {program}: {}{hint}", errno.desc()) }
    }
}

/// Whether what [`Payload::exec`] came back with says that the program is not there.
pub fn is_missing(message: &str) -> bool {
    message.contains(Errno::ENOENT.desc())
}

/// Sends what went wrong and ends this process.
pub fn give_up(conn: &crate::ipc::Conn, failure: Failure) -> ! {
    // Nobody else is left to tell if keeper is gone too.
    let _ = conn.send(&crate::ipc::FromLaunch::Failed(failure));
    sys::process::exit_now(NOT_RUN)
}

fn no_filter(why: String) -> Failure {
    Failure { reason: Reason::NoFeature, message: format!("cannot make the default system call filter: {why}") }
}

/// Who that is, by the user database of the container, whose root is ours.
pub fn person(wanted: &str) -> Result<Person, Failure> {
    let read = |path| database(path).or_fail(|| format!("read the container's {path}"));
    user::resolve(wanted, &read("/etc/passwd")?, &read("/etc/group")?).map_err(launch)
}

/// A user database of the image. Any kind of file, or a link to any, may be in its place, and we read as root: only a plain file that some
/// disk or memory holds is taken. Reading one of procfs can take something away from the host (`/proc/kmsg`), and a FIFO is not waited for.
/// Looked at before it is opened, since opening alone can act on a device; and after, since a running container may have swapped it.
fn database(path: &str) -> io::Result<Vec<u8>> {
    let found = |flags| open(path, flags | OFlag::O_CLOEXEC, Mode::empty());
    let file = match found(OFlag::O_PATH).and_then(|place| if plain(&place)? { found(READ) } else { Err(Errno::ENOENT) }) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(Vec::new()),
        other => other?,
    };
    if plain(&file)? { sys::fd::read_to_end(file, user::MAX_FILE) } else { Ok(Vec::new()) }
}

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

fn plain(file: &OwnedFd) -> nix::Result<bool> {
    let kernels = [PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC];
    let regular = SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    Ok(regular && !kernels.contains(&fstatfs(file)?.filesystem_type()))
}

fn workdir(wanted: &Wanted<'_>, person: &Person) -> Result<OwnedFd, Failure> {
    let what = || format!("open working directory {}", wanted.workdir);
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).or_fail(what)?;
    if wanted.make_workdir {
        ensure_in(root.as_fd(), wanted.workdir, Kind::Dir, (person.uid, person.gid)).or_fail(what)
    } else {
        open_in(root, wanted.workdir, OFlag::O_PATH | OFlag::O_DIRECTORY).or_fail(what)
    }
}

fn complete(mut env: Vec<String>, person: &Person, hostname: &str) -> Vec<String> {
    for entry in [PATH.to_owned(), format!("HOME={}", person.home), format!("HOSTNAME={hostname}")] {
        let name = &entry[..=entry.find('=').unwrap_or(0)];
        if !env.iter().any(|e| e.starts_with(name)) {
            merge::set(&mut env, entry);
        }
    }
    env
}

/// A name with a slash is a path; any other is looked for in the absolute directories of the container's PATH.
fn candidates(argv: &[String], env: &[String]) -> Result<Vec<CString>, Failure> {
    let program = argv.first().ok_or_else(|| Failure { reason: Reason::Exec, message: "cannot run nothing: no program given".into() })?;
    if program.contains('/') {
        return c_strings(std::slice::from_ref(program));
    }
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let dirs = path.split(':').filter(|dir| dir.starts_with('/'));
    c_strings(&dirs.map(|dir| format!("{dir}/{program}")).collect::<Vec<_>>())
}

fn c_strings(list: &[String]) -> Result<Vec<CString>, Failure> {
    let convert = |s: &String| CString::new(s.as_str()).map_err(|_| launch(format!("cannot pass {s:?} to a program: it has a NUL byte")));
    list.iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn a_program_without_slash_is_looked_for_in_absolute_directories_only() {
        let found = candidates(&strings(&["sh"]), &strings(&["PATH=/a::relative:/b"])).unwrap();
        assert_eq!(found, [c"/a/sh".to_owned(), c"/b/sh".to_owned()]);
    }

    #[test]
    fn a_program_with_slash_is_taken_as_it_is() {
        assert_eq!(candidates(&strings(&["./x"]), &[]).unwrap(), [c"./x".to_owned()]);
    }

    #[test]
    fn missing_variables_are_added_and_given_ones_stay() {
        let person = Person { uid: 1, gid: 1, groups: Vec::new(), home: "/h".into() };
        let env = complete(strings(&["HOME=/own"]), &person, "name");
        assert_eq!(env, [&strings(&["HOME=/own", PATH])[..], &strings(&["HOSTNAME=name"])[..]].concat());
    }

    #[test]
    fn a_nul_byte_is_refused_in_arguments() {
        assert!(c_strings(&strings(&["a\0b"])).is_err());
    }
}
