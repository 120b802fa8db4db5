//! Whether bytes are canonical JSON (RFC 8785), decided in one pass over them.
//!
//! The writer writes nothing else, so a line that is not canonical was not written by it, and one
//! that is has one meaning for every reader: each key stands once, in order, and each number and
//! string has its one form. Nothing is written anew, nothing is allocated but the stack of what is
//! open, and nothing recurses.

use std::cmp::Ordering;

use crate::finding::FindingKind;

/// Deepest nesting of objects and arrays; what JSON readers commonly accept.
pub const MAX_DEPTH: usize = 128;
/// Integers of at most this many digits are exact in every reader.
const EXACT_DIGITS: usize = 15;

/// The bytes at which the inside of a string is more than itself: quotes, escapes, what may not stand
/// there, and what is not ASCII.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < special.len() {
        special[byte] = byte < 0x20 || byte >= 0x80 || byte == 0x22 || byte == 0x5c;
        byte += 1;
    }
    special
};

/// Why bytes are not canonical JSON. Places are offsets in bytes, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    /// They are no UTF-8.
    #[error("not UTF-8 at byte {0}")]
    Utf8(usize),
    /// They are no JSON.
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    /// Too much is nested.
    #[error("nested deeper than {MAX_DEPTH} levels at byte {0}")]
    Depth(usize),
    /// White space stands between values.
    #[error("not canonical: white space at byte {0}")]
    Space(usize),
    /// A key stands twice in an object.
    #[error("not canonical: a key stands twice in its object, at byte {0}")]
    Duplicate(usize),
    /// The keys of an object are not in order.
    #[error("not canonical: a key out of order at byte {0}")]
    Order(usize),
    /// A number is not in its shortest form, or not finite.
    #[error("not canonical: a number in another than its one form at byte {0}")]
    Number(usize),
    /// A string has an escape that it does not need.
    #[error("not canonical: a needless escape at byte {0}")]
    Escape(usize),
}

impl NotCanonical {
    /// What it is as a finding.
    #[must_use]
    pub const fn finding(self) -> FindingKind {
        match self {
            Self::Utf8(_) | Self::Syntax(_) | Self::Depth(_) => FindingKind::Unreadable,
            Self::Space(_)
            | Self::Duplicate(_)
            | Self::Order(_)
            | Self::Number(_)
            | Self::Escape(_) => FindingKind::Ambiguous,
        }
    }
}

/// Checks one value that takes up all the bytes.
///
/// # Errors
/// [`NotCanonical`], of the first place that is not canonical.
pub fn check(bytes: &[u8]) -> Result<(), NotCanonical> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| NotCanonical::Utf8(error.valid_up_to()))?;
    Scan {
        text,
        bytes: text.as_bytes(),
        at: 0,
    }
    .document()
}

/// What is open around the present place; of an object, its last key.
enum Open<'a> {
    Array,
    Object(Text<'a>),
}

/// The inside of a string, as it is written.
#[derive(Clone, Copy)]
struct Text<'a> {
    raw: &'a str,
    /// Neither escapes nor anything beyond ASCII: bytes compare as UTF-16 units do.
    plain: bool,
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn document(&mut self) -> Result<(), NotCanonical> {
        let mut open: Vec<Open<'a>> = Vec::with_capacity(16);
        'values: loop {
            match self.peek() {
                Some(b'{') => {
                    self.enter(open.len())?;
                    if self.peek() == Some(b'}') {
                        self.at += 1;
                    } else {
                        open.push(Open::Object(self.key()?));
                        continue 'values;
                    }
                }
                Some(b'[') => {
                    self.enter(open.len())?;
                    if self.peek() == Some(b']') {
                        self.at += 1;
                    } else {
                        open.push(Open::Array);
                        continue 'values;
                    }
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => return Err(self.unexpected()),
            }
            loop {
                match (open.last_mut(), self.peek()) {
                    (None, None) => return Ok(()),
                    (Some(Open::Array), Some(b']')) | (Some(Open::Object(_)), Some(b'}')) => {
                        self.at += 1;
                        open.pop();
                    }
                    (Some(Open::Array), Some(b',')) => {
                        self.at += 1;
                        continue 'values;
                    }
                    (Some(Open::Object(last)), Some(b',')) => {
                        self.at += 1;
                        let start = self.at;
                        let key = self.key()?;
                        match order(*last, key) {
                            Ordering::Less => *last = key,
                            Ordering::Equal => return Err(NotCanonical::Duplicate(start)),
                            Ordering::Greater => return Err(NotCanonical::Order(start)),
                        }
                        continue 'values;
                    }
                    _ => return Err(self.unexpected()),
                }
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn unexpected(&self) -> NotCanonical {
        match self.peek() {
            Some(b' ' | b'\t' | b'\r' | b'\n') => NotCanonical::Space(self.at),
            _ => NotCanonical::Syntax(self.at),
        }
    }

    fn enter(&mut self, depth: usize) -> Result<(), NotCanonical> {
        if depth == MAX_DEPTH {
            return Err(NotCanonical::Depth(self.at));
        }
        self.at += 1;
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), NotCanonical> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(NotCanonical::Syntax(self.at));
        }
        self.at += word.len();
        Ok(())
    }

    /// A key and its colon.
    fn key(&mut self) -> Result<Text<'a>, NotCanonical> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(key)
    }

    fn string(&mut self) -> Result<Text<'a>, NotCanonical> {
        self.at += 1;
        let start = self.at;
        let mut plain = true;
        loop {
            let rest = &self.bytes[self.at..];
            let run = rest.iter().position(|byte| SPECIAL[usize::from(*byte)]);
            self.at += run.unwrap_or(rest.len());
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Text { raw, plain });
                }
                Some(b'\\') => {
                    plain = false;
                    self.escape()?;
                }
                None | Some(0..0x20) => return Err(NotCanonical::Syntax(self.at)),
                Some(_) => {
                    plain = false;
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<(), NotCanonical> {
        let start = self.at;
        match self.bytes.get(start + 1) {
            Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'/') => return Err(NotCanonical::Escape(start)),
            Some(b'u') => {
                let Some(digits) = self.bytes.get(start + 2..start + 6) else {
                    return Err(NotCanonical::Syntax(start));
                };
                match digits {
                    // Those with a short form have to use it.
                    [b'0', b'0', b'0', b'8' | b'9' | b'a' | b'c' | b'd'] => {
                        return Err(NotCanonical::Escape(start));
                    }
                    [b'0', b'0', b'0' | b'1', b'0'..=b'9' | b'a'..=b'f'] => self.at += 6,
                    _ if digits.iter().all(u8::is_ascii_hexdigit) => {
                        return Err(NotCanonical::Escape(start));
                    }
                    _ => return Err(NotCanonical::Syntax(start)),
                }
            }
            _ => return Err(NotCanonical::Syntax(start)),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), NotCanonical> {
        let start = self.at;
        while let Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') = self.peek() {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        let canonical = match text.strip_prefix('-').unwrap_or(text).as_bytes() {
            [b'0'] => text == "0",
            digits @ [b'1'..=b'9', ..]
                if digits.len() <= EXACT_DIGITS && digits.iter().all(u8::is_ascii_digit) =>
            {
                true
            }
            _ => match text.parse::<f64>() {
                Err(_) => return Err(NotCanonical::Syntax(start)),
                Ok(number) => {
                    number.is_finite() && ryu_js::Buffer::new().format_finite(number) == text
                }
            },
        };
        if canonical {
            Ok(())
        } else {
            Err(NotCanonical::Number(start))
        }
    }
}

/// Order of keys by UTF-16 units (RFC 8785, 3.2.3).
fn order(a: Text<'_>, b: Text<'_>) -> Ordering {
    if a.plain && b.plain {
        return a.raw.cmp(b.raw);
    }
    units(a.raw).cmp(units(b.raw))
}

/// The UTF-16 units of a string whose escapes have been checked.
fn units(raw: &str) -> impl Iterator<Item = u16> {
    let mut rest = raw.chars();
    std::iter::from_fn(move || {
        let character = rest.next()?;
        if character != '\\' {
            return Some(character);
        }
        Some(match rest.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let code = rest.by_ref().take(4).fold(0, |code, digit| {
                    code * 16 + digit.to_digit(16).unwrap_or_default()
                });
                char::from_u32(code).unwrap_or_default()
            }
            same => same,
        })
    })
    .flat_map(|character| {
        let mut units = [0; 2];
        let count = character.encode_utf16(&mut units).len();
        units.into_iter().take(count)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_canonical_is_named_with_its_place() {
        for (text, expected) in [
            (&b"{\"a\":1,\"b\":[]}"[..], Ok(())),
            (b"", Err(NotCanonical::Syntax(0))),
            (b"{\"a\":1", Err(NotCanonical::Syntax(6))),
            (b"{\"a\":1}}", Err(NotCanonical::Syntax(7))),
            (b"{\"a\":1} ", Err(NotCanonical::Space(7))),
            (b"{\"a\": 1}", Err(NotCanonical::Space(5))),
            (b"{\"a\":1,\"a\":1}", Err(NotCanonical::Duplicate(7))),
            (b"{\"b\":1,\"a\":1}", Err(NotCanonical::Order(7))),
            (b"{\"\\u0061\":1}", Err(NotCanonical::Escape(2))),
            (b"\"\\/\"", Err(NotCanonical::Escape(1))),
            (b"\"\\u000a\"", Err(NotCanonical::Escape(1))),
            (b"\"\\u001F\"", Err(NotCanonical::Escape(1))),
            (b"\"\\u001f\"", Ok(())),
            (b"\"\\ud800\"", Err(NotCanonical::Escape(1))),
            (b"\"\\x\"", Err(NotCanonical::Syntax(1))),
            (b"\"\t\"", Err(NotCanonical::Syntax(1))),
            (b"\"\xff\"", Err(NotCanonical::Utf8(1))),
            (b"1.0", Err(NotCanonical::Number(0))),
            (b"-0", Err(NotCanonical::Number(0))),
            (b"01", Err(NotCanonical::Number(0))),
            (b"1e400", Err(NotCanonical::Number(0))),
            (b"9007199254740993", Err(NotCanonical::Number(0))),
            (b"1e21", Err(NotCanonical::Number(0))),
            (b"1e+21", Ok(())),
            (b"0.5", Ok(())),
            (b"-", Err(NotCanonical::Syntax(0))),
            (b"tru", Err(NotCanonical::Syntax(0))),
        ] {
            assert_eq!(check(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn keys_are_in_the_order_of_utf_16() {
        // U+1F600 is D83D DE00 in UTF-16 and so before U+FF5E, after it by code point.
        assert_eq!(check("{\"\u{1F600}\":1,\"\u{FF5E}\":2}".as_bytes()), Ok(()));
        assert_eq!(
            check("{\"\u{FF5E}\":1,\"\u{1F600}\":2}".as_bytes()),
            Err(NotCanonical::Order(9))
        );
        assert_eq!(check(b"{\"\\n\":1,\"\\u001f\":2,\" \":3}"), Ok(()));
    }

    #[test]
    fn depth_is_bounded_and_costs_no_stack() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert_eq!(check(nested(MAX_DEPTH).as_bytes()), Ok(()));
        assert_eq!(
            check(nested(MAX_DEPTH + 1).as_bytes()),
            Err(NotCanonical::Depth(MAX_DEPTH))
        );
        assert!(check("[".repeat(1_000_000).as_bytes()).is_err());
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn everything_that_the_canonicalizer_writes_is_canonical(value in value()) {
            let text = serde_json_canonicalizer::to_vec(&value).unwrap();
            prop_assert_eq!(check(&text), Ok(()));
        }

        #[test]
        fn what_is_canonical_is_what_the_canonicalizer_would_write(
            value in value(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut text = serde_json_canonicalizer::to_vec(&value).unwrap();
            let at = at.index(text.len());
            text[at] = byte;
            if check(&text).is_ok() {
                let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
                prop_assert_eq!(serde_json_canonicalizer::to_vec(&read).unwrap(), text);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&bytes);
        }
    }
}
