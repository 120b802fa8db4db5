//! The one cell of a session, as far as it has come.

use std::{os::fd::OwnedFd, path::PathBuf, time::Instant};

use cellos_bridge::Exit;
use cellos_core::ports::workload::{ExitReport, Residue, StopSignal};
use cellos_isolation::protocol::CellKey;

use super::{files::Transfer, streams::Streams};

/// How far the cell has come.
pub(super) enum Stage {
    /// Nobody asked for one.
    None,
    /// The launcher builds it.
    Building {
        /// Of the request.
        number: u64,
        /// The host already wants it ended.
        stop: Option<StopSignal>,
    },
    /// Its workload is parked.
    Parked(Parked),
    /// Its workload was let go; whether its program could be executed is not known yet.
    Starting {
        /// Of the request.
        number: u64,
        cell: Parked,
        streams: Streams,
    },
    /// Its workload runs.
    Running { cell: Parked, streams: Streams },
    /// It has ended; what it wrote is still passed on.
    Draining {
        cell: Parked,
        streams: Streams,
        report: Box<ExitReport>,
        residue: Residue,
        /// When what is left is given up.
        until: Instant,
    },
    /// The host knows its end, and fetches files.
    Ended {
        folder: Option<OwnedFd>,
        transfer: Option<Transfer>,
    },
    /// There will be none; the host has been told why.
    Failed {
        /// When the host has had time enough to acknowledge that.
        until: Instant,
    },
}

/// What is known of a cell that has been built.
pub(super) struct Parked {
    pub(super) key: CellKey,
    pub(super) folder: Option<OwnedFd>,
    pub(super) cgroup: Option<PathBuf>,
}

impl Stage {
    /// The cell that can be ended.
    pub(super) fn key(&self) -> Option<CellKey> {
        match self {
            Self::Parked(cell) | Self::Starting { cell, .. } | Self::Running { cell, .. } => {
                Some(cell.key)
            }
            Self::None
            | Self::Building { .. }
            | Self::Draining { .. }
            | Self::Ended { .. }
            | Self::Failed { .. } => None,
        }
    }

    /// The streams of a workload that runs or ran.
    pub(super) fn streams(&mut self) -> Option<&mut Streams> {
        match self {
            Self::Running { streams, .. } | Self::Draining { streams, .. } => Some(streams),
            Self::None
            | Self::Building { .. }
            | Self::Parked(_)
            | Self::Starting { .. }
            | Self::Ended { .. }
            | Self::Failed { .. } => None,
        }
    }

    /// The control group that figures come from.
    pub(super) fn cgroup(&self) -> Option<&std::path::Path> {
        match self {
            Self::Parked(cell) | Self::Starting { cell, .. } | Self::Running { cell, .. } => {
                cell.cgroup.as_deref()
            }
            Self::None
            | Self::Building { .. }
            | Self::Draining { .. }
            | Self::Ended { .. }
            | Self::Failed { .. } => None,
        }
    }

    /// Whether a file is on its way to the host.
    pub(super) fn is_sending(&self) -> bool {
        matches!(
            self,
            Self::Ended {
                transfer: Some(_),
                ..
            }
        )
    }

    /// When something has to happen although nothing came.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Draining { until, .. } | Self::Failed { until } => Some(*until),
            _ => None,
        }
    }
}

/// The end as the host is told it.
pub(super) fn exit_of(report: ExitReport, residue: Residue, streams: &Streams) -> Exit {
    let [stdout, stderr] = &streams.outputs;
    let totals = |dropped_bytes| cellos_bridge::StreamTotals {
        // The bridge's end counts what it sent.
        sent_bytes: 0,
        dropped_bytes,
    };
    Exit {
        report,
        residue,
        stdout: totals(stdout.dropped()),
        stderr: totals(stderr.dropped()),
    }
}
