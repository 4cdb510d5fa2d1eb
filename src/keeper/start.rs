//! Keeper's start and end: settings, runtime directory, adoption, the loop, and exec of itself.

use crate::cgroup::Layout;
use crate::config::{self, Settings};
use crate::exit::{Code, Error};
use crate::image::store::Store as Images;
use crate::ipc::{Happening, What};
use crate::keeper::admit;
use crate::keeper::adopt::{adopt, end_old_roles};
use crate::keeper::children::Agent;
use crate::keeper::clients::{self, Streams};
use crate::keeper::commands::Obeyed;
use crate::keeper::containers::Live;
use crate::keeper::context::Context;
use crate::keeper::desired;
use crate::keeper::poll::Source;
use crate::keeper::runtime::Runtime;
use crate::keeper::store::{Desired, Store};
use crate::keeper::trusted::Trusted;
use crate::keeper::{End, Keeper};
use crate::manifest::{Id, Name};
use crate::sys::fd::read_file;
use crate::sys::{exe, process, time};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the settings are unless `--config` says otherwise.
pub const SETTINGS: &str = "/etc/wherry/settings.json";
/// Path of the program on disk, for an upgrade: after exec from memory the kernel no longer knows it.
const ENV_EXE: &str = "WHERRY_EXE";
/// Panics in a row; each one waits longer before keeper acts again.
const ENV_PANICS: &str = "WHERRY_PANICS";
/// The kernel's OOM killer takes keeper among the last (proc_pid_oom_score_adj(5), -1000 to 1000).
const OOM_SCORE: i32 = -900;
/// A keeper that ran this long after a panic has recovered.
const RECOVERED: Duration = Duration::from_secs(60);

/// Runs keeper. `args` may be `--config PATH`.
///
/// # Errors
/// One sentence for the person who started it. Once it runs, it does not come back with an error of a single container, image or link.
pub fn main(args: Vec<OsString>) -> Result<(), Error> {
    let config = config_path(args)?;
    crate::log::init("keeper", None);
    // Shown by ps: after exec from memory the kernel would call us by the descriptor's number.
    let _ = nix::sys::prctl::set_name(c"wherry keeper");
    serve(&config).map_err(|sentence| Error::new(Code::Failed, sentence))
}

fn config_path(args: Vec<OsString>) -> Result<PathBuf, Error> {
    let mut config = PathBuf::from(SETTINGS);
    let mut parser = lexopt::Parser::from_args(args);
    let wrong = |e: lexopt::Error| Error::usage(format!("{e}")).hint("usage: wherry keeper [--config PATH]");
    while let Some(arg) = parser.next().map_err(wrong)? {
        match arg {
            lexopt::Arg::Short('c') | lexopt::Arg::Long("config") => config = parser.value().map_err(wrong)?.into(),
            other => return Err(wrong(other.unexpected())),
        }
    }
    Ok(config)
}

fn serve(config: &Path) -> Result<(), String> {
    let program = run_from_memory()?;
    wait_out_panics();
    let settings = load(config)?;
    log::set_max_level(log_level(&settings));
    let started = time::boottime();
    let mut keeper = open(settings, program.clone())?;
    // Refused without CAP_SYS_RESOURCE.
    if let Err(e) = process::set_oom_score(OOM_SCORE) {
        let why = format!("cannot lower keeper's: {e}; with no memory left, the kernel may end keeper like any other");
        keeper.ctx.missing.push(("oom_score".into(), why));
    }
    exec_on_panic(&program);
    keeper.begin();
    let end = keeper.run().map_err(|e| format!("cannot wait for events: {e}"))?;
    match end {
        End::Exit { containers_stay } => keeper.close(containers_stay),
        End::Upgrade => Err(upgrade(keeper, &program, time::boottime() - started >= RECOVERED)),
    }
}

/// From here on this process is the sealed copy: its file cannot be changed by a container (CVE-2019-5736), and its pages are shared with every role.
fn run_from_memory() -> Result<PathBuf, String> {
    let on_disk = match std::env::var_os(ENV_EXE) {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe().map_err(|e| format!("cannot find the running program: {e}"))?,
    };
    let running = fs::File::open("/proc/self/exe").map_err(|e| format!("cannot open the running program: {e}"))?;
    if exe::is_sealed(running.as_fd()) {
        return Ok(on_disk);
    }
    let sealed = exe::sealed().map_err(|e| format!("cannot copy the program into sealed memory: {e}"))?;
    let failed = exe::exec(sealed.as_fd(), &arguments(), &environment(&on_disk, panics()));
    Err(format!(
        "cannot run the program from sealed memory: {failed} (is /proc mounted, does TOMOYO find /dev/fd, does a policy forbid memfd exec?)"
    ))
}

fn arguments() -> Vec<CString> {
    std::env::args_os().filter_map(|a| CString::new(a.into_vec()).ok()).collect()
}

fn environment(on_disk: &Path, panics: u32) -> Vec<CString> {
    let own = [ENV_EXE, ENV_PANICS];
    let inherited = std::env::vars_os().filter(|(k, _)| !own.iter().any(|o| k == o));
    let pair = |(k, v): (OsString, OsString)| CString::new([k.into_vec(), v.into_vec()].join(&b'=')).ok();
    let ours = [(ENV_EXE.into(), on_disk.into()), (ENV_PANICS.into(), panics.to_string().into())];
    inherited.chain(ours).filter_map(pair).collect()
}

fn panics() -> u32 {
    std::env::var(ENV_PANICS).ok().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// After the second panic in a row, wait before trying again what may have caused it.
fn wait_out_panics() {
    let seconds = 1u64 << panics().saturating_sub(1).min(6);
    if seconds > 1 {
        log::error!("keeper panicked {} times in a row, it waits {seconds} s", panics());
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// A panic ends in exec of the sealed program under the same pid: containers stay our children, records are on tmpfs already.
/// Nothing is allocated in the hook: a panic may come from a damaged heap.
fn exec_on_panic(on_disk: &Path) {
    let Ok(sealed) = exe::sealed() else { return };
    let argv = arguments();
    // One more in a row, or, after a long life, the first.
    let (soon, late) = (environment(on_disk, panics() + 1), environment(on_disk, 1));
    let started = time::boottime();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        let recovered = time::boottime().saturating_sub(started) >= RECOVERED;
        let _ = exe::exec(sealed.as_fd(), &argv, if recovered { &late } else { &soon });
    }));
}

fn load(path: &Path) -> Result<Settings, String> {
    let bytes = read_file(path, config::MAX_SETTINGS).map_err(|e| format!("cannot read settings {}: {e}", path.display()))?;
    config::parse(&bytes).map_err(|faults| format!("settings {} are wrong:\n{faults}", path.display()))
}

/// The environment beats the settings: for one run, by hand.
fn log_level(settings: &Settings) -> log::LevelFilter {
    std::env::var(crate::log::LEVEL).ok().and_then(|word| word.parse().ok()).unwrap_or(settings.log_level)
}

fn device_id(settings: &Settings) -> Result<Id, String> {
    if let Some(device) = &settings.device {
        return Ok(device.clone());
    }
    let host = nix::unistd::gethostname().map_err(|e| format!("cannot read the host name: {e}"))?;
    let host = host.to_string_lossy();
    let label = host.split('.').next().unwrap_or_default();
    label.parse().map_err(|e| format!("the host name {label} is no device id: it {e} (set \"device\" in the settings)"))
}

fn open(settings: Settings, program: PathBuf) -> Result<Keeper, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("keeper must be root: it mounts, makes control groups and starts containers".into());
    }
    let fail = |what: &str, path: &str| {
        let what = format!("cannot {what} {path}");
        move |e: io::Error| format!("{what}: {e}")
    };
    let device = device_id(&settings)?;
    let policy = admit::load_policy(Path::new(&settings.policy));
    if let Err(why) = &policy {
        log::error!("{why}; documents from the network are refused");
    }
    let data = PathBuf::from(&settings.data_dir);
    let runtime = Runtime::open(Path::new(&settings.run_dir)).map_err(fail("open the runtime directory", &settings.run_dir))?;
    let images = Images::open(&data).map_err(fail("open the image store in", &settings.data_dir))?;
    let (mut store, mut desired, damaged) = Store::open(&data).map_err(fail("open the state in", &settings.data_dir))?;
    let boot = count_boot(&runtime, &mut store, &mut desired).map_err(fail("record this start in", &settings.run_dir))?;
    let conn = runtime.number("conn").unwrap_or(0);
    let layout = Layout::detect().map_err(|e| format!("cannot use control groups: {e}"))?;
    let missing = layout.prepare(&settings.cgroup).map_err(|e| format!("cannot make control group {}: {e}", settings.cgroup))?;
    let boot_id = time::boot_id().map_err(|e| format!("cannot read the boot id: {e}"))?;
    let exe = exe::sealed().map_err(|e| format!("cannot open the sealed program: {e}"))?;
    let socket = runtime.socket();
    let mut ctx = Context::new(settings, policy, exe, layout, missing, images, runtime, boot_id, boot)
        .map_err(|e| format!("cannot make an epoll set: {e}"))?;
    let listener = listen(&socket).map_err(|e| format!("cannot listen at {}: {e}", socket.display()))?;
    let signals = signals().map_err(|e| format!("cannot watch signals: {e}"))?;
    ctx.poll.add(&listener, Source::Listener).map_err(|e| e.to_string())?;
    ctx.poll.add(&signals, Source::Signals).map_err(|e| e.to_string())?;
    let trusted = Trusted::load(Path::new(&ctx.settings.trust_dir));
    Ok(Keeper {
        ctx,
        program,
        device,
        store,
        desired,
        trusted,
        unsaved: None,
        apps: Vec::new(),
        stages: Vec::new(),
        next_stage: 0,
        // Documents will come again; their images need not, if nothing is removed before.
        hold_back: damaged,
        uncollected: false,
        orphans: Vec::new(),
        agent: Agent::after(conn),
        clients: Vec::new(),
        streams: Streams::default(),
        next_client: 0,
        listener,
        signals,
        stats_due: Duration::ZERO,
        link_since: None,
        watched_until: Duration::ZERO,
        window_due: None,
        refused: admit::Refused::default(),
        obeyed: Obeyed::after((boot, conn)),
        report_due: None,
        upgrade: false,
        leaving: None,
    })
}

/// `boot` counts fresh starts only: an adoption goes on with the number of the keeper before.
fn count_boot(runtime: &Runtime, store: &mut Store, desired: &mut Desired) -> io::Result<u64> {
    if let Some(boot) = runtime.number("boot").filter(|_| !runtime.fresh) {
        // The keeper before may not have got it onto flash.
        desired.boot = desired.boot.max(boot);
        return Ok(boot);
    }
    desired.boot += 1;
    // A full flash is no reason not to start what is on it: it is tried again, and until then no command counts.
    if let Err(e) = store.save(desired) {
        log::error!("cannot record start {}: {e}", desired.boot);
    }
    runtime.set_number("boot", desired.boot)?;
    Ok(desired.boot)
}

fn listen(path: &Path) -> io::Result<std::os::fd::OwnedFd> {
    const MODE: u32 = 0o660;
    let listener = crate::sys::socket::listen(path)?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name("wherry") {
        chown(path, None, Some(group.gid.as_raw()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2] {
        set.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Whoever installed a program may only have renamed it into place: f2fs and UBIFS can keep the name and lose the content, ext4 both.
fn sync_program(path: &Path) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    fs::File::open(&path)?.sync_all()?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

impl Keeper {
    /// Has the program on disk outlast a power cut, and takes it over at the end of this turn.
    pub fn prepare_upgrade(&mut self) {
        if let Err(e) = sync_program(&self.program) {
            log::warn!("cannot sync {}: {e}; a power cut may undo or spoil its installation", self.program.display());
        }
        self.upgrade = true;
    }

    /// Takes over what runs, brings back what should, and starts the agent.
    fn begin(&mut self) {
        let now = self.now();
        if !self.store.has_start(self.ctx.boot) {
            self.save_state();
        }
        let live = adopt(&mut self.ctx, now).unwrap_or_else(|e| {
            log::error!("cannot read the runtime records: {e}");
            Vec::new()
        });
        let pids: Vec<i32> = live.iter().filter_map(Live::pid).collect();
        clients::end_recorded(&self.ctx);
        end_old_roles(&mut self.ctx, &pids);
        for live in live {
            self.app_entry(&live.key.app.clone()).live.push(live);
        }
        let mut names: Vec<Name> =
            self.desired.entries.iter().map(|e| e.app.clone()).chain(self.apps.iter().map(|a| a.name.clone())).collect();
        names.sort();
        names.dedup();
        desired::leave_groups(&mut self.desired.entries, &mut self.desired.signed.forgotten, &self.ctx.settings.groups);
        for name in names {
            self.stop_held(&name);
            self.revive(&name);
            self.elect(&name);
        }
        if !std::mem::take(&mut self.hold_back) {
            self.collect();
        }
        self.stats_due = now + Duration::from_secs(self.ctx.settings.interval_s.into());
        self.agent.start(&mut self.ctx, now);
        let up = format!("{}, start {}", super::report::VERSION, self.ctx.boot);
        self.ctx.happened(Happening::new(What::Keeper, up));
        log::info!("keeper {} of device {} is up, start {}", super::report::VERSION, self.device, self.ctx.boot);
    }

    fn close(mut self, containers_stay: bool) -> Result<(), String> {
        self.agent.kill();
        self.ctx.reap();
        let _ = fs::remove_file(self.ctx.runtime.socket());
        if containers_stay {
            return Ok(());
        }
        let parent = self.ctx.layout.group(&self.ctx.settings.cgroup);
        if let Err(e) = parent.remove() {
            log::warn!("cannot remove control group {}: {e}", self.ctx.settings.cgroup);
        }
        // A bound socket, every connection that it accepted (it has the socket's path), and an open FIFO keep their file system busy.
        let Self { ctx, listener, clients, apps, stages, orphans, .. } = self;
        drop((listener, clients, apps, stages, orphans));
        ctx.runtime.close().map_err(|e| format!("cannot unmount the runtime directory: {e}"))
    }
}

/// Execs the program on disk under the same pid, or, if that cannot be run, the sealed one again; comes back only with an error.
fn upgrade(keeper: Keeper, on_disk: &Path, recovered: bool) -> String {
    // Every descriptor is close-on-exec: sockets, pidfds and the lock go now, roles end with their sockets, containers stay.
    drop(keeper);
    let path = match CString::new(on_disk.as_os_str().as_encoded_bytes()) {
        Ok(path) => path,
        Err(e) => return format!("cannot exec {}: {e}", on_disk.display()),
    };
    let panics = if recovered { 0 } else { panics() };
    let mut env = environment(on_disk, panics);
    env.retain(|v| !v.as_bytes().starts_with(ENV_EXE.as_bytes()));
    let failed = nix::unistd::execve(&path, &arguments(), &env).unwrap_err();
    log::error!("cannot run {}: {failed}; this release goes on", on_disk.display());
    let again = exe::sealed().map(|sealed| exe::exec(sealed.as_fd(), &arguments(), &environment(on_disk, panics)));
    format!("cannot exec {}: {failed}, nor the running program: {again:?}", on_disk.display())
}
