//! A packet socket that sees what the kernel refuses in the cell, and nothing else.
//!
//! A connection to a port that nobody listens on is refused by the kernel of the cell's network,
//! and no listener ever hears of it. The refusal itself is a packet on the loopback device.

use std::os::fd::{AsFd, OwnedFd};

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX,
    BPF_MSH, BPF_RET, BPF_W, sock_filter,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use crate::{
    init::step::{Step, StepResult},
    netlink::LOOPBACK_INDEX,
    sys,
};

/// Bytes that are kept of each packet: the headers of an ICMP message and those of the datagram
/// that it is about, with every option that IPv4 has.
const KEPT_BYTES: u32 = 192;

/// Bytes that refusals may take up in the kernel until they are read, before its own doubling:
/// about a hundred. Those beyond are counted (`PACKET_STATISTICS`).
const BUFFER_BYTES: usize = 64 * 1024;

/// Where refusals are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// On the loopback device, where every packet goes out and comes in.
    Loopback,
    /// On the device of this index, by which somebody else's packets come: only what goes out there
    /// is the kernel's own word.
    Outgoing(u32),
}

/// The socket, filtered from its first packet on, for ever.
pub(super) fn socket(watched: Watched) -> StepResult<OwnedFd> {
    let step = "watch for connections that the kernel refuses";
    // With protocol 0 it receives nothing until it is bound, packet(7).
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .step(step)?;
    sys::attach_filter(socket.as_fd(), &filter(watched)).step(step)?;
    sys::set_socket_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1).step(step)?;
    sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES).step(step)?;
    let device = match watched {
        Watched::Loopback => {
            sys::set_socket_option(
                socket.as_fd(),
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                1,
            )
            .step(step)?;
            LOOPBACK_INDEX
        }
        Watched::Outgoing(device) => device,
    };
    sys::bind_packet_socket(socket.as_fd(), device).step(step)?;
    Ok(socket)
}

/// What has to hold of one field of a packet, which begins with its IP header.
#[derive(Debug, Clone, Copy)]
struct Condition {
    load: Load,
    mask: u32,
    equals: u32,
}

/// A field: at an offset of the packet, or behind the IPv4 header, whose length differs.
#[derive(Debug, Clone, Copy)]
enum Load {
    Byte(u32),
    Half(u32),
    Word(u32),
    ByteBehind(u32),
    HalfBehind(u32),
    WordBehind(u32),
}

const fn is(load: Load, equals: u32) -> Condition {
    masked(load, u32::MAX, equals)
}

const fn masked(load: Load, mask: u32, equals: u32) -> Condition {
    Condition { load, mask, equals }
}

const VERSION_4: Condition = masked(Load::Byte(0), 0xf0, 0x40);
const VERSION_6: Condition = masked(Load::Byte(0), 0xf0, 0x60);
/// The first fragment, or the only one: others have no header behind that of IP.
const FIRST_FRAGMENT: Condition = masked(Load::Half(6), 0x1fff, 0);
/// Of packets that go out, packet(7).
const PACKET_OUTGOING: u32 = libc::PACKET_OUTGOING as u32;
/// `RST` and `ACK`, and no other flag.
const RESET_FLAGS: u32 = 0x14;
const FLAGS: u32 = 0x3f;

/// The first list whose conditions all hold decides; without one, the packet is not wanted.
///
/// A reset with sequence number 0 answers a packet without `ACK`, which is the first of a
/// connection (RFC 9293, 3.10.7.1). What goes to the loopback addresses themselves is between the
/// cell's own processes, which often look for each other until they are there, and is left out.
const LISTS: &[(Verdict, &[Condition])] = &[
    (Verdict::Drop, &[VERSION_4, is(Load::Byte(12), 127)]),
    (
        Verdict::Keep,
        &[
            VERSION_4,
            FIRST_FRAGMENT,
            is(Load::Byte(9), libc::IPPROTO_TCP as u32),
            is(Load::WordBehind(4), 0),
            masked(Load::ByteBehind(13), FLAGS, RESET_FLAGS),
        ],
    ),
    (
        Verdict::Keep,
        &[
            VERSION_4,
            FIRST_FRAGMENT,
            is(Load::Byte(9), libc::IPPROTO_ICMP as u32),
            // Type 3, destination unreachable; code 3, port.
            is(Load::HalfBehind(0), 0x0303),
        ],
    ),
    (
        Verdict::Drop,
        &[
            VERSION_6,
            is(Load::Word(8), 0),
            is(Load::Word(12), 0),
            is(Load::Word(16), 0),
            is(Load::Word(20), 1),
        ],
    ),
    (
        Verdict::Keep,
        &[
            VERSION_6,
            is(Load::Byte(6), libc::IPPROTO_TCP as u32),
            is(Load::Word(44), 0),
            masked(Load::Byte(53), FLAGS, RESET_FLAGS),
        ],
    ),
    (
        Verdict::Keep,
        &[
            VERSION_6,
            is(Load::Byte(6), libc::IPPROTO_ICMPV6 as u32),
            // Type 1, destination unreachable; code 4, port.
            is(Load::Half(40), 0x0104),
        ],
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Drop,
}

/// Offset of a packet's direction among what is not its bytes, `SKF_AD_OFF + SKF_AD_PKTTYPE`.
const DIRECTION: u32 = (-0x1000i32 + 4).cast_unsigned();

/// The lists as a program of classic BPF. A load beyond the packet's end drops it.
fn filter(watched: Watched) -> Vec<sock_filter> {
    let mut program = Vec::new();
    if let Watched::Outgoing(_) = watched {
        let mut goes_out = instruction(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING);
        goes_out.jt = 1;
        program.extend([
            instruction(BPF_LD | BPF_W | BPF_ABS, DIRECTION),
            goes_out,
            ret(0),
        ]);
    }
    for (verdict, conditions) in LISTS {
        let last = match verdict {
            Verdict::Keep => ret(KEPT_BYTES),
            Verdict::Drop => ret(0),
        };
        // Back to front, so that the way to the next list is known.
        let mut reversed = vec![last];
        for condition in conditions.iter().rev() {
            let to_next = u8::try_from(reversed.len()).unwrap_or(u8::MAX);
            let mut jump = instruction(BPF_JMP | BPF_JEQ | BPF_K, condition.equals);
            jump.jf = to_next;
            reversed.push(jump);
            if condition.mask != u32::MAX {
                reversed.push(instruction(BPF_ALU | BPF_AND | BPF_K, condition.mask));
            }
            let (code, offset, behind) = match condition.load {
                Load::Byte(offset) => (BPF_B | BPF_ABS, offset, false),
                Load::Half(offset) => (BPF_H | BPF_ABS, offset, false),
                Load::Word(offset) => (BPF_W | BPF_ABS, offset, false),
                Load::ByteBehind(offset) => (BPF_B | BPF_IND, offset, true),
                Load::HalfBehind(offset) => (BPF_H | BPF_IND, offset, true),
                Load::WordBehind(offset) => (BPF_W | BPF_IND, offset, true),
            };
            reversed.push(instruction(BPF_LD | code, offset));
            if behind {
                // The length of the IPv4 header, four times its low half byte.
                reversed.push(instruction(BPF_LDX | BPF_B | BPF_MSH, 0));
            }
        }
        reversed.reverse();
        program.extend(reversed);
    }
    program.push(ret(0));
    program
}

fn ret(bytes: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, bytes)
}

fn instruction(code: u32, k: u32) -> sock_filter {
    // Opcodes of classic BPF take eight bits.
    let code = u16::try_from(code).unwrap_or(u16::MAX);
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{RecvFlags, SendFlags, recv, send, socketpair};

    use super::*;

    /// What the kernel itself does with a packet that is sent through the filter.
    fn passes(packet: &[u8]) -> bool {
        passes_where(Watched::Loopback, packet)
    }

    fn passes_where(watched: Watched, packet: &[u8]) -> bool {
        let (from, to) = socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        sys::attach_filter(to.as_fd(), &filter(watched)).unwrap();
        let sent = send(&from, packet, SendFlags::NOSIGNAL);
        let received = recv(&to, &mut [0u8; 512][..], RecvFlags::empty());
        assert!(
            sent.is_ok() || sent == Err(rustix::io::Errno::PERM),
            "{sent:?}"
        );
        received.is_ok()
    }

    fn v4(protocol: u8, source: [u8; 4], options: usize, behind: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x40 | u8::try_from(5 + options / 4).unwrap();
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&source);
        packet.extend_from_slice(behind);
        packet
    }

    fn v6(protocol: u8, source: &str, behind: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = protocol;
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        packet[8..24].copy_from_slice(&source.octets());
        packet.extend_from_slice(behind);
        packet
    }

    fn tcp(sequence: u32, flags: u8) -> Vec<u8> {
        let mut header = vec![0; 20];
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        header[13] = flags;
        header
    }

    const OUTSIDE: [u8; 4] = [192, 0, 2, 1];

    #[test]
    fn only_answers_to_first_packets_pass() {
        for (flags, sequence, expected) in [
            (0x14, 0, true),
            (0x14, 1, false),
            (0x04, 0, false),
            (0x12, 0, false),
            (0x10, 0, false),
            (0x1c, 0, false),
            (0x54, 0, true), // with ECN's bits
        ] {
            let header = tcp(sequence, flags);
            for options in [0, 4, 40] {
                let packet = v4(6, OUTSIDE, options, &header);
                assert_eq!(
                    passes(&packet),
                    expected,
                    "v4 {flags:x} {sequence} {options}"
                );
            }
            let packet = v6(6, "2001:db8::1", &header);
            assert_eq!(passes(&packet), expected, "v6 {flags:x} {sequence}");
        }
    }

    #[test]
    fn what_comes_in_from_somebody_else_is_no_refusal() {
        let refusal = v4(6, OUTSIDE, 0, &tcp(0, 0x14));
        assert!(passes(&refusal));
        assert!(!passes_where(Watched::Outgoing(2), &refusal));
    }

    #[test]
    fn of_icmp_only_unreachable_ports_pass() {
        for (kind, code, in_v4, in_v6) in [
            (3, 3, true, false),
            (1, 4, false, true),
            (3, 1, false, false),
            (1, 3, false, false),
            (8, 0, false, false),
            (128, 0, false, false),
        ] {
            let message = [kind, code, 0, 0, 0, 0, 0, 0];
            assert_eq!(passes(&v4(1, OUTSIDE, 0, &message)), in_v4, "{kind} {code}");
            let packet = v6(58, "2001:db8::1", &message);
            assert_eq!(passes(&packet), in_v6, "{kind} {code}");
        }
    }

    #[test]
    fn what_the_cell_says_to_itself_does_not_pass() {
        let reset = tcp(0, 0x14);
        assert!(!passes(&v4(6, [127, 0, 0, 1], 0, &reset)));
        assert!(!passes(&v4(6, [127, 9, 9, 9], 0, &reset)));
        assert!(!passes(&v6(6, "::1", &reset)));
        assert!(passes(&v6(6, "::2", &reset)));
        assert!(passes(&v6(6, "1::1", &reset)));
    }

    #[test]
    fn cut_packets_fragments_and_others_do_not_pass() {
        let packet = v4(6, OUTSIDE, 0, &tcp(0, 0x14));
        for length in 0..34 {
            assert!(!passes(&packet[..length]), "{length}");
        }
        let mut fragment = packet.clone();
        fragment[7] = 1;
        assert!(!passes(&fragment));
        assert!(!passes(&v4(17, OUTSIDE, 0, &tcp(0, 0x14))));
        let mut other = packet;
        other[0] = 0x55;
        assert!(!passes(&other));
    }
}
