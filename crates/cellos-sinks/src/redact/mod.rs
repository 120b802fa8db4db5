//! Keeps the values of named fields out of the log.

use std::{borrow::Cow, collections::BTreeSet};

use cellos_core::{
    CellosError, CloudEventV1,
    event::{AdmissionCode, AuthzReason, Reason},
};
use serde_json::{Value, json};

use crate::transform::EventTransform;

/// What a redacted value reads.
pub const REDACTED: &str = "[redacted]";
/// The word that stands for [`DEFAULT_FIELDS`].
pub const DEFAULTS_WORD: &str = "defaults";
/// The fields that most often carry what a workload was told.
pub const DEFAULT_FIELDS: [&str; 3] = ["argv", "path", "reason"];

/// What `defaults` stands for in a log that is evidence: [`DEFAULT_FIELDS`], and the fields of ours
/// that repeat what those hold.
pub const EVIDENCE_DEFAULT_FIELDS: [&str; 11] = [
    "argv",
    "laterErrors",
    "path",
    "problems",
    "program",
    "reason",
    "reasonDetail",
    "source",
    "sourcePath",
    "spawnError",
    "target",
];
/// Fields without which nobody can tell what an event is about, or check it. Log and verifier need
/// them.
pub const NEEDED_FIELDS: [&str; 38] = [
    "admitted",
    "artifactName",
    "bytesIn",
    "bytesOut",
    "cellId",
    "count",
    "decision",
    "declaredRules",
    "direction",
    "documentDigest",
    "dstAddr",
    "dstPort",
    "egress",
    "egressRules",
    "endedBy",
    "exercisedRules",
    "exitCode",
    "flowsAllowed",
    "flowsRefused",
    "found",
    "host",
    "learning",
    "lookedFor",
    "networkMode",
    "nftRuleRef",
    "outcome",
    "parent",
    "parentType",
    "port",
    "protocol",
    "queriesRefused",
    "reasonCode",
    "requestedName",
    "residue",
    "runId",
    "signal",
    "specHash",
    "specId",
];

/// A field that has to stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {name:?} cannot be redacted: without it nobody can check the log")]
pub struct NeededField {
    name: String,
}

/// Replaces the values of fields with certain names in `data`, at any depth. The attributes of
/// the envelope stay, so a redacted event can still be ordered, counted and attributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redaction {
    names: BTreeSet<String>,
    codes: Codes,
}

/// What becomes of a reason that is a code and says nothing about a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codes {
    /// It is blanked like every other value, as in the published contract.
    Blanked,
    /// It stays.
    Kept,
}

impl Redaction {
    /// From a list of exact field names separated by commas; `defaults` stands for
    /// [`DEFAULT_FIELDS`]. `None` for a list without names: there is nothing to redact.
    ///
    /// The published contract knows `defaults` only by itself; within a list it also stands for
    /// the default fields here, because the other reading would let them through unseen.
    #[must_use]
    pub fn from_list(list: &str) -> Option<Self> {
        Self::read(list, &DEFAULT_FIELDS, Codes::Blanked)
    }

    /// The same for a log that is evidence: `defaults` stands for [`EVIDENCE_DEFAULT_FIELDS`], and
    /// a `reason` that is one of the contract's codes stays.
    ///
    /// # Errors
    /// [`NeededField`] for a name of [`NEEDED_FIELDS`].
    pub fn of_evidence(list: &str) -> Result<Option<Self>, NeededField> {
        let redaction = Self::read(list, &EVIDENCE_DEFAULT_FIELDS, Codes::Kept);
        let needed = redaction
            .iter()
            .flat_map(Self::names)
            .find(|name| NEEDED_FIELDS.contains(name));
        match needed {
            Some(name) => Err(NeededField { name: name.into() }),
            None => Ok(redaction),
        }
    }

    fn read(list: &str, defaults: &[&str], codes: Codes) -> Option<Self> {
        let mut names = BTreeSet::new();
        for name in list
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            if name == DEFAULTS_WORD {
                names.extend(defaults.iter().copied().map(str::to_owned));
            }
            if name != DEFAULTS_WORD || list.contains(',') {
                names.insert(name.to_owned());
            }
        }
        (!names.is_empty()).then_some(Self { names, codes })
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
                        true if self.codes == Codes::Kept && is_code(name, value) => {}
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

/// Whether a value is a code of the contract, which says nothing about a workload.
fn is_code(name: &str, value: &Value) -> bool {
    name == "reason"
        && value.as_str().is_some_and(|text| {
            Reason::ALL.iter().any(|reason| reason.as_str() == text)
                || serde_json::from_value::<AdmissionCode>(text.into()).is_ok()
                || serde_json::from_value::<AuthzReason>(text.into()).is_ok()
        })
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
