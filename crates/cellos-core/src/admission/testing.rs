//! Documents for the rules' tables.

use serde_json::{Value, json};

use super::check;
use crate::{document::ExecutionCellDocument, source::ProblemCode};

/// The smallest document, with the fields of `spec` in place of its own.
pub(super) fn document(spec: Value) -> ExecutionCellDocument {
    let mut whole = json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {"id": "x", "authority": {}, "lifetime": {"ttlSeconds": 60}},
    });
    for (name, value) in spec.as_object().expect("an object") {
        whole["spec"][name] = value.clone();
    }
    serde_json::from_value(whole).expect("a document")
}

/// What is found in the smallest document with these fields.
pub(super) fn found(spec: Value) -> Vec<(String, ProblemCode)> {
    check(&document(spec))
        .into_iter()
        .map(|problem| (problem.path, problem.code))
        .collect()
}

/// Holds that the document is admitted.
#[track_caller]
pub(super) fn admitted(spec: Value) {
    assert_eq!(found(spec.clone()), [], "{spec}");
}

/// Holds that exactly this is found.
#[track_caller]
pub(super) fn refused(spec: Value, path: &str, code: ProblemCode) {
    assert_eq!(found(spec.clone()), [(path.to_owned(), code)], "{spec}");
}
