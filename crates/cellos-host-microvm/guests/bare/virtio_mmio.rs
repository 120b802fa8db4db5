//! A modern virtio device behind memory-mapped registers (virtio 1.2, 4.2).

use core::ptr;

use crate::{Failure, boot, patience::Patience, queue};

/// Registers, as offsets in bytes.
mod register {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub(super) const QUEUE_SELECT: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESCRIPTORS: u64 = 0x080;
    pub(super) const QUEUE_AVAILABLE: u64 = 0x090;
    pub(super) const QUEUE_USED: u64 = 0x0a0;
    pub(super) const CONFIGURATION: u64 = 0x100;
}

/// Length of the registers together with a socket device's configuration, in bytes.
const REGISTER_BYTES: u64 = register::CONFIGURATION + 8;

/// `virt`, little-endian.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The version of the registers that is not legacy.
const MODERN: u32 = 2;
/// A socket device.
const SOCKET: u32 = 19;

/// Bits of the status (virtio 1.2, 2.1).
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;

/// `VIRTIO_F_VERSION_1` (bit 32) in the upper half of the features; no other is asked for.
const VERSION_1: u32 = 1;

/// A socket device.
pub(crate) struct Device {
    base: u64,
}

impl Device {
    /// The device whose registers begin at `base`, if it is a socket of the modern kind.
    pub(crate) fn at(base: u64) -> Option<Self> {
        let end = base.checked_add(REGISTER_BYTES)?;
        if base == 0 || !base.is_multiple_of(4) || end > boot::MAPPED_BYTES {
            return None;
        }
        let device = Self { base };
        let is_socket = device.read(register::MAGIC) == MAGIC
            && device.read(register::VERSION) == MODERN
            && device.read(register::DEVICE_ID) == SOCKET;
        is_socket.then_some(device)
    }

    /// Resets it and agrees on the features (virtio 1.2, 3.1.1).
    pub(crate) fn negotiate(&self) -> Result<(), Failure> {
        self.write(register::STATUS, 0);
        let mut patience = Patience::for_answer();
        while self.read(register::STATUS) != 0 {
            if !patience.lasts() {
                return Err(Failure::TimedOut);
            }
        }
        self.write(register::STATUS, ACKNOWLEDGE);
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER);

        self.write(register::DEVICE_FEATURES_SELECT, 1);
        if self.read(register::DEVICE_FEATURES) & VERSION_1 == 0 {
            return Err(Failure::Negotiation);
        }
        self.write(register::DRIVER_FEATURES_SELECT, 0);
        self.write(register::DRIVER_FEATURES, 0);
        self.write(register::DRIVER_FEATURES_SELECT, 1);
        self.write(register::DRIVER_FEATURES, VERSION_1);
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        match self.read(register::STATUS) & FEATURES_OK {
            0 => Err(Failure::Negotiation),
            _ => Ok(()),
        }
    }

    /// Hands over one queue.
    pub(crate) fn set_up(&self, number: u32, places: queue::Places) -> Result<(), Failure> {
        self.write(register::QUEUE_SELECT, number);
        if self.read(register::QUEUE_READY) != 0
            || self.read(register::QUEUE_SIZE_MAX) < queue::SIZE.into()
        {
            return Err(Failure::Negotiation);
        }
        self.write(register::QUEUE_SIZE, queue::SIZE.into());
        self.write_address(register::QUEUE_DESCRIPTORS, places.descriptors);
        self.write_address(register::QUEUE_AVAILABLE, places.available);
        self.write_address(register::QUEUE_USED, places.used);
        self.write(register::QUEUE_READY, 1);
        Ok(())
    }

    /// Lets it work.
    pub(crate) fn start(&self) {
        let all = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        self.write(register::STATUS, all);
    }

    /// Tells it to look at a queue.
    pub(crate) fn notify(&self, number: u32) {
        self.write(register::QUEUE_NOTIFY, number);
    }

    /// A word of its own configuration.
    pub(crate) fn configuration(&self, offset: u64) -> u32 {
        self.read(register::CONFIGURATION + offset)
    }

    fn write_address(&self, register: u64, address: u64) {
        let [low, high] = crate::vsock::halves(address);
        self.write(register, low);
        self.write(register + 4, high);
    }

    fn read(&self, register: u64) -> u32 {
        // SAFETY: `at` checked that the registers are in the mapping, aligned, and not at 0.
        unsafe { ptr::read_volatile((self.base + register) as usize as *const u32) }
    }

    fn write(&self, register: u64, value: u32) {
        // SAFETY: as for `read`; what the device then does to memory is bounded by the queues, which
        // are handed over whole.
        unsafe { ptr::write_volatile((self.base + register) as usize as *mut u32, value) }
    }
}
