//! Files of the working folder, on their way to the host.

use std::os::fd::{BorrowedFd, OwnedFd};

use cellos_bridge::{Fetch, GuestEnd, MAX_BULK_BACKLOG_BYTES, MAX_CHUNK_BYTES, SendError};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};

/// A file that is being sent.
pub(super) struct Transfer {
    file: OwnedFd,
}

/// Opens the file that the host wants, or says that there is none. Its path is resolved beneath
/// the folder, without links: the workload made the folder's content.
pub(super) fn begin(
    folder: Option<BorrowedFd<'_>>,
    fetch: &Fetch,
    end: &mut GuestEnd,
) -> Result<Option<Transfer>, SendError> {
    let Some(folder) = folder else {
        end.file_refused("the launcher sent no working folder")?;
        return Ok(None);
    };
    // A pipe without a writer would wait for one.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(folder, &fetch.path, flags, Mode::empty(), resolve) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => {
            end.file_absent()?;
            return Ok(None);
        }
        Err(error) => {
            let why = match error {
                Errno::LOOP => "has a symbolic link in its path".to_owned(),
                Errno::XDEV => "leads out of the working folder".to_owned(),
                error => format!("cannot be opened: {error}"),
            };
            end.file_refused(&why)?;
            return Ok(None);
        }
    };
    let refusal = match fstat(&file) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            Some("is not a regular file".to_owned())
        }
        Ok(stat) if u64::try_from(stat.st_size).is_ok_and(|size| size > fetch.max_bytes) => {
            Some(format!(
                "has {} bytes, at most {} are wanted",
                stat.st_size, fetch.max_bytes
            ))
        }
        Ok(_) => None,
        Err(error) => Some(format!("cannot be looked at: {error}")),
    };
    match refusal {
        Some(why) => {
            end.file_refused(&why)?;
            Ok(None)
        }
        None => Ok(Some(Transfer { file })),
    }
}

/// Whether a transfer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is more.
    GoesOn,
    /// The host has all, or knows why not.
    Over,
}

impl Transfer {
    /// Sends as much as there is room for.
    pub(super) fn go_on(
        &mut self,
        end: &mut GuestEnd,
        buffer: &mut [u8],
    ) -> Result<Progress, SendError> {
        while end.outgoing_bytes() < MAX_BULK_BACKLOG_BYTES {
            let length = buffer.len().min(MAX_CHUNK_BYTES);
            let chunk = buffer.get_mut(..length).unwrap_or_default();
            match rustix::io::read(&self.file, &mut *chunk) {
                Ok(0) => {
                    end.file_end()?;
                    return Ok(Progress::Over);
                }
                Ok(length) => match end.file_chunk(chunk.get(..length).unwrap_or_default()) {
                    Ok(()) => {}
                    Err(SendError::FileTooLarge { max_bytes }) => {
                        end.file_refused(&format!("has more than the {max_bytes} bytes wanted"))?;
                        return Ok(Progress::Over);
                    }
                    Err(error) => return Err(error),
                },
                Err(Errno::INTR) => {}
                Err(error) => {
                    end.file_refused(&format!("cannot be read: {error}"))?;
                    return Ok(Progress::Over);
                }
            }
        }
        Ok(Progress::GoesOn)
    }
}
