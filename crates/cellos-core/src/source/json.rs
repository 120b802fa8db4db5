//! Strict JSON (RFC 8259) into a tree with positions.

use std::{collections::HashSet, ops::Range};

use super::{
    MAX_DEPTH, ProblemCode,
    node::{Entry, Node, Value, join_index, join_key},
};
use crate::admission::shown;

/// A problem of the text itself.
#[derive(Debug)]
pub(super) struct TextProblem {
    pub(super) code: ProblemCode,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) span: Range<usize>,
}

/// Parses one document. Every duplicate key is reported, and the first syntax error.
pub(super) fn parse(text: &str) -> Result<Node, Vec<TextProblem>> {
    let mut parser = Parser {
        text,
        at: 0,
        duplicates: Vec::new(),
    };
    let root = parser.document();
    let mut problems = parser.duplicates;
    match root {
        Ok(root) if problems.is_empty() => Ok(root),
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(*problem);
            Err(problems)
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Offset of the next byte; always on a character boundary.
    at: usize,
    duplicates: Vec<TextProblem>,
}

type Parsed<T> = Result<T, Box<TextProblem>>;

impl Parser<'_> {
    fn document(&mut self) -> Parsed<Node> {
        let root = self.value(&Path::Root, 1)?;
        self.white_space();
        if self.at < self.text.len() {
            return Err(self.fail("unexpected text after the end of the document"));
        }
        Ok(root)
    }

    fn value(&mut self, path: &Path<'_>, depth: usize) -> Parsed<Node> {
        self.white_space();
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.object(path, depth)?,
            Some(b'[') => self.array(path, depth)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", Value::Bool(true))?,
            Some(b'f') => self.word("false", Value::Bool(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            Some(_) => return Err(self.fail("expected a JSON value")),
            None => return Err(self.fail("the document ends where a value is expected")),
        };
        Ok(Node {
            value,
            span: start..self.at,
        })
    }

    fn object(&mut self, path: &Path<'_>, depth: usize) -> Parsed<Value> {
        self.enter(path, depth)?;
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        self.white_space();
        if self.take(b'}') {
            return Ok(Value::Object(entries));
        }
        loop {
            self.white_space();
            if self.peek() != Some(b'"') {
                return Err(self.fail("expected a field name in double quotes"));
            }
            let key_start = self.at;
            let key = self.string()?;
            let key_span = key_start..self.at;
            self.white_space();
            if !self.take(b':') {
                return Err(self.fail("expected `:` after the field name"));
            }
            let value = self.value(&Path::Key(path, &key), depth + 1)?;
            if !seen.insert(key.clone()) {
                self.duplicates.push(TextProblem {
                    code: ProblemCode::DuplicateKey,
                    path: Path::Key(path, &key).render(),
                    message: format!("`{}` is given twice in one object", shown(&key)),
                    span: key_span.clone(),
                });
            }
            entries.push(Entry {
                key,
                key_span,
                value,
            });
            self.white_space();
            if self.take(b'}') {
                return Ok(Value::Object(entries));
            }
            if !self.take(b',') {
                return Err(self.fail("expected `,` or `}` after a field"));
            }
        }
    }

    fn array(&mut self, path: &Path<'_>, depth: usize) -> Parsed<Value> {
        self.enter(path, depth)?;
        let mut items = Vec::new();
        self.white_space();
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(&Path::Index(path, items.len()), depth + 1)?);
            self.white_space();
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return Err(self.fail("expected `,` or `]` after a value"));
            }
        }
    }

    /// Passes the opening bracket.
    fn enter(&mut self, path: &Path<'_>, depth: usize) -> Parsed<()> {
        if depth > MAX_DEPTH {
            return Err(Box::new(TextProblem {
                code: ProblemCode::TooDeep,
                path: path.top_level(),
                message: format!("is nested deeper than {MAX_DEPTH} levels"),
                span: self.at..self.at + 1,
            }));
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Parsed<String> {
        let open = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let run = self.at;
            while self
                .peek()
                .is_some_and(|byte| byte != b'"' && byte != b'\\' && byte >= 0x20)
            {
                self.at += 1;
            }
            out.push_str(&self.text[run..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => {
                    return Err(
                        self.fail("a control character in a string has to be written \\u00XX")
                    );
                }
                None => {
                    self.at = open;
                    return Err(self.fail("the string is not closed"));
                }
            }
        }
    }

    fn escape(&mut self) -> Parsed<char> {
        let start = self.at;
        self.at += 1;
        let plain = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self.hex4(start)?;
                let scalar = if (0xD800..0xDC00).contains(&first) {
                    if !self.text[self.at..].starts_with("\\u") {
                        self.at = start;
                        return Err(self.fail("half of a surrogate pair"));
                    }
                    self.at += 2;
                    let second = self.hex4(start)?;
                    if !(0xDC00..0xE000).contains(&second) {
                        self.at = start;
                        return Err(self.fail("half of a surrogate pair"));
                    }
                    0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
                } else {
                    first
                };
                return char::from_u32(scalar).ok_or_else(|| {
                    self.at = start;
                    self.fail("half of a surrogate pair")
                });
            }
            _ => {
                self.at = start;
                return Err(self.fail("unknown escape in a string"));
            }
        };
        self.at += 1;
        Ok(plain)
    }

    fn hex4(&mut self, start: usize) -> Parsed<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let code = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match code {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => {
                self.at = start;
                Err(self.fail("\\u needs four hexadecimal digits"))
            }
        }
    }

    fn number(&mut self) -> Parsed<Value> {
        let start = self.at;
        let negative = self.take(b'-');
        let digits = self.at;
        self.digits()?;
        if self.text.as_bytes()[digits] == b'0' && self.at > digits + 1 {
            self.at = start;
            return Err(self.fail("a number may not start with 0"));
        }
        let mut integer = true;
        if self.take(b'.') {
            integer = false;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            integer = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if integer && !negative {
            if let Ok(value) = text.parse() {
                return Ok(Value::Unsigned(value));
            }
        } else if integer && let Ok(value) = text.parse() {
            return Ok(Value::Signed(value));
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Value::Float(value)),
            _ => {
                self.at = start;
                Err(self.fail("the number is too large"))
            }
        }
    }

    fn digits(&mut self) -> Parsed<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.fail("expected a digit"));
        }
        Ok(())
    }

    fn word(&mut self, word: &str, value: Value) -> Parsed<Value> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.fail("expected a JSON value"))
        }
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn fail(&self, message: &str) -> Box<TextProblem> {
        Box::new(TextProblem {
            code: ProblemCode::Syntax,
            path: String::new(),
            message: message.to_owned(),
            span: self.at..self.at.saturating_add(1),
        })
    }
}

/// The path to the value being read, built only when something is wrong.
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn render(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Key(parent, key) => join_key(&parent.render(), key),
            Self::Index(parent, index) => join_index(&parent.render(), *index),
        }
    }

    /// The outermost two levels: enough to find a part that is nested too deep.
    fn top_level(&self) -> String {
        let whole = self.render();
        match whole.match_indices(['.', '[']).nth(2) {
            Some((end, _)) => whole[..end].to_owned(),
            None => whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our value as serde_json's, which is the reference.
    fn plain(node: &Node) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Unsigned(value) => (*value).into(),
            Value::Signed(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::String(value) => value.as_str().into(),
            Value::Array(items) => items.iter().map(plain).collect(),
            Value::Object(entries) => serde_json::Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), plain(&entry.value)))
                    .collect(),
            ),
        }
    }

    #[test]
    fn reads_what_the_reference_parser_reads() {
        for text in [
            "null",
            " [ ] ",
            "{}",
            r#"{"a":[1,-2,3.5,1e3,0,-0,18446744073709551615,18446744073709551616],"b":{"c":true}}"#,
            r#""\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t""#,
            "\"é😀\"",
            "-9223372036854775808",
            "-9223372036854775809",
        ] {
            let expected: serde_json::Value = serde_json::from_str(text).unwrap();
            let ours = plain(&parse(text).unwrap());
            assert_eq!(
                ours.to_string(),
                expected.to_string().replace("-0.0", "0"),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_the_reference_parser_refuses() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\u{1}\"",
            "1 2",
            "{} x",
            "1e400",
            "nul",
            "'a'",
            "{\"a\" 1}",
            "[1 2]",
            "//",
            "\u{feff}{}",
            "NaN",
            "\"\\u+123\"",
        ] {
            assert!(
                serde_json::from_str::<serde_json::Value>(text).is_err(),
                "{text}"
            );
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_duplicate_key_is_reported_with_its_path() {
        let problems = parse(r#"{"a":{"b":1,"b":2},"a":3}"#).unwrap_err();
        let paths: Vec<_> = problems
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(paths, ["a.b", "a"]);
        assert!(
            problems
                .iter()
                .all(|problem| problem.code == ProblemCode::DuplicateKey)
        );
    }

    #[test]
    fn depth_128_is_read_and_129_refused() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        let problems = parse(&nested(MAX_DEPTH + 1)).unwrap_err();
        assert_eq!(problems[0].code, ProblemCode::TooDeep);
        assert!(parse(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn spans_cover_keys_and_values() {
        let text = r#"{ "a" : [10] }"#;
        let root = parse(text).unwrap();
        let Value::Object(entries) = &root.value else {
            panic!("not an object")
        };
        assert_eq!(&text[entries[0].key_span.clone()], "\"a\"");
        assert_eq!(&text[entries[0].value.span.clone()], "[10]");
    }
}
