//! The default profile of containers.
//!
//! Never weaker than the one that Docker ships (`tests/seccomp/moby.txt` holds that list, a test compares). Differences:
//! - The default answer is ENOSYS, not EPERM: a C library that probes a new call falls back on ENOSYS and gives up on EPERM.
//!   Calls known to be dangerous get EPERM.
//! - 32-bit x86 and x32 are not served at all: i386's socketcall(2) hides the socket family behind a pointer, where no filter
//!   can see AF_ALG.
//! - Socket families are those that something on a gateway uses.

use super::profile::{Answer, Profile, Rule, Test, Verdict};
use caps::Capability as Cap;
use nix::libc::{EAFNOSUPPORT, ENOSYS, EPERM};

const fn bit(cap: Cap) -> u64 {
    1 << cap as u8
}

const ADMIN: u64 = bit(Cap::CAP_SYS_ADMIN);

/// The capabilities that Docker gives a container unless told otherwise.
pub const DOCKER_CAPS: u64 = bit(Cap::CAP_CHOWN)
    | bit(Cap::CAP_DAC_OVERRIDE)
    | bit(Cap::CAP_FSETID)
    | bit(Cap::CAP_FOWNER)
    | bit(Cap::CAP_MKNOD)
    | bit(Cap::CAP_NET_RAW)
    | bit(Cap::CAP_SETGID)
    | bit(Cap::CAP_SETUID)
    | bit(Cap::CAP_SETFCAP)
    | bit(Cap::CAP_SETPCAP)
    | bit(Cap::CAP_NET_BIND_SERVICE)
    | bit(Cap::CAP_SYS_CHROOT)
    | bit(Cap::CAP_KILL)
    | bit(Cap::CAP_AUDIT_WRITE);

/// The default profile.
pub const DEFAULT: Profile = Profile { default: Answer::Errno(ENOSYS), rules: RULES };

#[rustfmt::skip]
const RULES: &[Rule] = &[
    // ---- files ----
    Rule::allow(&["open", "openat", "openat2", "creat", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "fcntl64", "ioctl", "flock"]),
    Rule::allow(&["read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "lseek", "_llseek"]),
    Rule::allow(&["sendfile", "sendfile64", "splice", "tee", "vmsplice", "copy_file_range", "readahead", "cachestat"]),
    Rule::allow(&["fadvise64", "fadvise64_64", "arm_fadvise64_64", "fallocate", "truncate", "truncate64", "ftruncate", "ftruncate64"]),
    Rule::allow(&["fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "sync_file_range2", "arm_sync_file_range"]),
    Rule::allow(&["stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "fstatat64", "newfstatat", "statx"]),
    Rule::allow(&["statfs", "statfs64", "fstatfs", "fstatfs64", "statmount", "listmount"]),
    Rule::allow(&["access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd", "chdir", "fchdir"]),
    Rule::allow(&["mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat"]),
    Rule::allow(&["rename", "renameat", "renameat2", "umask", "chmod", "fchmod", "fchmodat", "fchmodat2"]),
    Rule::allow(&["chown", "chown32", "fchown", "fchown32", "lchown", "lchown32", "fchownat"]),
    Rule::allow(&["utime", "utimes", "futimesat", "utimensat", "utimensat_time64"]),
    Rule::allow(&["getxattr", "lgetxattr", "fgetxattr", "getxattrat", "listxattr", "llistxattr", "flistxattr", "listxattrat"]),
    Rule::allow(&["setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat"]),
    Rule::allow(&["inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "fanotify_mark"]),
    // Only the other half, open_by_handle_at, reaches files outside the root.
    Rule::allow(&["name_to_handle_at"]),
    Rule::allow(&["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]),

    // ---- waiting ----
    Rule::allow(&["poll", "ppoll", "ppoll_time64", "select", "_newselect", "pselect6", "pselect6_time64"]),
    Rule::allow(&["epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2"]),
    Rule::allow(&["eventfd", "eventfd2", "signalfd", "signalfd4", "pipe", "pipe2", "pause"]),
    Rule::allow(&["io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents", "io_pgetevents_time64"]),
    Rule::allow(&["futex", "futex_time64", "futex_waitv", "futex_wait", "futex_wake", "futex_requeue"]),

    // ---- sockets; socket(2) itself is below, by family ----
    Rule::allow(&["socketpair", "bind", "listen", "accept", "accept4", "connect", "shutdown", "getsockname", "getpeername"]),
    Rule::allow(&["getsockopt", "setsockopt", "send", "sendto", "sendmsg", "sendmmsg", "recv", "recvfrom", "recvmsg"]),
    Rule::allow(&["recvmmsg", "recvmmsg_time64"]),

    // ---- memory ----
    Rule::allow(&["brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync", "mseal", "remap_file_pages"]),
    Rule::allow(&["mlock", "mlock2", "mlockall", "munlock", "munlockall", "memfd_create", "memfd_secret", "membarrier"]),
    Rule::allow(&["pkey_alloc", "pkey_free", "pkey_mprotect", "map_shadow_stack", "process_mrelease", "cacheflush"]),
    Rule::allow(&["shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semctl", "semtimedop", "semtimedop_time64"]),
    Rule::allow(&["msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink", "mq_notify", "mq_getsetattr"]),
    Rule::allow(&["mq_timedsend", "mq_timedsend_time64", "mq_timedreceive", "mq_timedreceive_time64"]),

    // ---- processes and threads; clone(2) itself is below, by flags ----
    Rule::allow(&["fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "waitpid"]),
    Rule::allow(&["getpid", "getppid", "gettid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid", "set_tid_address"]),
    Rule::allow(&["set_robust_list", "get_robust_list", "rseq", "set_thread_area", "get_thread_area", "set_tls", "arch_prctl", "prctl"]),
    Rule::allow(&["pidfd_open", "pidfd_send_signal", "seccomp", "breakpoint", "uretprobe", "restart_syscall"]),
    // Before Linux 4.8 a tracer could change a call after the filter had passed it; all that we run
    // on is newer. The pid namespace bounds what can be traced.
    Rule::allow(&["ptrace", "process_vm_readv", "process_vm_writev"]),
    Rule::allow(&["getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid", "getegid32", "getgroups", "getgroups32"]),
    Rule::allow(&["getresuid", "getresuid32", "getresgid", "getresgid32", "setuid", "setuid32", "setgid", "setgid32"]),
    Rule::allow(&["setreuid", "setreuid32", "setregid", "setregid32", "setresuid", "setresuid32", "setresgid", "setresgid32"]),
    Rule::allow(&["setgroups", "setgroups32", "setfsuid", "setfsuid32", "setfsgid", "setfsgid32", "capget", "capset"]),
    Rule::allow(&["getrlimit", "ugetrlimit", "setrlimit", "prlimit64", "getrusage", "getpriority", "setpriority", "ioprio_get", "ioprio_set"]),
    Rule::allow(&["sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr", "sched_getparam"]),
    Rule::allow(&["sched_setparam", "sched_getscheduler", "sched_setscheduler", "sched_get_priority_max", "sched_get_priority_min"]),
    Rule::allow(&["sched_rr_get_interval", "sched_rr_get_interval_time64", "getcpu"]),
    Rule::allow(&["kill", "tkill", "tgkill", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigsuspend"]),
    Rule::allow(&["rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "sigaltstack"]),
    Rule::allow(&["sigprocmask", "sigreturn"]),

    // ---- time and the machine. 32-bit C libraries ask the *_time64 form first; a filter that answers EPERM there sets the
    // program's clock to 1970. clock_adjtime and adjtimex read as well; the kernel itself asks for CAP_SYS_TIME to write. ----
    Rule::allow(&["time", "times", "gettimeofday", "clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64"]),
    Rule::allow(&["clock_nanosleep", "clock_nanosleep_time64", "nanosleep", "alarm", "getitimer", "setitimer"]),
    Rule::allow(&["adjtimex", "clock_adjtime", "clock_adjtime64"]),
    Rule::allow(&["timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64"]),
    Rule::allow(&["timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64"]),
    Rule::allow(&["uname", "sysinfo", "getrandom"]),

    // ---- namespaces: a new user namespace gives its maker all capabilities over kernel code that was written for root
    // (CVE-2022-0185: a heap overflow in fsconfig) ----
    Rule::allow(&["clone"]).decided(Verdict::Gated { any: ADMIN, with: Some(Answer::Allow), without: None }),
    clone_without(Test::Masked { mask: CLONE_NEW, value: 0 }, Answer::Allow),
    clone_without(set(CLONE_NEWNS), Answer::Errno(EPERM)),
    clone_without(set(CLONE_NEWCGROUP), Answer::Errno(EPERM)),
    clone_without(set(CLONE_NEWUTS), Answer::Errno(EPERM)),
    clone_without(set(CLONE_NEWIPC), Answer::Errno(EPERM)),
    clone_without(set(CLONE_NEWUSER), Answer::Errno(EPERM)),
    clone_without(set(CLONE_NEWPID), Answer::Errno(EPERM)),
    clone_without(set(CLONE_NEWNET), Answer::Errno(EPERM)),
    // clone3 keeps its flags in memory, where no filter can look; on ENOSYS every C library goes on with clone.
    Rule::allow(&["clone3"])
        .decided(Verdict::Gated { any: ADMIN, with: Some(Answer::Allow), without: Some(Answer::Errno(ENOSYS)) }),
    Rule::needs(ADMIN, &["unshare", "setns", "sethostname", "setdomainname"]),

    // ---- by capability ----
    Rule::needs(ADMIN, &["mount", "umount", "umount2", "mount_setattr", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick"]),
    Rule::needs(ADMIN, &["quotactl", "quotactl_fd", "fanotify_init", "lookup_dcookie"]),
    Rule::needs(ADMIN, &["lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules"]),
    Rule::needs(ADMIN | bit(Cap::CAP_SYSLOG), &["syslog"]),
    Rule::needs(ADMIN | bit(Cap::CAP_BPF), &["bpf"]),
    Rule::needs(ADMIN | bit(Cap::CAP_PERFMON), &["perf_event_open"]),
    Rule::needs(bit(Cap::CAP_SYS_CHROOT), &["chroot"]),
    // Opens any inode of the file system, also above the container's root.
    Rule::needs(bit(Cap::CAP_DAC_READ_SEARCH), &["open_by_handle_at"]),
    Rule::needs(bit(Cap::CAP_SYS_PTRACE), &["kcmp", "pidfd_getfd", "process_madvise"]),
    Rule::needs(bit(Cap::CAP_SYS_NICE), &["get_mempolicy", "set_mempolicy", "set_mempolicy_home_node", "mbind"]),
    Rule::needs(bit(Cap::CAP_SYS_TIME), &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    Rule::needs(bit(Cap::CAP_SYS_TTY_CONFIG), &["vhangup"]),
    Rule::needs(bit(Cap::CAP_SYS_PACCT), &["acct"]),
    Rule::needs(bit(Cap::CAP_SYS_RAWIO), &["iopl", "ioperm"]),
    Rule::needs(bit(Cap::CAP_SYS_BOOT), &["reboot"]),
    Rule::needs(bit(Cap::CAP_SYS_MODULE), &["init_module", "finit_module", "delete_module"]),

    // ---- never, whatever the capabilities ----
    Rule::refuse(&["kexec_load", "kexec_file_load", "pivot_root", "swapon", "swapoff"]),
    // Keyrings are not namespaced: a key of the host can be found by number.
    Rule::refuse(&["add_key", "request_key", "keyctl"]),
    // io_uring runs calls that no filter sees, socket(2) among them.
    Rule::refuse(&["io_uring_setup", "io_uring_enter", "io_uring_register"]),
    // Stops the kernel in the middle of a copy from user memory: the tool of most races.
    Rule::refuse(&["userfaultfd"]),
    Rule::refuse(&["move_pages", "migrate_pages", "modify_ldt", "nfsservctl", "sysfs", "_sysctl", "uselib", "ustat"]),
    Rule::refuse(&["create_module", "query_module", "get_kernel_syms", "vserver", "bdflush"]),

    // ---- socket(2), by family ----
    // AF_ALG is kernel crypto on user pages (CVE-2026-31431: since 2017 it could write the page cache of files open for reading);
    // AF_VSOCK is the host of a virtual machine, in no network namespace. The answer is that of a kernel built without them.
    family(38).answers(Answer::Errno(EAFNOSUPPORT)),
    family(40).answers(Answer::Errno(EAFNOSUPPORT)),
    // Unspecified (the kernel refuses it), UNIX, INET.
    Rule::allow(&["socket"]).when(0, Test::Below(3)),
    family(10), // INET6
    family(15), // KEY: IPsec
    family(16), // NETLINK
    family(17), // PACKET
    family(24), // PPPOX
    family(29), // CAN
    family(31), // BLUETOOTH
    family(35), // PHONET: modems
    family(36), // IEEE802154: Thread and Zigbee radios
    family(39), // NFC
    family(42), // QIPCRTR: modems
    family(44), // XDP

    // ---- personality(2): Linux, 32-bit uname, both with the 2.6 uname, and the question; above all not READ_IMPLIES_EXEC ----
    persona(0),
    persona(0x0008),
    persona(0x2_0000),
    persona(0x2_0008),
    persona(0xffff_ffff),
    persona(0x4_0000).answers(Answer::Errno(EPERM)),
    persona(0x40_0000).answers(Answer::Errno(EPERM)),
];

const CLONE_NEWNS: u64 = 0x0002_0000;
const CLONE_NEWCGROUP: u64 = 0x0200_0000;
const CLONE_NEWUTS: u64 = 0x0400_0000;
const CLONE_NEWIPC: u64 = 0x0800_0000;
const CLONE_NEWUSER: u64 = 0x1000_0000;
const CLONE_NEWPID: u64 = 0x2000_0000;
const CLONE_NEWNET: u64 = 0x4000_0000;
/// All of clone(2)'s namespaces. (CLONE_NEWTIME is a bit of the exit signal there; only unshare and clone3 know it.)
const CLONE_NEW: u64 = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

/// This bit is set.
const fn set(bit: u64) -> Test {
    Test::Masked { mask: bit, value: bit }
}

/// A rule on clone(2)'s flags for containers without CAP_SYS_ADMIN.
const fn clone_without(flags: Test, answer: Answer) -> Rule {
    Rule::allow(&["clone"]).when(0, flags).decided(Verdict::Gated { any: ADMIN, with: None, without: Some(answer) })
}

const fn family(number: u64) -> Rule {
    Rule::allow(&["socket"]).when(0, Test::Equals(number))
}

const fn persona(value: u64) -> Rule {
    Rule::allow(&["personality"]).when(0, Test::Equals(value))
}
