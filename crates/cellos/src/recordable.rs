//! Whether the events of a run can be written, asked before the run begins: a command whose end
//! cannot be put on record must not start.

use cellos_core::ExecutionCellDocument;
use cellos_evidence::line::MAX_SAFE_INTEGER;
use serde_json::Value;

/// Largest document, in bytes of its JSON form, whose events fit into a line of the log: an event
/// repeats parts of the document, each at most once, and a line has a megabyte.
const MAX_DOCUMENT_JSON_BYTES: usize = 512 * 1024;

/// Why a run could not be put on record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unrecordable {
    /// The log would have to round it.
    #[error(
        "{path}: {number} is above {MAX_SAFE_INTEGER}, up to which the log keeps integers exactly: \
         the run could not be put on record"
    )]
    Integer { path: String, number: u64 },
    /// Its events would be longer than a line may be.
    #[error(
        "the document has {bytes} bytes as JSON, and its events, which repeat parts of it, can hold \
         {MAX_DOCUMENT_JSON_BYTES}: the run could not be put on record"
    )]
    TooLarge { bytes: usize },
    /// It has no JSON form.
    #[error("the document cannot be written as JSON: {text}")]
    Json { text: String },
}

/// Refuses a document whose events no line of the log can hold.
pub(crate) fn check(document: &ExecutionCellDocument) -> Result<(), Unrecordable> {
    let value = serde_json::to_value(document).map_err(|error| Unrecordable::Json {
        text: error.to_string(),
    })?;
    let bytes = value.to_string().len();
    if bytes > MAX_DOCUMENT_JSON_BYTES {
        return Err(Unrecordable::TooLarge { bytes });
    }
    match too_large(&value) {
        Some((path, number)) => Err(Unrecordable::Integer { path, number }),
        None => Ok(()),
    }
}

/// The first integer that canonical JSON would round, and where it is. A document has no negative
/// ones.
fn too_large(value: &Value) -> Option<(String, u64)> {
    let below = |name: String, value| {
        let (path, number) = too_large(value)?;
        let dot = match path.is_empty() || path.starts_with('[') {
            true => "",
            false => ".",
        };
        Some((format!("{name}{dot}{path}"), number))
    };
    match value {
        Value::Number(number) => number
            .as_u64()
            .filter(|number| *number > MAX_SAFE_INTEGER)
            .map(|number| (String::new(), number)),
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, value)| below(name.clone(), value)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, value)| below(format!("[{index}]"), value)),
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(spec: serde_json::Value) -> Result<(), Unrecordable> {
        let mut document = serde_json::json!({
            "apiVersion": "cellos.io/v1",
            "kind": "ExecutionCell",
            "spec": {"id": "a", "authority": {}, "lifetime": {"ttlSeconds": 1}},
        });
        let whole = document["spec"].as_object_mut().unwrap();
        whole.extend(spec.as_object().unwrap().clone());
        check(&serde_json::from_value(document).unwrap())
    }

    #[test]
    fn integers_are_those_that_the_log_keeps() {
        let ttl = |seconds: u64| judged(serde_json::json!({"lifetime": {"ttlSeconds": seconds}}));
        assert_eq!(ttl(MAX_SAFE_INTEGER), Ok(()));
        for number in [MAX_SAFE_INTEGER + 1, u64::MAX] {
            let path = "spec.lifetime.ttlSeconds".to_owned();
            assert_eq!(ttl(number), Err(Unrecordable::Integer { path, number }));
        }
    }

    #[test]
    fn what_json_makes_larger_counts_as_json_has_it() {
        let correlated =
            |text: String| judged(serde_json::json!({"correlation": {"platform": text}})).is_ok();
        assert!(correlated("x".repeat(500 * 1024)));
        assert!(!correlated("x".repeat(513 * 1024)));
        assert!(!correlated("\\".repeat(300 * 1024)));
    }
}
