//! Profiles of OCI bundles: what libseccomp made of them, asked through the interpreter.

use super::bpf;
use super::{facts, number};
use wherry::container::seccomp::{Answer, Arch, OciProgram, compile_oci};

fn compiled(json: &str) -> Result<OciProgram, String> {
    compile_oci(&serde_json::from_str(json).expect("a linux.seccomp object"))
}

fn answer(program: &OciProgram, name: &str, first: u64) -> Answer {
    let (token, arch, _) = facts(Arch::TARGET);
    let number = number(name, token).expect("a number");
    bpf::run(&program.program, &bpf::Call { number, arch, arguments: [first, 0, 0, 0, 0, 0] })
}

#[test]
fn an_oci_profile_answers_as_it_says() {
    let program = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
            "syscalls": [
              {"names": ["read", "no_such_call_at_all"], "action": "SCMP_ACT_ALLOW"},
              {"names": ["mount"], "action": "SCMP_ACT_ERRNO"},
              {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
              {"names": ["swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
              {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"},
              {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}
            ]}"#,
    )
    .expect("compiles");
    assert_eq!(program.flags, 2);
    let expected = [("read", 0), ("mount", 1), ("bpf", 13), ("swapon", 38), ("write", 38)];
    for (name, errno) in expected {
        let want = if errno == 0 { Answer::Allow } else { Answer::Errno(errno) };
        assert_eq!(answer(&program, name, 0), want, "{name}");
    }
    assert_eq!(answer(&program, "reboot", 0), Answer::Kill);
    assert_eq!(answer(&program, "clone", 0x11), Answer::Allow);
    assert_eq!(answer(&program, "clone", 0x1000_0011), Answer::Errno(38));
}

#[test]
fn architectures_that_cannot_run_here_may_stand_in_a_profile() {
    let program = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
            "architectures": ["SCMP_ARCH_RISCV64", "SCMP_ARCH_ARM", "SCMP_ARCH_MIPS", "SCMP_ARCH_S390X", "SCMP_ARCH_LOONGARCH64"]}"#,
    )
    .expect("compiles");
    assert_eq!((answer(&program, "read", 0), answer(&program, "write", 0)), (Answer::Allow, Answer::Errno(1)));
    let (arm, arch, _) = facts(Arch::Arm);
    let arguments = [0; 6];
    assert_eq!(bpf::run(&program.program, &bpf::Call { number: number("read", arm).expect("a number"), arch, arguments }), Answer::Allow);
    // RISC-V of 64 bits.
    assert_eq!(bpf::run(&program.program, &bpf::Call { number: 63, arch: 0xc000_00f3, arguments }), Answer::Kill);
}

#[test]
fn an_errno_that_is_not_given_is_eperm() {
    let program = compiled(r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#).expect("compiles");
    assert_eq!(answer(&program, "read", 0), Answer::Errno(1));
}

#[test]
fn two_conditions_on_one_argument_are_alternatives_as_with_runc() {
    let program = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}"#,
    )
    .expect("compiles");
    for (value, want) in [(0, Answer::Allow), (8, Answer::Allow), (1, Answer::Errno(1))] {
        assert_eq!(answer(&program, "personality", value), want, "{value}");
    }
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let cases = [
        (r#"{"defaultAction": "SCMP_ACT_SING"}"#, "SCMP_ACT_SING"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#, "SCMP_ACT_NOTIFY"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}"#, "SCMP_ARCH_VAX"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#, "WAIT_KILLABLE_RECV"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
                "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
            "argument 6",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
                "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_ABOUT"}]}]}"#,
            "SCMP_CMP_ABOUT",
        ),
    ];
    for (json, named) in cases {
        let error = compiled(json).expect_err(named);
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn a_profile_of_endless_rules_is_refused() {
    let rule = r#"{"names": ["read"], "action": "SCMP_ACT_LOG"}"#;
    let rules = vec![rule; 1025].join(",");
    let error = compiled(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rules}]}}"#)).expect_err("too many rules");
    assert!(error.contains("1024 rules"), "{error}");
}
