//! The initial RAM disk: the guest program and the modules it loads, nothing else.
//!
//! There is no `/dev/console` in it: the archive that is built into every kernel has one.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
};

use crate::{
    ImageError,
    cpio::Archive,
    file,
    kernel::{Module, is_elf_for_x86_64},
};

/// Where the guest finds its modules, without the leading `/`.
pub const MODULES_FOLDER: &str = "modules";

/// The list of module files in their folder: one name on each line, in the order to load them.
pub const MODULES_LIST: &str = "modules.order";

/// Largest guest program, in bytes: it is held in the guest's memory.
pub const MAX_GUEST_BINARY_BYTES: u64 = 64 * 1024 * 1024;

/// Writes the archive to `target`.
pub(crate) fn write(
    target: &Path,
    guest_binary: &Path,
    modules: &[Module],
) -> Result<(), ImageError> {
    let guest = file::read(guest_binary, MAX_GUEST_BINARY_BYTES)?;
    if !is_elf_for_x86_64(&guest) {
        return Err(ImageError::GuestBinary {
            path: guest_binary.to_path_buf(),
        });
    }
    let write = || {
        let out = BufWriter::new(std::fs::File::create_new(target)?);
        archive(out, &guest, modules)?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()
    };
    write().map_err(ImageError::io("write", target))
}

fn archive<W: Write>(out: W, guest: &[u8], modules: &[Module]) -> io::Result<W> {
    let mut archive = Archive::new(out);
    archive.file("init", 0o755, guest)?;
    archive.directory(MODULES_FOLDER, 0o755)?;
    let mut list = String::new();
    for module in modules {
        let file = format!("{}.ko", module.name);
        archive.file(&format!("{MODULES_FOLDER}/{file}"), 0o644, &module.content)?;
        list.push_str(&file);
        list.push('\n');
    }
    archive.file(
        &format!("{MODULES_FOLDER}/{MODULES_LIST}"),
        0o644,
        list.as_bytes(),
    )?;
    archive.finish()
}
