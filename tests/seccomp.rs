//! System call filters: the committed programs against libseccomp, against their own profile (by an interpreter, for all
//! architectures), against Docker's list, and in this machine's kernel.
//!
//! `WHERRY_BLESS=1 cargo test --test seccomp the_committed` writes the committed programs.

#[path = "seccomp/bpf.rs"]
mod bpf;
#[path = "seccomp/kernel.rs"]
mod kernel;
#[path = "seccomp/oci.rs"]
mod oci;

use libseccomp::{ScmpArch, ScmpSyscall};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use wherry::confine::Role;
use wherry::container::seccomp::{
    Answer, Arch, COMMITTED, DEFAULT, DOCKER_CAPS, Profile, Test, Verdict, compile, default_program, unknown_names,
};

const ADMIN: u64 = 1 << 21;
const ARCHES: [(Arch, &str); 3] = [(Arch::X8664, "x86_64"), (Arch::Aarch64, "aarch64"), (Arch::Arm, "arm")];

/// One committed program: where it is and what it is made of.
struct Program {
    path: PathBuf,
    profile: &'static Profile,
    arch: Arch,
    caps: u64,
}

fn committed() -> Vec<Program> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    for (arch, name) in ARCHES {
        for (caps, set) in COMMITTED {
            let path = src.join(format!("container/seccomp/programs/{name}{set}.bpf"));
            all.push(Program { path, profile: &DEFAULT, arch, caps });
        }
        for role in Role::ALL {
            let path = src.join(format!("confine/programs/{}-{name}.bpf", role.name()));
            all.push(Program { path, profile: role.profile(), arch, caps: 0 });
        }
    }
    all
}

#[test]
fn the_committed_programs_are_what_libseccomp_makes() {
    let bless = std::env::var_os("WHERRY_BLESS").is_some();
    let mut differing = Vec::new();
    for program in committed() {
        let start = std::time::Instant::now();
        let made = compile(program.profile, program.arch, program.caps).expect("compiles");
        println!("{:4} instructions {:5} bytes {:?} {}", made.len() / 8, made.len(), start.elapsed(), program.path.display());
        if bless {
            std::fs::write(&program.path, &made).expect("writes the program");
        } else if std::fs::read(&program.path).expect("reads the program") != made {
            differing.push(program.path);
        }
    }
    let version = libseccomp::ScmpVersion::current().expect("a version");
    assert!(differing.is_empty(), "libseccomp {version:?} makes other programs than {differing:#?}\nwrite them again with WHERRY_BLESS=1");
}

fn profiles() -> impl Iterator<Item = &'static Profile> {
    std::iter::once(&DEFAULT).chain(Role::ALL.map(Role::profile))
}

#[test]
fn every_name_is_one_that_libseccomp_knows() {
    let old = !libseccomp::check_version(libseccomp::ScmpVersion::from((2, 6, 0))).expect("a version");
    assert!(!old, "libseccomp before 2.6.0 lacks names that the profile uses");
    for profile in profiles() {
        assert_eq!(unknown_names(profile), Vec::<&str>::new());
    }
}

#[test]
fn no_call_has_two_answers() {
    for profile in profiles() {
        for caps in [0, !0, DOCKER_CAPS, ADMIN] {
            one_answer_each(profile, caps);
        }
    }
}

fn one_answer_each(profile: &Profile, caps: u64) {
    let mut seen = BTreeMap::<&str, Vec<bool>>::new();
    for rule in profile.rules.iter().filter(|rule| rule.verdict.answer(caps).is_some()) {
        for name in rule.names {
            seen.entry(name).or_default().push(rule.conditions[0].is_some());
        }
    }
    for (name, conditional) in seen {
        assert!(conditional == [false] || conditional.iter().all(|c| *c), "{name}: one plain rule or conditional ones, not both");
        for arguments in arguments_to_try(profile, name) {
            let matching = profile.rules.iter().filter(|r| r.names.contains(&name) && r.holds(&arguments));
            let answers: Vec<Answer> = matching.filter_map(|r| r.verdict.answer(caps)).collect();
            let same = answers.windows(2).all(|pair| pair[0] == pair[1]);
            assert!(same, "{name}{arguments:x?}: {answers:?}");
        }
    }
}

/// Arguments around every value that a rule on `name` mentions, also with the upper half of the register filled: one argument
/// at a time, the others such that they meet a rule.
fn arguments_to_try(profile: &Profile, name: &str) -> BTreeSet<[u64; 6]> {
    let rules: Vec<_> = profile.rules.iter().filter(|r| r.names.contains(&name)).map(|r| r.conditions).collect();
    let mut bases = BTreeSet::from([[0; 6], [!0; 6]]);
    bases.extend(rules.iter().map(meeting));
    let mut tries = bases.clone();
    for (n, test) in rules.into_iter().flatten().flatten() {
        for value in values_around(test) {
            tries.extend(bases.iter().map(|base| with(*base, n, value)));
        }
    }
    tries
}

fn meeting(conditions: &[Option<(u32, Test)>; 2]) -> [u64; 6] {
    conditions.iter().flatten().fold([0; 6], |arguments, (n, test)| match *test {
        Test::Equals(value) | Test::Masked { value, .. } => with(arguments, *n, value),
        Test::Below(limit) => with(arguments, *n, limit - 1),
    })
}

fn with(mut arguments: [u64; 6], n: u32, value: u64) -> [u64; 6] {
    arguments[n as usize] = value;
    arguments
}

fn values_around(test: Test) -> Vec<u64> {
    let seeds = match test {
        Test::Equals(v) | Test::Below(v) => vec![v, v.wrapping_sub(1), v + 1],
        Test::Masked { mask, value } => {
            let bits = (0..64).map(|n| 1u64 << n).filter(|bit| mask & bit != 0);
            bits.map(|bit| value ^ bit).chain([value, value | !mask, mask, !mask]).collect()
        }
    };
    seeds.iter().flat_map(|v| [*v, *v | 1 << 32, *v | 1 << 63, *v ^ !0xffff_ffff]).chain(0..64).collect()
}

/// libseccomp's architecture, the kernel's `AUDIT_ARCH_*`, and whether registers have 32 bits.
fn facts(arch: Arch) -> (ScmpArch, u32, bool) {
    match arch {
        Arch::X8664 => (ScmpArch::X8664, 0xc000_003e, false),
        Arch::Aarch64 | Arch::Aarch64WithArm => (ScmpArch::Aarch64, 0xc000_00b7, false),
        Arch::Arm => (ScmpArch::Arm, 0x4000_0028, true),
    }
}

/// Numbers beyond any system call's, by far.
const NUMBERS: u32 = 1024;

#[test]
fn the_committed_programs_answer_as_their_profile_says() {
    for program in committed() {
        let bytes = std::fs::read(&program.path).expect("reads the program");
        let asked = compare(&bytes, &program).unwrap_or_else(|difference| panic!("{difference}"));
        assert!(asked > 1000, "{}: {asked} questions are too few", program.path.display());
    }
}

/// Asks for every call number with many arguments, and for another architecture; the number of questions.
fn compare(bytes: &[u8], program: &Program) -> Result<usize, String> {
    let (token, arch, short) = facts(program.arch);
    let names = program.profile.rules.iter().flat_map(|r| r.names);
    let numbered: BTreeMap<u32, &str> = names.filter_map(|n| Some((number(n, token)?, *n))).collect();
    let foreign = bpf::Call { number: 0, arch: arch ^ 1, arguments: [0; 6] };
    if bpf::run(bytes, &foreign) != Answer::Kill {
        return Err(format!("{}: another architecture's calls do not end the process", program.path.display()));
    }
    let mut asked = 0;
    for number in (0..NUMBERS).chain(0xf_0000..0xf_0010) {
        let name = numbered.get(&number).copied().unwrap_or("");
        for mut arguments in arguments_to_try(program.profile, name) {
            if short {
                arguments = arguments.map(|a| a & 0xffff_ffff);
            }
            let expected = program.profile.answer(program.caps, name, &arguments);
            let said = bpf::run(bytes, &bpf::Call { number, arch, arguments });
            if said != expected {
                return Err(format!("{}: {name} ({number}) {arguments:x?}: {said:?} for {expected:?}", program.path.display()));
            }
            asked += 1;
        }
    }
    Ok(asked)
}

/// What shows that the comparison sees: no answer of any program can become "allow" unseen.
#[test]
fn an_answer_turned_into_allow_is_noticed() {
    const RETURN: [u8; 4] = [6, 0, 0, 0];
    const ALLOW: [u8; 4] = [0, 0, 0xff, 0x7f];
    for program in committed() {
        let bytes = std::fs::read(&program.path).expect("reads the program");
        let live = bpf::reachable(&bytes);
        let refusal = |at: &usize| live[at / 8] && bytes[*at..at + 4] == RETURN && bytes[at + 4..at + 8] != ALLOW;
        for at in (0..bytes.len()).step_by(8).filter(refusal) {
            let mut weaker = bytes.clone();
            weaker[at + 4..at + 8].copy_from_slice(&ALLOW);
            assert!(compare(&weaker, &program).is_err(), "{} at {}", program.path.display(), at / 8);
        }
    }
}

fn number(name: &str, token: ScmpArch) -> Option<u32> {
    u32::try_from(ScmpSyscall::from_name_by_arch(name, token).ok()?.as_raw_syscall()).ok()
}

#[test]
fn calls_of_another_architecture_end_the_process() {
    const I386: u32 = 0x4000_0003;
    for program in committed() {
        let bytes = std::fs::read(&program.path).expect("reads the program");
        let (_, own, _) = facts(program.arch);
        for arch in [I386, 0xc000_003e, 0xc000_00b7, 0x4000_0028, 0].into_iter().filter(|a| *a != own) {
            let said = bpf::run(&bytes, &bpf::Call { number: 1, arch, arguments: [0; 6] });
            assert_eq!(said, Answer::Kill, "{} for {arch:#x}", program.path.display());
        }
    }
}

#[test]
fn x32_numbers_end_the_process() {
    let bytes = default_program_of(Arch::X8664);
    let said = bpf::run(&bytes, &bpf::Call { number: 0x4000_0001, arch: 0xc000_003e, arguments: [0; 6] });
    assert_eq!(said, Answer::Kill);
}

fn default_program_of(arch: Arch) -> Vec<u8> {
    compile(&DEFAULT, arch, DOCKER_CAPS).expect("compiles")
}

#[test]
fn one_program_can_serve_both_arms() {
    let both = default_program_of(Arch::Aarch64WithArm);
    for (arch, token) in [(0xc000_00b7, ScmpArch::Aarch64), (0x4000_0028, ScmpArch::Arm)] {
        for (name, expected) in [("read", Answer::Allow), ("mount", Answer::Errno(1)), ("clone3", Answer::Errno(38))] {
            let number = number(name, token).expect("a number");
            assert_eq!(bpf::run(&both, &bpf::Call { number, arch, arguments: [0; 6] }), expected, "{name} for {arch:#x}");
        }
    }
}

#[test]
fn programs_for_other_capabilities_answer_as_their_profile_says() {
    for bit in 0..41 {
        let program =
            Program { path: format!("capability {bit}").into(), profile: &DEFAULT, arch: Arch::Arm, caps: DOCKER_CAPS | 1 << bit };
        let bytes = compile(&DEFAULT, program.arch, program.caps).expect("compiles");
        compare(&bytes, &program).unwrap_or_else(|difference| panic!("{difference}"));
    }
}

#[test]
fn capabilities_that_no_gate_names_get_a_committed_program() {
    const NET_ADMIN: u64 = 1 << 12;
    for caps in [0, DOCKER_CAPS, DOCKER_CAPS | NET_ADMIN, NET_ADMIN] {
        let program = default_program(caps).expect("a program");
        assert!(matches!(program, std::borrow::Cow::Borrowed(_)), "{caps:#x}");
        assert_eq!(*program, *compile(&DEFAULT, Arch::TARGET, caps).expect("compiles"), "{caps:#x}");
    }
    let compiled = default_program(DOCKER_CAPS | ADMIN).expect("a program");
    assert!(matches!(compiled, std::borrow::Cow::Owned(_)));
}

/// Docker's list: key → names.
fn moby() -> BTreeMap<String, BTreeSet<String>> {
    let mut list = BTreeMap::<String, BTreeSet<String>>::new();
    let text = include_str!("seccomp/moby.txt");
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let (key, names) = line.split_once(": ").expect("key: names");
        list.entry(key.into()).or_default().extend(names.split_whitespace().map(String::from));
    }
    list
}

/// Every name of ours that a container with the capabilities `caps` may call whatever the arguments.
fn allowed(caps: u64) -> BTreeSet<String> {
    let plain = DEFAULT.rules.iter().filter(|r| r.conditions[0].is_none() && r.verdict.answer(caps) == Some(Answer::Allow));
    plain.flat_map(|r| r.names).map(|n| (*n).to_string()).collect()
}

#[test]
fn what_docker_allows_and_we_do_not_is_written_down() {
    let moby = moby();
    assert_eq!(moby["allow"].difference(&allowed(0)).cloned().collect::<BTreeSet<_>>(), moby["stricter"]);
}

#[test]
fn the_default_profile_is_no_weaker_than_dockers() {
    let moby = moby();
    assert_eq!(allowed(0).difference(&moby["allow"]).count(), 0, "without capabilities");
    for cap in caps::all() {
        let key = cap.to_string().trim_start_matches("CAP_").to_string();
        let with = moby.get(&key).cloned().unwrap_or_default();
        let more: BTreeSet<String> = allowed(1 << cap.index()).difference(&allowed(0)).cloned().collect();
        assert!(more.is_subset(&with), "{cap}: {:?}", more.difference(&with));
    }
}

#[test]
fn argument_rules_are_no_weaker_than_dockers() {
    let moby = moby();
    for name in ["socket", "personality"] {
        for arguments in arguments_to_try(&DEFAULT, name) {
            let value = arguments[0];
            // AF_UNSPEC makes no socket: the kernel itself refuses it.
            let nothing = name == "socket" && value == 0;
            let ours = !nothing && DEFAULT.answer(!0, name, &arguments) == Answer::Allow;
            assert!(!ours || moby[name].contains(&value.to_string()), "{name}({value:#x})");
        }
    }
    let mask: u64 = moby["clone"].first().expect("a mask").parse().expect("a number");
    for bit in (0..32).map(|n| 1u64 << n) {
        let ours = DEFAULT.answer(!ADMIN, "clone", &[bit, 0, 0, 0, 0, 0]) == Answer::Allow;
        assert_eq!(ours, mask & bit == 0, "clone({bit:#x})");
    }
}

#[test]
fn no_set_of_capabilities_opens_af_alg_or_vsock() {
    for family in [38u64, 40] {
        for value in [family, family | 1 << 32, family | 1 << 40, family | !0xffff_ffff] {
            assert_ne!(DEFAULT.answer(!0, "socket", &[value, 0, 0, 0, 0, 0]), Answer::Allow, "socket({value:#x})");
        }
    }
}

#[test]
fn every_gate_answers_eperm_when_shut_but_for_clone3() {
    for rule in DEFAULT.rules {
        if let Verdict::Gated { with: Some(_), without: Some(answer), .. } = rule.verdict {
            let expected = if rule.names == ["clone3"] { 38 } else { 1 };
            assert_eq!(answer, Answer::Errno(expected), "{:?}", rule.names);
        }
    }
}
