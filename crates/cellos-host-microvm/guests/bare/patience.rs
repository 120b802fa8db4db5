//! How long anything is waited for.

use core::arch::x86_64::_rdtsc;

/// Cycles of the time stamp counter that one wait lasts at most: 6 s at 3 GHz. Counted in time and
/// not in turns, since a turn takes a nanosecond on one machine and ten microseconds on another.
const WAIT_CYCLES: u64 = 1 << 34;

/// Turns that one wait lasts at most, for a counter that stands still: seconds of the fastest turn.
const WAIT_TURNS: u64 = 1 << 33;

/// Cycles between asking for a reset and forcing one: 90 ms at 3 GHz, time enough for a monitor
/// that obeys.
const RESET_CYCLES: u64 = 1 << 28;

/// Cycles between two reminders: 1.4 ms at 3 GHz.
const REMINDER_CYCLES: u64 = 1 << 22;

/// One wait.
pub(crate) struct Patience {
    started: u64,
    reminded: u64,
    cycles: u64,
    turns: u64,
}

impl Patience {
    /// For an answer of the device or the host.
    pub(crate) fn for_answer() -> Self {
        Self::of(WAIT_CYCLES)
    }

    /// For the monitor to obey a reset.
    pub(crate) fn for_reset() -> Self {
        Self::of(RESET_CYCLES)
    }

    fn of(cycles: u64) -> Self {
        let started = now();
        Self {
            started,
            reminded: started,
            cycles,
            turns: WAIT_TURNS,
        }
    }

    /// Spends a turn; whether there is another.
    pub(crate) fn lasts(&mut self) -> bool {
        self.turns = self.turns.saturating_sub(1);
        self.turns > 0 && now().wrapping_sub(self.started) < self.cycles
    }

    /// Whether the device should be told again of what it is waited for. A device that is a process
    /// of its own (vhost-user) takes queues up after the driver was told that they are, and forgets
    /// what it is told before.
    pub(crate) fn reminds(&mut self) -> bool {
        let now = now();
        let due = now.wrapping_sub(self.reminded) >= REMINDER_CYCLES;
        if due {
            self.reminded = now;
        }
        due
    }
}

fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and nothing has forbidden it in CR4.
    unsafe { _rdtsc() }
}
