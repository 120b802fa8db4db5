//! Runs a filter program on made-up system calls, as the kernel would, so that tests see what it
//! decides for architectures and arguments that cannot be had on the machine at hand.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET,
    BPF_W, sock_filter,
};

/// `struct seccomp_data` without the instruction pointer, which no rule looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct SyscallData {
    pub(super) nr: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

impl SyscallData {
    fn word(&self, offset: u32) -> Option<u32> {
        let mut bytes = [0_u8; 64];
        bytes[0..4].copy_from_slice(&self.nr.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.arch.to_le_bytes());
        for (index, argument) in self.args.iter().enumerate() {
            bytes[16 + index * 8..24 + index * 8].copy_from_slice(&argument.to_le_bytes());
        }
        let offset = usize::try_from(offset).ok()?;
        let word = bytes.get(offset..offset.checked_add(4)?)?;
        (offset % 4 == 0).then(|| u32::from_le_bytes(word.try_into().unwrap()))
    }
}

/// What the program returns, or why the kernel would not have taken it.
pub(super) fn interpret(program: &[sock_filter], data: &SyscallData) -> Result<u32, String> {
    let (mut pc, mut accumulator) = (0_usize, 0_u32);
    loop {
        let at = pc;
        let insn = program
            .get(at)
            .ok_or_else(|| format!("ran off the end at {at}"))?;
        pc += 1;
        let k = insn.k;
        let mut branch = |passes: bool| pc += usize::from(if passes { insn.jt } else { insn.jf });
        match u32::from(insn.code) {
            c if c == BPF_RET | BPF_K => return Ok(k),
            c if c == BPF_LD | BPF_W | BPF_ABS => {
                accumulator = data
                    .word(k)
                    .ok_or_else(|| format!("bad load offset {k} at {at}"))?;
            }
            c if c == BPF_ALU | BPF_AND | BPF_K => accumulator &= k,
            c if c == BPF_JMP | BPF_JA => pc += usize::try_from(k).unwrap(),
            c if c == BPF_JMP | BPF_JEQ | BPF_K => branch(accumulator == k),
            c if c == BPF_JMP | BPF_JGE | BPF_K => branch(accumulator >= k),
            c if c == BPF_JMP | BPF_JSET | BPF_K => branch(accumulator & k != 0),
            code => return Err(format!("unknown instruction {code:#x} at {at}")),
        }
    }
}
