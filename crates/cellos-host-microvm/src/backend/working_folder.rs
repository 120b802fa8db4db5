//! The files that leave a cell: fetched over the bridge into a private folder.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Component, Path, PathBuf},
};

use cellos_bridge::Fetch;
use cellos_core::{ExecutionCellDocument, ports::workload::WorkingFolder};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use tokio::sync::Mutex;

use crate::{
    error::SessionError,
    session::{Fetched, Session},
};

/// Largest artifact in bytes, the supervisor's bound.
const MAX_ARTIFACT_BYTES: u64 = 1 << 30;

/// All artifacts of a cell together, in bytes: they are kept in the run folder, which may be in
/// memory.
const MAX_ALL_BYTES: u64 = 4 << 30;

/// Most artifacts of a cell.
const MAX_ARTIFACTS: usize = 1024;

/// Name of the folder in the machine's place.
const FOLDER: &str = "artifacts";

/// What of a cell's working folder is on the host.
pub(super) struct Folder {
    host: PathBuf,
    in_cell: PathBuf,
    /// What the document lets out, relative to the working folder.
    declared: BTreeSet<PathBuf>,
    /// Held while files are fetched: each is fetched once.
    fetched: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    Fetched,
}

/// Why a file is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("make the folder for artifacts: {0}")]
    Host(#[from] io::Error),
    #[error("{} artifacts are declared, at most {MAX_ARTIFACTS} are fetched", .0)]
    TooMany(usize),
    #[error("the artifacts have more than {MAX_ALL_BYTES} bytes together")]
    TooLarge,
    #[error("fetch artifact {}: {source}", path.display())]
    Fetch { path: PathBuf, source: SessionError },
    #[error("make the file of artifact {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl Folder {
    pub(super) fn new(place: &Path, in_cell: PathBuf, document: &ExecutionCellDocument) -> Self {
        let declared = document
            .spec
            .export
            .as_ref()
            .and_then(|export| export.artifacts.as_deref())
            .unwrap_or_default()
            .iter()
            .filter_map(|artifact| beneath(&in_cell, Path::new(&artifact.path)))
            .collect();
        Self {
            host: place.join(FOLDER),
            in_cell,
            declared,
            fetched: Mutex::new(State::Empty),
        }
    }

    /// The folder: empty while the workload has not ended, with what the document declares after
    /// that, as far as it exists.
    ///
    /// # Errors
    /// [`FolderError`] when a file exists and cannot be had.
    pub(super) async fn open(
        &self,
        session: Option<&Session>,
    ) -> Result<WorkingFolder, FolderError> {
        let mut state = self.fetched.lock().await;
        let directory = make(&self.host)?;
        if let (Some(session), State::Empty) = (session, *state) {
            self.fetch_all(session, &directory).await?;
            *state = State::Fetched;
        }
        Ok(WorkingFolder {
            directory,
            path: self.in_cell.clone(),
        })
    }

    async fn fetch_all(&self, session: &Session, directory: &OwnedFd) -> Result<(), FolderError> {
        if self.declared.len() > MAX_ARTIFACTS {
            return Err(FolderError::TooMany(self.declared.len()));
        }
        let mut left = MAX_ALL_BYTES;
        for path in &self.declared {
            let file = create_beneath(directory, path).map_err(|source| FolderError::File {
                path: path.clone(),
                source,
            })?;
            let fetch = Fetch {
                path: path.to_string_lossy().into_owned(),
                max_bytes: MAX_ARTIFACT_BYTES,
            };
            match session.fetch(fetch, file).await {
                Ok(Fetched::Whole(bytes)) => {
                    left = left.checked_sub(bytes).ok_or(FolderError::TooLarge)?;
                }
                Ok(Fetched::Absent) => {
                    let _ = rustix::fs::unlinkat(directory, path, rustix::fs::AtFlags::empty());
                }
                Err(source) => {
                    // A part of a file is no artifact.
                    let _ = rustix::fs::unlinkat(directory, path, rustix::fs::AtFlags::empty());
                    return Err(FolderError::Fetch {
                        path: path.clone(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }
}

/// A declared path relative to the working folder; `None` for one that leads elsewhere, which the
/// supervisor refuses by name.
fn beneath(working_folder: &Path, declared: &Path) -> Option<PathBuf> {
    let relative = if declared.is_absolute() {
        declared.strip_prefix(working_folder).ok()?
    } else {
        declared
    };
    let mut path = PathBuf::new();
    for component in relative.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}

fn make(path: &Path) -> io::Result<OwnedFd> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Makes a new file and the folders above it, following no link.
fn create_beneath(directory: &OwnedFd, path: &Path) -> io::Result<File> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let parents: Vec<_> = path
        .ancestors()
        .skip(1)
        .filter(|parent| !parent.as_os_str().is_empty())
        .collect();
    for parent in parents.into_iter().rev() {
        match rustix::fs::mkdirat(directory, parent, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(directory, path, flags, Mode::RUSR | Mode::WUSR, resolve)?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_beneath_the_working_folder_are_asked_for() {
        for (declared, expected) in [
            ("a/b", Some("a/b")),
            ("./a", Some("a")),
            ("/work/a", Some("a")),
            ("/workshop/a", None),
            ("/etc/passwd", None),
            ("../a", None),
            ("a/../../b", None),
            (".", None),
        ] {
            assert_eq!(
                beneath(Path::new("/work"), Path::new(declared)).as_deref(),
                expected.map(Path::new),
                "{declared}"
            );
        }
    }

    #[test]
    fn files_are_made_with_their_folders_and_never_through_links() {
        let host = tempfile::tempdir().unwrap();
        let directory = make(&host.path().join(FOLDER)).unwrap();
        create_beneath(&directory, Path::new("out/deep/file")).unwrap();
        assert!(host.path().join("artifacts/out/deep/file").is_file());
        std::os::unix::fs::symlink("/tmp", host.path().join("artifacts/link")).unwrap();
        create_beneath(&directory, Path::new("link/file")).unwrap_err();
    }
}
