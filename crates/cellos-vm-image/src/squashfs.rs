//! Writing a tree as a squashfs image (Linux, `Documentation/filesystems/squashfs.rst`).
//!
//! Everything is stored uncompressed: the image lies in the host's page cache, and the processor
//! that would decompress it may be an emulated one. With the small base of busybox nothing is won
//! or lost by it (a boot took 1.93 s of processor time, 1.95 s with gzip, 2.0 s with LZ4). Times
//! are 0.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use backhand::{
    BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader, SuperBlock,
    compression::{CompressionAction, Compressor},
    kind::Kind,
};

use crate::{
    ImageError,
    spool::Spool,
    tree::{Directory, Metadata, Node, Tree},
};

/// The time of everything in an image, in seconds since 1970.
const TIME: u32 = 0;

/// Writes the image of a tree to `target`.
pub(crate) fn write(target: &Path, tree: &Tree, spool: &Spool) -> Result<(), ImageError> {
    let failed = |error: BackhandError| ImageError::Squashfs {
        path: target.to_path_buf(),
        message: error.to_string(),
    };
    let mut image = FilesystemWriter::default();
    image.set_kind(Kind::new_v4(&Stored));
    // The kernel refuses an image that names no compressor, and never needs the one that is named.
    image.set_compressor(FilesystemCompressor::new(Compressor::Gzip, None).map_err(failed)?);
    image.set_time(TIME);
    // Equal files are found by a hash that is easily collided, and one could stand for another.
    image.set_no_duplicate_files(false);
    let root = tree.root().metadata;
    image.set_root_mode(root.mode);
    image.set_root_uid(root.uid);
    image.set_root_gid(root.gid);
    push(&mut image, Path::new("/"), tree.root(), spool).map_err(failed)?;

    let file = File::create_new(target).map_err(ImageError::io("create", target))?;
    let mut out = BufWriter::new(file);
    image.write(&mut out).map_err(failed)?;
    out.flush().map_err(ImageError::io("write", target))?;
    out.get_ref()
        .sync_all()
        .map_err(ImageError::io("write", target))
}

fn push(
    image: &mut FilesystemWriter<'_, '_, '_>,
    path: &Path,
    directory: &Directory,
    spool: &Spool,
) -> Result<(), BackhandError> {
    for (name, node) in &directory.children {
        let path = path.join(name);
        match node {
            Node::Directory(child) => {
                image.push_dir(&path, header(child.metadata))?;
                push(image, &path, child, spool)?;
            }
            Node::File { metadata, content } => {
                image.push_file(spool.read(*content), &path, header(*metadata))?;
            }
            Node::Symlink { metadata, target } => {
                image.push_symlink(target, &path, header(*metadata))?;
            }
        }
    }
    Ok(())
}

fn header(metadata: Metadata) -> NodeHeader {
    NodeHeader::new(metadata.mode, metadata.uid, metadata.gid, TIME)
}

/// Compresses nothing. The writer stores a block uncompressed when compressing makes it longer.
struct Stored;

impl CompressionAction for Stored {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn decompress(
        &self,
        _: &[u8],
        _: &mut Vec<u8>,
        compressor: Compressor,
    ) -> Result<(), BackhandError> {
        Err(BackhandError::UnsupportedCompression(format!(
            "{compressor:?}"
        )))
    }

    fn compress(
        &self,
        bytes: &[u8],
        _: FilesystemCompressor,
        _: u32,
    ) -> Result<Vec<u8>, BackhandError> {
        Ok(vec![0; bytes.len() + 1])
    }

    fn compression_options(
        &self,
        _: &mut SuperBlock,
        _: &Kind,
        _: FilesystemCompressor,
    ) -> Result<Option<Vec<u8>>, BackhandError> {
        Ok(None)
    }
}
