//! A tree of files in memory, on its way into an image.
//!
//! Sources are unpacked into it and never onto the host, so no name, link or device in them can
//! reach anything of the host.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Component, Path, PathBuf},
};

use crate::spool::Extent;

/// Most files, directories and links in one image: a full desktop system has about 400,000.
pub const MAX_NODES: usize = 500_000;

/// Most bytes of contents in one image.
pub const MAX_CONTENT_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// Most names in one path; the recursion over a tree is as deep.
pub const MAX_PATH_DEPTH: usize = 128;

/// Longest name, in bytes: `NAME_MAX`.
pub const MAX_NAME_BYTES: usize = 255;

/// Longest path, and target of a symbolic link, in bytes: `PATH_MAX` without its NUL.
pub const MAX_PATH_BYTES: usize = 4095;

/// Most bytes of all paths and targets of links in one source: a full desktop system has about
/// 40 MB. They are kept in memory, and compressed they are next to nothing.
pub const MAX_NAMES_BYTES: usize = 64 * 1024 * 1024;

/// Most symbolic links on the way of one path, as many as Linux follows.
pub const MAX_SYMLINKS: usize = 40;

/// Mode of directories that a source does not state.
const IMPLIED_DIRECTORY: Metadata = Metadata {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

/// What a cell mounts something on; with the mode of the directory.
const MOUNT_POINTS: [(&str, u16); 8] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("work", 0o755),
];

/// Why something cannot be in a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The path begins with `/`.
    #[error("{path}: absolute paths are refused", path = path.display())]
    Absolute {
        /// The path.
        path: PathBuf,
    },
    /// The path has a `..` in it.
    #[error("{path}: paths with `..` are refused", path = path.display())]
    Upwards {
        /// The path.
        path: PathBuf,
    },
    /// The path holds a NUL.
    #[error("{path}: a name cannot hold a NUL", path = path.display())]
    Nul {
        /// The path.
        path: PathBuf,
    },
    /// A path, or a name in it, is too long, or there are too many names in it.
    #[error(
        "a path beginning {begins:?} is too long: at most {MAX_PATH_BYTES} bytes, \
         {MAX_NAME_BYTES} in a name and {MAX_PATH_DEPTH} names"
    )]
    TooLong {
        /// How it begins.
        begins: String,
    },
    /// The root is to be something else than a directory.
    #[error("the root must be a directory")]
    Root,
    /// A name on the way of the path is a file.
    #[error("{path}: something on its way is no directory", path = path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Symbolic links lead nowhere.
    #[error("{path}: more than {MAX_SYMLINKS} symbolic links on its way", path = path.display())]
    Symlinks {
        /// The path.
        path: PathBuf,
    },
    /// The target of a symbolic link is empty, too long or holds a NUL.
    #[error("{path}: the target of the symbolic link is empty, too long or holds a NUL", path = path.display())]
    SymlinkTarget {
        /// The path.
        path: PathBuf,
    },
    /// A hard link leads to nothing, or to something that is no file.
    #[error("{path}: the hard link's target {target} is no file", path = path.display(), target = target.display())]
    HardLink {
        /// The path.
        path: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
    /// There are too many files.
    #[error("more than {MAX_NODES} files")]
    TooMany,
    /// Paths and targets of links take too much memory.
    #[error("paths and targets of links have more than {MAX_NAMES_BYTES} bytes together")]
    TooLongTogether,
    /// A mount point that every cell needs is taken by a file.
    #[error("/{name} must be a directory, because the cell mounts something there")]
    MountPoint {
        /// The name.
        name: &'static str,
    },
}

/// Who owns a node and what they may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The lower twelve bits of the mode.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What there is at a path.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Directory(Directory),
    File {
        metadata: Metadata,
        content: Extent,
    },
    Symlink {
        metadata: Metadata,
        target: OsString,
    },
}

/// A directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) metadata: Metadata,
    pub(crate) children: BTreeMap<OsString, Node>,
}

impl Directory {
    pub(crate) const fn new(metadata: Metadata) -> Self {
        Self {
            metadata,
            children: BTreeMap::new(),
        }
    }
}

/// A path below the root of a tree: names without `/`, `.` and `..`. Empty for the root.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TreePath(Vec<OsString>);

impl TreePath {
    /// Takes the path of a source as it is stated there.
    pub(crate) fn parse(path: &[u8]) -> Result<Self, TreeError> {
        let text = Path::new(OsStr::from_bytes(path));
        let too_long = || TreeError::TooLong {
            begins: String::from_utf8_lossy(path.get(..64).unwrap_or(path)).into_owned(),
        };
        if path.len() > MAX_PATH_BYTES {
            return Err(too_long());
        }
        if path.contains(&0) {
            return Err(TreeError::Nul { path: text.into() });
        }
        let mut names = Vec::new();
        for component in text.components() {
            match component {
                Component::Normal(name) if name.len() > MAX_NAME_BYTES => return Err(too_long()),
                Component::Normal(name) => names.push(name.to_owned()),
                Component::CurDir => {}
                Component::ParentDir => return Err(TreeError::Upwards { path: text.into() }),
                Component::RootDir | Component::Prefix(_) => {
                    return Err(TreeError::Absolute { path: text.into() });
                }
            }
        }
        if names.len() > MAX_PATH_DEPTH {
            return Err(too_long());
        }
        Ok(Self(names))
    }

    /// The path of the directory and the name in it; `None` for the root.
    pub(crate) fn split(&self) -> Option<(Self, &OsStr)> {
        let (name, parents) = self.0.split_last()?;
        Some((Self(parents.to_vec()), name))
    }

    /// The path of something in this directory.
    pub(crate) fn join(&self, name: &OsStr) -> Result<Self, TreeError> {
        let mut names = self.0.clone();
        names.push(name.to_owned());
        if names.len() > MAX_PATH_DEPTH || name.len() > MAX_NAME_BYTES {
            return Err(TreeError::TooLong {
                begins: self.to_path().to_string_lossy().chars().take(64).collect(),
            });
        }
        Ok(Self(names))
    }

    pub(crate) fn to_path(&self) -> PathBuf {
        self.0.iter().collect()
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_path().fmt(formatter)
    }
}

/// A symbolic link whose target is one that Linux could have.
pub(crate) fn symlink(
    path: &TreePath,
    metadata: Metadata,
    target: Vec<u8>,
) -> Result<Node, TreeError> {
    if target.is_empty() || target.len() > MAX_PATH_BYTES || target.contains(&0) {
        return Err(TreeError::SymlinkTarget {
            path: path.to_path(),
        });
    }
    Ok(Node::Symlink {
        metadata,
        target: OsString::from_vec(target),
    })
}

/// A tree of files.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Directory,
    /// How often something was put in; never less than the nodes there are.
    insertions: usize,
}

impl Tree {
    pub(crate) const fn new() -> Self {
        Self {
            root: Directory::new(IMPLIED_DIRECTORY),
            insertions: 0,
        }
    }

    pub(crate) const fn root(&self) -> &Directory {
        &self.root
    }

    /// Puts something at a path. Symbolic links on the way lead where they would inside the image;
    /// directories that are missing are made. A directory that is there keeps what is in it;
    /// anything else is replaced.
    pub(crate) fn insert(&mut self, path: &TreePath, node: Node) -> Result<(), TreeError> {
        let Some((parent, name)) = path.split() else {
            let Node::Directory(directory) = node else {
                return Err(TreeError::Root);
            };
            self.root.metadata = directory.metadata;
            return Ok(());
        };
        let parent = self.resolve(&parent, path)?;
        let mut insertions = self.insertions + 1;
        let mut here = &mut self.root;
        for name in parent.0 {
            let next = here.children.entry(name).or_insert_with(|| {
                insertions += 1;
                Node::Directory(Directory::new(IMPLIED_DIRECTORY))
            });
            let Node::Directory(next) = next else {
                return Err(TreeError::NotADirectory {
                    path: path.to_path(),
                });
            };
            here = next;
        }
        match (here.children.get_mut(name), node) {
            (Some(Node::Directory(old)), Node::Directory(new)) => old.metadata = new.metadata,
            (_, node) => {
                here.children.insert(name.to_owned(), node);
            }
        }
        self.insertions = insertions;
        self.check_count()
    }

    /// Puts one more name on a file that is there.
    pub(crate) fn hard_link(
        &mut self,
        path: &TreePath,
        target: &TreePath,
    ) -> Result<(), TreeError> {
        let refused = || TreeError::HardLink {
            path: path.to_path(),
            target: target.to_path(),
        };
        let (parent, name) = target.split().ok_or_else(refused)?;
        let parent = self.resolve(&parent, target)?;
        match self
            .directory(&parent.0)
            .and_then(|directory| directory.children.get(name))
        {
            Some(node @ (Node::File { .. } | Node::Symlink { .. })) => {
                let node = node.clone();
                self.insert(path, node)
            }
            _ => Err(refused()),
        }
    }

    /// Removes what is at a path; nothing happens where nothing is.
    pub(crate) fn remove(&mut self, path: &TreePath) -> Result<(), TreeError> {
        let Some((parent, name)) = path.split() else {
            return Err(TreeError::Root);
        };
        let parent = self.resolve(&parent, path)?;
        if let Some(directory) = self.directory_mut(&parent.0) {
            directory.children.remove(name);
        }
        Ok(())
    }

    /// Removes everything that is in a directory.
    pub(crate) fn clear(&mut self, path: &TreePath) -> Result<(), TreeError> {
        let resolved = self.resolve(path, path)?;
        if let Some(directory) = self.directory_mut(&resolved.0) {
            directory.children.clear();
        }
        Ok(())
    }

    /// Makes the directories that a cell mounts something on, where they are missing.
    pub(crate) fn add_mount_points(&mut self) -> Result<(), TreeError> {
        for (name, mode) in MOUNT_POINTS {
            match self.root.children.get(OsStr::new(name)) {
                Some(Node::Directory(_)) => {}
                Some(_) => return Err(TreeError::MountPoint { name }),
                None => {
                    let metadata = Metadata {
                        mode,
                        ..IMPLIED_DIRECTORY
                    };
                    self.root
                        .children
                        .insert(name.into(), Node::Directory(Directory::new(metadata)));
                }
            }
        }
        Ok(())
    }

    /// Where a directory's path leads inside the tree. What is missing on the way is taken for a
    /// directory. `whole` is for the message.
    fn resolve(&self, directory: &TreePath, whole: &TreePath) -> Result<TreePath, TreeError> {
        let mut pending: VecDeque<OsString> = directory.0.iter().cloned().collect();
        let mut here: Vec<OsString> = Vec::new();
        let mut followed = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let found = self
                .directory(&here)
                .and_then(|directory| directory.children.get(&name));
            match found {
                None | Some(Node::Directory(_)) => here.push(name),
                Some(Node::File { .. }) => {
                    return Err(TreeError::NotADirectory {
                        path: whole.to_path(),
                    });
                }
                Some(Node::Symlink { target, .. }) => {
                    followed += 1;
                    if followed > MAX_SYMLINKS {
                        return Err(TreeError::Symlinks {
                            path: whole.to_path(),
                        });
                    }
                    if here.len() + pending.len() > MAX_PATH_BYTES {
                        return Err(TreeError::Symlinks {
                            path: whole.to_path(),
                        });
                    }
                    for component in Path::new(target).components().rev() {
                        match component {
                            Component::Normal(name) => pending.push_front(name.to_owned()),
                            Component::ParentDir => pending.push_front("..".into()),
                            Component::RootDir => here.clear(),
                            Component::CurDir | Component::Prefix(_) => {}
                        }
                    }
                }
            }
        }
        if here.len() >= MAX_PATH_DEPTH {
            return Err(TreeError::TooLong {
                begins: whole.to_path().to_string_lossy().chars().take(64).collect(),
            });
        }
        Ok(TreePath(here))
    }

    fn directory(&self, names: &[OsString]) -> Option<&Directory> {
        names
            .iter()
            .try_fold(&self.root, |here, name| match here.children.get(name) {
                Some(Node::Directory(next)) => Some(next),
                _ => None,
            })
    }

    fn directory_mut(&mut self, names: &[OsString]) -> Option<&mut Directory> {
        names.iter().try_fold(&mut self.root, |here, name| {
            match here.children.get_mut(name) {
                Some(Node::Directory(next)) => Some(next),
                _ => None,
            }
        })
    }

    const fn check_count(&self) -> Result<(), TreeError> {
        if self.insertions > MAX_NODES {
            return Err(TreeError::TooMany);
        }
        Ok(())
    }
}
