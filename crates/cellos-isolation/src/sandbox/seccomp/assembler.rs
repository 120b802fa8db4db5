//! An assembler for classic BPF that writes a program from its end to its beginning.
//!
//! Classic BPF jumps only forward and, on a condition, at most 255 instructions far. Written back
//! to front, each jump's target is already there, so its distance is known at once, and where it is
//! too far an unconditional jump (32-bit distance) is put in between.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET,
    BPF_W, sock_filter,
};

/// A place in the program, counted from its end, so that it stays true while code is put in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(u32);

/// The comparison of a conditional jump, of the accumulator with a constant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test {
    /// Equal.
    Equal,
    /// Greater or equal, unsigned.
    AtLeast,
    /// At least one of the constant's bits is set.
    AnyBit,
}

impl Test {
    fn opcode(self) -> u32 {
        match self {
            Self::Equal => BPF_JEQ,
            Self::AtLeast => BPF_JGE,
            Self::AnyBit => BPF_JSET,
        }
    }
}

/// A program under construction.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// Last instruction first.
    reversed: Vec<sock_filter>,
}

impl Assembler {
    /// Ends the filter with a `SECCOMP_RET_*` value.
    pub(super) fn ret(&mut self, value: u32) -> Label {
        self.push(BPF_RET | BPF_K, 0, 0, value)
    }

    /// Loads the 32-bit word at `offset` of `struct seccomp_data`, and goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_through_to(next);
        self.push(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
    }

    /// Keeps only the bits of `mask` in the accumulator, and goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.fall_through_to(next);
        self.push(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask)
    }

    /// Goes on at `yes` if the accumulator passes the test against `constant`, else at `no`.
    pub(super) fn branch(&mut self, test: Test, constant: u32, yes: Label, no: Label) -> Label {
        let (mut yes, mut no) = (yes, no);
        loop {
            match (self.short_distance(yes), self.short_distance(no)) {
                (Some(jt), Some(jf)) => {
                    return self.push(BPF_JMP | test.opcode() | BPF_K, jt, jf, constant);
                }
                // Each jump put in between moves the other target one further, hence the loop.
                (None, _) => yes = self.jump(yes),
                (_, None) => no = self.jump(no),
            }
        }
    }

    /// The program, first instruction first.
    pub(super) fn finish(mut self) -> Box<[sock_filter]> {
        self.reversed.reverse();
        self.reversed.into_boxed_slice()
    }

    /// The place of the instruction that was written last, which is the one that comes next.
    fn here(&self) -> Label {
        Label(u32::try_from(self.reversed.len()).unwrap_or(u32::MAX))
    }

    /// How many instructions lie between the one written next and `target`.
    fn distance(&self, target: Label) -> u32 {
        self.here().0.saturating_sub(target.0)
    }

    fn short_distance(&self, target: Label) -> Option<u8> {
        u8::try_from(self.distance(target)).ok()
    }

    fn fall_through_to(&mut self, next: Label) {
        if next != self.here() {
            self.jump(next);
        }
    }

    fn jump(&mut self, target: Label) -> Label {
        self.push(BPF_JMP | BPF_JA, 0, 0, self.distance(target))
    }

    fn push(&mut self, code: u32, jt: u8, jf: u8, k: u32) -> Label {
        // Opcodes of classic BPF take eight bits.
        let code = u16::try_from(code).unwrap_or(u16::MAX);
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.here()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::seccomp::interpreter::{SyscallData, interpret};

    fn with_number(nr: u32) -> SyscallData {
        SyscallData {
            nr,
            arch: 0,
            args: [0; 6],
        }
    }

    #[test]
    fn branches_reach_both_targets_at_any_distance() {
        for padding in [0, 1, 100, 253, 254, 255, 256, 257, 600] {
            let mut asm = Assembler::default();
            let no = asm.ret(2);
            for _ in 0..padding {
                asm.ret(99);
            }
            let yes = asm.ret(1);
            for _ in 0..padding {
                asm.ret(99);
            }
            let test = asm.branch(Test::Equal, 7, yes, no);
            asm.load(0, test);
            let program = asm.finish();
            assert_eq!(
                interpret(&program, &with_number(7)),
                Ok(1),
                "padding {padding}"
            );
            assert_eq!(
                interpret(&program, &with_number(8)),
                Ok(2),
                "padding {padding}"
            );
        }
    }

    #[test]
    fn tests_compare_as_named() {
        let cases = [
            (Test::Equal, 5, 5, true),
            (Test::Equal, 5, 6, false),
            (Test::AtLeast, 5, 5, true),
            (Test::AtLeast, 5, 4, false),
            (Test::AtLeast, 5, u32::MAX, true),
            (Test::AnyBit, 6, 4, true),
            (Test::AnyBit, 6, 9, false),
        ];
        for (test, constant, value, passes) in cases {
            let mut asm = Assembler::default();
            let no = asm.ret(0);
            let yes = asm.ret(1);
            let branch = asm.branch(test, constant, yes, no);
            asm.load(0, branch);
            let program = asm.finish();
            let result = interpret(&program, &with_number(value));
            assert_eq!(result, Ok(u32::from(passes)), "{test:?} {constant} {value}");
        }
    }

    #[test]
    fn masks_apply_before_what_follows() {
        let mut asm = Assembler::default();
        let no = asm.ret(0);
        let yes = asm.ret(1);
        let equal = asm.branch(Test::Equal, 1, yes, no);
        // Something in between, so that falling through would be wrong.
        asm.ret(99);
        let mask = asm.and(0xf, equal);
        asm.load(0, mask);
        let program = asm.finish();
        assert_eq!(interpret(&program, &with_number(0xf1)), Ok(1));
        assert_eq!(interpret(&program, &with_number(0xf2)), Ok(0));
    }
}
