//! From the lists of calls to a program: number ranges, searched by halving, and argument checks.
//!
//! The kernel runs a filter for each number once when it is installed and remembers those that it
//! allows without looking at an argument (`seccomp_cache_prepare`, Linux 5.11), so most calls later
//! cost nothing, and installing costs the sum of all paths. Halving keeps the paths short: on the
//! machine this was measured on (Linux 6.18, x86_64, compiler on) the program of 162 instructions
//! takes 50 to 75 µs to install; about the same list as `seccompiler`'s linear chain has 1585 and takes
//! 660 to 690 µs, which is most of what a whole cell may cost.

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT, c_int,
    sock_filter,
};

use super::assembler::{Assembler, Label, Test};
use super::calls::{ABSENT, ALLOWED, CONDITIONAL, Call, HIDDEN, NEWEST, REFUSED};

/// An architecture that filters can be built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    /// 64-bit x86, without x32.
    X86_64,
    /// 64-bit ARM, little-endian.
    Aarch64,
}

impl Architecture {
    /// The architecture that this program runs on, if filters can be built for it.
    pub(super) const NATIVE: Option<Self> = if cfg!(target_arch = "x86_64") {
        Some(Self::X86_64)
    } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
        Some(Self::Aarch64)
    } else {
        None
    };

    /// `AUDIT_ARCH_*` of `linux/audit.h`: the ELF machine with the 64-bit and little-endian marks.
    pub(super) const fn audit_value(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The number of `call`, if the architecture has it.
    pub(super) fn number(self, call: &Call) -> Option<u32> {
        let number = match self {
            Self::X86_64 => call.1,
            Self::Aarch64 => call.2,
        };
        (number != ABSENT).then_some(number)
    }
}

/// A check of a call's arguments. Positions count from 0.
///
/// All the arguments looked at are 32-bit (or smaller) in the kernel, which drops the upper half of
/// the register; so do the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArgumentRule {
    /// `clone`: no new namespace.
    CloneFlags,
    /// `socket`, `socketpair`: local, TCP, UDP and route-netlink sockets only.
    SocketFamily,
    /// `ioctl`: no typing into terminals, no line disciplines.
    IoctlRequest,
    /// `personality`: the execution domains that only weaken the caller itself.
    PersonalityValue,
    /// No set-user-ID or set-group-ID bit in the argument `mode`, which counts only when the
    /// argument `flags`, if there is one, asks for a new file.
    CreateMode { flags: Option<u32>, mode: u32 },
    /// `mknod`: as above, and no device.
    NodeMode { mode: u32 },
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The kernel proceeds.
    Allow,
    /// The call fails with this error number.
    Fail(c_int),
    /// The whole process dies of `SIGSYS`.
    Kill,
    /// The arguments decide.
    Arguments(ArgumentRule),
}

const REFUSE: Verdict = Verdict::Fail(EPERM);
const HIDE: Verdict = Verdict::Fail(ENOSYS);

/// Offsets in `struct seccomp_data` (seccomp(2)).
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;
const ARGUMENT_SIZE: u32 = 8;

/// The bit that marks a call of the x32 ABI on x86_64 (`asm/unistd.h`).
const X32_BIT: u32 = 0x4000_0000;

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET` (clone(2)).
/// `CLONE_NEWTIME` lies among the bits of the exit signal and is not understood by `clone`.
const CLONE_NEW_NAMESPACES: u32 = 0x7e02_0000;

/// `O_CREAT` and the bit that only `O_TMPFILE` has (`asm-generic/fcntl.h`; equal on both
/// architectures). Without them the mode is not read, and the register may hold anything.
const OPEN_CREATES: u32 = 0o100 | 0o20_000_000;
const SET_ID_BITS: u32 = 0o6000;
const FILE_TYPE_MASK: u32 = 0o170_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;

/// Requests of `ioctl_tty(2)`: fake input, console selections and paste, line disciplines (each of
/// which loads a module).
const FORBIDDEN_IOCTLS: &[u32] = &[0x5412, 0x541c, 0x5423];

/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, `PER_LINUX` with `ADDR_NO_RANDOMIZE` (Lisp and
/// debug builds re-execute themselves with it), and the value that only asks.
const HARMLESS_PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0xffff_ffff];

/// Where the kind lies in the type argument of socket(2), below `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
const SOCKET_TYPE_MASK: u32 = 0xf;
const STREAM: u32 = 1;
const DATAGRAM: u32 = 2;
const NETLINK_ROUTE: u32 = 0;
/// Default, TCP and UDP. Others (SCTP, L2TP, MPTCP, ...) load modules on demand.
const INTERNET_PROTOCOLS: &[u32] = &[0, 6, 17];

/// What the lists say for each number of the architecture, in ascending order of the first number
/// of each range. The first range begins at 0, the last ends at `u32::MAX`.
pub(super) fn ranges(architecture: Architecture) -> Vec<(u32, Verdict)> {
    let mut known: Vec<(u32, Verdict)> = Vec::new();
    let mut add = |calls: &[Call], verdict| {
        known.extend(
            calls
                .iter()
                .filter_map(|c| Some((architecture.number(c)?, verdict))),
        );
    };
    add(ALLOWED, Verdict::Allow);
    add(REFUSED, REFUSE);
    add(HIDDEN, HIDE);
    for (call, rule) in CONDITIONAL {
        add(std::slice::from_ref(call), Verdict::Arguments(*rule));
    }
    known.sort_unstable_by_key(|(number, _)| *number);

    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let mut begin = |start: u32, verdict: Verdict| {
        if ranges
            .last()
            .is_none_or(|(_, previous)| *previous != verdict)
        {
            ranges.push((start, verdict));
        }
    };
    let mut next = 0;
    for (number, verdict) in known {
        if number > next {
            begin(next, REFUSE);
        }
        begin(number, verdict);
        next = number.saturating_add(1);
    }
    if next <= NEWEST {
        begin(next, REFUSE);
    }
    begin(NEWEST + 1, HIDE);
    if architecture == Architecture::X86_64 {
        begin(X32_BIT, Verdict::Kill);
        // -1 is no x32 call: tracers write it to skip a call, programs use it to provoke ENOSYS.
        begin(u32::MAX, HIDE);
    }
    ranges
}

/// The filter program for `architecture`.
pub(super) fn assemble(architecture: Architecture) -> Box<[sock_filter]> {
    let mut program = Program {
        asm: Assembler::default(),
        verdicts: Vec::new(),
    };
    let kill = program.verdict(Verdict::Kill);
    let ranges = ranges(architecture);
    let targets: Vec<(u32, Label)> = ranges
        .into_iter()
        .map(|(start, verdict)| (start, program.verdict(verdict)))
        .collect();
    let search = program.search(&targets).unwrap_or(kill);
    let number = program.asm.load(OFFSET_NUMBER, search);
    let check = program
        .asm
        .branch(Test::Equal, architecture.audit_value(), number, kill);
    program.asm.load(OFFSET_ARCH, check);
    program.asm.finish()
}

/// The program with the places of what was already written, so that nothing is written twice.
struct Program {
    asm: Assembler,
    verdicts: Vec<(Verdict, Label)>,
}

impl Program {
    fn verdict(&mut self, verdict: Verdict) -> Label {
        if let Some((_, label)) = self.verdicts.iter().find(|(known, _)| *known == verdict) {
            return *label;
        }
        let label = match verdict {
            Verdict::Allow => self.asm.ret(libc::SECCOMP_RET_ALLOW),
            Verdict::Kill => self.asm.ret(libc::SECCOMP_RET_KILL_PROCESS),
            Verdict::Fail(errno) => self
                .asm
                .ret(libc::SECCOMP_RET_ERRNO | word(errno) & libc::SECCOMP_RET_DATA),
            Verdict::Arguments(rule) => self.arguments(rule),
        };
        self.verdicts.push((verdict, label));
        label
    }

    fn arguments(&mut self, rule: ArgumentRule) -> Label {
        let allow = self.verdict(Verdict::Allow);
        let refuse = self.verdict(REFUSE);
        match rule {
            ArgumentRule::CloneFlags => {
                let test = self
                    .asm
                    .branch(Test::AnyBit, CLONE_NEW_NAMESPACES, refuse, allow);
                self.argument(0, test)
            }
            ArgumentRule::IoctlRequest => {
                let test = self.any_of(FORBIDDEN_IOCTLS, refuse, allow);
                self.argument(1, test)
            }
            ArgumentRule::PersonalityValue => {
                let test = self.any_of(HARMLESS_PERSONALITIES, allow, refuse);
                self.argument(0, test)
            }
            ArgumentRule::CreateMode { flags, mode } => {
                let test = self.asm.branch(Test::AnyBit, SET_ID_BITS, refuse, allow);
                let check = self.argument(mode, test);
                let Some(flags) = flags else { return check };
                let creates = self.asm.branch(Test::AnyBit, OPEN_CREATES, check, allow);
                self.argument(flags, creates)
            }
            ArgumentRule::NodeMode { mode } => {
                let device = self.any_of(&[CHARACTER_DEVICE, BLOCK_DEVICE], refuse, allow);
                let kind = self.asm.and(FILE_TYPE_MASK, device);
                let test = self.asm.branch(Test::AnyBit, SET_ID_BITS, refuse, kind);
                self.argument(mode, test)
            }
            ArgumentRule::SocketFamily => self.socket(allow, refuse),
        }
    }

    /// Errors are those of a kernel without the family or protocol, which programs that probe know
    /// (PAM for one takes `EPERM` from an audit socket as a failure); raw sockets get `EPERM`, as
    /// from any kernel without `CAP_NET_RAW`.
    fn socket(&mut self, allow: Label, refuse: Label) -> Label {
        let no_family = self.verdict(Verdict::Fail(EAFNOSUPPORT));
        let no_protocol = self.verdict(Verdict::Fail(EPROTONOSUPPORT));
        let protocol = self.any_of(INTERNET_PROTOCOLS, allow, no_protocol);
        let protocol = self.argument(2, protocol);
        let kind = self.any_of(&[STREAM, DATAGRAM], protocol, refuse);
        let kind = self.asm.and(SOCKET_TYPE_MASK, kind);
        let internet = self.argument(1, kind);
        let route = self
            .asm
            .branch(Test::Equal, NETLINK_ROUTE, allow, no_protocol);
        let netlink = self.argument(2, route);
        let family = self
            .asm
            .branch(Test::Equal, word(AF_NETLINK), netlink, no_family);
        let family = self
            .asm
            .branch(Test::Equal, word(AF_INET6), internet, family);
        let family = self
            .asm
            .branch(Test::Equal, word(AF_INET), internet, family);
        let family = self.asm.branch(Test::Equal, word(AF_UNIX), allow, family);
        self.argument(0, family)
    }

    /// Loads the lower half of an argument.
    fn argument(&mut self, position: u32, next: Label) -> Label {
        self.asm
            .load(OFFSET_ARGUMENTS + position * ARGUMENT_SIZE, next)
    }

    fn any_of(&mut self, constants: &[u32], yes: Label, no: Label) -> Label {
        constants.iter().rev().fold(no, |next, constant| {
            self.asm.branch(Test::Equal, *constant, yes, next)
        })
    }

    /// Finds by halving the range that the accumulator lies in.
    fn search(&mut self, ranges: &[(u32, Label)]) -> Option<Label> {
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        match (lower, upper) {
            ([], upper) => upper.first().map(|(_, target)| *target),
            (lower, [(start, _), ..]) => {
                let above = self.search(upper)?;
                let below = self.search(lower)?;
                Some(self.asm.branch(Test::AtLeast, *start, above, below))
            }
            (_, []) => None,
        }
    }
}

/// A small non-negative C constant as the word that a filter compares with.
fn word(constant: c_int) -> u32 {
    constant.unsigned_abs()
}
