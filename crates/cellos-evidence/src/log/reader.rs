//! Reading the lines of a log, in bounded memory.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};

use super::segments::{Segments, SegmentsError};
use crate::line::{self, MAX_LINE_BYTES};

/// Size of the reading buffer, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// One line as it stands in its file, without its line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawLine<'a> {
    /// Number of the line in its file, from 1.
    pub number: u64,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// The bytes; of a line that is too long, the first ones.
    pub bytes: &'a [u8],
    /// How the line ends.
    pub end: LineEnd,
}

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    /// With a line feed.
    Ended,
    /// With the file: a writer died, or is writing it now.
    Torn,
    /// It is longer than [`MAX_LINE_BYTES`]; the rest is skipped.
    TooLong,
}

/// Reads a file line by line. Memory does not depend on the file.
pub struct LineReader<R = File> {
    input: BufReader<R>,
    line: Vec<u8>,
    number: u64,
    offset: u64,
}

impl<R: Read> LineReader<R> {
    /// Reads from the beginning of an input.
    pub fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER_BYTES, input),
            line: Vec::new(),
            number: 0,
            offset: 0,
        }
    }

    /// The next line.
    ///
    /// # Errors
    /// Whatever reading the input fails with.
    pub fn next_line(&mut self) -> io::Result<Option<RawLine<'_>>> {
        let Some((offset, end)) = self.advance()? else {
            return Ok(None);
        };
        Ok(Some(self.line_at(offset, end)))
    }

    /// Reads the next line into the buffer; where it begins, and how it ends.
    fn advance(&mut self) -> io::Result<Option<(u64, LineEnd)>> {
        self.line.clear();
        let start = self.offset;
        let read = self
            .input
            .by_ref()
            .take(MAX_LINE_BYTES as u64)
            .read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.offset += read as u64;
        let end = if self.line.last() == Some(&b'\n') {
            self.line.pop();
            LineEnd::Ended
        } else if read < MAX_LINE_BYTES {
            LineEnd::Torn
        } else {
            self.offset += self.input.skip_until(b'\n')? as u64;
            LineEnd::TooLong
        };
        Ok(Some((start, end)))
    }

    /// Whether the line that was read last has a number before this.
    fn seq(&self) -> Option<u64> {
        line::parse(&self.line).ok().map(|line| line.seq)
    }

    fn line_at(&self, offset: u64, end: LineEnd) -> RawLine<'_> {
        RawLine {
            number: self.number,
            offset,
            bytes: &self.line,
            end,
        }
    }
}

impl<R: Read + Seek> LineReader<R> {
    /// Goes back to where the line that was read last begins.
    fn take_back(&mut self, offset: u64) -> io::Result<()> {
        self.input.seek(SeekFrom::Start(offset))?;
        self.offset = offset;
        self.number -= 1;
        Ok(())
    }
}

/// What a reader does where the live file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// It is the end: a torn last line is handed out as such.
    Stop,
    /// More may come: a line that is not ended yet is not there yet, and another try later may
    /// find more. A rotation meanwhile is followed.
    Follow,
}

/// A line of a log, and the file that it stands in.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'a> {
    /// The file.
    pub file: &'a Arc<PathBuf>,
    /// The line.
    pub raw: RawLine<'a>,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its files cannot be found.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// A file cannot be read.
    #[error("event log {path:?}: cannot {operation}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Reads the lines of a log, over all of its files.
pub struct LogReader {
    log: PathBuf,
    at_end: AtEnd,
    /// Files that come after the open one, next one last.
    next: Vec<Next>,
    open: Option<OpenFile>,
    /// Lines with numbers before this are passed over; what has no number is handed out.
    from: u64,
    /// Number of the last line of the last sealed segment that was opened.
    sealed_to: Option<u64>,
}

struct Next {
    path: PathBuf,
    /// Number of the last line, of a sealed segment.
    last: Option<u64>,
}

struct OpenFile {
    path: Arc<PathBuf>,
    lines: LineReader,
    /// Device and inode.
    identity: (u64, u64),
    live: bool,
}

impl LogReader {
    /// Reads all lines of the log at `path`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(path: &Path, at_end: AtEnd) -> Result<Self, ReadError> {
        Self::from_seq(path, 0, at_end)
    }

    /// Reads the lines with the number `seq` and later ones. Sealed segments that end before are
    /// not opened.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn from_seq(path: &Path, seq: u64, at_end: AtEnd) -> Result<Self, ReadError> {
        let mut reader = Self {
            log: path.to_owned(),
            at_end,
            next: Vec::new(),
            open: None,
            from: seq,
            sealed_to: seq.checked_sub(1),
        };
        reader.look()?;
        Ok(reader)
    }

    /// The next line; `None` at the end, see [`AtEnd`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn next_line(&mut self) -> Result<Option<LogLine<'_>>, ReadError> {
        let Some((offset, end)) = self.advance()? else {
            return Ok(None);
        };
        Ok(self.open.as_ref().map(|open| LogLine {
            file: &open.path,
            raw: open.lines.line_at(offset, end),
        }))
    }

    fn advance(&mut self) -> Result<Option<(u64, LineEnd)>, ReadError> {
        loop {
            let Some(open) = &mut self.open else {
                if self.next.is_empty() && self.at_end == AtEnd::Follow {
                    self.look()?;
                }
                match self.next.pop() {
                    Some(next) => self.begin(next)?,
                    None => return Ok(None),
                }
                continue;
            };
            let read = open.lines.advance();
            let read = read.map_err(failed(&open.path, "read it"))?;
            let waits = open.live && self.at_end == AtEnd::Follow;
            match read {
                Some((offset, LineEnd::Torn)) if waits => {
                    let back = open.lines.take_back(offset);
                    back.map_err(failed(&open.path, "read it"))?;
                    return Ok(None);
                }
                Some((_, LineEnd::Ended)) if self.from > 0 => match open.lines.seq() {
                    Some(seq) if seq < self.from => {}
                    // What comes behind it is later: it is not looked at any more.
                    Some(_) => {
                        self.from = 0;
                        return Ok(read);
                    }
                    None => return Ok(read),
                },
                Some(line) => return Ok(Some(line)),
                None if waits => match self.moved()? {
                    Moved::No => return Ok(None),
                    Moved::Unread => {}
                    Moved::Read => self.open = None,
                },
                None => self.open = None,
            }
        }
    }

    /// Looks for files that have not been read.
    fn look(&mut self) -> Result<(), ReadError> {
        let segments = Segments::of(&self.log)?;
        let unread = |last: u64| self.sealed_to.is_none_or(|read| last > read);
        self.next = segments
            .sealed
            .into_iter()
            .filter(|segment| unread(segment.last))
            .map(|segment| Next {
                path: segment.path,
                last: Some(segment.last),
            })
            .chain(segments.live.map(|path| Next { path, last: None }))
            .collect();
        self.next.reverse();
        Ok(())
    }

    fn begin(&mut self, next: Next) -> Result<(), ReadError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file: File = match rustix::fs::open(&next.path, flags, Mode::empty()) {
            Ok(file) => file.into(),
            // A rotation has just moved it.
            Err(rustix::io::Errno::NOENT) if next.last.is_none() => return self.look(),
            Err(errno) => return Err(failed(&next.path, "open it")(errno.into())),
        };
        let metadata = file.metadata().map_err(failed(&next.path, "look at it"))?;
        if !metadata.is_file() {
            return Err(SegmentsError::NotAFile { path: next.path }.into());
        }
        if next.last.is_none() {
            self.look()?;
            if self.next.len() > 1 {
                // A rotation before it was opened has left a segment to read first.
                return Ok(());
            }
            self.next.clear();
        }
        self.sealed_to = next.last.or(self.sealed_to);
        self.open = Some(OpenFile {
            path: Arc::new(next.path),
            lines: LineReader::new(file),
            identity: (metadata.dev(), metadata.ino()),
            live: next.last.is_none(),
        });
        Ok(())
    }

    /// What has become of the live file, which has been read to its end.
    fn moved(&mut self) -> Result<Moved, ReadError> {
        let Some(open) = &mut self.open else {
            return Ok(Moved::No);
        };
        let there = match std::fs::symlink_metadata(&self.log) {
            Ok(metadata) => Some((metadata.dev(), metadata.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&self.log, "look at it")(error)),
        };
        if there == Some(open.identity) {
            return Ok(Moved::No);
        }
        let segments = Segments::of(&self.log)?;
        let now = segments.sealed.iter().find(|segment| {
            std::fs::symlink_metadata(&segment.path)
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == open.identity)
        });
        let Some(segment) = now else {
            return Ok(Moved::Read);
        };
        self.sealed_to = Some(segment.last);
        open.live = false;
        open.path = Arc::new(segment.path.clone());
        let metadata = open.lines.input.get_ref().metadata();
        let length = metadata.map_err(failed(&open.path, "look at it"))?.len();
        // Lines may have come between the last look at its end and the rotation.
        Ok(match length > open.lines.offset {
            true => Moved::Unread,
            false => Moved::Read,
        })
    }
}

/// What has become of a live file that has been read to its end.
enum Moved {
    /// It is still the live one.
    No,
    /// It is a segment now, and more of it is to be read.
    Unread,
    /// It has been read, and another file is the live one.
    Read,
}

fn failed(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> ReadError + use<> {
    let path = path.to_owned();
    move |source| ReadError::Io {
        path,
        operation,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cellos_core::CloudEventV1;

    use super::*;
    use crate::line::Tail;

    fn lines(tail: &mut Tail, count: usize) -> Vec<u8> {
        let event: CloudEventV1 = serde_json::from_value(serde_json::json!({
            "specversion": "1.0", "id": "i", "source": "s", "type": "t",
        }))
        .unwrap();
        (0..count)
            .flat_map(|_| line::encode(tail, std::slice::from_ref(&event), None).unwrap())
            .collect()
    }

    fn rest(reader: &mut LogReader) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            seqs.push(line::parse(line.raw.bytes).unwrap().seq);
        }
        seqs
    }

    #[test]
    fn a_reader_goes_over_all_files_from_where_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.jsonl");
        let mut tail = Tail::of_new_log("01J");
        let names = super::super::segments::Names::of(&log).unwrap();
        fs::write(names.segment(0, 2), lines(&mut tail, 3)).unwrap();
        fs::write(names.segment(3, 4), lines(&mut tail, 2)).unwrap();
        fs::write(&log, lines(&mut tail, 2)).unwrap();
        for from in 0..8 {
            let mut reader = LogReader::from_seq(&log, from, AtEnd::Stop).unwrap();
            assert_eq!(rest(&mut reader), (from..7).collect::<Vec<_>>());
        }
        // Earlier segments are not even opened.
        fs::write(names.segment(0, 2), "damaged\n").unwrap();
        let mut reader = LogReader::from_seq(&log, 3, AtEnd::Stop).unwrap();
        assert_eq!(rest(&mut reader), [3, 4, 5, 6]);
    }

    #[test]
    fn a_follower_waits_for_whole_lines_and_goes_with_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.jsonl");
        let names = super::super::segments::Names::of(&log).unwrap();
        let mut reader = LogReader::open(&log, AtEnd::Follow).unwrap();
        assert_eq!(rest(&mut reader), [0; 0]);
        let mut tail = Tail::of_new_log("01J");
        let all: Vec<_> = (0..6).map(|_| lines(&mut tail, 1)).collect();
        let (half, other) = all[1].split_at(40);
        fs::write(&log, [&all[0], half].concat()).unwrap();
        assert_eq!(rest(&mut reader), [0]);
        assert_eq!(rest(&mut reader), [0; 0]);
        let append = |bytes: &[u8]| {
            use std::io::Write;
            let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
            file.write_all(bytes).unwrap();
        };
        append(other);
        assert_eq!(rest(&mut reader), [1]);
        // Lines that came just before the rotation are not lost.
        append(&all[2]);
        fs::rename(&log, names.segment(0, 2)).unwrap();
        assert_eq!(rest(&mut reader), [2]);
        fs::write(&log, &all[3]).unwrap();
        // Two rotations between two looks.
        fs::rename(&log, names.segment(3, 3)).unwrap();
        fs::write(names.segment(4, 4), &all[4]).unwrap();
        fs::write(&log, &all[5]).unwrap();
        assert_eq!(rest(&mut reader), [3, 4, 5]);
    }

    #[test]
    fn a_torn_line_is_handed_out_where_nothing_more_is_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.jsonl");
        fs::write(&log, "{\"entry\"").unwrap();
        let mut reader = LogReader::open(&log, AtEnd::Stop).unwrap();
        let line = reader.next_line().unwrap().unwrap();
        assert_eq!((line.raw.number, line.raw.end), (1, LineEnd::Torn));
        assert!(reader.next_line().unwrap().is_none());
    }
}
