//! A folder on this host: `<root>/<cell>/<artifact>`.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read as _, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use cellos_core::{
    CellosError,
    ports::{ExportArtifactMetadata, ExportReceipt, ExportReceiptTargetKind, ExportSink},
};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use sha2::{Digest as _, Sha256};

/// Longest artifact name, in bytes: what a file name may have on every common file system.
const MAX_NAME_BYTES: usize = 255;

/// Bytes of an artifact that are copied and hashed at once.
const CHUNK_BYTES: usize = 128 * 1024;

/// Stores artifacts of one cell in a folder. An artifact appears under its name only when it is
/// complete, and never replaces one that is there.
#[derive(Debug, Clone)]
pub struct LocalFolder {
    root: PathBuf,
    /// Open from before the cell runs: a workload that can write where the folder lies could put
    /// a link in its place.
    folder: Arc<OwnedFd>,
    cell_id: String,
}

impl LocalFolder {
    /// Artifacts of `cell_id` go to `<root>/<cell_id>/`, which is made when the first one arrives.
    /// The root is made, and opened, here; make the sink before the cell runs.
    ///
    /// # Errors
    /// [`CellosError::ExportSink`] when the cell's id is no safe folder name, or the root cannot be
    /// made.
    pub fn new(root: impl Into<PathBuf>, cell_id: impl Into<String>) -> Result<Self, CellosError> {
        let cell_id = cell_id.into();
        check_name("cell id", &cell_id)?;
        let root = root.into();
        let folder = open_root(&root).map_err(|error| {
            CellosError::ExportSink(format!(
                "cannot make the artifact folder {}: {error}",
                root.display()
            ))
        })?;
        Ok(Self {
            root,
            folder: Arc::new(folder),
            cell_id,
        })
    }

    fn store(&self, name: &str, source: &Path) -> Result<Stored, CellosError> {
        check_name("artifact name", name)?;
        let mut input = File::open(source).map_err(|error| failed("open", name, &error))?;
        let folder = self
            .open_cell_folder()
            .map_err(|error| failed("prepare the folder of", name, &error))?;
        let partial = format!(".partial-{}", uuid::Uuid::new_v4());
        let stored = write_whole(&folder, &partial, name, &mut input);
        if stored.is_err() {
            // It may never have been made; the first error is the one that matters.
            let _ = rustix::fs::unlinkat(&folder, &partial, AtFlags::empty());
        }
        stored.map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                CellosError::ExportSink(format!(
                    "artifact {name:?} is already at {}; remove it or export to another folder",
                    self.root.join(&self.cell_id).join(name).display()
                ))
            } else {
                failed("store", name, &error)
            }
        })
    }

    /// Opens the cell's folder without following a symbolic link in its place.
    fn open_cell_folder(&self) -> io::Result<OwnedFd> {
        let root = &*self.folder;
        match rustix::fs::mkdirat(root, &self.cell_id, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = FOLDER | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(
            root,
            &self.cell_id,
            flags,
            Mode::empty(),
        )?)
    }
}

/// How folders are opened.
const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    std::fs::create_dir_all(root)?;
    Ok(rustix::fs::open(root, FOLDER, Mode::empty())?)
}

/// What was stored.
struct Stored {
    bytes: u64,
    sha256: String,
}

/// Hashes what it passes on.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_whole(
    folder: &OwnedFd,
    partial: &str,
    name: &str,
    input: &mut File,
) -> io::Result<Stored> {
    let output = File::from(rustix::fs::openat(
        folder,
        partial,
        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o666),
    )?);
    // No more than it holds now, which is what its size was checked for: somebody else may have it
    // open and go on writing.
    let size = input.metadata()?.len();
    let mut output = Hashing {
        inner: output,
        hash: Sha256::new(),
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut input = input.take(size);
    let mut bytes = 0;
    loop {
        let read = input.read(&mut chunk)?;
        let part = chunk.get(..read).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        output.write_all(part)?;
        bytes += part.len() as u64;
    }
    output.inner.sync_all()?;
    rustix::fs::renameat_with(folder, partial, folder, name, RenameFlags::NOREPLACE)?;
    Ok(Stored {
        bytes,
        sha256: hex(&output.hash.finalize()),
    })
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A name is one visible path component: no separators, no `..`, no leading `~` or `.`, no control
/// characters.
fn check_name(what: &str, name: &str) -> Result<(), CellosError> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "is longer than 255 bytes"
    } else if name.contains(['/', '\\']) {
        "contains a path separator"
    } else if name.contains("..") {
        "contains `..`"
    } else if name.starts_with('~') || name.starts_with('.') {
        "starts with `~` or `.`"
    } else if name.chars().any(char::is_control) {
        "contains a control character"
    } else {
        return Ok(());
    };
    Err(CellosError::ExportSink(format!(
        "{what} {name:?} {problem}"
    )))
}

fn failed(operation: &str, name: &str, error: &io::Error) -> CellosError {
    CellosError::ExportSink(format!("cannot {operation} artifact {name:?}: {error}"))
}

#[async_trait]
impl ExportSink for LocalFolder {
    fn target_kind(&self) -> Option<ExportReceiptTargetKind> {
        Some(ExportReceiptTargetKind::Local)
    }

    fn destination_hint(&self, name: &str) -> Option<String> {
        Some(format!("{}/{name}", self.cell_id))
    }

    async fn push(
        &self,
        name: &str,
        path: &str,
        metadata: &ExportArtifactMetadata,
    ) -> Result<ExportReceipt, CellosError> {
        let (receipt, _) = self.push_measured(name, path, metadata).await?;
        Ok(receipt)
    }

    async fn push_measured(
        &self,
        name: &str,
        path: &str,
        _metadata: &ExportArtifactMetadata,
    ) -> Result<(ExportReceipt, Option<String>), CellosError> {
        let (sink, owned_name, source) = (self.clone(), name.to_owned(), PathBuf::from(path));
        let stored = tokio::task::spawn_blocking(move || sink.store(&owned_name, &source))
            .await
            .map_err(|error| {
                CellosError::ExportSink(format!("storing artifact {name:?} stopped: {error}"))
            })??;
        let receipt = ExportReceipt {
            target_kind: ExportReceiptTargetKind::Local,
            target_name: None,
            destination: format!("{}/{name}", self.cell_id),
            bytes_written: stored.bytes,
        };
        Ok((receipt, Some(stored.sha256)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn push(root: &Path, name: &str, source: &Path) -> Result<ExportReceipt, CellosError> {
        LocalFolder::new(root, "cell-1")?
            .push(
                name,
                source.to_str().unwrap(),
                &ExportArtifactMetadata::default(),
            )
            .await
    }

    fn source(dir: &Path, content: &str) -> PathBuf {
        let path = dir.join("source");
        std::fs::write(&path, content).unwrap();
        path
    }

    #[tokio::test]
    async fn artifact_lands_under_cell_and_name_with_a_receipt() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        let receipt = push(&root, "report.txt", &source(dir.path(), "hello"))
            .await
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(root.join("cell-1/report.txt")).unwrap(),
            "hello"
        );
        assert_eq!(receipt.destination, "cell-1/report.txt");
        assert_eq!(receipt.bytes_written, 5);
        assert_eq!(receipt.target_kind, ExportReceiptTargetKind::Local);
    }

    #[tokio::test]
    async fn what_was_stored_is_hashed_while_it_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let content = "0123456789abcdef".repeat(20_000);
        let source = source(dir.path(), &content);
        let (receipt, sha256) = LocalFolder::new(dir.path().join("out"), "cell-1")
            .unwrap()
            .push_measured(
                "a",
                source.to_str().unwrap(),
                &ExportArtifactMetadata::default(),
            )
            .await
            .unwrap();
        let stored = std::fs::read(dir.path().join("out/cell-1/a")).unwrap();
        assert_eq!(stored, content.as_bytes());
        assert_eq!(receipt.bytes_written, stored.len() as u64);
        assert_eq!(sha256, Some(hex(&Sha256::digest(&stored))));
    }

    #[tokio::test]
    async fn existing_artifact_is_not_replaced_and_no_partial_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        push(&root, "a", &source(dir.path(), "first"))
            .await
            .unwrap();
        let error = push(&root, "a", &source(dir.path(), "second"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("already at"), "{error}");
        assert_eq!(
            std::fs::read_to_string(root.join("cell-1/a")).unwrap(),
            "first"
        );
        assert_eq!(std::fs::read_dir(root.join("cell-1")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn missing_source_does_not_block_a_retry() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        push(&root, "a", &dir.path().join("absent"))
            .await
            .unwrap_err();
        push(&root, "a", &source(dir.path(), "x")).await.unwrap();
    }

    #[tokio::test]
    async fn symbolic_link_in_place_of_the_cell_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (dir.path().join("out"), dir.path().join("elsewhere"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("cell-1")).unwrap();
        push(&root, "a", &source(dir.path(), "x"))
            .await
            .unwrap_err();
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn link_that_takes_the_place_of_the_root_later_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (dir.path().join("out"), dir.path().join("elsewhere"));
        std::fs::create_dir_all(&elsewhere).unwrap();
        let sink = LocalFolder::new(&root, "cell-1").unwrap();
        std::fs::rename(&root, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &root).unwrap();
        let source = source(dir.path(), "x");
        sink.push(
            "a",
            source.to_str().unwrap(),
            &ExportArtifactMetadata::default(),
        )
        .await
        .unwrap();
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
        assert!(dir.path().join("moved/cell-1/a").exists());
    }

    #[tokio::test]
    async fn unsafe_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = source(dir.path(), "x");
        for name in [
            "", "a/b", "a\\b", "..", "a..b", "~a", ".hidden", "a\0b", "a\nb",
        ] {
            assert!(push(dir.path(), name, &file).await.is_err(), "{name:?}");
        }
        assert!(push(dir.path(), &"n".repeat(256), &file).await.is_err());
        assert!(LocalFolder::new(dir.path(), "../up").is_err());
    }
}
