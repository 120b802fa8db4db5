//! YAML (1.2 core schema, one document) into the tree that JSON becomes.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    Error, Location, Spanned,
    budget::BudgetBreach,
    options::{DuplicateKeyPolicy, MergeKeyPolicy},
};

use super::{
    MAX_DOCUMENT_BYTES, ProblemCode,
    json::TextProblem,
    node::{Entry, Node, Value},
};
use crate::admission::shown;

/// Deepest nesting. The document needs ten levels, and each costs the YAML reader several kilobytes of
/// stack, more than the same level costs in JSON.
const MAX_DEPTH: usize = 32;
/// Most values in a YAML document. A document of the largest size has fewer unless aliases repeat
/// parts of it.
const MAX_NODES: usize = 100_000;
/// Most parser events that aliases may replay: what bounds an alias bomb.
const MAX_REPLAYED_EVENTS: usize = 10_000;
/// Most aliases, and most anchors, in one document.
const MAX_ALIASES: usize = 1_000;
/// Aliases inside what other aliases repeat.
const MAX_ALIAS_DEPTH: usize = 16;

/// Parses one document.
pub(super) fn parse(text: &str) -> Result<Node, Vec<TextProblem>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_nodes: MAX_NODES,
            max_events: MAX_NODES * 3,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_total_scalar_bytes: MAX_DOCUMENT_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED_EVENTS,
            max_replay_stack_depth: MAX_ALIAS_DEPTH,
            max_alias_expansions_per_anchor: MAX_ALIASES,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Node>(text, options)
        .map_err(|error| vec![text_problem(text, &error)])
}

fn text_problem(text: &str, error: &Error) -> TextProblem {
    let error = error.without_snippet();
    let (code, message) = match error {
        Error::DuplicateMappingKey { key, .. } => (
            ProblemCode::DuplicateKey,
            match key {
                Some(key) => format!("`{}` is given twice in one mapping", shown(key)),
                None => "a key is given twice in one mapping".to_owned(),
            },
        ),
        Error::Budget {
            breach: BudgetBreach::Documents { .. },
            ..
        } => (
            ProblemCode::Syntax,
            "there is more than one YAML document".to_owned(),
        ),
        Error::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => (
            ProblemCode::TooDeep,
            format!("is nested deeper than {MAX_DEPTH} levels"),
        ),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => (
            ProblemCode::TooMany,
            "has more values or aliases than are read".to_owned(),
        ),
        Error::MergeKeyNotAllowed { .. } => (
            ProblemCode::Syntax,
            "merge keys (`<<`) are not read".to_owned(),
        ),
        Error::NonFiniteFloat { .. } => {
            (ProblemCode::Syntax, "a number has to be finite".to_owned())
        }
        other => (
            ProblemCode::Syntax,
            format!("not usable YAML: {}", first_line(&other.to_string())),
        ),
    };
    // The parser repeats parts of the text, which must not drive a terminal.
    let message: String = message.chars().filter(|c| !c.is_control()).collect();
    TextProblem {
        code,
        path: String::new(),
        message,
        span: error
            .location()
            .map_or(0..0, |location| span(location, text)),
    }
}

/// The parser's own text without the place, which the position gives.
fn first_line(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default();
    line.rfind(" at line ").map_or(line, |end| &line[..end])
}

/// Bytes of the text that a location covers; its start alone where the parser does not know.
fn span(location: Location, text: &str) -> std::ops::Range<usize> {
    let span = location.span();
    let start = match span
        .byte_offset()
        .and_then(|offset| usize::try_from(offset).ok())
    {
        Some(offset) => offset,
        None => usize::try_from(span.offset())
            .ok()
            .and_then(|index| text.char_indices().nth(index))
            .map_or(0, |(offset, _)| offset),
    };
    let length = span
        .byte_len()
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or(1);
    start..start.saturating_add(length)
}

/// A location without the text at hand.
fn known_span(location: Location) -> std::ops::Range<usize> {
    span(location, "")
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            value: spanned.value,
            span: known_span(spanned.referenced),
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key_span = known_span(key.referenced);
            entries.push(Entry {
                key: key.value,
                key_span,
                value: map.next_value()?,
            });
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> Value {
        parse(text).unwrap().value
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("yes", Value::String("yes".into())),
            ("off", Value::String("off".into())),
            ("~", Value::Null),
            ("null", Value::Null),
            ("12", Value::Unsigned(12)),
            ("-12", Value::Signed(-12)),
            ("18446744073709551615", Value::Unsigned(u64::MAX)),
            ("1_000", Value::String("1_000".into())),
            ("1.5", Value::Float(1.5)),
            ("'12'", Value::String("12".into())),
            ("0x1F", Value::Unsigned(31)),
            ("12:30", Value::String("12:30".into())),
            ("2026-01-01", Value::String("2026-01-01".into())),
        ] {
            assert_eq!(scalar(text), value, "{text}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_one_plain_document() {
        for text in [
            "a: 1\na: 2\n",
            "a: 1\n---\nb: 2\n",
            "a: [1\n",
            "a: *missing\n",
            "base: &b {x: 1}\nuse:\n  <<: *b\n",
            "a: !!python/object:os.system x\n",
            "a:\n\tb: 1\n",
            "a: .nan\n",
            "a: .inf\n",
            "? {a: 1}\n: 2\n",
        ] {
            assert!(parse(text).is_err(), "{text:?} was read");
        }
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let previous = level - 1;
            let uses = vec![format!("*a{previous}"); 10].join(",");
            text.push_str(&format!("a{level}: &a{level} [{uses}]\n"));
        }
        assert!(parse(&text).is_err());
    }

    #[test]
    fn an_alias_stands_for_its_value() {
        let root = parse("a: &x [1]\nb: *x\n").unwrap();
        assert_eq!(
            root.field("b").map(|node| node.value.kind()),
            Some("an array")
        );
    }

    #[test]
    fn deep_nesting_is_refused() {
        let nested = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        assert!(parse(&nested).is_err());
        assert!(parse(&"[".repeat(500_000)).is_err());
        assert!(parse(&"- ".repeat(400_000)).is_err());
    }

    #[test]
    fn spans_cover_keys_and_values_beyond_ascii() {
        let text = "é: 1\nab:\n  c: word\n";
        let root = parse(text).unwrap();
        let Value::Object(entries) = &root.value else {
            panic!("no object")
        };
        assert_eq!(&text[entries[1].key_span.clone()], "ab");
        let c = entries[1].value.field("c").unwrap();
        assert_eq!(&text[c.span.clone()], "word");
    }
}
