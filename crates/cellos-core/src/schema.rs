//! JSON Schema (draft 2020-12) of the documents, made from the types.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::document::ExecutionCellDocument;

/// Spellings that are read beside the documented one: `(alias, name)`.
pub(crate) const FIELD_ALIASES: [(&str, &str); 3] = [
    ("roleArn", "role_arn"),
    ("stsSessionPolicy", "sts_session_policy"),
    ("resourceId", "resource_id"),
];

static EXECUTION_CELL: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = schemars::schema_for!(ExecutionCellDocument).to_value();
    add_aliases(&mut schema);
    schema
});

/// The schema of the execution-cell document.
#[must_use]
pub fn execution_cell() -> Value {
    EXECUTION_CELL.clone()
}

/// The same, without a copy.
pub(crate) fn execution_cell_ref() -> &'static Value {
    &EXECUTION_CELL
}

/// Lets a schema accept a field under its alias, which the derive does not express.
fn add_aliases(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(add_aliases),
        Value::Object(object) => {
            object.values_mut().for_each(add_aliases);
            let mut choices = Vec::new();
            for (alias, name) in FIELD_ALIASES {
                let Some(field) = object
                    .get("properties")
                    .and_then(|fields| fields.get(name))
                    .cloned()
                else {
                    continue;
                };
                if let Some(Value::Object(fields)) = object.get_mut("properties") {
                    fields.insert(alias.to_owned(), field);
                }
                if let Some(Value::Array(required)) = object.get_mut("required")
                    && let Some(index) = required.iter().position(|field| field == name)
                {
                    required.remove(index);
                    choices.push(json!({"required": [name]}));
                    choices.push(json!({"required": [alias]}));
                }
            }
            if !choices.is_empty() {
                object.remove("required");
                object.insert("oneOf".to_owned(), Value::Array(choices));
            }
        }
        _ => {}
    }
}
