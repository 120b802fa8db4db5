//! Figures of the machine and of its cell.

use std::path::Path;

use cellos_bridge::{Nonce, Telemetry};
use rustix::{
    rand::GetRandomFlags,
    time::{ClockId, clock_gettime},
};

/// Milliseconds since the kernel's start, time in which the machine was suspended included.
pub(super) fn uptime_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(nanoseconds / 1_000_000)
}

/// What the cell uses now; zeroes where it has no control group of v2, or ended meanwhile.
pub(super) fn of_cell(cgroup: Option<&Path>) -> Telemetry {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    let figure = |file: &str| {
        cgroup
            .and_then(|group| std::fs::read_to_string(group.join(file)).ok())
            .and_then(|text| text.trim_end().parse().ok())
            .unwrap_or(0)
    };
    Telemetry {
        monotonic_ns: seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds),
        memory_bytes: figure("memory.current"),
        processes: figure("pids.current"),
    }
}

/// A number that was never used before. Early in a boot this waits for the kernel's generator.
pub(super) fn fresh_nonce() -> std::io::Result<Nonce> {
    let mut nonce = [0; 32];
    let mut filled = 0;
    while let Some(rest) = nonce.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, GetRandomFlags::empty()) {
            Ok(length) => filled += length,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Nonce(nonce))
}
