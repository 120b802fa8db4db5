//! Whether the host has the memory for one more machine.

use std::{
    fmt, fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cellos_core::ports::workload::GuestExecution;

use crate::plan::{MONITOR_OVERHEAD_BYTES, MachineShape};

/// What a monitor needs beside its machine's memory where the processor executes the guest, in
/// bytes: nothing is translated.
const NATIVE_OVERHEAD_BYTES: u64 = 64 << 20;

/// What a fake machine needs, in bytes: it is an ordinary process that uses what it uses.
const FAKE_MACHINE_BYTES: u64 = 32 << 20;

/// Memory promised to machines that are being made and do not use it yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capacity {
    promised: Arc<AtomicU64>,
    source: Source,
}

/// Where the free memory is read.
#[derive(Debug, Clone, Copy, Default)]
enum Source {
    /// `MemAvailable` of proc_meminfo(5).
    #[default]
    Host,
    #[cfg(test)]
    Fixed(u64),
}

/// Memory that one machine may come to use; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Promise {
    promised: Arc<AtomicU64>,
    bytes: u64,
}

/// Why there is no room.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CapacityError {
    /// There is too little memory.
    #[error(
        "this host has no memory for another machine: it needs {need} (its memory and its \
         monitor's), {available} are available and {promised} of that promised to machines that \
         are being made; lower spec.run.limits.memoryMaxBytes or end other cells"
    )]
    Memory {
        need: Mebibytes,
        available: Mebibytes,
        promised: Mebibytes,
    },
    /// It cannot be known.
    #[error("read MemAvailable of /proc/meminfo: {0}")]
    Unknown(String),
}

/// Bytes, shown in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mebibytes(pub(crate) u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 >> 20)
    }
}

impl Capacity {
    #[cfg(test)]
    pub(crate) fn fixed(bytes: u64) -> Self {
        Self {
            promised: Arc::default(),
            source: Source::Fixed(bytes),
        }
    }

    /// Promises memory for a machine.
    ///
    /// # Errors
    /// [`CapacityError`] when the host has too little.
    pub(crate) fn promise(
        &self,
        shape: MachineShape,
        execution: GuestExecution,
    ) -> Result<Promise, CapacityError> {
        let bytes = machine_bytes(shape, execution);
        let available = self.available()?;
        let before = self.promised.fetch_add(bytes, Ordering::SeqCst);
        let promise = Promise {
            promised: Arc::clone(&self.promised),
            bytes,
        };
        if before.saturating_add(bytes) > available {
            return Err(CapacityError::Memory {
                need: Mebibytes(bytes),
                available: Mebibytes(available),
                promised: Mebibytes(before),
            });
        }
        Ok(promise)
    }

    fn available(&self) -> Result<u64, CapacityError> {
        match self.source {
            Source::Host => fs::read_to_string("/proc/meminfo")
                .map_err(|error| CapacityError::Unknown(error.to_string()))
                .and_then(|text| {
                    mem_available(&text)
                        .ok_or_else(|| CapacityError::Unknown("no such line".to_owned()))
                }),
            #[cfg(test)]
            Source::Fixed(bytes) => Ok(bytes),
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.promised.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// What a machine and its monitor need on the host, in bytes.
pub(crate) fn machine_bytes(shape: MachineShape, execution: GuestExecution) -> u64 {
    match execution {
        GuestExecution::Kvm => shape.memory_bytes().saturating_add(NATIVE_OVERHEAD_BYTES),
        GuestExecution::Emulated => shape.memory_bytes().saturating_add(MONITOR_OVERHEAD_BYTES),
        GuestExecution::Fake => FAKE_MACHINE_BYTES,
    }
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: MachineShape = MachineShape {
        vcpus: 1,
        memory_mib: 192,
    };

    #[test]
    fn machines_that_are_being_made_count() {
        let capacity = Capacity::fixed(3 * machine_bytes(SHAPE, GuestExecution::Kvm) - 1);
        let first = capacity.promise(SHAPE, GuestExecution::Kvm).unwrap();
        let _second = capacity.promise(SHAPE, GuestExecution::Kvm).unwrap();
        let refused = capacity.promise(SHAPE, GuestExecution::Kvm).unwrap_err();
        assert!(refused.to_string().contains("needs 256 MiB"), "{refused}");
        drop(first);
        assert!(capacity.promise(SHAPE, GuestExecution::Kvm).is_ok());
    }

    #[test]
    fn the_hosts_memory_is_read() {
        assert_eq!(
            mem_available("MemFree:  1 kB\nMemAvailable:   24 kB\n"),
            Some(24 * 1024)
        );
        assert!(Capacity::default().available().unwrap() > 0);
    }
}
