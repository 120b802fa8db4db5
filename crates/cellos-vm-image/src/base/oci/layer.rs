//! Unpacking one layer over the ones below it (OCI image specification, `layer.md`).
//!
//! The archive is read raw, so that long names and extended headers are bounded here. What it
//! removes from the layers below is removed before anything of its own is added, wherever in the
//! archive the removals stand.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use tar::{Archive, EntryType, Header, PaxExtensions};

use super::{OciError, layout::Layer};
use crate::{
    base::{Base, BaseError, content_error},
    compression,
    file::HashingReader,
    spool::Spool,
    tree::{
        Directory, MAX_NAMES_BYTES, MAX_NODES, MAX_PATH_BYTES, Metadata, Node, TreeError, TreePath,
        symlink,
    },
};

/// Largest uncompressed layer, in bytes.
pub const MAX_LAYER_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// Largest extended header, in bytes; what does not fit a plain header is rarely more than a path.
const MAX_EXTENSION_BYTES: u64 = 1024 * 1024;

/// What the name of a removal begins with.
const WHITEOUT: &[u8] = b".wh.";

/// The name of the removal of everything that is in a directory.
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";

/// The lower twelve bits of a mode.
const MODE_BITS: u32 = 0o7777;

/// Where a layer is read from: decompressed, limited, hashed.
type LayerReader<'r> = HashingReader<Box<dyn Read + 'r>>;

/// What an archive does to the layers below.
enum Change {
    Put(TreePath, Node),
    HardLink { path: TreePath, target: TreePath },
}

/// Removals, in the order they stand in.
enum Removal {
    One(TreePath),
    EverythingIn(TreePath),
}

/// What extended headers say about the entry after them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// Unpacks a layer over what is there.
pub(super) fn apply(base: &mut Base, layout: &Path, layer: &Layer) -> Result<(), BaseError> {
    let inside = |error: OciError| error.inside(layout);
    let file = layer.blob.open(layout).map_err(inside)?;
    let mut blob: HashingReader<File> = HashingReader::new(file, layer.blob.size);
    let plain: Box<dyn Read + '_> = match layer.compression {
        None => Box::new(&mut blob),
        Some(compression) => compression::reader(compression, &mut blob),
    };
    let mut diff = HashingReader::new(plain, MAX_LAYER_BYTES);
    let (removals, changes) = read(&mut diff, &mut base.spool, layout)?;
    let broken = |source| inside(OciError::Archive(source));
    let actual = diff.finish().map_err(broken)?;
    if actual != layer.diff_id {
        return Err(inside(OciError::DigestMismatch {
            file: format!("uncompressed {}", layer.blob.file()),
            expected: layer.diff_id,
            actual,
        }));
    }
    layer
        .blob
        .check(blob.finish().map_err(broken)?)
        .map_err(inside)?;

    for removal in removals {
        match removal {
            Removal::One(path) => base.tree.remove(&path)?,
            Removal::EverythingIn(path) => base.tree.clear(&path)?,
        }
    }
    for change in changes {
        match change {
            Change::Put(path, node) => base.tree.insert(&path, node)?,
            Change::HardLink { path, target } => base.tree.hard_link(&path, &target)?,
        }
    }
    Ok(())
}

fn read(
    diff: &mut LayerReader<'_>,
    spool: &mut Spool,
    layout: &Path,
) -> Result<(Vec<Removal>, Vec<Change>), BaseError> {
    let inside = |error: OciError| error.inside(layout);
    let broken = |source| inside(OciError::Archive(source));
    let mut removals = Vec::new();
    let mut changes = Vec::new();
    let mut extension = Extension::default();
    let mut names_bytes = 0_usize;
    let mut archive = Archive::new(diff);
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        if removals.len() + changes.len() >= MAX_NODES {
            return Err(TreeError::TooMany.into());
        }
        let header = entry.header().clone();
        let kind = header.entry_type();
        match kind {
            EntryType::GNULongName => extension.path = Some(long_name(&mut entry, layout)?),
            EntryType::GNULongLink => extension.link = Some(long_name(&mut entry, layout)?),
            EntryType::XHeader => {
                let size = entry.size();
                extension.read(&mut entry, size).map_err(inside)?;
            }
            EntryType::XGlobalHeader => {}
            _ => {
                let extension = std::mem::take(&mut extension);
                let stated = extension
                    .path
                    .unwrap_or_else(|| header.path_bytes().into_owned());
                let path = TreePath::parse(&stated)?;
                let linked = extension.link.as_ref().map_or(0, Vec::len);
                names_bytes = names_bytes.saturating_add(stated.len() + linked);
                if names_bytes > MAX_NAMES_BYTES {
                    return Err(TreeError::TooLongTogether.into());
                }
                if let Some(removal) = removal(&path)? {
                    removals.push(removal);
                    continue;
                }
                let metadata = metadata(&header, extension.uid, extension.gid)
                    .map_err(|problem| header_error(&path, problem, layout))?;
                let link = || {
                    let link = header.link_name_bytes().map(std::borrow::Cow::into_owned);
                    extension.link.or(link).unwrap_or_default()
                };
                changes.push(match kind {
                    EntryType::Regular | EntryType::Continuous => {
                        let content = spool
                            .append(&mut entry)
                            .map_err(|source| content_error(path.to_path(), source))?;
                        Change::Put(path, Node::File { metadata, content })
                    }
                    EntryType::Directory => {
                        Change::Put(path, Node::Directory(Directory::new(metadata)))
                    }
                    EntryType::Symlink => {
                        let node = symlink(&path, metadata, link())?;
                        Change::Put(path, node)
                    }
                    EntryType::Link => Change::HardLink {
                        target: TreePath::parse(&link())?,
                        path,
                    },
                    EntryType::Char | EntryType::Block => {
                        return Err(special(&path, "device nodes"));
                    }
                    EntryType::Fifo => return Err(special(&path, "FIFOs")),
                    other => {
                        return Err(inside(OciError::EntryType {
                            path: path.to_path(),
                            kind: other.as_byte(),
                        }));
                    }
                });
            }
        }
    }
    Ok((removals, changes))
}

/// The removal that a path stands for.
fn removal(path: &TreePath) -> Result<Option<Removal>, BaseError> {
    let Some((parent, name)) = path.split() else {
        return Ok(None);
    };
    let name = name.as_bytes();
    if name == OPAQUE_WHITEOUT {
        return Ok(Some(Removal::EverythingIn(parent)));
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(None),
        // `.wh.` alone, `.wh..` and `.wh...` remove nothing that can be; the names of what else
        // begins with `.wh..wh.` are reserved, and no layer uses them.
        Some(b"" | b"." | b"..") => Err(TreeError::Upwards {
            path: path.to_path(),
        }
        .into()),
        Some(removed) if removed.starts_with(WHITEOUT) => Err(BaseError::Special {
            path: path.to_path(),
            kind: "reserved whiteout names",
        }),
        Some(removed) => Ok(Some(Removal::One(parent.join(OsStr::from_bytes(removed))?))),
    }
}

impl Extension {
    /// Takes the members that matter from an extended header (POSIX.1-2017, pax).
    fn read(&mut self, entry: &mut impl Read, size: u64) -> Result<(), OciError> {
        let content = bounded(entry, size, MAX_EXTENSION_BYTES)?;
        for member in PaxExtensions::new(&content) {
            let member = member.map_err(OciError::Archive)?;
            let problem = |problem| OciError::Header {
                path: PathBuf::from(OsStr::from_bytes(member.key_bytes())),
                problem,
            };
            let id = || {
                member
                    .value()
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| problem("the owner is no number below 2^32"))
            };
            match member.key_bytes() {
                b"path" => self.path = Some(member.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(member.value_bytes().to_vec()),
                b"uid" => self.uid = Some(id()?),
                b"gid" => self.gid = Some(id()?),
                b"size" => return Err(problem("files of more than 8 GiB are not supported")),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(problem("sparse files are not supported"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn metadata(header: &Header, uid: Option<u32>, gid: Option<u32>) -> Result<Metadata, &'static str> {
    let id = |stated: Option<u32>, plain: io::Result<u64>| match stated {
        Some(id) => Ok(id),
        None => plain
            .ok()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or("the owner is no number below 2^32"),
    };
    let mode = header.mode().map_err(|_| "the mode is no number")?;
    Ok(Metadata {
        mode: u16::try_from(mode & MODE_BITS).unwrap_or_default(),
        uid: id(uid, header.uid())?,
        gid: id(gid, header.gid())?,
    })
}

/// The name in the content of an entry, which ends with a NUL.
fn long_name(entry: &mut tar::Entry<'_, impl Read>, layout: &Path) -> Result<Vec<u8>, BaseError> {
    let size = entry.size();
    let mut name =
        bounded(entry, size, MAX_PATH_BYTES as u64 + 1).map_err(|error| error.inside(layout))?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn bounded(entry: &mut impl Read, size: u64, limit: u64) -> Result<Vec<u8>, OciError> {
    if size > limit {
        return Err(OciError::Archive(io::ErrorKind::FileTooLarge.into()));
    }
    let mut content = Vec::new();
    entry
        .take(limit)
        .read_to_end(&mut content)
        .map_err(OciError::Archive)?;
    Ok(content)
}

fn special(path: &TreePath, kind: &'static str) -> BaseError {
    BaseError::Special {
        path: path.to_path(),
        kind,
    }
}

fn header_error(path: &TreePath, problem: &'static str, layout: &Path) -> BaseError {
    OciError::Header {
        path: path.to_path(),
        problem,
    }
    .inside(layout)
}
