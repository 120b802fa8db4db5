//! The few things that are the machine's own: its serial port, its end, and copying memory.

use core::arch::{asm, global_asm};

use crate::patience::Patience;

/// First serial port: data register, and line status register.
const SERIAL_DATA: u16 = 0x3f8;
const SERIAL_STATUS: u16 = 0x3fd;
/// In the line status: the transmitter takes a byte.
const SERIAL_READY: u8 = 0x20;
/// Turns that the transmitter is waited for. A monitor's is always ready.
const SERIAL_TURNS: u32 = 1000;

/// Command port of the keyboard controller, and its command to pulse the reset line.
const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

/// Writes one byte, if the port takes it.
pub(crate) fn serial(byte: u8) {
    for _ in 0..SERIAL_TURNS {
        if input(SERIAL_STATUS) & SERIAL_READY != 0 {
            output(SERIAL_DATA, byte);
            return;
        }
    }
}

/// Ends the machine: by the keyboard controller, which is how Firecracker wants to be told, and
/// where there is none by a fault that the processor cannot deliver.
pub(crate) fn reset() -> ! {
    output(KEYBOARD_COMMAND, PULSE_RESET);
    let mut patience = Patience::for_reset();
    while patience.lasts() {}
    let no_interrupts: [u8; 10] = [0; 10];
    // SAFETY: the table is empty, so the invalid instruction becomes a double and then a triple
    // fault, which resets the machine; nothing after it runs.
    unsafe {
        asm!(
            "lidt [{table}]",
            "ud2",
            "2: hlt",
            "jmp 2b",
            table = in(reg) &no_interrupts,
            options(noreturn),
        )
    }
}

fn output(port: u16, byte: u8) {
    // SAFETY: the ports named in this file are devices that touch no memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags));
    }
}

fn input(port: u16) -> u8 {
    let byte;
    // SAFETY: as for `output`.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") byte, options(nomem, nostack, preserves_flags));
    }
    byte
}

// What the compiler takes for granted. In assembly, because the compiler would make a loop that
// copies into a call of the very function that it is in.
global_asm!(
    ".section .text.memory, \"ax\"",
    ".global memcpy, memmove, memset, memcmp, bcmp",
    "memcpy:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    rep movsb",
    "    ret",
    "memmove:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    cmp rdi, rsi",
    "    ja 2f",
    "    rep movsb",
    "    ret",
    "2:  lea rdi, [rdi + rcx - 1]",
    "    lea rsi, [rsi + rcx - 1]",
    "    std",
    "    rep movsb",
    "    cld",
    "    ret",
    "memset:",
    "    mov r8, rdi",
    "    mov eax, esi",
    "    mov rcx, rdx",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    "memcmp:",
    "bcmp:",
    "    xor eax, eax",
    "2:  test rdx, rdx",
    "    jz 3f",
    "    movzx eax, byte ptr [rdi]",
    "    movzx ecx, byte ptr [rsi]",
    "    inc rdi",
    "    inc rsi",
    "    dec rdx",
    "    sub eax, ecx",
    "    jz 2b",
    "3:  ret",
);
