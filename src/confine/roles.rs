//! Who may call what. All forms of a call stand together (`*64`, `*32`, `*at`, `*_time64`): which one a C library takes
//! depends on its version and on the architecture.

use crate::container::seccomp::{Answer, Profile, Rule, Test};
use nix::libc::ENOSYS;

/// hash: bytes from one inherited descriptor to another.
pub const HASH: Profile = Profile {
    default: Answer::Kill,
    rules: &[
        Rule::allow(&["read", "readv", "write", "writev", "close", "poll", "ppoll", "ppoll_time64"]),
        // F_GETFD: the standard library asks whether a descriptor is open before it closes it, with debug assertions on.
        Rule::allow(&["fcntl", "fcntl64"]).when(1, low(1)),
        MEMORY,
        NO_NEW_CODE,
        LIFE,
        ABORT,
        ABORT_IN_GROUP,
        CLOCK,
    ],
};

/// unpack: an archive becomes a tree, below a root that pivot_root has made the only one there is.
#[rustfmt::skip]
pub const UNPACK: Profile = Profile {
    default: Answer::Kill,
    rules: &[
        Rule::allow(&["read", "readv", "pread64", "write", "writev", "pwrite64", "close", "poll", "ppoll", "ppoll_time64"]),
        Rule::allow(&["lseek", "_llseek", "fcntl", "fcntl64", "ftruncate", "ftruncate64", "fallocate", "fsync", "fdatasync"]),
        Rule::allow(&["open", "openat", "openat2", "creat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "umask"]),
        Rule::allow(&["symlink", "symlinkat", "link", "linkat", "readlink", "readlinkat", "rename", "renameat", "renameat2"]),
        Rule::allow(&["stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "fstatat64", "newfstatat", "statx"]),
        Rule::allow(&["fstatfs", "fstatfs64", "getdents", "getdents64", "getcwd", "chdir", "fchdir", "access", "faccessat", "faccessat2"]),
        Rule::allow(&["chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "chown32", "fchown", "fchown32", "lchown", "lchown32", "fchownat"]),
        Rule::allow(&["utime", "utimes", "futimesat", "utimensat", "utimensat_time64"]),
        Rule::allow(&["getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr"]),
        Rule::allow(&["setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"]),
        // FIFOs only: a device node in a layer would be a door to the host's device.
        Rule::allow(&["mknod"]).when(1, Test::Masked { mask: 0o170_000, value: 0o010_000 }),
        Rule::allow(&["mknodat"]).when(2, Test::Masked { mask: 0o170_000, value: 0o010_000 }),
        // The inherited socket: no call here makes one.
        Rule::allow(&["sendmsg", "sendto", "send", "recvmsg", "recvfrom", "recv"]),
        Rule::allow(&["getrandom", "getpid", "gettid", "getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid", "getegid32"]),
        MEMORY,
        NO_NEW_CODE,
        LIFE,
        ABORT,
        ABORT_IN_GROUP,
        CLOCK,
    ],
};

/// agent: an event loop over sockets, and one helper thread for getaddrinfo.
#[rustfmt::skip]
pub const AGENT: Profile = Profile {
    default: Answer::Errno(ENOSYS),
    rules: &[
        Rule::allow(&["read", "readv", "pread64", "write", "writev", "pwrite64", "close", "poll", "ppoll", "ppoll_time64"]),
        Rule::allow(&["epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2", "pipe2"]),
        Rule::allow(&["lseek", "_llseek", "fcntl", "fcntl64", "getdents64", "readlink", "readlinkat"]),
        Rule::allow(&["stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "fstatat64", "newfstatat", "statx"]),
        // resolv.conf, hosts, certificates: read, never write, never make. openat2 keeps its flags in memory: ENOSYS.
        Rule::allow(&["open"]).when(1, READ_ONLY),
        Rule::refuse(&["open"]).when(1, WRITE_ONLY),
        Rule::refuse(&["open"]).when(1, READ_WRITE),
        Rule::allow(&["openat"]).when(2, READ_ONLY),
        Rule::refuse(&["openat"]).when(2, WRITE_ONLY),
        Rule::refuse(&["openat"]).when(2, READ_WRITE),

        // INET, INET6, and UNIX datagrams, which the C library asks for interface numbers. No UNIX streams: whoever
        // listens on one trusts whom the socket's file mode lets in, or everyone in the network namespace.
        Rule::allow(&["socket"]).when(0, Test::Equals(1)).when(1, Test::Masked { mask: 0xf, value: 2 }),
        // Protocols up to UDP's 17: no DCCP, SCTP or MPTCP, whose modules the kernel would load on request.
        Rule::allow(&["socket"]).when(0, Test::Equals(2)).when(2, Test::Below(18)),
        Rule::allow(&["socket"]).when(0, Test::Equals(10)).when(2, Test::Below(18)),
        Rule::allow(&["socketpair"]).when(0, Test::Equals(1)),
        Rule::allow(&["connect", "bind", "shutdown", "getsockname", "getpeername", "getsockopt", "setsockopt"]),
        Rule::allow(&["send", "sendto", "sendmsg", "sendmmsg", "recv", "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64"]),
        Rule::allow(&["ioctl"]).when(1, low(0x5421)), // FIONBIO
        Rule::allow(&["ioctl"]).when(1, low(0x8933)), // SIOCGIFINDEX

        // Threads: all of memory, signal handlers and thread group shared, and no namespace. A process has none of that.
        Rule::allow(&["clone"]).when(0, Test::Masked { mask: THREAD | NAMESPACES, value: THREAD }),
        Rule::allow(&["set_robust_list", "set_tid_address", "membarrier", "sched_getaffinity"]),
        Rule::allow(&["prctl"]).when(0, low(15)), // PR_SET_NAME
        Rule::allow(&["rt_sigaction", "nanosleep", "clock_nanosleep", "clock_nanosleep_time64", "getrandom", "uname"]),
        Rule::allow(&["getpid", "gettid", "getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid", "getegid32"]),
        MEMORY,
        NO_NEW_CODE,
        LIFE,
        ABORT,
        ABORT_IN_GROUP,
        CLOCK,

        // Nothing that a network client does, honest or lost.
        Rule::kill(&["execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"]),
        Rule::kill(&["mount", "umount2", "pivot_root", "chroot", "fsopen", "fsmount", "move_mount", "open_tree", "mount_setattr"]),
        Rule::kill(&["unshare", "setns", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key"]),
        Rule::kill(&["io_uring_setup", "io_uring_enter", "io_uring_register", "init_module", "finit_module", "delete_module"]),
        Rule::kill(&["kexec_load", "kexec_file_load", "reboot", "open_by_handle_at", "swapon", "swapoff", "acct"]),
    ],
};

/// probe: one TCP connection to a server in a container, and a report to keeper.
pub const PROBE: Profile = Profile {
    default: Answer::Kill,
    rules: &[
        Rule::allow(&["read", "readv", "write", "writev", "close", "poll", "ppoll", "ppoll_time64"]),
        Rule::allow(&["send", "sendto", "recv", "recvfrom", "connect", "getsockopt"]),
        // As hash.
        Rule::allow(&["fcntl", "fcntl64"]).when(1, low(1)),
        // INET and INET6, each with its own protocol for a type: no SCTP or MPTCP.
        Rule::allow(&["socket"]).when(0, Test::Equals(2)).when(2, low(0)),
        Rule::allow(&["socket"]).when(0, Test::Equals(10)).when(2, low(0)),
        MEMORY,
        NO_NEW_CODE,
        LIFE,
        ABORT,
        ABORT_IN_GROUP,
        CLOCK,
    ],
};

const READ_ONLY: Test = Test::Masked { mask: 0o3 | O_CREAT | O_TRUNC, value: 0 };
const WRITE_ONLY: Test = Test::Masked { mask: 0o3, value: 1 };
const READ_WRITE: Test = Test::Masked { mask: 0o3, value: 2 };
/// The same number on x86 and both ARMs, unlike O_DIRECTORY and its neighbours.
const O_CREAT: u64 = 0o100;
const O_TRUNC: u64 = 0o1000;

/// CLONE_VM, CLONE_SIGHAND, CLONE_THREAD.
const THREAD: u64 = 0x0000_0100 | 0x0000_0800 | 0x0001_0000;
/// CLONE_NEWNS and all of CLONE_NEWCGROUP to CLONE_NEWNET.
const NAMESPACES: u64 = 0x7e02_0000;

/// An `unsigned int` argument: the kernel never looks at the upper half of the register.
const fn low(value: u64) -> Test {
    Test::Masked { mask: 0xffff_ffff, value }
}

/// What malloc, stacks and locks need.
const MEMORY: Rule = Rule::allow(&["brk", "munmap", "mremap", "madvise", "futex", "futex_time64", "sched_yield"]);

/// Memory that is executable is neither made nor asked for: PROT_EXEC is 4.
const NO_NEW_CODE: Rule = Rule::allow(&["mmap", "mmap2", "mprotect"]).when(2, Test::Masked { mask: 4, value: 0 });

/// Signals' return, the standard library's farewell, and the end.
const LIFE: Rule = Rule::allow(&["rt_sigreturn", "sigreturn", "rt_sigprocmask", "sigaltstack", "restart_syscall", "exit", "exit_group"]);

/// abort(3), so that keeper can tell a panic (SIGABRT) from a broken rule (SIGSYS).
const ABORT: Rule = Rule::allow(&["tkill"]).when(1, low(6));
const ABORT_IN_GROUP: Rule = Rule::allow(&["tgkill"]).when(2, low(6));

/// Mostly answered without the kernel, but not on ARM cores without a usable counter.
const CLOCK: Rule = Rule::allow(&["clock_gettime", "clock_gettime64", "gettimeofday"]);
