//! Reading JSON without the leniencies of a derived deserializer.
//!
//! `serde_json` keeps the last of two equal keys and lets a struct be written as an array of its
//! fields. Both let one text mean two things to two readers, which signed and authority-bearing
//! documents cannot afford.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Why a text was refused.
#[derive(Debug, thiserror::Error)]
pub enum StrictJsonError {
    /// The text is no JSON, or not of the expected shape.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// An array stands where an object belongs.
    #[error("{path} must be an object, not an array")]
    ArrayForObject {
        /// JSON Pointer to the place, `/` for the whole document.
        path: String,
    },
}

/// Reads a typed document: no unknown duplicates, no positional arrays, nothing after its end.
///
/// # Errors
/// [`StrictJsonError`], with line and column where the text itself is at fault.
pub(crate) fn from_slice<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
) -> Result<T, StrictJsonError> {
    // The typed pass comes first, because its messages carry line and column.
    let typed: T = serde_json::from_slice(bytes)?;
    let text = value_from_slice(bytes)?;
    refuse_positional(&text, &serde_json::to_value(&typed)?, "")?;
    Ok(typed)
}

/// Reads any JSON value, refusing objects that hold a key twice.
///
/// # Errors
/// The parse error, with line and column.
pub fn value_from_slice(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<UniqueKeys>(bytes).map(|unique| unique.0)
}

/// Compares the shape of the text with the shape that the typed value is written in.
fn refuse_positional(text: &Value, typed: &Value, path: &str) -> Result<(), StrictJsonError> {
    match (text, typed) {
        (Value::Array(_), Value::Object(_)) => Err(StrictJsonError::ArrayForObject {
            path: if path.is_empty() {
                "/".to_owned()
            } else {
                path.to_owned()
            },
        }),
        (Value::Array(text), Value::Array(typed)) => text
            .iter()
            .zip(typed)
            .enumerate()
            .try_for_each(|(index, (text, typed))| {
                refuse_positional(text, typed, &format!("{path}/{index}"))
            }),
        (Value::Object(text), Value::Object(typed)) => text.iter().try_for_each(|(key, text)| {
            typed.get(key).map_or(Ok(()), |typed| {
                refuse_positional(text, typed, &format!("{path}/{key}"))
            })
        }),
        _ => Ok(()),
    }
}

/// A JSON value whose objects hold each key once.
struct UniqueKeys(Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(UniqueKeysVisitor)
            .map(UniqueKeys)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(UniqueKeys(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if entries.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key `{key}`")));
            }
            let UniqueKeys(value) = access.next_value()?;
            entries.insert(key, value);
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::AuthorityCapability;

    #[test]
    fn a_key_twice_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"x":{"b":1,"b":2}}]"#] {
            let message = value_from_slice(text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("duplicate key"), "{message}");
        }
    }

    #[test]
    fn an_array_in_place_of_an_object_is_refused_with_its_path() {
        let text = br#"{"egressRules":[["h",443,null,null]],"secretRefs":[]}"#;
        let error = from_slice::<AuthorityCapability>(text).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/egressRules/0 must be an object"),
            "{error}"
        );
    }

    #[test]
    fn values_read_the_same_as_with_serde_json() {
        for text in [
            "null",
            "[1,-2,1.5,1e300,true,\"\\u00e9\"]",
            r#"{"b":{"c":[]},"a":"x"}"#,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(value_from_slice(text.as_bytes()).unwrap(), expected);
        }
        for text in ["1 2", "\u{feff}1", "{", "1e999"] {
            assert!(value_from_slice(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn nesting_beyond_the_parser_limit_is_refused() {
        let text = "[".repeat(200) + &"]".repeat(200);
        assert!(value_from_slice(text.as_bytes()).is_err());
    }
}
