//! The last of what a monitor wrote, for messages about failures.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{io::AsyncReadExt as _, net::unix::pipe};

/// Bytes that are kept of each stream. What a guest writes to its console comes out here, so it has
/// to be bounded; the last words before a failure are a few lines.
pub(crate) const RING_BYTES: usize = 16 << 10;

/// Keeps the last [`RING_BYTES`] of a stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ring(Arc<Mutex<VecDeque<u8>>>);

impl Ring {
    /// Reads a pipe to its end in the background, so that its writer never waits.
    ///
    /// # Errors
    /// A descriptor that is no pipe's reading end.
    pub(crate) fn of(pipe: OwnedFd) -> std::io::Result<(Self, tokio::task::AbortHandle)> {
        let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let ring = Self::default();
        let kept = ring.clone();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
                kept.push(buffer.get(..length).unwrap_or_default());
            }
        });
        Ok((ring, task.abort_handle()))
    }

    fn push(&self, bytes: &[u8]) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.extend(bytes);
        let excess = ring.len().saturating_sub(RING_BYTES);
        ring.drain(..excess);
    }

    /// What is kept, without anything that a terminal would act on.
    pub(crate) fn tail(&self) -> String {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        printable(&String::from_utf8_lossy(ring.make_contiguous()))
    }
}

/// Replaces control characters other than line feed and tabulator.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '\r')
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '?',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let ring = Ring::default();
        ring.push(&[b'a'; RING_BYTES]);
        ring.push(b"\x1b[2Jend\r\n");
        let tail = ring.tail();
        assert!(tail.ends_with("a?[2Jend\n"), "{tail:?}");
        assert_eq!(ring.0.lock().unwrap().len(), RING_BYTES);
    }
}
