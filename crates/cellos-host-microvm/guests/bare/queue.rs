//! Split virtqueues (virtio 1.2, 2.7) in static memory, one per direction, without interrupts.

use core::{
    cell::UnsafeCell,
    ptr,
    sync::atomic::{Ordering, fence},
};

use crate::Failure;

/// Descriptors of a queue. Each message is a pair of them, header and payload.
pub(crate) const SIZE: u16 = 8;

/// Messages that a queue can hold.
pub(crate) const MESSAGES: u16 = SIZE / 2;

/// Length of a message's header: `struct virtio_vsock_hdr`.
pub(crate) const HEADER_BYTES: u32 = 44;

/// Longest payload of a message, in bytes: a page, as Linux's driver has it.
pub(crate) const PAYLOAD_BYTES: u32 = 4096;

/// Flags of a descriptor: another follows; the device writes.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Flag of the available ring: no interrupts, please.
const NO_INTERRUPT: u16 = 1;

#[repr(C)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

#[repr(C)]
struct Available {
    flags: u16,
    index: u16,
    ring: [u16; SIZE as usize],
    used_event: u16,
}

#[repr(C)]
struct Used {
    flags: u16,
    index: u16,
    ring: [UsedElement; SIZE as usize],
    available_event: u16,
}

#[repr(C)]
struct UsedElement {
    head: u32,
    bytes: u32,
}

#[repr(C)]
struct Contents {
    descriptors: [Descriptor; SIZE as usize],
    available: Available,
    used: Used,
    headers: [[u32; HEADER_BYTES as usize / 4]; MESSAGES as usize],
    payloads: [[u8; PAYLOAD_BYTES as usize]; MESSAGES as usize],
}

/// Memory of one queue.
#[repr(C, align(4096))]
pub(crate) struct Memory(UnsafeCell<Contents>);

// SAFETY: the machine has one processor and one thread; the device is the only other party, and all
// access is volatile.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) const fn new() -> Self {
        // SAFETY: numbers and arrays of numbers, all of which may be zero.
        Self(unsafe { core::mem::zeroed() })
    }
}

/// Where the parts of a queue are.
pub(crate) struct Places {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// Who writes the messages of a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    Device,
    Driver,
}

/// One queue, from the driver's side.
pub(crate) struct Queue {
    contents: *mut Contents,
    writer: Writer,
    offered: u16,
    taken: u16,
}

impl Queue {
    /// Takes the memory over. At most one queue of each, and before the device knows of it.
    pub(crate) fn new(memory: &'static Memory, writer: Writer) -> Self {
        let contents = memory.0.get();
        // SAFETY: the pointer is to a static.
        unsafe { ptr::write_volatile(&raw mut (*contents).available.flags, NO_INTERRUPT) };
        Self {
            contents,
            writer,
            offered: 0,
            taken: 0,
        }
    }

    pub(crate) fn places(&self) -> Places {
        // SAFETY: only addresses are taken.
        unsafe {
            Places {
                descriptors: (&raw const (*self.contents).descriptors) as u64,
                available: (&raw const (*self.contents).available) as u64,
                used: (&raw const (*self.contents).used) as u64,
            }
        }
    }

    /// Gives a message's buffers to the device, with so many bytes of payload.
    pub(crate) fn offer(&mut self, message: u16, payload_bytes: u32) {
        let message = message % MESSAGES;
        let head = message * 2;
        let write = match self.writer {
            Writer::Device => WRITE,
            Writer::Driver => 0,
        };
        let next = if payload_bytes > 0 { NEXT } else { 0 };
        let slot = usize::from(self.offered % SIZE);
        let at = usize::from(message);
        // SAFETY: indices are reduced to the arrays' lengths; the device does not have this message
        // now, which `returned` or never having been offered shows.
        unsafe {
            let contents = self.contents;
            ptr::write_volatile(
                &raw mut (*contents).descriptors[at * 2],
                Descriptor {
                    address: (&raw const (*contents).headers[at]) as u64,
                    length: HEADER_BYTES,
                    flags: next | write,
                    next: head + 1,
                },
            );
            ptr::write_volatile(
                &raw mut (*contents).descriptors[at * 2 + 1],
                Descriptor {
                    address: (&raw const (*contents).payloads[at]) as u64,
                    length: payload_bytes.min(PAYLOAD_BYTES),
                    flags: write,
                    next: 0,
                },
            );
            ptr::write_volatile(&raw mut (*contents).available.ring[slot], head);
        }
        self.offered = self.offered.wrapping_add(1);
        // The device must not see the index before what it leads to.
        fence(Ordering::Release);
        // SAFETY: a static's field.
        unsafe { ptr::write_volatile(&raw mut (*self.contents).available.index, self.offered) };
    }

    /// The next message that the device is done with, and how many bytes it wrote.
    pub(crate) fn returned(&mut self) -> Result<Option<(u16, u32)>, Failure> {
        // SAFETY: a static's field.
        let index = unsafe { ptr::read_volatile(&raw const (*self.contents).used.index) };
        if index == self.taken {
            return Ok(None);
        }
        // What the index leads to must not be read before it.
        fence(Ordering::Acquire);
        let slot = usize::from(self.taken % SIZE);
        // SAFETY: the index is reduced to the array's length.
        let element = unsafe { ptr::read_volatile(&raw const (*self.contents).used.ring[slot]) };
        self.taken = self.taken.wrapping_add(1);
        match u16::try_from(element.head) {
            Ok(head) if head < SIZE && head % 2 == 0 => Ok(Some((head / 2, element.bytes))),
            _ => Err(Failure::Protocol),
        }
    }

    pub(crate) fn header(&self, message: u16) -> [u32; HEADER_BYTES as usize / 4] {
        let at = usize::from(message % MESSAGES);
        // SAFETY: the index is reduced to the array's length.
        unsafe { ptr::read_volatile(&raw const (*self.contents).headers[at]) }
    }

    pub(crate) fn set_header(&mut self, message: u16, header: [u32; HEADER_BYTES as usize / 4]) {
        let at = usize::from(message % MESSAGES);
        // SAFETY: the index is reduced to the array's length.
        unsafe { ptr::write_volatile(&raw mut (*self.contents).headers[at], header) }
    }

    /// The first byte of a message's payload.
    pub(crate) fn first_byte(&self, message: u16) -> u8 {
        let at = usize::from(message % MESSAGES);
        // SAFETY: the index is reduced to the array's length.
        unsafe { ptr::read_volatile(&raw const (*self.contents).payloads[at][0]) }
    }

    /// Writes a payload, as much of it as there is room for.
    pub(crate) fn set_payload(&mut self, message: u16, payload: &[u8]) {
        let at = usize::from(message % MESSAGES);
        for (offset, byte) in payload.iter().take(PAYLOAD_BYTES as usize).enumerate() {
            // SAFETY: both indices are less than the arrays' lengths.
            unsafe { ptr::write_volatile(&raw mut (*self.contents).payloads[at][offset], *byte) }
        }
    }
}
