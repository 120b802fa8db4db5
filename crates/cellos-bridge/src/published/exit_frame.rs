//! The exit frame: the code as i32 little endian, then HMAC-SHA256 over these four bytes and the
//! cell's id.

use hmac::Mac as _;

use crate::{
    SessionKey,
    seal::{MAC_BYTES, keyed},
};

/// Size of an exit frame in bytes.
pub const EXIT_FRAME_BYTES: usize = CODE_BYTES + MAC_BYTES;

/// What the host answers an authentic exit frame with. A guest must not end before it.
pub const ACKNOWLEDGEMENT: u8 = 0;

const CODE_BYTES: usize = 4;

/// Why an exit frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExitFrameError {
    /// Not the size of an exit frame.
    #[error("exit frame of {found} bytes instead of {EXIT_FRAME_BYTES}")]
    Length {
        /// Its size in bytes.
        found: usize,
    },
    /// The authentication code is wrong for this cell and key.
    #[error("the exit frame is not authentic")]
    Forged,
}

/// The frame by which a cell reports its exit code.
#[must_use]
pub fn exit_frame(code: i32, cell_id: &str, key: &SessionKey) -> [u8; EXIT_FRAME_BYTES] {
    let code = code.to_le_bytes();
    let mac = keyed(key)
        .chain_update(code)
        .chain_update(cell_id)
        .finalize();
    let mut frame = [0; EXIT_FRAME_BYTES];
    let (head, tail) = frame.split_at_mut(CODE_BYTES);
    head.copy_from_slice(&code);
    tail.copy_from_slice(&mac.into_bytes());
    frame
}

/// The exit code of a frame, whose authenticity is compared in constant time.
///
/// # Errors
/// [`ExitFrameError`].
pub fn verify_exit_frame(
    frame: &[u8],
    cell_id: &str,
    key: &SessionKey,
) -> Result<i32, ExitFrameError> {
    let length = ExitFrameError::Length { found: frame.len() };
    if frame.len() != EXIT_FRAME_BYTES {
        return Err(length);
    }
    let (&code, mac) = frame.split_first_chunk::<CODE_BYTES>().ok_or(length)?;
    keyed(key)
        .chain_update(code)
        .chain_update(cell_id)
        .verify_slice(mac)
        .map_err(|_| ExitFrameError::Forged)?;
    Ok(i32::from_le_bytes(code))
}

/// Collects an exit frame from pieces of a stream.
#[derive(Debug, Clone)]
pub struct ExitFrameReader {
    frame: [u8; EXIT_FRAME_BYTES],
    filled: usize,
}

impl Default for ExitFrameReader {
    fn default() -> Self {
        Self {
            frame: [0; EXIT_FRAME_BYTES],
            filled: 0,
        }
    }
}

impl ExitFrameReader {
    /// Takes bytes off the front of `bytes`; the frame once it is whole. What follows it stays.
    pub fn receive(&mut self, bytes: &mut &[u8]) -> Option<&[u8; EXIT_FRAME_BYTES]> {
        let missing = EXIT_FRAME_BYTES - self.filled;
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        self.frame[self.filled..][..taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        *bytes = rest;
        (self.filled == EXIT_FRAME_BYTES).then_some(&self.frame)
    }

    /// Tells that the stream has ended.
    ///
    /// # Errors
    /// [`ExitFrameError::Length`] when the frame is not whole.
    pub fn closed(&self) -> Result<(), ExitFrameError> {
        if self.filled == EXIT_FRAME_BYTES {
            return Ok(());
        }
        Err(ExitFrameError::Length { found: self.filled })
    }
}
