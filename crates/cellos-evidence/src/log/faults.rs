//! A file system in memory that fails where it is told, loses what was not flushed, and counts.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use rustix::io::Errno;

use super::storage::{FileId, Kind, Make, Status, Storage, StoredFile};

/// What happens at one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies before it.
    DieBefore,
    /// The process dies after it, or after half of what it writes.
    DieAfter,
    /// It fails.
    Fail(Errno),
    /// It fails after half of what it writes.
    Short(Errno),
}

/// What a crash leaves of what was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// The process died: everything.
    Process,
    /// The machine died: nothing.
    Nothing,
    /// The machine died: half of the bytes and half of the names.
    Half,
    /// The machine died: names and no bytes.
    Names,
}

#[derive(Default, Clone)]
struct Node {
    now: Vec<u8>,
    flushed: Vec<u8>,
}

#[derive(Clone)]
enum Change {
    Set(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Default)]
struct Disk {
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    flushed_names: BTreeMap<PathBuf, usize>,
    pending: Vec<Change>,
    /// Which open file holds the lock of a node.
    locks: BTreeMap<usize, u64>,
    opened: u64,
    operations: usize,
    fault: Option<(usize, Fault)>,
    /// Whether every later operation fails as the one with the fault did.
    lasting: Option<Errno>,
    dead: bool,
}

/// The disk; its clones are the same one.
#[derive(Clone, Default)]
pub(super) struct FaultyStorage(Arc<Mutex<Disk>>);

struct Handle {
    disk: FaultyStorage,
    node: usize,
    number: u64,
}

enum Go {
    On,
    Half,
}

impl FaultyStorage {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// Has the operation with this number, counted from now, go wrong.
    pub(super) fn plan(&self, operation: usize, fault: Fault) {
        let mut disk = self.disk();
        let at = disk.operations + operation;
        disk.fault = Some((at, fault));
    }

    /// Has every operation that changes something fail from now on.
    pub(super) fn fail_all(&self, errno: Option<Errno>) {
        self.disk().lasting = errno;
    }

    /// Whether the planned operation has been reached.
    pub(super) fn is_through(&self) -> bool {
        let disk = self.disk();
        disk.fault.is_some_and(|(at, _)| disk.operations > at)
    }

    /// What is there after a crash.
    pub(super) fn after(&self, crash: Crash) -> Self {
        let disk = self.disk();
        let mut next = Disk::default();
        next.names = match crash {
            Crash::Process | Crash::Names => disk.names.clone(),
            Crash::Nothing => disk.flushed_names.clone(),
            Crash::Half => {
                let mut names = disk.flushed_names.clone();
                for change in &disk.pending[..disk.pending.len() / 2] {
                    match change {
                        Change::Set(path, node) => drop(names.insert(path.clone(), *node)),
                        Change::Rename(from, to, node) => {
                            names.remove(from);
                            names.insert(to.clone(), *node);
                        }
                        Change::Remove(path) => drop(names.remove(path)),
                    }
                }
                names
            }
        };
        next.nodes = disk
            .nodes
            .iter()
            .map(|node| {
                let bytes = match crash {
                    Crash::Process => node.now.clone(),
                    Crash::Nothing | Crash::Names => node.flushed.clone(),
                    Crash::Half if node.now.starts_with(&node.flushed) => {
                        let half = (node.now.len() - node.flushed.len()) / 2;
                        node.now[..node.flushed.len() + half].to_vec()
                    }
                    Crash::Half => node.now.clone(),
                };
                Node {
                    now: bytes.clone(),
                    flushed: bytes,
                }
            })
            .collect();
        next.flushed_names = next.names.clone();
        Self(Arc::new(Mutex::new(next)))
    }

    pub(super) fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        let node = disk.names.get(path)?;
        Some(disk.nodes[*node].now.clone())
    }

    pub(super) fn overwrite(&self, path: &Path, bytes: &[u8]) {
        let mut disk = self.disk();
        let node = disk.names[path];
        disk.nodes[node].now = bytes.to_vec();
        disk.nodes[node].flushed = bytes.to_vec();
    }

    pub(super) fn all_names(&self) -> Vec<PathBuf> {
        self.disk().names.keys().cloned().collect()
    }
}

impl Disk {
    /// Counts an operation that changes something.
    fn change(&mut self) -> io::Result<Go> {
        self.alive()?;
        let number = self.operations;
        self.operations += 1;
        if let Some(errno) = self.lasting {
            return Err(errno.into());
        }
        match self.fault.filter(|(at, _)| *at == number) {
            None => Ok(Go::On),
            Some((_, Fault::Fail(errno))) => Err(errno.into()),
            Some((_, Fault::Short(_))) => Ok(Go::Half),
            Some((_, Fault::DieBefore)) => {
                self.dead = true;
                self.alive()?;
                Ok(Go::On)
            }
            Some((_, Fault::DieAfter)) => {
                self.dead = true;
                Ok(Go::Half)
            }
        }
    }

    fn alive(&self) -> io::Result<()> {
        match self.dead {
            true => Err(io::Error::other("the process is dead")),
            false => Ok(()),
        }
    }

    fn set(&mut self, path: &Path, node: usize) {
        self.names.insert(path.to_owned(), node);
        self.pending.push(Change::Set(path.to_owned(), node));
    }
}

impl Storage for FaultyStorage {
    fn open(&self, path: &Path, make: Make) -> io::Result<Arc<dyn StoredFile>> {
        let mut disk = self.disk();
        disk.alive()?;
        let node = match (disk.names.get(path).copied(), make) {
            (Some(_), Make::New) => return Err(Errno::EXIST.into()),
            (Some(node), _) => node,
            (None, Make::Never | Make::NeverToAppend) => return Err(Errno::NOENT.into()),
            (None, _) => {
                disk.change()?;
                let node = disk.nodes.len();
                disk.nodes.push(Node::default());
                disk.set(path, node);
                node
            }
        };
        disk.opened += 1;
        Ok(Arc::new(Handle {
            disk: self.clone(),
            node,
            number: disk.opened,
        }))
    }

    fn identity(&self, path: &Path) -> io::Result<Option<FileId>> {
        let disk = self.disk();
        disk.alive()?;
        Ok(disk.names.get(path).map(|node| (0, *node as u64)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change()?;
        let node = disk.names.remove(from).ok_or(Errno::NOENT)?;
        disk.names.insert(to.to_owned(), node);
        let change = Change::Rename(from.to_owned(), to.to_owned(), node);
        disk.pending.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.alive()?;
        if disk.names.contains_key(path) {
            disk.change()?;
            disk.names.remove(path);
            disk.pending.push(Change::Remove(path.to_owned()));
        }
        Ok(())
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.alive()?;
        let inside = disk
            .names
            .keys()
            .filter(|path| path.parent() == Some(folder));
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(inside.map(name).collect())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change()?;
        disk.flushed_names = disk.names.clone();
        disk.pending.clear();
        Ok(())
    }
}

impl StoredFile for Handle {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.disk.disk();
        let go = disk.change()?;
        let written = match go {
            Go::On => bytes.len(),
            Go::Half => bytes.len() / 2,
        };
        disk.nodes[self.node]
            .now
            .extend_from_slice(&bytes[..written]);
        disk.alive()?;
        Ok(written)
    }

    fn overwrite(&self, bytes: &[u8]) -> io::Result<usize> {
        assert!(
            bytes.len() <= 512,
            "more than a sector is not written whole"
        );
        let mut disk = self.disk.disk();
        let go = disk.change()?;
        if matches!(go, Go::Half) && !disk.dead {
            return Ok(0);
        }
        disk.nodes[self.node].now[..bytes.len()].copy_from_slice(bytes);
        disk.alive()?;
        Ok(bytes.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let disk = self.disk.disk();
        disk.alive()?;
        let from = usize::try_from(offset).unwrap();
        let there = disk.nodes[self.node].now.get(from..from + buffer.len());
        buffer.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn status(&self) -> io::Result<Status> {
        let disk = self.disk.disk();
        disk.alive()?;
        Ok(Status {
            id: (0, self.node as u64),
            size: disk.nodes[self.node].now.len() as u64,
            kind: Kind::Regular,
        })
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.change()?;
        disk.nodes[self.node]
            .now
            .truncate(usize::try_from(size).unwrap());
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.change()?;
        let node = &mut disk.nodes[self.node];
        node.flushed = node.now.clone();
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut disk = self.disk.disk();
        disk.alive()?;
        let holder = *disk.locks.entry(self.node).or_insert(self.number);
        Ok(holder == self.number)
    }

    fn unlock(&self) {
        let mut disk = self.disk.disk();
        disk.locks.retain(|_, holder| *holder != self.number);
    }
}
