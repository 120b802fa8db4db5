//! Snapshot files. No process is saved in them: they hold the machine's configuration and stand-in
//! memory, with digests so that an altered file is noticed.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    bodies::{BackendType, SnapshotCreate, SnapshotLoad},
    configuration::Configuration,
};
use crate::settings::Version;

/// Says what the file is, and that no Firecracker wrote it.
const MAGIC: &str = "cellos fake VMM snapshot 1";
/// The first bytes of a memory file: the part that differs and is checked. The rest is a hole.
const MEMORY_HEAD_BYTES: usize = 4_096;
/// Most bytes of a state file that are read.
const MAX_STATE_BYTES: u64 = 1 << 20;
const BYTES_PER_MIB: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    magic: String,
    version: Version,
    configuration: Configuration,
    memory_digest: String,
}

/// Why a snapshot cannot be written or loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("cannot {operation} {path}: {source}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is not a snapshot's state: {what}")]
    State { path: PathBuf, what: String },
    #[error("{path} is not the memory of this snapshot: {what}")]
    Memory { path: PathBuf, what: &'static str },
    #[error("a state of version {found} cannot be loaded by version {own}")]
    Version { found: Version, own: Version },
    #[error("either `mem_backend` or `mem_file_path` must be given, and not both")]
    Backend,
    #[error("CellOS's fake VMM does not model the memory backend Uffd")]
    Uffd,
}

/// Writes both files.
pub(crate) fn create(
    order: &SnapshotCreate,
    configuration: &Configuration,
    version: Version,
) -> Result<(), SnapshotError> {
    let memory = &order.mem_file_path;
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| SnapshotError::Io {
            operation,
            path,
            source,
        }
    };
    let mut head = b"cellos fake VMM memory\n".to_vec();
    let mut random = [0; 32];
    File::open("/proc/sys/kernel/random/uuid")
        .and_then(|mut file| file.read(&mut random))
        // A bare jail has no /proc; the clock tells two snapshots apart there.
        .unwrap_or_else(|_| {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
            random[..16].copy_from_slice(&now.as_nanos().to_le_bytes());
            16
        });
    head.extend(random);
    head.resize(MEMORY_HEAD_BYTES, 0);
    File::create(memory)
        .and_then(|mut file| {
            file.write_all(&head)?;
            file.set_len(memory_bytes(configuration))
        })
        .map_err(failed("write", memory))?;
    let state = State {
        magic: MAGIC.into(),
        version,
        configuration: configuration.clone(),
        memory_digest: hex(&Sha256::digest(&head)),
    };
    let body = serde_json::to_string(&state).map_err(|error| SnapshotError::State {
        path: order.snapshot_path.clone(),
        what: error.to_string(),
    })?;
    let text = format!("{}\n{body}", hex(&Sha256::digest(&body)));
    fs::write(&order.snapshot_path, text).map_err(failed("write", &order.snapshot_path))
}

/// Reads both files; returns the configuration with the order's overrides not yet applied.
pub(crate) fn load(order: &SnapshotLoad, own: Version) -> Result<Configuration, SnapshotError> {
    let memory = match (&order.mem_backend, &order.mem_file_path) {
        (Some(backend), None) if backend.backend_type == BackendType::Uffd => {
            return Err(SnapshotError::Uffd);
        }
        (Some(backend), None) => &backend.backend_path,
        (None, Some(path)) => path,
        _ => return Err(SnapshotError::Backend),
    };
    let state = read_state(&order.snapshot_path)?;
    if state.version > own {
        return Err(SnapshotError::Version {
            found: state.version,
            own,
        });
    }
    check_memory(memory, &state)?;
    Ok(state.configuration)
}

fn read_state(path: &Path) -> Result<State, SnapshotError> {
    let wrong = |what: String| SnapshotError::State {
        path: path.to_owned(),
        what,
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_STATE_BYTES).read_to_string(&mut text))
        .map_err(|source| SnapshotError::Io {
            operation: "read",
            path: path.to_owned(),
            source,
        })?;
    let (digest, body) = text
        .split_once('\n')
        .ok_or_else(|| wrong("it has no digest".into()))?;
    if digest != hex(&Sha256::digest(body)) {
        return Err(wrong("its digest is wrong".into()));
    }
    let state: State = serde_json::from_str(body).map_err(|error| wrong(error.to_string()))?;
    match state.magic == MAGIC {
        true => Ok(state),
        false => Err(wrong("it has another magic".into())),
    }
}

fn check_memory(path: &Path, state: &State) -> Result<(), SnapshotError> {
    let wrong = |what| SnapshotError::Memory {
        path: path.to_owned(),
        what,
    };
    let mut head = vec![0; MEMORY_HEAD_BYTES];
    let length = File::open(path)
        .and_then(|mut file| {
            let length = file.seek(SeekFrom::End(0))?;
            file.rewind()?;
            file.read_exact(&mut head)?;
            Ok(length)
        })
        .map_err(|source| SnapshotError::Io {
            operation: "read",
            path: path.to_owned(),
            source,
        })?;
    if length != memory_bytes(&state.configuration) {
        return Err(wrong("it has another length"));
    }
    match hex(&Sha256::digest(&head)) == state.memory_digest {
        true => Ok(()),
        false => Err(wrong("its first page has another digest")),
    }
}

fn memory_bytes(configuration: &Configuration) -> u64 {
    configuration
        .machine
        .mem_size_mib
        .saturating_mul(BYTES_PER_MIB)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
