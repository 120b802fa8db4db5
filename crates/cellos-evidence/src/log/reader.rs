//! Reading the lines of files, in bounded memory.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use crate::line::MAX_LINE_BYTES;

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
        Ok(Some(RawLine {
            number: self.number,
            offset: start,
            bytes: &self.line,
            end,
        }))
    }
}
