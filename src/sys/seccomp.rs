//! `seccomp(2)`: puts a system call filter on the calling thread.

use nix::libc;
use std::io;

/// Bytes of one BPF instruction: `struct sock_filter`.
const INSTRUCTION: usize = 8;
/// Most instructions that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Filters all further system calls of the calling thread, and of what it clones and executes, for ever.
///
/// `program` is an array of `struct sock_filter` in this machine's byte order.
///
/// # Errors
/// `EINVAL` for an empty program, one with a torn last instruction, more than 4096 instructions, or one that the kernel's
/// checker refuses; `EACCES` without `no_new_privs` and `CAP_SYS_ADMIN`; `ENOMEM` when all filters of the thread together
/// pass the kernel's limit.
pub fn load(program: &[u8]) -> io::Result<()> {
    load_with(program, 0)
}

/// Like [`load`], with `SECCOMP_FILTER_FLAG_*` bits.
///
/// # Errors
/// As [`load`]; `EINVAL` also for a flag that the kernel does not know.
pub fn load_with(program: &[u8], flags: u32) -> io::Result<()> {
    let filter = instructions(program).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let prog = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `prog` names `filter.len()` instructions that outlive the call; the kernel copies and never writes them.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const prog) };
    super::cvt(ret).map(drop)
}

/// Copies bytes of any alignment (an `include_bytes!` has none) into instructions.
fn instructions(program: &[u8]) -> Option<Vec<libc::sock_filter>> {
    let whole = program.len().is_multiple_of(INSTRUCTION);
    let count = program.len() / INSTRUCTION;
    if !whole || count == 0 || count > MAX_INSTRUCTIONS {
        return None;
    }
    Some(program.chunks_exact(INSTRUCTION).map(instruction).collect())
}

fn instruction(b: &[u8]) -> libc::sock_filter {
    let code = u16::from_ne_bytes([b[0], b[1]]);
    libc::sock_filter { code, jt: b[2], jf: b[3], k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_wrong_length_is_refused_before_the_kernel_sees_it() {
        for length in [0, 1, 7, 9, INSTRUCTION * (MAX_INSTRUCTIONS + 1)] {
            let answer = load(&vec![0; length]).expect_err("no such program may load");
            assert_eq!(answer.raw_os_error(), Some(libc::EINVAL), "{length} bytes");
        }
    }

    #[test]
    fn bytes_become_instructions_field_by_field() {
        let mut raw = 0x15u16.to_ne_bytes().to_vec();
        raw.extend([3, 4]);
        raw.extend(0xdead_beef_u32.to_ne_bytes());
        let one = instructions(&raw).expect("one instruction")[0];
        assert_eq!((one.code, one.jt, one.jf, one.k), (0x15, 3, 4, 0xdead_beef));
    }
}
