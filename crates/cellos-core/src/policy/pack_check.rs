//! Reading policy packs, and what makes a pack unusable.

use super::{
    DowngradePolicy, HostPattern, HostPatternError, PackVersionError, PolicyPackDocument,
    PolicyPackSpec, PolicyRule, check_policy_pack_version_compatibility, pack::KIND_POLICY_PACK,
};
use crate::{
    CellosError,
    admission::is_portable_id,
    document::API_VERSION,
    strict_json::{self, StrictJsonError},
};

/// Why a pack was refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyPackError {
    /// The text is no policy pack; an unknown rule name is one of the reasons.
    #[error("policy pack is unreadable: {0}")]
    Unreadable(#[from] StrictJsonError),
    /// The pack breaks rules; all of them are listed.
    #[error("policy pack is invalid: {}", join(.0))]
    Invalid(Vec<PolicyPackProblem>),
}

impl From<PolicyPackError> for CellosError {
    fn from(error: PolicyPackError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

fn join(problems: &[PolicyPackProblem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// One thing that makes a pack unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyPackProblem {
    /// `apiVersion` is another.
    #[error("apiVersion must be {API_VERSION}, found {found:?}")]
    ApiVersion {
        /// What it is.
        found: String,
    },
    /// `kind` is another.
    #[error("kind must be {KIND_POLICY_PACK}, found {found:?}")]
    Kind {
        /// What it is.
        found: String,
    },
    /// `spec.id` is malformed.
    #[error(
        "spec.id {found:?} must be 1 to 128 characters of `A-Z a-z 0-9 . _ -`, start with a letter \
         or digit and hold no `..`"
    )]
    Id {
        /// What it is.
        found: String,
    },
    /// `spec.version` is malformed or too old.
    #[error("spec.version: {0}")]
    Version(#[from] PackVersionError),
    /// A field of the scope could equal no document's.
    #[error("spec.placement.{field} {found:?} can match no document; leave it out or name a place")]
    Placement {
        /// The field.
        field: &'static str,
        /// What it is.
        found: String,
    },
    /// A bound is zero.
    #[error("spec.rules.{rule} must be greater than 0; leave it out for no bound")]
    ZeroBound {
        /// The rule.
        rule: PolicyRule,
    },
    /// Egress is demanded and forbidden.
    #[error(
        "spec.rules.requireEgressDeclared and spec.rules.forbidOutboundEgressRules exclude each \
         other"
    )]
    ContradictoryEgress,
    /// A host pattern can match nothing.
    #[error("spec.rules.allowedEgressHosts[{index}]: {source}")]
    HostPattern {
        /// Position, from 0.
        index: usize,
        /// Why.
        source: HostPatternError,
    },
    /// A caller has no name.
    #[error("spec.rules.secretRefAllowlist: a caller must have a name")]
    BlankCaller,
    /// A secret name could equal no document's.
    #[error("spec.rules.secretRefAllowlist.{caller}[{index}] {found:?} is no secret name")]
    SecretRef {
        /// The caller.
        caller: String,
        /// Position, from 0.
        index: usize,
        /// What it is.
        found: String,
    },
}

/// Reads a policy pack and checks it, so that what comes out is enforced to the last rule.
///
/// # Errors
/// [`PolicyPackError::Unreadable`] for broken JSON, unknown or doubled names and wrong types;
/// [`PolicyPackError::Invalid`] with every problem otherwise.
pub fn parse_policy_pack(
    text: &[u8],
    downgrade: DowngradePolicy,
) -> Result<PolicyPackDocument, PolicyPackError> {
    let pack: PolicyPackDocument = strict_json::from_slice(text)?;
    validate_policy_pack_document(&pack, downgrade)?;
    Ok(pack)
}

/// Checks a policy pack.
///
/// # Errors
/// [`PolicyPackError::Invalid`] with every problem.
pub fn validate_policy_pack_document(
    pack: &PolicyPackDocument,
    downgrade: DowngradePolicy,
) -> Result<(), PolicyPackError> {
    let mut problems = Vec::new();
    if pack.api_version != API_VERSION {
        problems.push(PolicyPackProblem::ApiVersion {
            found: pack.api_version.clone(),
        });
    }
    if pack.kind != KIND_POLICY_PACK {
        problems.push(PolicyPackProblem::Kind {
            found: pack.kind.clone(),
        });
    }
    check_head(&pack.spec, downgrade, &mut problems);
    check_rules(&pack.spec, &mut problems);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(PolicyPackError::Invalid(problems))
    }
}

fn check_head(
    spec: &PolicyPackSpec,
    downgrade: DowngradePolicy,
    problems: &mut Vec<PolicyPackProblem>,
) {
    if !is_portable_id(&spec.id) {
        problems.push(PolicyPackProblem::Id {
            found: spec.id.clone(),
        });
    }
    if let Err(error) = check_policy_pack_version_compatibility(spec.version.as_deref(), downgrade)
    {
        problems.push(error.into());
    }
    let Some(placement) = &spec.placement else {
        return;
    };
    // Documents hold identifiers in these fields, so a scope with anything else is never met, and
    // the pack would silently apply to nothing.
    let fields = [
        ("poolId", &placement.pool_id),
        ("kubernetesNamespace", &placement.kubernetes_namespace),
        ("queueName", &placement.queue_name),
    ];
    for (field, value) in fields {
        if let Some(found) = value.as_ref().filter(|value| !is_portable_id(value)) {
            problems.push(PolicyPackProblem::Placement {
                field,
                found: found.clone(),
            });
        }
    }
}

fn check_rules(spec: &PolicyPackSpec, problems: &mut Vec<PolicyPackProblem>) {
    let rules = &spec.rules;
    let bounds = [
        (
            PolicyRule::MaxLifetimeTtlSeconds,
            rules.max_lifetime_ttl_seconds,
        ),
        (PolicyRule::MaxMemoryMaxBytes, rules.max_memory_max_bytes),
        (PolicyRule::MaxRunTimeoutMs, rules.max_run_timeout_ms),
    ];
    for (rule, bound) in bounds {
        if bound == Some(0) {
            problems.push(PolicyPackProblem::ZeroBound { rule });
        }
    }
    if rules.require_egress_declared && rules.forbid_outbound_egress_rules {
        problems.push(PolicyPackProblem::ContradictoryEgress);
    }
    for (index, pattern) in rules.allowed_egress_hosts.iter().enumerate() {
        if let Err(source) = pattern.parse::<HostPattern>() {
            problems.push(PolicyPackProblem::HostPattern { index, source });
        }
    }
    for (caller, refs) in rules.secret_ref_allowlist.iter().flatten() {
        if caller.trim().is_empty() {
            problems.push(PolicyPackProblem::BlankCaller);
        }
        for (index, found) in refs
            .iter()
            .enumerate()
            .filter(|(_, name)| !is_portable_id(name))
        {
            problems.push(PolicyPackProblem::SecretRef {
                caller: caller.clone(),
                index,
                found: found.clone(),
            });
        }
    }
}
