//! Where a file ends: its last whole line, and what a dying writer left behind it.

use std::{io, path::Path, sync::Arc};

use super::{LogError, storage::StoredFile};
use crate::line::{
    self, LineHash, MAX_LINE_BYTES, MAX_LINES_PER_SIGNATURE, MAX_LOG_ID_BYTES, Tail,
};

/// First read from the end, in bytes: a few lines of common size.
const FIRST_LOOK_BYTES: u64 = 8 * 1024;

/// The end of a file that has lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// Where the next line goes.
    pub(super) tail: Tail,
    /// Where it goes in the file; what stands behind it is torn.
    pub(super) offset: u64,
    /// Whether the lines are signed.
    pub(super) signing: Signing,
    /// The signature of its last line, where that has one.
    pub(super) by: Option<SignedBy>,
}

/// The signature of a line, and what it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignedBy {
    pub(super) kid: String,
    pub(super) signature: [u8; 64],
    pub(super) bytes: Vec<u8>,
}

impl SignedBy {
    fn of(parsed: &line::ParsedLine<'_>) -> Option<Self> {
        parsed.signature.map(|signature| Self {
            kid: signature.kid.to_owned(),
            signature: signature.bytes,
            bytes: line::signed_bytes(parsed.entry),
        })
    }
}

/// Whether a log is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signing {
    Signed,
    Unsigned,
}

/// Finds the end of a file. In a signed log the lines behind the last signed one are torn as well:
/// nobody was told that they are kept, and nobody can tell who wrote them.
///
/// `before` is the end of the segment before, where there is one: it tells whether the log is
/// signed, and is the end where nothing of the file counts.
pub(super) fn find(
    path: &Path,
    file: &dyn StoredFile,
    size: u64,
    before: Option<&End>,
) -> Result<Option<End>, LogError> {
    let mut pieces = Backwards::new(file, size);
    let read = |source| LogError::io(path, "read its end", source);
    let mut whole = None;
    let known = before.map(|before| before.signing);
    // What stands behind the last line feed is torn, and mostly nothing.
    pieces.next().map_err(read)?.ok_or_else(|| no_line(path))?;
    for _ in 0..MAX_LINES_PER_SIGNATURE {
        let offset = pieces.start_of_known;
        let Some(bytes) = pieces.next().map_err(read)? else {
            if pieces.too_long {
                return Err(no_line(path));
            }
            return Ok(match (known, before) {
                (Some(Signing::Signed), Some(before)) => Some(End {
                    offset: 0,
                    ..before.clone()
                }),
                _ => whole,
            });
        };
        let parsed = parse(path, &bytes)?;
        let end = |signing| End {
            tail: tail_after(&parsed, &bytes),
            offset,
            signing,
            by: SignedBy::of(&parsed),
        };
        if parsed.signature.is_some() {
            return Ok(Some(end(Signing::Signed)));
        }
        whole.get_or_insert_with(|| end(Signing::Unsigned));
    }
    match known {
        Some(Signing::Signed) => Err(LogError::UnsignedEnd { path: path.into() }),
        _ => Ok(whole),
    }
}

/// Looks at the last line alone; `None` where it is torn.
pub(super) fn last_line(
    path: &Path,
    file: &dyn StoredFile,
    size: u64,
) -> Result<Option<End>, LogError> {
    let read = |source| LogError::io(path, "read its end", source);
    let mut pieces = Backwards::new(file, size);
    match pieces.next().map_err(read)? {
        Some(torn) if torn.is_empty() => {}
        Some(_) => return Ok(None),
        None => return Err(no_line(path)),
    }
    let bytes = pieces.next().map_err(read)?.ok_or_else(|| no_line(path))?;
    let parsed = parse(path, &bytes)?;
    Ok(Some(End {
        tail: tail_after(&parsed, &bytes),
        offset: size,
        signing: match parsed.signature {
            Some(_) => Signing::Signed,
            None => Signing::Unsigned,
        },
        by: SignedBy::of(&parsed),
    }))
}

/// Hash of the line with the number `seq`, looked for from the end on; `None` where the file has
/// no such line.
pub(super) fn hash_of(
    path: &Path,
    file: &dyn StoredFile,
    size: u64,
    seq: u64,
) -> Result<Option<LineHash>, LogError> {
    let read = |source| LogError::io(path, "read it", source);
    let mut pieces = Backwards::new(file, size);
    pieces.next().map_err(read)?;
    while let Some(bytes) = pieces.next().map_err(read)? {
        let found = parse(path, &bytes)?.seq;
        if found <= seq {
            return Ok((found == seq).then(|| LineHash::of_line(&bytes)));
        }
    }
    Ok(None)
}

/// The first line of a file that has a whole one.
pub(super) fn first_line(
    path: &Path,
    file: &dyn StoredFile,
    size: u64,
) -> Result<Option<Vec<u8>>, LogError> {
    let mut length = size.min(FIRST_LOOK_BYTES);
    loop {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|source| LogError::io(path, "read its first line", source))?;
        if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            bytes.truncate(end);
            return Ok(Some(bytes));
        }
        if length >= size.min(MAX_LINE_BYTES as u64) {
            return Ok(None);
        }
        length = (length * 8).min(size).min(MAX_LINE_BYTES as u64);
    }
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<line::ParsedLine<'a>, LogError> {
    let parsed = line::parse(bytes).map_err(|source| LogError::NotALog {
        path: path.into(),
        source: Arc::new(source),
    })?;
    match parsed.log_id.len() <= MAX_LOG_ID_BYTES && parsed.seq < line::MAX_SAFE_INTEGER {
        true => Ok(parsed),
        false => Err(no_line(path)),
    }
}

fn tail_after(parsed: &line::ParsedLine<'_>, bytes: &[u8]) -> Tail {
    Tail {
        log_id: parsed.log_id.to_owned(),
        next_seq: parsed.seq + 1,
        prev: LineHash::of_line(bytes),
    }
}

fn no_line(path: &Path) -> LogError {
    LogError::NoLine { path: path.into() }
}

/// Reads what stands between the line feeds of a file, last piece first.
struct Backwards<'f> {
    file: &'f dyn StoredFile,
    /// Bytes from `start` on that have been read and not handed out.
    bytes: Vec<u8>,
    start: u64,
    /// How much is read at once.
    look: u64,
    /// Where the pieces that were handed out begin.
    start_of_known: u64,
    too_long: bool,
    /// Whether the piece that begins with the file has been handed out.
    at_start: bool,
}

impl<'f> Backwards<'f> {
    fn new(file: &'f dyn StoredFile, size: u64) -> Self {
        Self {
            file,
            bytes: Vec::new(),
            start: size,
            look: FIRST_LOOK_BYTES,
            start_of_known: size,
            too_long: false,
            at_start: false,
        }
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.at_start {
            return Ok(None);
        }
        loop {
            if let Some(at) = self.bytes.iter().rposition(|byte| *byte == b'\n') {
                let piece = self.bytes.split_off(at + 1);
                self.bytes.pop();
                self.start_of_known = self.start + at as u64 + 1;
                return Ok(Some(piece));
            }
            if self.start == 0 {
                self.at_start = true;
                self.start_of_known = 0;
                return Ok(Some(std::mem::take(&mut self.bytes)));
            }
            if self.bytes.len() > MAX_LINE_BYTES {
                self.too_long = true;
                return Ok(None);
            }
            let length = self.look.min(self.start);
            self.look = (self.look * 4).min(MAX_LINE_BYTES as u64);
            let mut more = vec![0; usize::try_from(length).unwrap_or_default()];
            self.file.read_exact_at(&mut more, self.start - length)?;
            more.append(&mut self.bytes);
            self.bytes = more;
            self.start -= length;
        }
    }
}
