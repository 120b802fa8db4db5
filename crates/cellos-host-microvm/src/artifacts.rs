//! What a machine boots from: opened, measured and compared with the manifest before anything
//! starts.

use std::{fs::File, path::PathBuf, sync::Arc};

/// One file, open, and its digest.
#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    /// Where it was opened; for messages and for staging, never to be opened by name again.
    pub(crate) path: PathBuf,
    /// The very file that was measured.
    pub(crate) file: Arc<File>,
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub(crate) sha256: String,
}

/// Everything that one machine boots from.
#[derive(Debug, Clone)]
pub(crate) struct Artifacts {
    pub(crate) kernel: Artifact,
    /// Holds PID 1 and the kernel modules it loads; a published guest has none.
    pub(crate) initrd: Option<Artifact>,
    /// The read-only file system that the cell sees, shared by all machines.
    pub(crate) base: Artifact,
    /// The monitor's program, which is executed by this descriptor or a copy of it.
    pub(crate) monitor: Artifact,
    pub(crate) jailer: Option<Artifact>,
}
