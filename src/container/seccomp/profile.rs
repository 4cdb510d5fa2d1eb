//! What a profile is: rules over system call names, and the answer that they give together. Pure data, no library.

use nix::libc::{EPERM, c_int};

/// What the kernel does with a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Runs it.
    Allow,
    /// Does not run it; the caller sees this errno.
    Errno(c_int),
    /// Ends the whole process by SIGSYS.
    Kill,
}

/// A condition on one argument, compared as the 64-bit register that the caller filled.
///
/// The kernel cuts an `int` argument to 32 bits *after* the filter ran. A condition that lets large values pass
/// ("greater", "not equal") would therefore let `0x1_0000_0026` pass, which the kernel reads as `0x26`. There is none here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Exactly this value.
    Equals(u64),
    /// Less than this value.
    Below(u64),
    /// These bits of the argument have this value.
    Masked {
        /// Which bits.
        mask: u64,
        /// Their value.
        value: u64,
    },
}

impl Test {
    /// True when `argument` meets the condition.
    pub fn holds(self, argument: u64) -> bool {
        match self {
            Self::Equals(value) => argument == value,
            Self::Below(limit) => argument < limit,
            Self::Masked { mask, value } => argument & mask == value,
        }
    }
}

/// Whose rule it is: containers are told apart by their capabilities alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The same for everyone.
    Always(Answer),
    /// Depends on whether the container has at least one of the capabilities `any`.
    Gated {
        /// Capability bits (`1 << CAP_*`).
        any: u64,
        /// With one of them; `None`: the rule does not exist.
        with: Option<Answer>,
        /// Without; `None`: the rule does not exist.
        without: Option<Answer>,
    },
}

impl Verdict {
    /// The answer for a container with the capabilities `caps`, if the rule exists for it.
    pub fn answer(self, caps: u64) -> Option<Answer> {
        match self {
            Self::Always(answer) => Some(answer),
            Self::Gated { any, with, .. } if caps & any != 0 => with,
            Self::Gated { without, .. } => without,
        }
    }
}

/// One answer for a group of system calls.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Kernel names. A name that an architecture lacks means nothing there.
    pub names: &'static [&'static str],
    /// Numbers of arguments (from 0) and their conditions, all of which must hold; none: whatever the arguments are.
    pub conditions: [Option<(u32, Test)>; 2],
    /// The answer.
    pub verdict: Verdict,
}

impl Rule {
    /// These calls run.
    pub const fn allow(names: &'static [&'static str]) -> Self {
        Self { names, conditions: [None; 2], verdict: Verdict::Always(Answer::Allow) }
    }

    /// These calls get EPERM, which says "not you" where the default's ENOSYS says "not on this kernel".
    pub const fn refuse(names: &'static [&'static str]) -> Self {
        Self { names, conditions: [None; 2], verdict: Verdict::Always(Answer::Errno(EPERM)) }
    }

    /// These calls end the process.
    pub const fn kill(names: &'static [&'static str]) -> Self {
        Self { names, conditions: [None; 2], verdict: Verdict::Always(Answer::Kill) }
    }

    /// These calls run with one of the capabilities `any` and get EPERM, the kernel's own answer, without.
    pub const fn needs(any: u64, names: &'static [&'static str]) -> Self {
        let verdict = Verdict::Gated { any, with: Some(Answer::Allow), without: Some(Answer::Errno(EPERM)) };
        Self { names, conditions: [None; 2], verdict }
    }

    /// The same rule, only when this too holds for this argument. At most two; libseccomp takes one condition per argument.
    pub const fn when(self, argument: u32, test: Test) -> Self {
        let conditions = match self.conditions {
            [None, None] => [Some((argument, test)), None],
            [Some(first), None] => [Some(first), Some((argument, test))],
            _ => panic!("a rule has two conditions at most"),
        };
        Self { conditions, ..self }
    }

    /// True when every condition holds for these arguments.
    pub fn holds(&self, arguments: &[u64; 6]) -> bool {
        self.conditions.iter().flatten().all(|(n, test)| test.holds(arguments[*n as usize]))
    }

    /// The same rule with another answer.
    pub const fn answers(self, answer: Answer) -> Self {
        Self { verdict: Verdict::Always(answer), ..self }
    }

    /// The same rule with another verdict.
    pub const fn decided(self, verdict: Verdict) -> Self {
        Self { verdict, ..self }
    }
}

/// A whole filter. The order of rules means nothing: no two answers apply to the same call, which a test holds.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// For every call that no rule names.
    pub default: Answer,
    /// The rules.
    pub rules: &'static [Rule],
}

impl Profile {
    /// The answer to one call of a container with the capabilities `caps`: what a compiled program must say.
    pub fn answer(&self, caps: u64, name: &str, arguments: &[u64; 6]) -> Answer {
        let applies = |rule: &&Rule| rule.names.contains(&name) && rule.holds(arguments);
        self.rules.iter().filter(applies).find_map(|rule| rule.verdict.answer(caps)).unwrap_or(self.default)
    }

    /// True when containers with the capabilities `a` and `b` get the very same rules.
    pub fn same_rules(&self, a: u64, b: u64) -> bool {
        self.rules.iter().all(|rule| rule.verdict.answer(a) == rule.verdict.answer(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: u64 = 1 << 21;
    const SAMPLE: Profile = Profile {
        default: Answer::Errno(38),
        rules: &[Rule::allow(&["read"]), Rule::needs(ADMIN, &["mount"]), Rule::allow(&["socket"]).when(0, Test::Below(3))],
    };

    #[test]
    fn a_call_that_no_rule_names_gets_the_default() {
        assert_eq!(SAMPLE.answer(!0, "write", &[0; 6]), Answer::Errno(38));
        assert_eq!(SAMPLE.answer(!0, "socket", &[3, 0, 0, 0, 0, 0]), Answer::Errno(38));
    }

    #[test]
    fn a_gate_opens_with_its_capability_only() {
        assert_eq!(SAMPLE.answer(ADMIN, "mount", &[0; 6]), Answer::Allow);
        assert_eq!(SAMPLE.answer(!ADMIN, "mount", &[0; 6]), Answer::Errno(EPERM));
    }

    #[test]
    fn only_capabilities_that_a_gate_names_tell_rules_apart() {
        assert!(SAMPLE.same_rules(0, 1));
        assert!(!SAMPLE.same_rules(0, ADMIN));
    }
}
