//! The rate of this processor's time-stamp counter.
//!
//! An emulated guest reads the host's counter, and on a machine without an old-fashioned timer it
//! cannot find out how fast that counts: its kernel measures once, gives up on a busy host, and
//! then waits for ever. Whoever boots it can tell it instead (`tsc_early_khz=` of the kernel's
//! `admin-guide/kernel-parameters`).

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// How long the counter is watched. Both clocks are read within some 100 ns, so the error is about
/// 10 parts in a million, a tenth of what an ordinary quartz is off.
const WATCHED: Duration = Duration::from_millis(10);

/// Reads at each end, of which the one that took least is used: it was not interrupted.
const READS: usize = 5;

/// The rate in kHz, measured at the first call, which takes 10 ms. `None` where the processor has
/// no such counter or the rate makes no sense.
#[must_use]
pub fn frequency_khz() -> Option<u64> {
    static RATE: OnceLock<Option<u64>> = OnceLock::new();
    *RATE.get_or_init(measure)
}

fn measure() -> Option<u64> {
    let (ticks_before, before) = read()?;
    std::thread::sleep(WATCHED);
    let (ticks_after, after) = read()?;
    let ticks = u128::from(ticks_after.checked_sub(ticks_before)?);
    let nanoseconds = after.checked_duration_since(before)?.as_nanos();
    // Ticks a nanosecond are millions of kHz.
    let khz = u64::try_from((ticks * 1_000_000).checked_div(nanoseconds)?).ok()?;
    // 0.1 to 20 GHz: nothing else is a processor that is emulated on.
    (100_000..20_000_000).contains(&khz).then_some(khz)
}

/// The counter and the time that belongs to it.
fn read() -> Option<(u64, Instant)> {
    let mut best: Option<(Duration, u64, Instant)> = None;
    for _ in 0..READS {
        let begun = Instant::now();
        let ticks = counter()?;
        let taken = begun.elapsed();
        if best.is_none_or(|(least, _, _)| taken < least) {
            best = Some((taken, ticks, begun + taken / 2));
        }
    }
    best.map(|(_, ticks, at)| (ticks, at))
}

#[cfg(target_arch = "x86_64")]
fn counter() -> Option<u64> {
    // SAFETY: every x86-64 processor has RDTSC, and Linux lets programs use it unless one asked
    // to be forbidden (PR_SET_TSC), which nothing here does.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Option<u64> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let first = measure().unwrap();
        let second = measure().unwrap();
        // A per mille: far more than the error, far less than any wrong unit.
        assert!(first.abs_diff(second) < first / 1000, "{first} {second}");
        assert_eq!(frequency_khz(), frequency_khz());
    }
}
