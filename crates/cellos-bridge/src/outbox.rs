//! Frames that wait to be written to the stream.

use std::collections::VecDeque;

use zeroize::Zeroizing;

use crate::{FrameKind, HEADER_BYTES, SendError, frame};

/// Most bytes that may wait: a configuration and every control message of a dialogue have room.
pub const MAX_BACKLOG_BYTES: usize = 8 * 1024 * 1024;

/// Bytes that may wait before stream bytes, file chunks, heartbeats and credit are held back, so
/// that room is left for what must not be: exit, terminate, acknowledge.
pub const MAX_BULK_BACKLOG_BYTES: usize = 1024 * 1024;

/// Frames that wait to be written, numbered.
#[derive(Default)]
pub(crate) struct Outbox {
    frames: VecDeque<Zeroizing<Vec<u8>>>,
    /// Bytes of the first frame that were written.
    written: usize,
    pending: usize,
    sequence: u32,
}

impl Outbox {
    /// Bytes that wait.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Bytes to write next.
    pub(crate) fn front(&self) -> Option<&[u8]> {
        self.frames
            .front()
            .and_then(|frame| frame.get(self.written..))
    }

    /// Counts bytes as written; more than [`front`](Self::front) has count on into what follows.
    pub(crate) fn written(&mut self, mut bytes: usize) {
        while let Some(frame) = self.frames.front() {
            let rest = frame.len() - self.written;
            if bytes < rest {
                self.written += bytes;
                self.pending -= bytes;
                return;
            }
            bytes -= rest;
            self.pending -= rest;
            self.written = 0;
            self.frames.pop_front();
        }
    }

    /// Whether a frame of this kind and size has room.
    pub(crate) fn has_room(&self, kind: FrameKind, body_bytes: usize) -> Result<(), SendError> {
        let full = if is_bulk(kind) {
            self.pending >= MAX_BULK_BACKLOG_BYTES
        } else {
            self.pending + HEADER_BYTES + body_bytes > MAX_BACKLOG_BYTES
        };
        if full {
            return Err(SendError::Backlog {
                pending: self.pending,
            });
        }
        Ok(())
    }

    /// Queues a frame and shows its bytes.
    pub(crate) fn push(&mut self, kind: FrameKind, body: &[u8]) -> Result<&[u8], SendError> {
        let oversized = || SendError::Oversized {
            kind,
            length: body.len(),
            bound: kind.bound(),
        };
        if body.len() > kind.bound() {
            return Err(oversized());
        }
        let length = u32::try_from(body.len()).map_err(|_| oversized())?;
        self.has_room(kind, body.len())?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER_BYTES + body.len()));
        bytes.extend_from_slice(&frame::header(kind, length, self.sequence));
        bytes.extend_from_slice(body);
        self.sequence = self.sequence.wrapping_add(1);
        self.pending += bytes.len();
        self.frames.push_back(bytes);
        Ok(self.frames.back().map_or(&[], |frame| frame.as_slice()))
    }
}

/// Kinds that can be held back.
fn is_bulk(kind: FrameKind) -> bool {
    matches!(
        kind,
        FrameKind::Output
            | FrameKind::Input
            | FrameKind::FileChunk
            | FrameKind::Telemetry
            | FrameKind::Heartbeat
            | FrameKind::InputCredit
            | FrameKind::OutputCredit
    )
}
