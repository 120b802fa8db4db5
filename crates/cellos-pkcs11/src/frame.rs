//! What the two programs say to each other: frames of a kind, a length and bytes.
//!
//! `cellos` sends [`Kind::Pin`] where there is one, then [`Kind::Open`] with the URI; the answer is
//! [`Kind::PublicKey`]. Each [`Kind::Sign`] is answered by [`Kind::Signature`]. Every answer may be
//! [`Kind::Error`] instead, with a text.

use std::io::{self, Read, Write};

use zeroize::Zeroizing;

/// Longest content of a frame, in bytes: a line of the log has at most 1 MiB, and a keyset less.
pub const MAX_FRAME_BYTES: usize = 2 << 20;
/// Bytes before the content: the kind and the length.
pub const HEAD_BYTES: usize = 5;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The PIN of the token.
    Pin,
    /// The URI of the key.
    Open,
    /// What is to be signed.
    Sign,
    /// The 32 bytes of the public key.
    PublicKey,
    /// The 64 bytes of a signature.
    Signature,
    /// Why there is none.
    Error,
}

/// All kinds with the byte that stands for each.
const KINDS: [(Kind, u8); 6] = [
    (Kind::Pin, b'P'),
    (Kind::Open, b'O'),
    (Kind::Sign, b'S'),
    (Kind::PublicKey, b'K'),
    (Kind::Signature, b'R'),
    (Kind::Error, b'E'),
];

impl Kind {
    fn to_byte(self) -> u8 {
        KINDS
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or(0, |(_, byte)| *byte)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        KINDS
            .iter()
            .find(|(_, known)| *known == byte)
            .map(|(kind, _)| *kind)
    }
}

/// One frame. Its content is erased when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: Kind,
    /// The content.
    pub content: Zeroizing<Vec<u8>>,
}

/// Head of a frame.
///
/// # Errors
/// `InvalidData` for a kind that does not exist or a content that is too long.
pub fn parse_head(head: [u8; HEAD_BYTES]) -> io::Result<(Kind, usize)> {
    let [kind, length @ ..] = head;
    let kind = Kind::from_byte(kind).ok_or_else(|| invalid("a frame of an unknown kind"))?;
    match usize::try_from(u32::from_be_bytes(length)) {
        Ok(length) if length <= MAX_FRAME_BYTES => Ok((kind, length)),
        _ => Err(invalid("a frame that is too long")),
    }
}

/// Bytes of a frame.
///
/// # Errors
/// `InvalidData` for a content that is too long.
pub fn encode(kind: Kind, content: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = u32::try_from(content.len())
        .ok()
        .filter(|_| content.len() <= MAX_FRAME_BYTES)
        .ok_or_else(|| invalid("a frame that is too long"))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(HEAD_BYTES + content.len()));
    bytes.push(kind.to_byte());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(content);
    Ok(bytes)
}

/// Reads a frame. `None` at the end of the stream.
///
/// # Errors
/// Whatever reading fails with, and `InvalidData` for what is no frame.
pub fn read(input: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut head = [0; HEAD_BYTES];
    let Some((first, rest)) = head.split_first_mut() else {
        return Ok(None);
    };
    if input.read(std::slice::from_mut(first))? == 0 {
        return Ok(None);
    }
    input.read_exact(rest)?;
    let (kind, length) = parse_head(head)?;
    let mut content = Zeroizing::new(vec![0; length]);
    input.read_exact(&mut content)?;
    Ok(Some(Frame { kind, content }))
}

/// Writes a frame.
///
/// # Errors
/// Whatever writing fails with.
pub fn write(output: &mut impl Write, kind: Kind, content: &[u8]) -> io::Result<()> {
    output.write_all(&encode(kind, content)?)?;
    output.flush()
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_pipe() {
        for (kind, _) in KINDS {
            let bytes = encode(kind, b"abc").unwrap();
            let mut input = &bytes[..];
            let frame = read(&mut input).unwrap().unwrap();
            assert_eq!((frame.kind, &frame.content[..]), (kind, &b"abc"[..]));
            assert!(read(&mut input).unwrap().is_none());
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_reserves_nothing() {
        for bytes in [
            &b"X\0\0\0\0"[..],
            b"S\xff\xff\xff\xff",
            b"S\0\0",
            b"S\0\0\0\x03ab",
        ] {
            assert!(read(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
        assert!(encode(Kind::Sign, &vec![0; MAX_FRAME_BYTES + 1]).is_err());
    }
}
