//! Canonical JSON and the digests that are taken over documents.
//!
//! Three different digests exist in the published contract and are easily mixed up:
//! * [`raw_spec_hash`]: the file bytes as read, bare hexadecimal;
//! * [`canonical_spec_hash`]: the parsed `spec` in declaration order, `sha256:` and hexadecimal;
//! * signatures and chains: the bytes of [`canonical_payload`], keys sorted.

mod finite;

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{CellosError, ExecutionCellSpec};

/// Version of the canonical form that this module writes. The form itself carries no marker.
pub const CANONICAL_PAYLOAD_VERSION: u32 = 1;

/// Prefix of digests that name their algorithm.
pub const SHA256_PREFIX: &str = "sha256:";

/// Why a value has no canonical form.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// JSON has no form for NaN and the infinities; writing `null` instead would let two different
    /// values share a signature.
    #[error("a payload with a number that is not finite has no canonical form")]
    NonFinite,
    /// The value cannot be written as JSON, for example a map whose keys are no strings.
    #[error("payload cannot be written as JSON: {0}")]
    Serialize(#[from] serde_json::Error),
}

impl From<CanonicalError> for CellosError {
    fn from(error: CanonicalError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

/// The canonical bytes (version 1) of anything that serialises.
///
/// What counts is the serialised form of the type: a field it writes as `null` is in the bytes, a
/// field it omits is not.
///
/// # Errors
/// [`CanonicalError::NonFinite`] and [`CanonicalError::Serialize`].
pub fn canonical_payload<T: Serialize + ?Sized>(payload: &T) -> Result<Vec<u8>, CanonicalError> {
    finite::check(payload)?;
    canonical_json_bytes(&serde_json::to_value(payload)?)
}

/// The canonical bytes (version 1) of a JSON value.
///
/// Object keys are sorted by code point, no white space is written, strings escape only `"`, `\`
/// and the C0 controls, integers are plain and floats are in their shortest round-trip form. This
/// is close to RFC 8785 and not the same: numbers are not in ECMAScript form, and keys beyond the
/// basic plane sort by code point and not by UTF-16 unit.
///
/// # Errors
/// [`CanonicalError::Serialize`]; it cannot happen for a value that was parsed.
pub fn canonical_json_bytes(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    let mut bytes = Vec::new();
    write_canonical(value, &mut bytes)?;
    Ok(bytes)
}

/// Keys are sorted here and not left to `serde_json`'s map: any crate of a build can turn that
/// map into one that keeps insertion order.
fn write_canonical(value: &Value, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_bytes());
            out.push(b'{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, key)?;
                out.push(b':');
                write_canonical(value, out)?;
            }
            out.push(b'}');
        }
        scalar => serde_json::to_writer(&mut *out, scalar)?,
    }
    Ok(())
}

/// The typed specification hash, `sha256:` and 64 hexadecimal digits.
///
/// Taken over the compact serialisation of the specification in the order its fields are declared
/// in, defaults filled in; fields that the document had and the types do not know cannot exist,
/// because they are refused. Labels are sorted, so the hash is the same in every process.
///
/// # Errors
/// [`CanonicalError::Serialize`]; it cannot happen for a specification that was parsed.
pub fn canonical_spec_hash(spec: &ExecutionCellSpec) -> Result<String, CanonicalError> {
    Ok(sha256_ref(&serde_json::to_vec(spec)?))
}

/// The raw specification hash: SHA-256 of the file bytes as read, 64 hexadecimal digits without a
/// prefix.
#[must_use]
pub fn raw_spec_hash(file: &[u8]) -> String {
    sha256_hex(file)
}

/// SHA-256 as 64 lower-case hexadecimal digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// SHA-256 as `sha256:` and 64 lower-case hexadecimal digits.
#[must_use]
pub fn sha256_ref(bytes: &[u8]) -> String {
    format!("{SHA256_PREFIX}{}", sha256_hex(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn canonical(value: &Value) -> String {
        String::from_utf8(canonical_json_bytes(value).unwrap()).unwrap()
    }

    #[test]
    fn keys_sort_by_code_point_at_every_depth() {
        // U+FF5E sorts before U+1F600 by code point, after it by UTF-16 unit.
        let value = json!({"b": [{"z": null, "a": true}], "\u{1F600}": 1, "\u{FF5E}": 2, "": 3});
        assert_eq!(
            canonical(&value),
            "{\"\":3,\"b\":[{\"a\":true,\"z\":null}],\"\u{FF5E}\":2,\"\u{1F600}\":1}"
        );
    }

    #[test]
    fn strings_escape_only_what_json_demands() {
        let value = json!("\"\\/\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}é\u{2028}");
        assert_eq!(
            canonical(&value),
            "\"\\\"\\\\/\\n\\r\\t\\b\\f\\u0000\\u001f\u{7f}é\u{2028}\""
        );
    }

    #[test]
    fn numbers_keep_their_kind_and_shortest_form() {
        let value: Value =
            serde_json::from_str("[0,-1,18446744073709551615,1.0,0.5,1e-7,0.09090909090909091]")
                .unwrap();
        assert_eq!(
            canonical(&value),
            "[0,-1,18446744073709551615,1.0,0.5,1e-7,0.09090909090909091]"
        );
    }

    #[test]
    fn payloads_with_non_finite_numbers_are_refused() {
        #[derive(Serialize)]
        struct Deep {
            values: Vec<Option<f64>>,
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let payload = Deep {
                values: vec![Some(1.0), Some(bad)],
            };
            assert!(matches!(
                canonical_payload(&payload),
                Err(CanonicalError::NonFinite)
            ));
        }
        let payload = Deep {
            values: vec![Some(1.0), None],
        };
        assert_eq!(
            canonical_payload(&payload).unwrap(),
            b"{\"values\":[1.0,null]}"
        );
    }

    /// The typed specification hash leaves the order of `authority.network` to the map.
    #[test]
    fn the_json_map_of_this_build_is_sorted() {
        let value: Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
        assert_eq!(value.to_string(), r#"{"a":2,"b":1}"#);
    }
}
