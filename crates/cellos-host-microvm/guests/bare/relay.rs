//! Enters the machine a second time, by Linux's boot protocol, after a monitor entered it by PVH. So
//! that entry is tried where no monitor speaks that protocol. Only compiled with `relay`.

use core::{
    arch::asm,
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    Failure,
    boot::{self, Protocol},
};

/// The page that `boot_params` is.
#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);

// SAFETY: the machine has one processor and one thread.
unsafe impl Sync for Page {}

static PARAMETERS: Page = Page(UnsafeCell::new([0; 4096]));
static RELAYED: AtomicBool = AtomicBool::new(false);

/// Returns when the machine was entered by Linux's protocol after the relay, and fails when by
/// another.
pub(crate) fn to_linux_entry(
    command_line: &'static [u8],
    protocol: Protocol,
) -> Result<(), Failure> {
    match (protocol, RELAYED.swap(true, Ordering::Relaxed)) {
        (Protocol::Pvh, false) => {}
        (Protocol::Linux, true) => return Ok(()),
        _ => return Err(Failure::BootInformation),
    }
    let address = command_line.as_ptr() as usize as u32;
    let page = PARAMETERS.0.get().cast::<u8>();
    // SAFETY: the offsets are inside the page, and the entry never returns, whatever it does to
    // registers and stack.
    unsafe {
        page.add(boot::LINUX_HEADER as usize)
            .cast::<u32>()
            .write_unaligned(boot::LINUX_HEADER_MAGIC);
        page.add(boot::LINUX_COMMAND_LINE as usize)
            .cast::<u32>()
            .write_unaligned(address);
        asm!("jmp linux_entry", in("rsi") page, options(noreturn));
    }
}
