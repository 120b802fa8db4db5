//! A document as a tree of values, each with its place in the text.

use std::ops::Range;

use super::Position;

/// A value and where it stands, in bytes of the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) span: Range<usize>,
}

/// A value of JSON or of the YAML core schema.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    /// A negative integer.
    Signed(i64),
    /// A number with a fraction or an exponent, or an integer beyond 64 bits.
    Float(f64),
    String(String),
    Array(Vec<Node>),
    Object(Vec<Entry>),
}

/// One field of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) value: Node,
}

impl Value {
    /// What the value is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Unsigned(_) | Self::Signed(_) | Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl Node {
    /// The value of a field; nothing when this is no object or has no such field.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        let Value::Object(entries) = &self.value else {
            return None;
        };
        entries
            .iter()
            .find(|entry| entry.key == name)
            .map(|entry| &entry.value)
    }

    /// Removes what stands at `path`; `false` when nothing stands there.
    pub(super) fn remove(&mut self, path: &str) -> bool {
        self.remove_below("", path)
    }

    fn remove_below(&mut self, here: &str, path: &str) -> bool {
        match &mut self.value {
            Value::Object(entries) => {
                let Some(index) = entries
                    .iter()
                    .position(|entry| leads_to(&join_key(here, &entry.key), path))
                else {
                    return false;
                };
                let child = join_key(here, &entries[index].key);
                if child == path {
                    entries.remove(index);
                    true
                } else {
                    entries[index].value.remove_below(&child, path)
                }
            }
            Value::Array(items) => items.iter_mut().enumerate().any(|(index, item)| {
                let child = join_index(here, index);
                leads_to(&child, path) && item.remove_below(&child, path)
            }),
            _ => false,
        }
    }
}

/// The path of a field of the object at `path`.
pub(super) fn join_key(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{key:?}]"),
    }
}

/// The path of an entry of the array at `path`.
pub(super) fn join_index(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Whether `path` is `prefix` or something below it.
pub(super) fn leads_to(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
}

/// What of a field a position points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
}

/// Where each field of a loaded document stands in its text.
#[derive(Debug, Clone)]
pub struct Positions {
    root: Node,
    text: String,
}

impl Positions {
    pub(super) fn new(root: Node, text: &str) -> Self {
        Self {
            root,
            text: text.to_owned(),
        }
    }

    /// Where the value at `path` (such as `spec.run.argv[0]`) stands. Where the document has no such
    /// field: where the innermost object or array around it stands.
    #[must_use]
    pub fn locate(&self, path: &str) -> Option<Position> {
        Some(position_of(
            &self.text,
            span_of(&self.root, path, Part::Value),
        ))
    }
}

/// The span of what stands at `path`, or of the innermost thing around it.
pub(super) fn span_of(root: &Node, path: &str, part: Part) -> Range<usize> {
    let mut node = root;
    let mut here = String::new();
    while here != path {
        let next = match &node.value {
            Value::Object(entries) => entries.iter().find_map(|entry| {
                let child = join_key(&here, &entry.key);
                leads_to(&child, path).then_some((child, &entry.value, Some(&entry.key_span)))
            }),
            Value::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
                let child = join_index(&here, index);
                leads_to(&child, path).then_some((child, item, None))
            }),
            _ => None,
        };
        let Some((child, value, key_span)) = next else {
            break;
        };
        if let (true, Part::Key, Some(span)) = (child == path, part, key_span) {
            return span.clone();
        }
        here = child;
        node = value;
    }
    node.span.clone()
}

/// Line and column of a span.
pub(super) fn position_of(text: &str, span: Range<usize>) -> Position {
    let offset = floor_char_boundary(text, span.start);
    let end = floor_char_boundary(text, span.end.max(offset));
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |index| index + 1);
    let marked = &text[offset..end];
    Position {
        line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        offset,
        length: marked.find(['\r', '\n']).unwrap_or(marked.len()),
    }
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_marks_end_with_the_line() {
        let text = "é: [1,\n2]";
        let position = position_of(text, 4..text.len());
        assert_eq!((position.line, position.column), (1, 4));
        assert_eq!((position.offset, position.length), (4, 3));
    }

    #[test]
    fn unusual_keys_are_quoted_in_paths() {
        assert_eq!(join_key("spec.run.env", "a.b"), "spec.run.env[\"a.b\"]");
        assert_eq!(join_key("", "a"), "a");
    }

    #[test]
    fn a_longer_name_is_not_below_a_shorter_one() {
        assert!(leads_to("spec.run", "spec.run.argv[0]"));
        assert!(!leads_to("spec.run", "spec.runner"));
    }
}
