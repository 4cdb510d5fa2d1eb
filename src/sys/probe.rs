//! Asks whether the kernel has a system call, by calling it with arguments that it must refuse.

use nix::errno::Errno;
use nix::libc;

/// A system call that not every supported kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the calls")]
pub enum Call {
    Clone3,
    CloseRange,
    EpollCreate1,
    Execveat,
    Fsopen,
    Keyctl,
    LandlockCreateRuleset,
    MemfdCreate,
    MountSetattr,
    MoveMount,
    OpenTree,
    Openat2,
    PidfdOpen,
    PidfdSendSignal,
    Seccomp,
    Signalfd4,
}

/// True unless the kernel answers that it has no such call (`ENOSYS`).
pub fn has(call: Call) -> bool {
    refusal(call) != Some(Errno::ENOSYS)
}

/// True where the kernel has the call and says that what it is for was switched off at boot (`EOPNOTSUPP`).
pub fn is_off(call: Call) -> bool {
    refusal(call) == Some(Errno::EOPNOTSUPP)
}

fn refusal(call: Call) -> Option<Errno> {
    // SAFETY: every call gets -1 as its first argument and 0 (null, or size 0) as all others. No descriptor, pid or address
    // is valid among these, and every size is below the smallest structure, so each call can only fail: nothing is read,
    // written, or changed. `close_range(-1, 0)` has its first descriptor above its last (EINVAL).
    let ret = unsafe { libc::syscall(number(call), -1 as libc::c_long, 0 as libc::c_long, 0 as libc::c_long, 0 as libc::c_long, 0) };
    (ret == -1).then(Errno::last)
}

fn number(call: Call) -> libc::c_long {
    match call {
        Call::Clone3 => libc::SYS_clone3,
        Call::CloseRange => libc::SYS_close_range,
        Call::EpollCreate1 => libc::SYS_epoll_create1,
        Call::Execveat => libc::SYS_execveat,
        Call::Fsopen => libc::SYS_fsopen,
        Call::Keyctl => libc::SYS_keyctl,
        Call::LandlockCreateRuleset => libc::SYS_landlock_create_ruleset,
        Call::MemfdCreate => libc::SYS_memfd_create,
        Call::MountSetattr => libc::SYS_mount_setattr,
        Call::MoveMount => libc::SYS_move_mount,
        Call::OpenTree => libc::SYS_open_tree,
        Call::Openat2 => libc::SYS_openat2,
        Call::PidfdOpen => libc::SYS_pidfd_open,
        Call::PidfdSendSignal => libc::SYS_pidfd_send_signal,
        Call::Seccomp => libc::SYS_seccomp,
        Call::Signalfd4 => libc::SYS_signalfd4,
    }
}
