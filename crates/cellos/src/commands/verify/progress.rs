//! How far a check has come, in one line of the terminal that is written over and over.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// Time between two looks of the line.
const REDRAW: Duration = Duration::from_millis(100);
/// Width of the bar, in characters.
const WIDTH: u64 = 30;

/// The line; nothing where standard error is no terminal.
pub(super) struct Progress {
    total: u64,
    begun: Instant,
    drawn: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            begun: Instant::now(),
            drawn: None,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// So many bytes are done.
    pub(super) fn at(&mut self, bytes: u64) {
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW);
        if !self.is_terminal || !is_due {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(bytes, self.total, self.begun.elapsed());
        // A terminal that takes nothing does not change what the check comes to.
        let _ = write!(std::io::stderr(), "\r\x1b[2K{line}");
    }

    /// Takes the line away, so that something else can be written.
    pub(super) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

fn line(bytes: u64, total: u64, elapsed: Duration) -> String {
    let done = (bytes * WIDTH)
        .checked_div(total)
        .unwrap_or(WIDTH)
        .min(WIDTH);
    let bar: String = (0..WIDTH)
        .map(|at| if at < done { '=' } else { ' ' })
        .collect();
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let rate = megabytes(bytes) / elapsed.as_secs_f64().max(0.001);
    format!(
        "[{bar}] {:.0} of {:.0} MB, {rate:.0} MB/s",
        megabytes(bytes),
        megabytes(total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_the_file_is_read() {
        let second = Duration::from_secs(1);
        let half = line(50_000_000, 100_000_000, second);
        assert_eq!(
            half,
            "[===============               ] 50 of 100 MB, 50 MB/s"
        );
        // A log that grows meanwhile, and one without bytes.
        assert!(line(300, 100, second).starts_with("[=============================="));
        assert!(line(0, 0, second).contains("0 of 0 MB"));
    }
}
