//! Heads and trailers, collected until they are complete.

/// Most bytes of a head, request or answer. Servers take 8 to 64 KiB.
pub(crate) const MAX_HEAD: usize = 64 << 10;
/// Most empty lines before a head; RFC 9112, 2.2 asks servers to skip one.
const MAX_EMPTY_LINES: usize = 4;
/// A buffer that is larger than this is given back after each head.
const KEPT: usize = 4 << 10;

/// Lines up to an empty one. A line ends with CR LF; there is no other control character than the
/// tabulator.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    dropped: usize,
}

/// What is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// A first line and headers. Empty lines before it are dropped.
    Head,
    /// Trailers, of which there may be none.
    Trailers,
}

impl Lines {
    /// Takes bytes until the block is complete. Returns how many, and whether it is.
    pub(super) fn take(
        &mut self,
        input: &[u8],
        block: Block,
    ) -> Result<(usize, Completeness), &'static str> {
        for (index, byte) in input.iter().enumerate() {
            let after_cr = self.bytes.last() == Some(&b'\r');
            match byte {
                b'\n' if !after_cr => return Err("a line ends with LF alone"),
                _ if after_cr && *byte != b'\n' => return Err("there is CR within a line"),
                b'\n' | b'\r' | b'\t' => {}
                0..=0x1f | 0x7f => return Err("there is a control character"),
                _ => {}
            }
            if self.bytes.len() == MAX_HEAD {
                return Err("the head is longer than 64 KiB");
            }
            self.bytes.push(*byte);
            if *byte != b'\n' {
                continue;
            }
            match (self.bytes.as_slice(), block) {
                (b"\r\n", Block::Head) => {
                    self.dropped += 1;
                    if self.dropped > MAX_EMPTY_LINES {
                        return Err("there are too many empty lines");
                    }
                    self.bytes.clear();
                }
                (b"\r\n", Block::Trailers) => return Ok((index + 1, Completeness::Complete)),
                (bytes, _) if bytes.ends_with(b"\r\n\r\n") => {
                    return Ok((index + 1, Completeness::Complete));
                }
                _ => {}
            }
        }
        Ok((input.len(), Completeness::Partial))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) {
        self.dropped = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
    }
}

/// Whether all of a block is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    Partial,
    Complete,
}
