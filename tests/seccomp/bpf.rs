//! Classic BPF as the kernel runs it for seccomp: enough to ask programs of architectures that this machine is not.

use wherry::container::seccomp::Answer;

/// What the kernel shows a filter: `struct seccomp_data`.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: u32,
    pub arch: u32,
    pub arguments: [u64; 6],
}

impl Call {
    /// The 32-bit word at a byte offset, little-endian as all our targets are.
    fn word(&self, offset: u32) -> u32 {
        let half = |value: u64| if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 };
        match offset {
            0 => self.number,
            4 => self.arch,
            // The instruction pointer, which no program of ours looks at.
            8 | 12 => panic!("a program reads the instruction pointer"),
            16..64 if offset.is_multiple_of(4) => half(self.arguments[(offset as usize - 16) / 8]),
            _ => panic!("a program reads outside of seccomp_data, at {offset}"),
        }
    }
}

/// Runs `program` over `call`.
pub fn run(program: &[u8], call: &Call) -> Answer {
    let (mut pc, mut a) = (0usize, 0u32);
    loop {
        let raw = &program[pc * 8..pc * 8 + 8];
        let (code, jt, jf) = (u16::from_le_bytes([raw[0], raw[1]]), raw[2], raw[3]);
        let k = u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]);
        pc += 1;
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        match code {
            0x20 => a = call.word(k),
            0x54 => a &= k,
            0x05 => pc += k as usize,
            0x15 => pc += branch(a == k),
            0x25 => pc += branch(a > k),
            0x35 => pc += branch(a >= k),
            0x45 => pc += branch(a & k != 0),
            0x06 => return answer(k),
            _ => panic!("instruction {code:#x} is none that libseccomp makes"),
        }
    }
}

fn answer(ret: u32) -> Answer {
    match ret & 0xffff_0000 {
        0x7fff_0000 => Answer::Allow,
        0x0005_0000 => Answer::Errno((ret & 0xffff) as i32),
        0x8000_0000 => Answer::Kill,
        other => panic!("a program answers {other:#x}"),
    }
}

/// Which instructions can run at all: libseccomp leaves an answer at the end that nothing jumps to.
pub fn reachable(program: &[u8]) -> Vec<bool> {
    let mut seen = vec![false; program.len() / 8];
    let mut next = vec![0];
    while let Some(at) = next.pop() {
        if std::mem::replace(&mut seen[at], true) {
            continue;
        }
        let raw = &program[at * 8..at * 8 + 8];
        match raw[0] & 0x07 {
            0x06 => {}
            0x05 if raw[0] == 0x05 => next.push(at + 1 + u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]) as usize),
            0x05 => next.extend([at + 1 + raw[2] as usize, at + 1 + raw[3] as usize]),
            _ => next.push(at + 1),
        }
    }
    seen
}
