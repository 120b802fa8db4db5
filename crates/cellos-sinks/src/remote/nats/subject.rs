//! Where in NATS an event goes.

use std::fmt;

use cellos_core::CloudEventV1;
use serde::Deserialize;

/// Subject of events where no other is configured.
pub const DEFAULT_SUBJECT: &str = "cellos.events.v1";
/// Name of the stream where no other is configured.
pub const DEFAULT_STREAM: &str = "CELLOS_EVENTS";
/// What the subjects of a made stream are: everything under this.
pub const STREAM_SUBJECTS: &str = "cellos.events.>";
/// Longest configured subject in bytes. A server takes about 4 KiB per line.
pub(super) const MAX_SUBJECT_BYTES: usize = 255;
/// Longest value of an event in a subject in bytes, as it is written there. Ids have at most 128 bytes,
/// and a byte is written as three at most.
pub(super) const MAX_VALUE_BYTES: usize = 384;

const NO_TENANT: &str = "_no_tenant_";
const NO_SPEC: &str = "_no_spec_";
const NO_RUN: &str = "_no_run_";
const TOO_LONG: &str = "_too_long_";

/// The rule by which an event gets its subject.
///
/// What comes from an event cannot change the shape of a subject: every byte other than
/// `A-Z a-z 0-9 - _` is written as `%` and two hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SubjectRule {
    /// The same for every event.
    Literal(Subject),
    /// `cellos.events.<tenant>.<specId>.<runId>`, with the tenant given here.
    Tenant(Token),
    /// A subject with `{spec_id}`, `{run_id}` and `{tenantId}` in it. What an event does not have is
    /// `_no_spec_`, `_no_run_` or `_no_tenant_`.
    Template(Template),
}

impl Default for SubjectRule {
    fn default() -> Self {
        Self::Literal(Subject(DEFAULT_SUBJECT.to_owned()))
    }
}

impl SubjectRule {
    /// The subject of an event.
    #[must_use]
    pub fn subject(&self, event: &CloudEventV1) -> String {
        match self {
            Self::Literal(subject) => subject.0.clone(),
            Self::Tenant(tenant) => format!(
                "cellos.events.{}.{}.{}",
                tenant.0,
                Placeholder::Spec.value(event),
                Placeholder::Run.value(event),
            ),
            Self::Template(template) => template
                .0
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.clone(),
                    Part::Of(placeholder) => placeholder.value(event),
                })
                .collect(),
        }
    }
}

/// A subject without wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Subject(String);

/// One part of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Token(String);

impl Token {
    /// The stream's name where no other is configured.
    pub(super) fn default_stream() -> Self {
        Self(DEFAULT_STREAM.to_owned())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A subject with places for values of an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Of(Placeholder),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Spec,
    Run,
    Tenant,
}

/// Why a text is no subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// It has no or too many bytes.
    #[error("a subject has 1 to {MAX_SUBJECT_BYTES} bytes, not {bytes}")]
    Length {
        /// How many.
        bytes: usize,
    },
    /// Nothing between two dots, or at an end.
    #[error("subject `{subject}` has an empty part")]
    EmptyPart {
        /// The subject.
        subject: String,
    },
    /// A character that subjects of events may not have.
    #[error("`{subject}` has {found:?}; use visible ASCII without `*` and `>`")]
    Character {
        /// The subject.
        subject: String,
        /// The first such character.
        found: char,
    },
    /// It belongs to the server.
    #[error("subject `{subject}` belongs to the server: it begins with `$` or `_INBOX`")]
    Reserved {
        /// The subject.
        subject: String,
    },
    /// Braces around another word, or one brace alone.
    #[error("template `{template}`: known places are {{spec_id}}, {{run_id}} and {{tenantId}}")]
    Placeholder {
        /// The template.
        template: String,
    },
    /// A dot where one part of a subject stands.
    #[error("`{token}` is one part of a subject and has no dot")]
    Dot {
        /// The text.
        token: String,
    },
}

impl TryFrom<String> for Subject {
    type Error = SubjectError;

    fn try_from(subject: String) -> Result<Self, SubjectError> {
        check(&subject)?;
        Ok(Self(subject))
    }
}

impl TryFrom<String> for Token {
    type Error = SubjectError;

    fn try_from(token: String) -> Result<Self, SubjectError> {
        if token.contains('.') {
            return Err(SubjectError::Dot { token });
        }
        check(&token)?;
        Ok(Self(token))
    }
}

impl TryFrom<String> for Template {
    type Error = SubjectError;

    fn try_from(template: String) -> Result<Self, SubjectError> {
        let mut parts = Vec::new();
        let mut sample = String::new();
        let mut rest = template.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let known = after.split_once('}').and_then(|(name, after)| {
                let placeholder = match name {
                    "spec_id" => Placeholder::Spec,
                    "run_id" => Placeholder::Run,
                    "tenantId" => Placeholder::Tenant,
                    _ => return None,
                };
                Some((placeholder, after))
            });
            let Some((placeholder, after)) = known else {
                return Err(SubjectError::Placeholder { template });
            };
            sample.push_str(before);
            sample.push('x');
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Of(placeholder));
            rest = after;
        }
        sample.push_str(rest);
        parts.push(Part::Text(rest.to_owned()));
        match sample.contains('}') {
            true => Err(SubjectError::Placeholder { template }),
            false => check(&sample).map(|()| Self(parts)),
        }
    }
}

fn check(subject: &str) -> Result<(), SubjectError> {
    let bytes = subject.len();
    if bytes == 0 || bytes > MAX_SUBJECT_BYTES {
        return Err(SubjectError::Length { bytes });
    }
    if let Some(found) = subject
        .chars()
        .find(|c| !c.is_ascii_graphic() || matches!(c, '*' | '>'))
    {
        let subject = subject.to_owned();
        return Err(SubjectError::Character { subject, found });
    }
    let subject = subject.to_owned();
    if subject.split('.').any(str::is_empty) {
        return Err(SubjectError::EmptyPart { subject });
    }
    match subject.starts_with('$') || subject.starts_with("_INBOX") {
        true => Err(SubjectError::Reserved { subject }),
        false => Ok(()),
    }
}

impl Placeholder {
    fn value(self, event: &CloudEventV1) -> String {
        let field = |pointer| {
            let value = event.data.as_ref()?.pointer(pointer)?.as_str()?;
            Some(value).filter(|value| !value.is_empty())
        };
        let (value, absent) = match self {
            Self::Spec => (field("/specId"), NO_SPEC),
            Self::Run => (field("/runId"), NO_RUN),
            Self::Tenant => (
                field("/tenantId").or_else(|| field("/correlation/tenantId")),
                NO_TENANT,
            ),
        };
        value.map_or_else(|| absent.to_owned(), escaped)
    }
}

/// A value that is one part of a subject, whatever it holds.
fn escaped(value: &str) -> String {
    let mut token = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => token.push(char::from(byte)),
            _ => token.push_str(&format!("%{byte:02X}")),
        }
        if token.len() > MAX_VALUE_BYTES {
            return TOO_LONG.to_owned();
        }
    }
    token
}

/// Whether a stream with a subject, which may have wildcards, takes what is sent to another, which has
/// none.
pub(super) fn captures(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn event(data: Value) -> CloudEventV1 {
        serde_json::from_value(json!({
            "specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": data
        }))
        .unwrap()
    }

    fn rule(rule: Value) -> SubjectRule {
        serde_json::from_value(rule).unwrap()
    }

    #[test]
    fn each_rule_gives_its_subject() {
        let template = "acme.{tenantId}.run-{run_id}.{spec_id}";
        let full = json!({"specId": "s", "runId": "r", "correlation": {"tenantId": "t"}});
        for (given, data, expected) in [
            (json!({"literal": "a.b"}), full.clone(), "a.b"),
            (
                json!({"tenant": "acme"}),
                full.clone(),
                "cellos.events.acme.s.r",
            ),
            (json!({"template": template}), full, "acme.t.run-r.s"),
            (
                json!({"template": template}),
                json!({"tenantId": "t2", "runId": 7, "specId": ""}),
                "acme.t2.run-_no_run_._no_spec_",
            ),
            (
                json!({"template": "{tenantId}"}),
                Value::Null,
                "_no_tenant_",
            ),
        ] {
            assert_eq!(rule(given).subject(&event(data)), expected);
        }
        let default = SubjectRule::default().subject(&event(Value::Null));
        assert_eq!(default, "cellos.events.v1");
    }

    #[test]
    fn a_value_stays_one_part() {
        let tenant = rule(json!({"tenant": "acme"}));
        for (spec_id, expected) in [
            ("my.spec", "my%2Espec"),
            ("*", "%2A"),
            (">", "%3E"),
            ("a b\r\nPUB x", "a%20b%0D%0APUB%20x"),
            ("100%", "100%25"),
            ("\u{e9}", "%C3%A9"),
            (&"x".repeat(MAX_VALUE_BYTES), &"x".repeat(MAX_VALUE_BYTES)),
            (&"x".repeat(MAX_VALUE_BYTES + 1), "_too_long_"),
        ] {
            let subject = tenant.subject(&event(json!({"specId": spec_id, "runId": "r"})));
            assert_eq!(subject, format!("cellos.events.acme.{expected}.r"));
        }
    }

    #[test]
    fn a_text_that_is_no_subject_is_refused() {
        let long = "x".repeat(MAX_SUBJECT_BYTES + 1);
        for (given, expected) in [
            (json!({"literal": ""}), "1 to 255 bytes"),
            (json!({"literal": long}), "1 to 255 bytes"),
            (json!({"literal": "a..b"}), "empty part"),
            (json!({"literal": ".a"}), "empty part"),
            (json!({"literal": "a."}), "empty part"),
            (json!({"literal": "a.*"}), "has '*'"),
            (json!({"literal": "a.>"}), "has '>'"),
            (json!({"literal": "a b"}), "has ' '"),
            (json!({"literal": "a\r\nPUB"}), "has '\\r'"),
            (json!({"literal": "\u{e9}"}), "has '\u{e9}'"),
            (json!({"literal": "$JS.API"}), "belongs to the server"),
            (json!({"literal": "_INBOX.a"}), "belongs to the server"),
            (json!({"tenant": "a.b"}), "no dot"),
            (json!({"tenant": "a*"}), "has '*'"),
            (json!({"template": "a.{other}"}), "known places"),
            (json!({"template": "a.{run_id"}), "known places"),
            (json!({"template": "a}.{run_id}"}), "known places"),
            (json!({"template": "a..{run_id}"}), "empty part"),
            (json!({"template": "a.{run_id}.*"}), "has '*'"),
            (json!({"pattern": "a"}), "unknown variant"),
        ] {
            let error = serde_json::from_value::<SubjectRule>(given).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_stream_captures_as_servers_have_it() {
        for (pattern, subject, expected) in [
            ("cellos.events.>", "cellos.events.v1", true),
            ("cellos.events.>", "cellos.events.a.b.c", true),
            ("cellos.events.>", "cellos.events", false),
            ("cellos.events.>", "cellos.other.v1", false),
            ("cellos.*.v1", "cellos.events.v1", true),
            ("cellos.*", "cellos.events.v1", false),
            ("cellos.events.v1", "cellos.events.v1", true),
            ("cellos.events.v1.x", "cellos.events.v1", false),
            (">", "a", true),
            ("*", "a", true),
        ] {
            assert_eq!(captures(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    proptest! {
        #[test]
        fn no_event_changes_the_shape_of_a_subject(spec in any::<String>(), run in any::<String>()) {
            let tenant = rule(json!({"tenant": "acme"}));
            let subject = tenant.subject(&event(json!({"specId": spec, "runId": run})));
            prop_assert_eq!(subject.split('.').count(), 5);
            prop_assert!(captures("cellos.events.acme.*.*", &subject));
            prop_assert!(subject.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>'));
        }
    }
}
