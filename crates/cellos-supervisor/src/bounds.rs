//! How long the supervisor waits for others. Behind each bound stands something that does not
//! answer; none is reached in a healthy run.

use std::time::Duration;

/// A backend creates a cell: an image may have to be unpacked, a guest kernel to boot.
pub const CREATE: Duration = Duration::from_secs(120);
/// A backend looks at a process, or reports what it already knows.
pub const QUERY: Duration = Duration::from_secs(10);
/// A backend lets a workload run.
pub const RELEASE: Duration = Duration::from_secs(30);
/// A backend passes a signal on, or finishes the start that a request to stop came into.
pub const STOP: Duration = Duration::from_secs(5);
/// A killed workload ends. The kernel needs milliseconds, writing out a large core a few seconds.
pub const KILL: Duration = Duration::from_secs(10);
/// A backend takes a cell apart.
pub const DESTROY: Duration = Duration::from_secs(60);
/// A sink takes one event; it may have to reach a server several times.
pub const EVENT: Duration = Duration::from_secs(30);
/// A sink that has let one event time out gets the next ones only for the record.
pub const EVENT_AFTER_TIMEOUT: Duration = Duration::from_secs(1);
/// An export sink stores one artifact, or a backend fetches all of them out of a cell.
pub const EXPORT: Duration = Duration::from_secs(600);
/// A gateway begins to serve a cell. It needs microseconds.
pub const NETWORK_OPEN: Duration = Duration::from_secs(10);
/// A gateway ends every flow of a cell and reports each. It has a bound of its own, 10 s, and says
/// what it could not report; this one is for a gateway that does not answer at all.
pub const NETWORK_CLOSE: Duration = Duration::from_secs(15);
/// Reports of a cell's network that wait to be written, about a kilobyte each. Whoever has more
/// waits.
pub const REPORTS: usize = 256;
/// Reports that are written together, so that a busy network costs no write for each.
pub const REPORTS_TOGETHER: usize = 64;
/// Between the polite request to end and the kill, where the document does not say.
pub const GRACE: Duration = Duration::from_secs(5);
/// Largest artifact in bytes: 1 GiB, so that a cell cannot fill the target's disk.
pub const ARTIFACT_BYTES: u64 = 1 << 30;
