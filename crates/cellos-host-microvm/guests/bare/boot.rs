//! The two ways in, and the command line that each brings.
//!
//! * PVH (Xen's direct boot ABI, `docs/misc/pvh.pandoc` there): 32-bit protected mode without paging,
//!   `ebx` is the address of `hvm_start_info`. QEMU, and Firecracker from 1.12 on.
//! * Linux's 64-bit boot protocol (`Documentation/arch/x86/boot.rst`): long mode, `rsi` is the address
//!   of `boot_params`, e_entry of the file. Firecracker before that, and for files without the note.
//!
//! Either way the first 4 GiB are mapped one to one, since the devices lie at their end and
//! Firecracker maps only the first.

use core::{arch::global_asm, ptr, slice};

/// Longest command line that is read, in bytes: twice what Firecracker takes, what Linux takes.
const MAX_COMMAND_LINE_BYTES: usize = 4096;

/// Where the mapping ends.
pub(crate) const MAPPED_BYTES: u64 = 4 << 30;

/// How the machine was entered; the assembly below passes the numbers.
#[repr(u32)]
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "made in assembly")]
pub(crate) enum Protocol {
    Pvh = 0,
    Linux = 1,
}

/// `hvm_start_info`: its magic, and where the command line's address is in it.
const PVH_MAGIC: u32 = 0x336e_c578;
const PVH_COMMAND_LINE: u64 = 24;
/// Length of its first version, in bytes.
const PVH_BYTES: u64 = 40;

/// `boot_params`: where the setup header's magic (`HdrS`) and both halves of the command line's
/// address are in it.
pub(crate) const LINUX_HEADER: u64 = 0x202;
pub(crate) const LINUX_HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
pub(crate) const LINUX_COMMAND_LINE: u64 = 0x228;
const LINUX_COMMAND_LINE_HIGH: u64 = 0xc8;
const LINUX_BYTES: u64 = 4096;

/// The command line without its end, `None` if it is not where the protocol says.
pub(crate) fn command_line(information: u64, protocol: Protocol) -> Option<&'static [u8]> {
    let word = |offset: u64| read_u32(information + offset);
    let (low, high) = match protocol {
        Protocol::Pvh => {
            mapped(information, PVH_BYTES)?;
            if word(0) != PVH_MAGIC {
                return None;
            }
            (word(PVH_COMMAND_LINE), word(PVH_COMMAND_LINE + 4))
        }
        Protocol::Linux => {
            mapped(information, LINUX_BYTES)?;
            if word(LINUX_HEADER) != LINUX_HEADER_MAGIC {
                return None;
            }
            (word(LINUX_COMMAND_LINE), word(LINUX_COMMAND_LINE_HIGH))
        }
    };
    let address = u64::from(high) << 32 | u64::from(low);
    mapped(address, MAX_COMMAND_LINE_BYTES as u64)?;
    // SAFETY: the protocol says that a command line is there, `mapped` that it can be read, and
    // nothing of ours, which is all that is ever written, is where monitors put it.
    let bytes =
        unsafe { slice::from_raw_parts(address as usize as *const u8, MAX_COMMAND_LINE_BYTES) };
    let end = bytes.iter().position(|byte| *byte == 0)?;
    bytes.get(..end)
}

/// `None` where it is no memory that we could have been handed.
fn mapped(address: u64, length: u64) -> Option<()> {
    let end = address.checked_add(length)?;
    (address != 0 && end <= MAPPED_BYTES).then_some(())
}

fn read_u32(address: u64) -> u32 {
    // SAFETY: callers have asked `mapped`; any bits are a number.
    unsafe { ptr::read_unaligned(address as usize as *const u32) }
}

// The tag of the note is what QEMU and Firecracker look for in a PT_NOTE segment:
// XEN_ELFNOTE_PHYS32_ENTRY, with the address of the 32-bit entry. `without_pvh` leaves it out, which
// makes Firecracker use the other entry.
#[cfg(not(without_pvh))]
global_asm!(
    ".section .note.xen, \"a\", @note",
    ".balign 4",
    ".long 4, 8, 18",
    ".asciz \"Xen\"",
    ".quad pvh_entry",
);

global_asm!(
    ".section .text.entry, \"ax\"",
    ".code32",
    ".global pvh_entry",
    "pvh_entry:",
    "    cli",
    "    cld",
    "    movl %ebx, %edi",
    "    movl %cr4, %eax",
    "    orl $0x20, %eax", // PAE
    "    movl %eax, %cr4",
    "    movl $page_map, %eax",
    "    movl %eax, %cr3",
    "    movl $0xc0000080, %ecx", // EFER
    "    rdmsr",
    "    orl $0x100, %eax", // long mode enable
    "    wrmsr",
    "    movl %cr0, %eax",
    "    orl $0x80000001, %eax", // paging, protection
    "    movl %eax, %cr0",
    "    lgdt segments_pointer",
    "    ljmp $8, $pvh_long",
    ".code64",
    "pvh_long:",
    "    movl $16, %eax",
    "    movl %eax, %ds",
    "    movl %eax, %es",
    "    movl %eax, %ss",
    "    xorl %esi, %esi",
    "    jmp 3f",
    ".global linux_entry",
    "linux_entry:",
    "    cli",
    "    cld",
    "    movl $page_map, %eax",
    "    movq %rax, %cr3",
    "    movq %rsi, %rdi",
    "    movl $1, %esi",
    "3:  movl $stack_top, %esp",
    "    xorl %ebp, %ebp",
    "    call bare_guest",
    "",
    ".section .data.boot, \"aw\"",
    ".balign 8",
    "segments:",
    "    .quad 0",
    "    .quad 0x00af9b000000ffff", // code, 64 bits
    "    .quad 0x00cf93000000ffff", // data
    "segments_pointer:",
    "    .word segments_pointer - segments - 1",
    "    .quad segments",
    "",
    // Present and writable; in the lowest level also 2 MiB large, and uncached in the last GiB.
    ".balign 4096",
    "page_map:",
    "    .quad page_pointers + 3",
    "    .fill 511, 8, 0",
    "page_pointers:",
    "    .quad page_directories + 0x0003",
    "    .quad page_directories + 0x1003",
    "    .quad page_directories + 0x2003",
    "    .quad page_directories + 0x3003",
    "    .fill 508, 8, 0",
    "page_directories:",
    "    .set large_page, 0",
    "    .rept 1536",
    "    .quad (large_page << 21) + 0x83",
    "    .set large_page, large_page + 1",
    "    .endr",
    "    .rept 512",
    "    .quad (large_page << 21) + 0x93",
    "    .set large_page, large_page + 1",
    "    .endr",
    "",
    ".section .bss.stack, \"aw\", @nobits",
    ".balign 16",
    "    .skip 32768",
    "stack_top:",
    options(att_syntax),
);
