//! A function of the C library that is smaller here. Only linked, never named.

use nix::libc::{self, c_char, c_int};

/// Names the calling thread, in musl's place: the standard library has each thread name itself. musl's own can name any thread, for which
/// it prints a path, and nothing else in the program wants the C library's printing (10 KB).
// SAFETY: of this name there is only one, since musl's object file has no other and so is not linked.
#[unsafe(no_mangle)]
extern "C" fn pthread_setname_np(_own: libc::pthread_t, name: *const c_char) -> c_int {
    // SAFETY: the standard library passes a C string; the kernel reads at most 16 bytes of it, up to its end.
    let ret = unsafe { libc::prctl(libc::PR_SET_NAME, name) };
    if ret == 0 { 0 } else { nix::errno::Errno::last_raw() }
}
