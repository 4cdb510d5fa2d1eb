//! Names of system calls, for messages and for choosing among them.

use nix::libc;

macro_rules! names {
    ($call:expr, $($name:ident $number:ident)*) => {
        match $call {
            $(libc::$number => stringify!($name).to_owned(),)*
            other => format!("call {other}"),
        }
    };
}

/// The kernel's name of a call that this program makes.
pub fn name(call: i64) -> String {
    names!(call,
        read SYS_read write SYS_write open SYS_open openat SYS_openat openat2 SYS_openat2 close SYS_close close_range SYS_close_range
        mkdir SYS_mkdir mkdirat SYS_mkdirat rmdir SYS_rmdir unlink SYS_unlink unlinkat SYS_unlinkat rename SYS_rename renameat2 SYS_renameat2
        mknod SYS_mknod mknodat SYS_mknodat ftruncate SYS_ftruncate fsync SYS_fsync fdatasync SYS_fdatasync syncfs SYS_syncfs
        chmod SYS_chmod fchmod SYS_fchmod fchown SYS_fchown fchownat SYS_fchownat chown SYS_chown utimensat SYS_utimensat
        fsetxattr SYS_fsetxattr setxattr SYS_setxattr flock SYS_flock symlink SYS_symlink symlinkat SYS_symlinkat
        mount SYS_mount umount2 SYS_umount2 pivot_root SYS_pivot_root chroot SYS_chroot unshare SYS_unshare setns SYS_setns
        fsopen SYS_fsopen fsconfig SYS_fsconfig fsmount SYS_fsmount open_tree SYS_open_tree move_mount SYS_move_mount
        mount_setattr SYS_mount_setattr clone SYS_clone clone3 SYS_clone3 vfork SYS_vfork execve SYS_execve execveat SYS_execveat
        pidfd_open SYS_pidfd_open pidfd_send_signal SYS_pidfd_send_signal wait4 SYS_wait4 kill SYS_kill exit_group SYS_exit_group
        sendmsg SYS_sendmsg recvmsg SYS_recvmsg sendto SYS_sendto socketpair SYS_socketpair socket SYS_socket bind SYS_bind
        listen SYS_listen accept4 SYS_accept4 epoll_ctl SYS_epoll_ctl epoll_wait SYS_epoll_wait epoll_pwait SYS_epoll_pwait
        epoll_create1 SYS_epoll_create1 dup2 SYS_dup2 dup3 SYS_dup3 fcntl SYS_fcntl ioctl SYS_ioctl pipe2 SYS_pipe2 prctl SYS_prctl
        capset SYS_capset capget SYS_capget seccomp SYS_seccomp keyctl SYS_keyctl setsid SYS_setsid setgroups SYS_setgroups
        setresuid SYS_setresuid setresgid SYS_setresgid prlimit64 SYS_prlimit64 sethostname SYS_sethostname chdir SYS_chdir
        fchdir SYS_fchdir umask SYS_umask getdents64 SYS_getdents64 statx SYS_statx stat SYS_stat fstat SYS_fstat newfstatat SYS_newfstatat
        lstat SYS_lstat statfs SYS_statfs fstatfs SYS_fstatfs readlink SYS_readlink lseek SYS_lseek pread64 SYS_pread64
        memfd_create SYS_memfd_create mmap SYS_mmap munmap SYS_munmap mprotect SYS_mprotect mremap SYS_mremap brk SYS_brk madvise SYS_madvise
        rt_sigprocmask SYS_rt_sigprocmask rt_sigaction SYS_rt_sigaction rt_sigtimedwait SYS_rt_sigtimedwait signalfd4 SYS_signalfd4
        sigaltstack SYS_sigaltstack poll SYS_poll access SYS_access getcwd SYS_getcwd getrandom SYS_getrandom gettid SYS_gettid
        getpid SYS_getpid getppid SYS_getppid geteuid SYS_geteuid getuid SYS_getuid set_tid_address SYS_set_tid_address
        arch_prctl SYS_arch_prctl sched_getaffinity SYS_sched_getaffinity sendfile SYS_sendfile copy_file_range SYS_copy_file_range
        splice SYS_splice getsockopt SYS_getsockopt setsockopt SYS_setsockopt restart_syscall SYS_restart_syscall uname SYS_uname
        clock_gettime SYS_clock_gettime futex SYS_futex connect SYS_connect sysinfo SYS_sysinfo tgkill SYS_tgkill tkill SYS_tkill
    )
}

/// Calls that change something which another process, or this one's successor, can meet. Not open: what it makes is there when what is written
/// to it comes.
pub fn leaves_a_trace(call: i64) -> bool {
    const TRACES: &[i64] = &[
        libc::SYS_write,
        libc::SYS_mkdir,
        libc::SYS_mkdirat,
        libc::SYS_rmdir,
        libc::SYS_unlink,
        libc::SYS_unlinkat,
        libc::SYS_rename,
        libc::SYS_mknod,
        libc::SYS_mknodat,
        libc::SYS_ftruncate,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_syncfs,
        libc::SYS_chmod,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_sendmsg,
        libc::SYS_bind,
        libc::SYS_execveat,
        libc::SYS_fsetxattr,
        libc::SYS_fchown,
        libc::SYS_fchmod,
        libc::SYS_utimensat,
    ];
    TRACES.contains(&call)
}

/// Calls of which there are more or fewer from one run to the next, as events come together or apart, and as memory grows. The last ones of
/// stage are among them: once it has answered, keeper may be faster to end it.
pub fn varies(call: i64) -> bool {
    const VARIES: &[i64] = &[
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_wait,
        libc::SYS_epoll_ctl,
        libc::SYS_recvmsg,
        libc::SYS_restart_syscall,
        libc::SYS_wait4,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_read,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_brk,
        libc::SYS_madvise,
        libc::SYS_close,
        libc::SYS_sigaltstack,
        libc::SYS_exit_group,
    ];
    VARIES.contains(&call)
}
