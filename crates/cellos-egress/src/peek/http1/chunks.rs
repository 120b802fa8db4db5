//! Bodies in chunks, RFC 9112, 7.1, in the one form that everybody reads alike.

/// Most digits of a chunk's size, so that it fits 64 bits.
const MAX_DIGITS: u8 = 15;

/// Where in a body of chunks one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In the line with the size.
    Size { size: u64, digits: u8 },
    /// After its CR.
    SizeEnd { size: u64 },
    /// In the data.
    Data { left: u64 },
    /// After the data.
    DataEnd { cr: Seen },
    /// After the last chunk's line: trailers, and the empty line.
    Trailers,
}

/// Whether a CR was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    No,
    Yes,
}

impl Chunks {
    pub(super) const START: Self = Self::Size { size: 0, digits: 0 };

    /// Goes on through `input`. Returns how much of it belongs to chunks: less than all of it only
    /// when the trailers begin.
    pub(super) fn advance(&mut self, input: &[u8]) -> Result<usize, &'static str> {
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            *self = match (*self, byte) {
                (Self::Trailers, _) => return Ok(at),
                (Self::Data { left }, _) => {
                    let rest = input.len() - at;
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest);
                    at += taken;
                    *self = Self::Data { left };
                    self.skip(u64::try_from(taken).unwrap_or(left));
                    continue;
                }
                (Self::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                    if digits == MAX_DIGITS {
                        return Err("the size of a chunk is too long");
                    }
                    let digit = char::from(*byte).to_digit(16).unwrap_or_default();
                    Self::Size {
                        size: size << 4 | u64::from(digit),
                        digits: digits + 1,
                    }
                }
                (Self::Size { size, digits: 1.. }, b'\r') => Self::SizeEnd { size },
                (Self::Size { digits: 1.., .. }, b';') => return Err("a chunk has an extension"),
                (Self::Size { .. }, _) => return Err("the size of a chunk is no number"),
                (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailers,
                (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
                (Self::DataEnd { cr: Seen::No }, b'\r') => Self::DataEnd { cr: Seen::Yes },
                (Self::DataEnd { cr: Seen::Yes }, b'\n') => Self::START,
                (Self::SizeEnd { .. } | Self::DataEnd { .. }, _) => {
                    return Err("a chunk does not end with CR LF");
                }
            };
            at += 1;
        }
        Ok(at)
    }

    /// How much data of this chunk is still to come.
    pub(super) fn left(&self) -> u64 {
        match self {
            Self::Data { left } => *left,
            _ => 0,
        }
    }

    /// As much data went by.
    pub(super) fn skip(&mut self, count: u64) {
        if let Self::Data { left } = self {
            *self = match left.saturating_sub(count) {
                0 => Self::DataEnd { cr: Seen::No },
                left => Self::Data { left },
            };
        }
    }
}
