//! The verification policy: what somebody who relies on a log demands beyond that it is true.

use cellos_core::source::{Format, MAX_DOCUMENT_BYTES};
use serde::Deserialize;

use crate::{
    finding::FindingKind,
    projection::{EndKind, RunView},
};

/// `apiVersion` of a policy.
const API_VERSION: &str = "cellos.io/v1";
/// `kind` of a policy.
const KIND: &str = "VerificationPolicy";

/// What is demanded of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VerificationPolicy {
    /// Every line is covered by a signature.
    require_signatures: bool,
    /// Ids of the keys that may sign, and one of which has to; any in the keyset when absent.
    signers: Option<Vec<String>>,
    /// Names of the backends that cells may run in; any when absent.
    backends: Option<Vec<String>>,
    /// The longest lifetime that a cell's document may have, in seconds.
    max_ttl_seconds: Option<u64>,
    /// What becomes of runs that the reaper had to finish.
    supervisor_lost: SupervisorLost,
    /// Somebody looked for what each cell left.
    require_residue_measured: bool,
    /// How runs may end, `succeeded` or `failed`; both when absent.
    outcomes: Option<Vec<String>>,
    /// The tenants that cells may belong to; any, and none, when absent.
    tenants: Option<Vec<String>>,
}

/// What becomes of runs whose supervisor disappeared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum SupervisorLost {
    /// They are in order when the reaper finished them.
    #[default]
    Allow,
    /// They are not in order.
    Refuse,
}

/// The document around a policy.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    spec: VerificationPolicy,
}

/// Why a policy is refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is larger than documents may be.
    #[error("larger than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    /// It is no JSON of a policy.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It is no YAML of a policy.
    #[error("{0}")]
    Yaml(Box<serde_saphyr::Error>),
    /// It is another kind of document.
    #[error("{field} must be {expected}, found {found:?}")]
    Kind {
        /// The field at fault.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A list names nothing, which nothing could satisfy.
    #[error("spec.{field} is empty, so nothing would be in order: leave it out or fill it")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// A run cannot end like that.
    #[error("spec.outcomes: {found:?} is none of: succeeded, failed")]
    Outcome {
        /// What is named.
        found: String,
    },
}

impl VerificationPolicy {
    /// Reads a policy. Unknown fields are errors.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn parse(text: &str, format: Format) -> Result<Self, PolicyError> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(PolicyError::TooLarge);
        }
        let document: Document = match format {
            Format::Json => serde_json::from_str(text)?,
            Format::Yaml => {
                serde_saphyr::from_str(text).map_err(|error| PolicyError::Yaml(Box::new(error)))?
            }
        };
        for (field, expected, found) in [
            ("apiVersion", API_VERSION, document.api_version),
            ("kind", KIND, document.kind),
        ] {
            if found != expected {
                return Err(PolicyError::Kind {
                    field,
                    expected,
                    found,
                });
            }
        }
        document.spec.checked()
    }

    fn checked(self) -> Result<Self, PolicyError> {
        for (field, list) in [
            ("signers", &self.signers),
            ("backends", &self.backends),
            ("outcomes", &self.outcomes),
            ("tenants", &self.tenants),
        ] {
            if list.as_ref().is_some_and(Vec::is_empty) {
                return Err(PolicyError::Empty { field });
            }
        }
        let known = |outcome: &&String| !matches!(outcome.as_str(), "succeeded" | "failed");
        match self.outcomes.iter().flatten().find(known) {
            Some(found) => Err(PolicyError::Outcome {
                found: found.clone(),
            }),
            None => Ok(self),
        }
    }

    /// Whether every line has to be covered by a signature: what nobody signed was signed by none
    /// of the signers either.
    #[must_use]
    pub const fn requires_signatures(&self) -> bool {
        self.require_signatures || self.signers.is_some()
    }

    /// Whether a key may sign.
    #[must_use]
    pub fn may_sign(&self, kid: &str) -> bool {
        allows(self.signers.as_deref(), Some(kid))
    }

    /// What a run violates, for people; each begins with the name of the rule.
    pub(super) fn violations(&self, run: &RunView) -> Vec<String> {
        let found = |kind| {
            run.findings
                .items
                .iter()
                .any(|finding| finding.kind == kind)
        };
        let end = run.end.as_ref();
        if end.is_some_and(|end| end.how == EndKind::Refused) {
            // Nothing ran, so nothing can have run in another way than demanded.
            return Vec::new();
        }
        let outcome = end.and_then(|end| end.outcome.as_deref());
        let mut violations = Vec::new();
        if self.supervisor_lost == SupervisorLost::Refuse && found(FindingKind::SupervisorLost) {
            let why = "supervisorLost: the supervisor disappeared and the reaper finished the run";
            violations.push(why.to_owned());
        }
        let is_measured = end.is_some_and(|end| end.residue_looked_for.is_some());
        if self.require_residue_measured && !is_measured {
            let why = "requireResidueMeasured: nobody looked for what the cell left";
            violations.push(why.to_owned());
        }
        for (rule, list, value) in [
            ("backends", &self.backends, run.backend.as_deref()),
            ("outcomes", &self.outcomes, outcome),
            ("tenants", &self.tenants, run.tenant_id.as_deref()),
        ] {
            if !allows(list.as_deref(), value) {
                violations.push(match value {
                    Some(value) => format!("{rule}: {value:?} is not among them"),
                    None => format!("{rule}: the log does not say"),
                });
            }
        }
        match (self.max_ttl_seconds, run.ttl_seconds) {
            (Some(most), Some(ttl)) if ttl > most => {
                violations.push(format!("maxTtlSeconds: {ttl} is more than {most}"));
            }
            (Some(_), None) => violations.push("maxTtlSeconds: the log does not say".to_owned()),
            _ => {}
        }
        violations
    }
}

fn allows(list: Option<&[String]>, value: Option<&str>) -> bool {
    list.is_none_or(|list| value.is_some_and(|value| list.iter().any(|item| item == value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: cellos.io/v1\nkind: VerificationPolicy\nspec:\n";

    fn parse(spec: &str) -> Result<VerificationPolicy, PolicyError> {
        VerificationPolicy::parse(&format!("{HEAD}{spec}"), Format::Yaml)
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let yaml = parse("  requireSignatures: true\n  signers: [k1]\n").unwrap();
        let json = r#"{"apiVersion":"cellos.io/v1","kind":"VerificationPolicy",
            "spec":{"requireSignatures":true,"signers":["k1"]}}"#;
        assert_eq!(VerificationPolicy::parse(json, Format::Json).unwrap(), yaml);
        assert!(yaml.requires_signatures() && yaml.may_sign("k1") && !yaml.may_sign("k2"));
        assert!(VerificationPolicy::default().may_sign("k2"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_named() {
        for (spec, part) in [
            ("  requireSignature: true\n", "requireSignature"),
            ("  signers: []\n", "spec.signers is empty"),
            ("  outcomes: [success]\n", "\"success\" is none of"),
            ("  supervisorLost: maybe\n", "maybe"),
            ("  maxTtlSeconds: -1\n", "line 4"),
            ("  signers: [a]\n  signers: [b]\n", "signers"),
        ] {
            let error = parse(spec).unwrap_err().to_string();
            assert!(error.contains(part), "{spec}: {error}");
        }
        for (text, part) in [
            (
                "{\"apiVersion\":\"cellos.io/v2\",\"kind\":\"VerificationPolicy\",\"spec\":{}}",
                "apiVersion",
            ),
            (
                "{\"apiVersion\":\"cellos.io/v1\",\"kind\":\"PolicyPack\",\"spec\":{}}",
                "kind",
            ),
            (
                "{\"kind\":\"VerificationPolicy\",\"spec\":{}}",
                "apiVersion",
            ),
        ] {
            let error = VerificationPolicy::parse(text, Format::Json).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
