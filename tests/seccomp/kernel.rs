//! The programs in this machine's kernel. A filter is for ever, so each case runs in a process of its own: this very test
//! binary, asked for [`inside`] alone, with the case's name in the environment.

// Raw system calls are what is tested.
#![allow(unsafe_code)]

use nix::libc::{self, c_long};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use wherry::confine::{self, Role};
use wherry::container::seccomp::{DOCKER_CAPS, default_program};

const CASE: &str = "WHERRY_SECCOMP_CASE";
const ADMIN: u64 = 1 << 21;

/// Runs one case in a process of its own.
fn run(case: &str) -> Output {
    let me = std::env::current_exe().expect("own path");
    let arguments = ["--ignored", "--exact", "kernel::inside", "--nocapture", "--test-threads=1"];
    Command::new(me).args(arguments).env(CASE, case).output().expect("starts itself")
}

/// The lines that the case wrote, without those of the test harness.
fn lines(output: &Output) -> Vec<String> {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|l| l.strip_prefix("case ").map(str::to_string)).collect()
}

fn say(line: &str) {
    let text = format!("\ncase {line}\n");
    // SAFETY: the pointer and length are those of a live string.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
}

/// One raw system call; 0, or the errno.
fn call(number: c_long, arguments: [u64; 6]) -> i32 {
    let a = arguments.map(|one| one as libc::c_ulong);
    // SAFETY: every table below passes numbers and null pointers only, which the kernel checks.
    let ret = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if ret == -1 { nix::errno::Errno::last_raw() } else { 0 }
}

/// The process that a case runs in; does nothing of its own.
#[test]
#[ignore = "is started by the other tests of this file"]
fn inside() {
    let Ok(case) = std::env::var(CASE) else { return };
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).expect("no core files");
    let (what, detail) = case.split_once(' ').unwrap_or((&case, ""));
    match what {
        "container" => container(detail),
        "shell" => shell(),
        "unfiltered" => report(&refused()),
        "int80" => int80(detail == "filtered"),
        "hash" => hash(detail),
        "unpack" => unpack(detail),
        "probe" => probe(detail),
        "agent" => agent(detail),
        _ => panic!("no case {case}"),
    }
    // SAFETY: ends the process; nothing of it is needed any more.
    unsafe { libc::_exit(0) }
}

fn container(caps: &str) {
    let caps = u64::from_str_radix(caps, 16).expect("hexadecimal capabilities");
    let program = default_program(caps).expect("a program");
    nix::sys::prctl::set_no_new_privs().expect("no new privileges");
    wherry::sys::seccomp::load(&program).expect("loads");
    report(&refused());
    report(&others());
}

/// A foreign C library, processes, threads and files below the filter.
fn shell() {
    nix::sys::prctl::set_no_new_privs().expect("no new privileges");
    wherry::sys::seccomp::load(&default_program(DOCKER_CAPS).expect("a program")).expect("loads");
    let script =
        "date +%Y | sed 's/....*/year/'; sleep 0.01; ls / | grep -c '^etc$'; (exec sort /etc/hostname) | wc -l; cat /proc/self/status";
    let output = Command::new("/bin/sh").args(["-c", script]).output().expect("starts a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    say(&text.lines().take(3).map(str::trim).collect::<Vec<_>>().join(" "));
    say(text.lines().find(|line| line.starts_with("Seccomp:")).unwrap_or("no line on seccomp"));
    say(std::thread::spawn(|| "a thread").join().expect("a thread"));
}

fn report(table: &[Question]) {
    for q in table {
        say(&format!("{} {}", q.what, call(q.number, q.arguments)));
    }
}

/// A call, and the errno that the container profile gives it.
struct Question {
    what: &'static str,
    number: c_long,
    arguments: [u64; 6],
    errno: i32,
}

const fn ask(what: &'static str, number: c_long, first: u64, errno: i32) -> Question {
    Question { what, number, arguments: [first, 0, 0, 0, 0, 0], errno }
}

/// Calls that get EPERM from the filter, with arguments that root gets another errno for.
#[rustfmt::skip]
fn refused() -> Vec<Question> {
    use libc::EPERM;
    vec![
        ask("unshare", libc::SYS_unshare, 0x8000_0000, EPERM),
        ask("setns", libc::SYS_setns, !0, EPERM),
        ask("mount", libc::SYS_mount, 0, EPERM),
        ask("umount2", libc::SYS_umount2, 0, EPERM),
        ask("fsopen", libc::SYS_fsopen, 0, EPERM),
        ask("open_tree", libc::SYS_open_tree, !0, EPERM),
        ask("move_mount", libc::SYS_move_mount, !0, EPERM),
        ask("mount_setattr", libc::SYS_mount_setattr, !0, EPERM),
        ask("pivot_root", libc::SYS_pivot_root, 0, EPERM),
        ask("bpf", libc::SYS_bpf, !0, EPERM),
        ask("userfaultfd", libc::SYS_userfaultfd, 0x7000_0000, EPERM),
        ask("io_uring_setup", libc::SYS_io_uring_setup, 0, EPERM),
        ask("keyctl", libc::SYS_keyctl, 0x7000_0000, EPERM),
        ask("add_key", libc::SYS_add_key, 0, EPERM),
        ask("request_key", libc::SYS_request_key, 0, EPERM),
        ask("perf_event_open", libc::SYS_perf_event_open, 0, EPERM),
        ask("open_by_handle_at", libc::SYS_open_by_handle_at, !0, EPERM),
        ask("reboot", libc::SYS_reboot, 0, EPERM),
        ask("kexec_load", libc::SYS_kexec_load, 0, EPERM),
        ask("init_module", libc::SYS_init_module, 0, EPERM),
        ask("swapoff", libc::SYS_swapoff, 0, EPERM),
        ask("sethostname", libc::SYS_sethostname, 0, EPERM),
        ask("clock_settime", libc::SYS_clock_settime, !0, EPERM),
        ask("settimeofday", libc::SYS_settimeofday, 8, EPERM),
        ask("personality ADDR_NO_RANDOMIZE", libc::SYS_personality, 0x4_0000, EPERM),
        // CLONE_NEWUSER with CLONE_THREAD and no CLONE_SIGHAND: EINVAL.
        ask("clone NEWUSER", libc::SYS_clone, 0x1001_0000, EPERM),
        ask("clone NEWNS", libc::SYS_clone, 0x0003_0000, EPERM),
    ]
}

fn others() -> Vec<Question> {
    use libc::{EAFNOSUPPORT, EINVAL, ENOSYS};
    let socket = |what, family| Question { what, number: libc::SYS_socket, arguments: [family, 2, 0, 0, 0, 0], errno: 0 };
    let shut = |what, family, errno| Question { errno, ..socket(what, family) };
    vec![
        ask("clone3", libc::SYS_clone3, 0, ENOSYS),
        ask("a number without a call", 9999, 0, ENOSYS),
        shut("AF_ALG", 38, EAFNOSUPPORT),
        shut("AF_VSOCK", 40, EAFNOSUPPORT),
        #[cfg(target_pointer_width = "64")]
        shut("AF_ALG below a filled upper half", 0x1_0000_0026, ENOSYS),
        #[cfg(target_pointer_width = "64")]
        shut("AF_VSOCK below a filled upper half", 0x8000_0000_0000_0028, ENOSYS),
        shut("AF_RDS", 21, ENOSYS),
        socket("AF_INET", 2),
        socket("AF_INET6", 10),
        socket("AF_UNIX", 1),
        ask("personality 0", libc::SYS_personality, 0, 0),
        ask("personality LINUX32", libc::SYS_personality, 8, 0),
        ask("personality asked", libc::SYS_personality, 0xffff_ffff, 0),
        ask("personality READ_IMPLIES_EXEC", libc::SYS_personality, 0x40_0000, libc::EPERM),
        ask("personality SHORT_INODE", libc::SYS_personality, 0x100_0000, ENOSYS),
        // Through to the kernel, which finds CLONE_THREAD without CLONE_SIGHAND.
        ask("clone without namespaces", libc::SYS_clone, 0x0001_0000, EINVAL),
        ask("getpid", libc::SYS_getpid, 0, 0),
        ask("ptrace", libc::SYS_ptrace, 0x7000, libc::ESRCH),
    ]
}

#[test]
fn a_container_gets_the_answers_of_the_table() {
    let expected: Vec<String> = refused().iter().chain(&others()).map(|q| format!("{} {}", q.what, q.errno)).collect();
    assert_eq!(lines(&run(&format!("container {DOCKER_CAPS:x}"))), expected);
}

#[test]
fn a_shell_with_pipes_and_programs_runs_below_the_default_profile() {
    assert_eq!(lines(&run("shell")), ["year 1 1", "Seccomp:\t2", "a thread"]);
}

#[test]
fn the_refusals_are_the_filters_and_not_the_kernels() {
    for (line, q) in lines(&run("unfiltered")).iter().zip(refused()) {
        assert_ne!(*line, format!("{} {}", q.what, q.errno), "root gets EPERM without a filter, which proves nothing");
    }
}

/// Why a rule on socket families must not let large values pass.
#[cfg(target_pointer_width = "64")]
#[test]
fn the_kernel_reads_the_lower_half_of_a_socket_family_only() {
    assert_eq!(call(libc::SYS_socket, [0x1_0000_0002, 2, 0, 0, 0, 0]), 0);
}

#[test]
fn with_sys_admin_its_gates_open_and_the_others_stay_shut() {
    let answers = lines(&run(&format!("container {:x}", DOCKER_CAPS | ADMIN)));
    let opened =
        ["unshare", "setns", "mount", "umount2", "fsopen", "bpf", "perf_event_open", "sethostname", "clone NEWUSER", "clone NEWNS"];
    let shut = ["keyctl", "userfaultfd", "io_uring_setup", "pivot_root", "kexec_load", "reboot", "open_by_handle_at", "clock_settime"];
    for what in opened {
        assert!(!answers.contains(&format!("{what} 1")), "{what} is EPERM with CAP_SYS_ADMIN");
    }
    for what in shut {
        assert!(answers.contains(&format!("{what} 1")), "{what} is open with CAP_SYS_ADMIN");
    }
    for answer in [format!("clone3 {}", libc::EINVAL), format!("AF_ALG {}", libc::EAFNOSUPPORT)] {
        assert!(answers.contains(&answer), "{answer}: {answers:?}");
    }
}

#[cfg(target_arch = "x86_64")]
fn int80(filtered: bool) {
    if filtered {
        nix::sys::prctl::set_no_new_privs().expect("no new privileges");
        wherry::sys::seccomp::load(&default_program(DOCKER_CAPS).expect("a program")).expect("loads");
    }
    let mut eax: u64 = 20;
    // SAFETY: i386's getpid has no arguments and touches no memory; the kernel's 32-bit entry clears r8 to r11.
    unsafe { std::arch::asm!("int 0x80", inout("rax") eax, out("r8") _, out("r9") _, out("r10") _, out("r11") _) };
    say(&format!("{}", eax == u64::from(std::process::id())));
}

#[cfg(not(target_arch = "x86_64"))]
fn int80(_: bool) {}

/// A kernel without 32-bit emulation ends any such process by SIGSEGV.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_32_bit_entry_of_a_64_bit_process_is_no_way_around_the_filter() {
    let free = run("int80 free").status;
    let expected = if free.success() { libc::SIGSYS } else { libc::SIGSEGV };
    assert_eq!(run("int80 filtered").status.signal(), Some(expected));
}

#[test]
fn a_program_that_the_kernel_refuses_is_an_error() {
    // Falls off its end: no return instruction.
    let load_accumulator = [0x20, 0, 0, 0, 0, 0, 0, 0];
    let error = wherry::sys::seccomp::load(&load_accumulator).expect_err("the kernel's checker refuses it");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}

/// Calls that no role of ours needs.
fn forbidden(what: &str) -> i32 {
    let prot_exec = [0, 4096, 5, 0x22, !0, 0];
    #[cfg(not(target_arch = "arm"))]
    use libc::SYS_mmap;
    #[cfg(target_arch = "arm")]
    use libc::SYS_mmap2 as SYS_mmap;
    match what {
        "openat" => call(libc::SYS_openat, [0; 6]),
        "execve" => call(libc::SYS_execve, [0; 6]),
        "fork" => call(libc::SYS_clone, [0x0001_0000, 0, 0, 0, 0, 0]),
        "socket" => call(libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
        "socket unix stream" => call(libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        "socket sctp" => call(libc::SYS_socket, [2, 1, 132, 0, 0, 0]),
        "socket netlink" => call(libc::SYS_socket, [16, 3, 0, 0, 0, 0]),
        "ptrace" => call(libc::SYS_ptrace, [0x7000, 0, 0, 0, 0, 0]),
        "kill" => call(libc::SYS_kill, [0; 6]),
        "mount" => call(libc::SYS_mount, [0; 6]),
        "unshare" => call(libc::SYS_unshare, [0; 6]),
        "executable memory" => call(SYS_mmap, prot_exec),
        "ioctl" => call(libc::SYS_ioctl, [1, 0x5413, 0, 0, 0, 0]),
        "device node" => call(libc::SYS_mknodat, [!0, 0, 0o020_600, 0x0103, 0, 0]),
        "prctl" => call(libc::SYS_prctl, [4, 1, 0, 0, 0, 0]),
        _ => panic!("no call {what}"),
    }
}

fn is_killed(role: &str, what: &str) {
    let output = run(&format!("{role} {what}"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("case worked"), "{role} died before {what}: {output:?}");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{role}: {what}: {output:?}");
}

/// Does the role's own work, then the forbidden call if there is one.
fn then(what: &str) {
    say("worked");
    if what == "panic" {
        std::process::abort();
    }
    if !what.is_empty() {
        say(&format!("{what} {}", forbidden(what)));
    }
}

fn hash(what: &str) {
    let (mut from, mut to) = std::io::pipe().expect("a pipe");
    confine::load(Role::Hash).expect("loads");
    to.write_all(&[7; 4096]).expect("writes");
    drop(to);
    let mut got = vec![0; 1 << 20];
    let n = from.read(&mut got).expect("reads");
    assert_eq!((n, got[4095]), (4096, 7));
    then(what);
}

#[test]
fn hash_reads_writes_and_allocates() {
    assert_eq!(lines(&run("hash")), ["worked"]);
}

#[test]
fn hash_dies_of_anything_else() {
    for what in ["openat", "execve", "fork", "socket", "ptrace", "kill", "mount", "unshare", "executable memory", "ioctl", "prctl"] {
        is_killed("hash", what);
    }
}

fn probe(what: &str) {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let at = server.local_addr().expect("an address");
    let answers = std::thread::spawn(move || {
        let (mut client, _) = server.accept().expect("a client");
        client.write_all(b"HTTP/1.1 200 OK\r\n").expect("answers");
    });
    confine::load(Role::Probe).expect("loads");
    let mut client = std::net::TcpStream::connect(at).expect("connects");
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("asks");
    let mut got = [0; 12];
    client.read_exact(&mut got).expect("is answered");
    assert_eq!(&got, b"HTTP/1.1 200");
    drop(client);
    let nowhere = std::net::TcpStream::connect("[::1]:1").expect_err("nobody listens");
    assert!(nowhere.raw_os_error().is_some(), "{nowhere}");
    std::mem::forget(answers);
    then(what);
}

#[test]
fn probe_connects_asks_and_reads() {
    assert_eq!(lines(&run("probe")), ["worked"]);
}

#[test]
fn probe_dies_of_anything_else() {
    let sockets = ["socket sctp", "socket netlink", "socket unix stream"];
    for what in
        ["openat", "execve", "fork", "ptrace", "kill", "mount", "unshare", "executable memory", "ioctl", "prctl"].iter().chain(&sockets)
    {
        is_killed("probe", what);
    }
}

fn unpack(what: &str) {
    let dir = std::env::temp_dir().join(format!("wherry-seccomp-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a directory");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    confine::load(Role::Unpack).expect("loads");
    make_a_tree(&dir).expect("makes a tree");
    (&ours).write_all(b"done").expect("sends");
    let mut got = [0; 4];
    (&theirs).read_exact(&mut got).expect("receives");
    std::fs::remove_dir_all(&dir).expect("removes the tree");
    then(what);
}

/// All that a layer can hold, by the standard library and by descriptors.
fn make_a_tree(dir: &std::path::Path) -> std::io::Result<()> {
    use nix::fcntl::{AT_FDCWD, AtFlags};
    use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, mknodat, utimensat};
    use std::os::unix::fs::{PermissionsExt, fchown, lchown, symlink};
    let file = dir.join("file");
    std::fs::create_dir_all(dir.join("a/b"))?;
    std::fs::write(&file, "text")?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4755))?;
    lchown(&file, Some(1), Some(1))?;
    let open = std::fs::OpenOptions::new().append(true).open(&file)?;
    fchown(&open, Some(0), Some(0))?;
    open.set_times(std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH))?;
    open.set_len(2)?;
    symlink("file", dir.join("link"))?;
    std::fs::hard_link(&file, dir.join("hard"))?;
    std::fs::rename(dir.join("hard"), dir.join("moved"))?;
    mknodat(AT_FDCWD, &dir.join("fifo"), SFlag::S_IFIFO, Mode::S_IRUSR, 0)?;
    fchmodat(AT_FDCWD, &dir.join("fifo"), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
    let epoch = nix::sys::time::TimeSpec::new(0, 0);
    utimensat(AT_FDCWD, &dir.join("link"), &epoch, &epoch, UtimensatFlags::NoFollowSymlink)?;
    nix::unistd::fchownat(AT_FDCWD, &dir.join("link"), Some(0.into()), None, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (names, canonical) = (std::fs::read_dir(dir)?.count(), std::fs::canonicalize(dir.join("link"))?);
    assert_eq!((names, canonical), (5, std::fs::canonicalize(&file)?));
    set_attribute(&file)
}

fn set_attribute(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both strings end with a zero and live on; the value is one byte of a live array.
    let ret = unsafe { libc::lsetxattr(path.as_ptr(), c"user.wherry".as_ptr(), b"x".as_ptr().cast(), 1, 0) };
    // Not every temporary directory's file system has user attributes.
    if ret == 0 || nix::errno::Errno::last() == nix::errno::Errno::EOPNOTSUPP { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn unpack_makes_every_kind_of_file_that_a_layer_may_hold() {
    assert_eq!(lines(&run("unpack")), ["worked"]);
}

#[test]
fn unpack_dies_of_sockets_processes_and_device_nodes() {
    for what in ["execve", "fork", "socket", "ptrace", "kill", "mount", "unshare", "executable memory", "device node", "ioctl", "prctl"] {
        is_killed("unpack", what);
    }
}

fn agent(what: &str) {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a server");
    let port = server.local_addr().expect("an address").port();
    confine::load(Role::Agent).expect("loads");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
    runtime.block_on(async {
        // Resolved by getaddrinfo on a helper thread.
        let stream = tokio::net::TcpStream::connect(("localhost", port)).await.expect("connects");
        stream.set_nodelay(true).expect("an option");
        stream.writable().await.expect("waits");
        stream.try_write(b"hello").expect("writes");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    });
    drop(runtime);
    agent_files_and_tls();
    then(what);
}

fn agent_files_and_tls() {
    std::fs::read("/etc/hosts").expect("reads a file");
    let refused = std::fs::File::create(std::env::temp_dir().join("wherry-agent")).expect_err("opens nothing for writing");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    let appended = std::fs::OpenOptions::new().append(true).open("/etc/hosts").expect_err("nor for appending");
    assert_eq!(appended.raw_os_error(), Some(libc::EPERM));
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let mut session = rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("a session");
    assert!(session.write_tls(&mut Vec::new()).expect("a first message") > 100);
}

#[test]
fn a_panic_can_be_told_from_a_broken_rule() {
    for role in ["agent", "hash", "unpack", "probe"] {
        assert_eq!(run(&format!("{role} panic")).status.signal(), Some(libc::SIGABRT), "{role}");
    }
}

#[test]
fn agent_resolves_connects_reads_files_and_speaks_tls() {
    assert_eq!(lines(&run("agent")), ["worked"]);
}

#[test]
fn agent_is_refused_what_libraries_may_probe() {
    for what in ["fork", "socket sctp", "socket netlink", "socket unix stream", "executable memory", "ioctl", "kill", "prctl"] {
        assert_eq!(lines(&run(&format!("agent {what}"))), ["worked".to_string(), format!("{what} {}", libc::ENOSYS)]);
    }
}

#[test]
fn agent_dies_of_what_no_network_client_does() {
    for what in ["execve", "ptrace", "mount", "unshare"] {
        is_killed("agent", what);
    }
}
