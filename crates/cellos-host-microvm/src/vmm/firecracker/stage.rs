//! Puts the files of a machine where its monitor sees them: what was measured, and nothing that the
//! monitor may write.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::{FileExt as _, MetadataExt as _},
    },
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use sha2::{Digest as _, Sha256};

/// Who may use a staged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The monitor of a jail, by its group: it owns none of its files, so it can change none.
    Group(u32),
    /// Whoever gets there: the folder lets in nobody but the monitor, whose user is not known
    /// before it runs.
    Anybody,
}

/// What is done with a staged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is read.
    Read,
    /// It is executed.
    Execute,
}

/// Bytes that are copied at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Makes `name` in a folder the same file as `source`, or a copy of it where others than root
/// could change that one later. A copy is compared with `sha256`, unless only root could have
/// changed the source since it was measured.
///
/// # Errors
/// The kernel's answer; `InvalidData` for a source that is not what was measured any more.
pub(crate) fn stage(
    source: &File,
    sha256: &str,
    folder: BorrowedFd<'_>,
    name: &str,
    reader: Reader,
    purpose: Use,
) -> io::Result<()> {
    let metadata = source.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let ours_alone = metadata.uid() == 0 && metadata.mode() & 0o022 == 0;
    let wanted = match purpose {
        Use::Read => 0o004,
        Use::Execute => 0o005,
    };
    if ours_alone && metadata.mode() & wanted == wanted && link(source, folder, name).is_ok() {
        return Ok(());
    }
    let expected = (!ours_alone).then_some(sha256);
    let made = copy(source, expected, folder, name, reader, purpose);
    if made.is_err() {
        let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
    }
    made
}

/// Fails for another file system, and for a file that has no name any more.
fn link(source: &File, folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    let path = format!("/proc/self/fd/{}", source.as_raw_fd());
    rustix::fs::linkat(CWD, path, folder, name, AtFlags::SYMLINK_FOLLOW)
}

fn copy(
    source: &File,
    expected: Option<&str>,
    folder: BorrowedFd<'_>,
    name: &str,
    reader: Reader,
    purpose: Use,
) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut target = File::from(rustix::fs::openat(folder, name, flags, Mode::RUSR)?);
    let cloned = rustix::fs::ioctl_ficlone(&target, source).is_ok();
    if !cloned {
        copy_bytes(source, &mut target)?;
    }
    if let Some(expected) = expected {
        // Of the copy, which nobody else can open yet.
        if digest(&target)? != expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its content is not what was measured",
            ));
        }
    }
    let mode = match (reader, purpose) {
        (Reader::Group(_), Use::Read) => 0o440,
        (Reader::Group(_), Use::Execute) => 0o550,
        (Reader::Anybody, Use::Read) => 0o444,
        (Reader::Anybody, Use::Execute) => 0o555,
    };
    if let Reader::Group(group) = reader {
        rustix::fs::fchown(&target, None, Some(rustix::fs::Gid::from_raw(group)))?;
    }
    rustix::fs::fchmod(&target, Mode::from_raw_mode(mode))?;
    Ok(())
}

/// From the descriptor, whose own position is left alone: it is shared by all machines.
fn copy_bytes(source: &File, target: &mut File) -> io::Result<()> {
    let mut offset = 0;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = source.read_at(&mut buffer, offset)?;
        let Some(bytes @ [_, ..]) = buffer.get(..length) else {
            return Ok(());
        };
        target.write_all(bytes)?;
        offset += length as u64;
    }
}

/// SHA-256 of a file's content, 64 lower-case hexadecimal digits.
pub(crate) fn digest(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut offset = 0;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = file.read_at(&mut buffer, offset)?;
        let Some(bytes @ [_, ..]) = buffer.get(..length) else {
            break;
        };
        hash.update(bytes);
        offset += length as u64;
    }
    use std::fmt::Write as _;
    Ok(hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

/// Opens a file that a monitor may have made, to read it: no link, no device, no second name.
pub(crate) fn open_from_monitor(folder: impl AsFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{name} is not a regular file with one name"),
        ));
    }
    Ok(file)
}

/// Reads a small file that a monitor or jailer may have made.
pub(crate) fn read_from_monitor(folder: impl AsFd, name: &str, bound: u64) -> io::Result<String> {
    let mut text = String::new();
    open_from_monitor(folder, name)?
        .take(bound)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    fn source(folder: &Path, mode: u32) -> (File, String) {
        let path = folder.join("source");
        fs::write(&path, "content").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let file = File::open(path).unwrap();
        let sha256 = digest(&file).unwrap();
        (file, sha256)
    }

    #[test]
    fn only_what_nobody_else_can_change_is_linked() {
        let folder = tempfile::tempdir().unwrap();
        let place = File::open(folder.path()).unwrap();
        let root = rustix::process::geteuid().is_root();
        for (mode, linked) in [(0o444, root), (0o644, root), (0o600, false), (0o646, false)] {
            let (file, sha256) = source(folder.path(), mode);
            let gid = rustix::process::getegid().as_raw();
            let staged = folder.path().join("staged");
            stage(
                &file,
                &sha256,
                place.as_fd(),
                "staged",
                Reader::Group(gid),
                Use::Read,
            )
            .unwrap();
            let same = fs::metadata(&staged).unwrap().ino() == file.metadata().unwrap().ino();
            assert_eq!(same, linked, "{mode:o}");
            assert_eq!(digest(&File::open(&staged).unwrap()).unwrap(), sha256);
            if !linked {
                assert_eq!(fs::metadata(&staged).unwrap().mode() & 0o7777, 0o440);
            }
            fs::remove_file(staged).unwrap();
            fs::remove_file(folder.path().join("source")).unwrap();
        }
    }

    #[test]
    fn what_changed_since_it_was_measured_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = File::open(folder.path()).unwrap();
        let (file, sha256) = source(folder.path(), 0o666);
        fs::write(folder.path().join("source"), "others").unwrap();
        let error = stage(
            &file,
            &sha256,
            place.as_fd(),
            "staged",
            Reader::Anybody,
            Use::Read,
        )
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!folder.path().join("staged").exists());
    }

    #[test]
    fn a_monitors_links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let place = File::open(folder.path()).unwrap();
        fs::write(folder.path().join("secret"), "content").unwrap();
        std::os::unix::fs::symlink("secret", folder.path().join("soft")).unwrap();
        fs::hard_link(folder.path().join("secret"), folder.path().join("hard")).unwrap();
        for name in ["soft", "hard", "."] {
            open_from_monitor(&place, name).unwrap_err();
        }
    }
}
