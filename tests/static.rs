//! The libseccomp that is linked statically, and what `cross/setup` refuses to link in its place.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs, process};

use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext, ScmpSyscall, ScmpVersion};

/// The size of one BPF instruction, `struct sock_filter`.
const INSTRUCTION_BYTES: usize = 8;

/// `BPF_RET | BPF_K`, with which the kernel wants every filter to end.
const RETURN_CONSTANT: u16 = 0x06;

#[test]
fn the_linked_libseccomp_is_no_older_than_the_fix_of_64_bit_comparisons() {
    // Versions before 2.6.1 have GHSA-4q85-33p6-j5g6.
    let linked = ScmpVersion::current().expect("libseccomp tells its version");
    assert!((linked.major, linked.minor, linked.micro) >= (2, 6, 1), "{linked:?} is linked");
}

#[test]
fn the_linked_libseccomp_exports_a_program_with_both_of_a_filters_actions() {
    let mut filter = ScmpFilterContext::new(ScmpAction::KillProcess).expect("a filter");
    filter.add_arch(ScmpArch::Aarch64).expect("a second architecture");
    filter.add_rule(ScmpAction::Allow, ScmpSyscall::from_name("getpid").expect("getpid has a number")).expect("a rule");
    let path = scratch("bpf");
    filter.export_bpf(fs::File::create(&path).expect("a file for the program")).expect("an exported program");
    let program = fs::read(&path).expect("the exported program");
    fs::remove_file(&path).expect("the program's file goes");

    assert_eq!(program.len() % INSTRUCTION_BYTES, 0, "{} bytes are no whole number of instructions", program.len());
    let instructions: Vec<(u16, u32)> = program.chunks(INSTRUCTION_BYTES).map(code_and_constant).collect();
    assert_eq!(instructions.last().map(|last| last.0), Some(RETURN_CONSTANT));
    let returned: Vec<u32> = instructions.iter().filter(|i| i.0 == RETURN_CONSTANT).map(|i| i.1).collect();
    assert!(returned.contains(&0x7fff_0000), "no SECCOMP_RET_ALLOW in {returned:x?}");
    assert!(returned.contains(&0x8000_0000), "no SECCOMP_RET_KILL_PROCESS in {returned:x?}");
}

#[test]
fn the_smaller_table_of_system_calls_answers_as_libseccomps_own() {
    // What cross/setup takes from Debian for this machine, before and after.
    let script = r#"set -euo pipefail; . cross/lib.sh; target_facts x86_64-unknown-linux-musl; cd "$1"
        [ -f "$cache/$debian_package" ] || { echo "libseccomp was not taken from Debian"; exit 0; }
        dpkg-deb --extract "$cache/$debian_package" . && ar x usr/lib/*/libseccomp.a libseccomp_la-syscalls.perf.o
        /usr/bin/python3 "$here/libseccomp/table.py" libseccomp_la-syscalls.perf.o >table.c
        objcopy --prefix-symbols=their_ libseccomp_la-syscalls.perf.o theirs.o
        objcopy --redefine-sym their_strcmp=strcmp --redefine-sym their_strlen=strlen theirs.o
        gcc -no-pie -Wall -Werror -O1 "$2" table.c theirs.o -o same && ./same"#;
    let folder = scratch("table");
    fs::create_dir(&folder).expect("a folder");
    let same = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/static/same.c");
    let output = bash(script, &[&folder, &same]);
    fs::remove_dir_all(folder).expect("the folder goes");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with(" 0 differ\n") && !said.starts_with("0 ") || said.starts_with("libseccomp was not"), "{said}");
}

#[test]
fn an_archive_that_needs_a_symbol_of_glibc_alone_is_refused_by_name() {
    let source = "int __isoc99_sscanf(const char *, const char *, ...); int f(void) { return __isoc99_sscanf(\"\", \"\"); }";
    assert_eq!(unlisted_symbols_of(source), "__isoc99_sscanf\n");
}

#[test]
fn an_archive_that_needs_a_structure_with_another_layout_is_refused_by_name() {
    let source = "#include <sys/stat.h>\nint f(const char *p) { struct stat s; return stat(p, &s); }";
    assert_eq!(unlisted_symbols_of(source), "stat\n");
}

#[test]
fn an_archive_that_needs_a_thread_local_variable_is_refused_by_name() {
    assert_eq!(unlisted_symbols_of("extern __thread int per_thread; int f(void) { return per_thread; }"), "per_thread\n");
}

#[test]
fn an_archive_that_needs_listed_functions_only_is_taken() {
    assert_eq!(unlisted_symbols_of("#include <stdlib.h>\nvoid f(void) { free(malloc(1)); }"), "");
}

#[test]
fn a_file_that_is_no_archive_is_refused() {
    let output = run_check(Path::new("Cargo.toml"));
    assert!(!output.status.success());
}

fn code_and_constant(i: &[u8]) -> (u16, u32) {
    (u16::from_ne_bytes([i[0], i[1]]), u32::from_ne_bytes([i[4], i[5], i[6], i[7]]))
}

/// Compiles `source` with this machine's C compiler and gives what cross/setup's check says of the object.
fn unlisted_symbols_of(source: &str) -> String {
    let name = source.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let (file, object) = (scratch(&format!("{name:x}.c")), scratch(&format!("{name:x}.o")));
    fs::write(&file, source).expect("a C file");
    let compiled = Command::new("gcc").arg("-O0").arg("-c").arg(&file).arg("-o").arg(&object).status().expect("gcc runs");
    assert!(compiled.success(), "gcc compiles {source}");
    let unlisted = unlisted_symbols(&object);
    fs::remove_file(file).expect("the C file goes");
    fs::remove_file(object).expect("the object goes");
    unlisted
}

fn unlisted_symbols(archive: &Path) -> String {
    let output = run_check(archive);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("symbols are text")
}

fn run_check(archive: &Path) -> Output {
    bash(r#"set -euo pipefail; . cross/lib.sh; unlisted_symbols "$1""#, &[archive])
}

fn bash(script: &str, arguments: &[&Path]) -> Output {
    let root = env!("CARGO_MANIFEST_DIR");
    Command::new("bash").args(["-c", script, "cross/lib.sh"]).args(arguments).current_dir(root).output().expect("bash runs")
}

fn scratch(name: &str) -> PathBuf {
    env::temp_dir().join(format!("wherry-static-{}-{name}", process::id()))
}
