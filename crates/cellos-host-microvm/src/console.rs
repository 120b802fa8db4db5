//! The last of what an untrusted program wrote: bounded, and harmless to print.

use std::collections::VecDeque;

/// Bytes kept of a guest's serial console: a kernel's panic with its trace.
pub(crate) const CONSOLE_BYTES: usize = 16 << 10;

/// Bytes kept of a monitor's standard error.
pub(crate) const STDERR_BYTES: usize = 4 << 10;

/// A ring of the bytes that came last.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    capacity: usize,
}

impl Tail {
    /// Keeps the last `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.capacity);
        let surplus = (self.bytes.len() + kept).saturating_sub(self.capacity);
        self.bytes.drain(..surplus);
        self.bytes
            .extend(bytes.iter().skip(bytes.len() - kept).copied());
    }

    /// What is kept, as text that a terminal only shows: escape sequences are left out, other
    /// bytes than printable ASCII and the end of a line are written as `\xNN`.
    pub(crate) fn printable(&self) -> String {
        let mut text = String::with_capacity(self.bytes.len());
        let mut state = State::Text;
        for byte in self.bytes.iter().copied() {
            state = match (state, byte) {
                (_, 0x1b) => State::Escape,
                (State::Escape, b'[') => State::Sequence,
                // Any other escape sequence is at least this byte more.
                (State::Escape, _) => State::Text,
                // Parameters and intermediates come before the final byte (ECMA-48, 5.4).
                (State::Sequence, 0x20..=0x3f) => State::Sequence,
                (State::Sequence, 0x40..=0x7e) => State::Text,
                (State::Text | State::Sequence, _) => {
                    show(byte, &mut text);
                    State::Text
                }
            };
        }
        text
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    Text,
    Escape,
    Sequence,
}

fn show(byte: u8, text: &mut String) {
    use std::fmt::Write as _;
    match byte {
        b'\n' | b' '..=b'~' => text.push(char::from(byte)),
        b'\t' => text.push(' '),
        b'\r' => {}
        other => {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{other:02x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> String {
        let mut tail = Tail::new(64);
        tail.push(bytes);
        tail.printable()
    }

    #[test]
    fn only_the_last_bytes_are_kept() {
        let mut tail = Tail::new(4);
        for piece in [&b"ab"[..], b"", b"cde", b"f"] {
            tail.push(piece);
        }
        assert_eq!(tail.printable(), "cdef");
        tail.push(b"0123456789");
        assert_eq!(tail.printable(), "6789");
        assert!(tail.bytes.len() <= 4);
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_comes_out() {
        for (bytes, text) in [
            (&b"plain\r\nlines\n"[..], "plain\nlines\n"),
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b[2J\x1b[1;1Hx", "x"),
            (b"\x1b]0;title\x07", "0;title\\x07"),
            (b"\x1bc\x1b", ""),
            (b"\x1b[3\x1b[mx", "x"),
            (b"\x9b31m", "\\x9b31m"),
            ("\u{202e}".as_bytes(), "\\xe2\\x80\\xae"),
            (b"\x00\x08\x7f", "\\x00\\x08\\x7f"),
            (b"\x1b[1\nx", "\nx"),
        ] {
            assert_eq!(shown(bytes), text, "{bytes:?}");
        }
    }

    #[test]
    fn whatever_comes_in_printable_text_comes_out() {
        let all: Vec<u8> = (0..=255).flat_map(|byte| [0x1b, byte, byte]).collect();
        let mut tail = Tail::new(all.len());
        tail.push(&all);
        let text = tail.printable();
        assert!(
            text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)),
            "{text:?}"
        );
    }
}
