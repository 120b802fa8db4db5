//! Keeps the values of named fields out of the log.

use std::{borrow::Cow, collections::BTreeSet};

use cellos_core::{CellosError, CloudEventV1};
use serde_json::{Value, json};

use crate::transform::EventTransform;

/// What a redacted value reads.
pub const REDACTED: &str = "[redacted]";
/// The word that stands for [`DEFAULT_FIELDS`].
pub const DEFAULTS_WORD: &str = "defaults";
/// The fields that most often carry what a workload was told.
pub const DEFAULT_FIELDS: [&str; 3] = ["argv", "path", "reason"];

/// Replaces the values of fields with certain names in `data`, at any depth. The attributes of
/// the envelope stay, so a redacted event can still be ordered, counted and attributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redaction {
    names: BTreeSet<String>,
}

impl Redaction {
    /// From a list of exact field names separated by commas; `defaults` stands for
    /// [`DEFAULT_FIELDS`]. `None` for a list without names: there is nothing to redact.
    ///
    /// The published contract knows `defaults` only by itself; within a list it also stands for
    /// the default fields here, because the other reading would let them through unseen.
    #[must_use]
    pub fn from_list(list: &str) -> Option<Self> {
        let mut names = BTreeSet::new();
        for name in list
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            if name == DEFAULTS_WORD {
                names.extend(DEFAULT_FIELDS.map(str::to_owned));
            }
            if name != DEFAULTS_WORD || list.contains(',') {
                names.insert(name.to_owned());
            }
        }
        (!names.is_empty()).then_some(Self { names })
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    fn touches(&self, value: &Value) -> bool {
        match value {
            Value::Object(fields) => fields
                .iter()
                .any(|(name, value)| self.names.contains(name) || self.touches(value)),
            Value::Array(items) => items.iter().any(|item| self.touches(item)),
            _ => false,
        }
    }

    fn redact(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match self.names.contains(name) {
                        true => blank(value),
                        false => self.redact(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact(item)),
            _ => {}
        }
    }
}

/// The kind of value stays, so that a reader's types still fit.
fn blank(value: &mut Value) {
    *value = match value {
        Value::Array(_) => json!([REDACTED]),
        Value::Object(_) => json!({}),
        _ => json!(REDACTED),
    };
}

impl EventTransform for Redaction {
    fn transform<'e>(&self, event: &'e CloudEventV1) -> Result<Cow<'e, CloudEventV1>, CellosError> {
        if !event.data.as_ref().is_some_and(|data| self.touches(data)) {
            return Ok(Cow::Borrowed(event));
        }
        let mut redacted = event.clone();
        if let Some(data) = &mut redacted.data {
            self.redact(data);
        }
        Ok(Cow::Owned(redacted))
    }
}

#[cfg(test)]
mod tests;
