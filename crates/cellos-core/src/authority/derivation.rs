//! Derivation tokens: a role's signed statement which authority it handed on.
//!
//! The token signs its leaf capability, the role and the parent run. It names no cell and no time,
//! so it proves what may be claimed, not who claims it; that is a limit of its format.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    CellosError,
    canonical::{CanonicalError, canonical_json_bytes},
    document::{AuthorityBundle, AuthorityCapability, AuthorityDerivationToken, EgressRule},
    signing::RoleKeys,
};

/// The only signature algorithm of tokens.
const ALGORITHM: &str = "ed25519";

/// How a token's leaf capability binds the document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LeafBinding {
    /// The document claims exactly what the leaf grants: neither exceeds the other.
    #[default]
    Exact,
    /// Only the leaf must lie inside the document, as published. A document may then claim far
    /// more than anybody signed for; for reading old records, not for admission.
    LeafWithinSpec,
}

/// Whether a token may come without a parent run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ParentRunPolicy {
    /// `parentRunId` has to be set.
    #[default]
    Required,
    /// A token without a parent run, good for any run of its role, is accepted.
    AllowUniversal,
}

/// How far a token reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DerivationScope<'a> {
    /// It was handed on by this run.
    ParentRun(&'a str),
    /// It names no run. Accepting it is worth an event.
    Universal,
}

/// A token whose structure and signature hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedDerivation {
    /// The role that signed.
    pub role_root: String,
    /// The run that handed its authority on.
    pub parent_run_id: Option<String>,
    /// The authority that was granted. It bounds what the cell may be given.
    pub leaf: AuthorityCapability,
}

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DerivationError {
    /// Another algorithm than Ed25519.
    #[error("authorityDerivation.grantorSignature.algorithm must be {ALGORITHM}, found {found:?}")]
    Algorithm {
        /// The algorithm found.
        found: String,
    },
    /// The leaf grants egress that the document does not claim.
    #[error(
        "authorityDerivation.leafCapability exceeds authority.egressRules: {rules} not declared there"
    )]
    LeafExceedsEgress {
        /// The rules, `host:port/protocol`, comma-separated.
        rules: String,
        /// How many rules the document declares.
        declared: usize,
        /// How many rules the leaf claims.
        claimed: usize,
    },
    /// The leaf grants secrets that the document does not claim.
    #[error(
        "authorityDerivation.leafCapability exceeds authority.secretRefs: {secrets} not declared there"
    )]
    LeafExceedsSecrets {
        /// The names, comma-separated.
        secrets: String,
        /// How many secrets the document declares.
        declared: usize,
        /// How many secrets the leaf claims.
        claimed: usize,
    },
    /// The document claims more than the leaf grants.
    #[error(
        "authority exceeds authorityDerivation.leafCapability: {what} not granted; claim no more \
         than the token grants, or have the role sign for it"
    )]
    SpecExceedsLeaf {
        /// The rules and names, comma-separated.
        what: String,
    },
    /// A step widens, or does not follow from the one before it.
    #[error(
        "authorityDerivation.derivationSteps[{index}].{field} is wider than what came before it: \
         {what} not granted"
    )]
    StepWidens {
        /// Position of the step, from 0.
        index: usize,
        /// `fromCapability` or `toCapability`.
        field: &'static str,
        /// The rules and names, comma-separated.
        what: String,
    },
    /// The leaf is wider than the last step.
    #[error(
        "authorityDerivation.leafCapability is wider than the last derivation step: {what} not \
         granted"
    )]
    LeafExceedsSteps {
        /// The rules and names, comma-separated.
        what: String,
    },
    /// The role has no key.
    #[error("authorityDerivation.roleRoot: unknown role: {role}")]
    UnknownRole {
        /// The role.
        role: String,
    },
    /// The signature is no base64.
    #[error("authorityDerivation.grantorSignature.bytes is not padded standard base64: {0}")]
    SignatureEncoding(base64::DecodeError),
    /// The signature has the wrong size.
    #[error("authorityDerivation.grantorSignature.bytes must be 64 bytes, found {found}")]
    SignatureLength {
        /// Its size in bytes.
        found: usize,
    },
    /// The signature is not of this token by this role.
    #[error("authority derivation signature invalid for role {role}")]
    SignatureInvalid {
        /// The role.
        role: String,
    },
    /// The token names no parent run, and the policy wants one.
    #[error(
        "authorityDerivation carries parentRunId: null or blank, which any run of the role could \
         use; have it signed for the run that hands its authority on"
    )]
    Unscoped,
    /// The token has no canonical form.
    #[error("authorityDerivation cannot be written as JSON: {0}")]
    Canonical(String),
}

impl From<DerivationError> for CellosError {
    fn from(error: DerivationError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

impl From<CanonicalError> for DerivationError {
    fn from(error: CanonicalError) -> Self {
        Self::Canonical(error.to_string())
    }
}

/// What validation found, in the categories of the published contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorityValidationResult {
    /// The token holds.
    Valid,
    /// The signature, its algorithm, its key or the narrowing steps do not hold.
    InvalidSignature {
        /// Why.
        reason: String,
    },
    /// Leaf and document differ in egress rules.
    ExceedsGrantorEgress {
        /// How many rules the document declares.
        declared: usize,
        /// How many rules the leaf claims.
        claimed: usize,
    },
    /// Leaf and document differ in secrets.
    ExceedsGrantorSecrets {
        /// How many secrets the document declares.
        declared: usize,
        /// How many secrets the leaf claims.
        claimed: usize,
    },
    /// There is no token.
    MissingDerivationToken,
}

/// The bytes that a role signs: canonical JSON of leaf, parent run and role.
///
/// Inside the leaf both lists are always there, a rule always has a `protocol`, `null` when absent,
/// and a justification only when it has one.
///
/// # Errors
/// [`CanonicalError`]; it cannot happen for a token that was parsed.
pub fn derivation_signing_payload(
    token: &AuthorityDerivationToken,
) -> Result<Vec<u8>, CanonicalError> {
    canonical_json_bytes(&json!({
        "leafCapability": serde_json::to_value(&token.leaf_capability)?,
        "parentRunId": token.parent_run_id,
        "roleRoot": token.role_root,
    }))
}

/// Checks what needs no key: algorithm, binding of leaf and document, and that each step narrows.
///
/// # Errors
/// [`DerivationError`].
pub fn check_derivation_structure(
    authority: &AuthorityBundle,
    token: &AuthorityDerivationToken,
    binding: LeafBinding,
) -> Result<(), DerivationError> {
    if token.grantor_signature.algorithm != ALGORITHM {
        return Err(DerivationError::Algorithm {
            found: token.grantor_signature.algorithm.clone(),
        });
    }
    let claimed = AuthorityCapability::from_bundle(authority);
    let leaf = &token.leaf_capability;
    leaf_within_spec(leaf, &claimed)?;
    if binding == LeafBinding::Exact
        && let Some(what) = describe_excess(leaf, &claimed)
    {
        return Err(DerivationError::SpecExceedsLeaf { what });
    }
    steps_narrow(token)
}

/// Verifies a token against the document's authority and the role's key.
///
/// # Errors
/// [`DerivationError`].
pub fn verify_authority_derivation(
    authority: &AuthorityBundle,
    token: &AuthorityDerivationToken,
    role_keys: &RoleKeys,
    binding: LeafBinding,
) -> Result<VerifiedDerivation, DerivationError> {
    check_derivation_structure(authority, token, binding)?;
    let role = || token.role_root.clone();
    let key = role_keys
        .get(&token.role_root)
        .ok_or_else(|| DerivationError::UnknownRole { role: role() })?;
    let signature = STANDARD
        .decode(&token.grantor_signature.bytes)
        .map_err(DerivationError::SignatureEncoding)?;
    let signature =
        signature
            .as_slice()
            .try_into()
            .map_err(|_| DerivationError::SignatureLength {
                found: signature.len(),
            })?;
    if !key.verifies(&derivation_signing_payload(token)?, signature) {
        return Err(DerivationError::SignatureInvalid { role: role() });
    }
    Ok(VerifiedDerivation {
        role_root: role(),
        parent_run_id: token.parent_run_id.clone(),
        leaf: token.leaf_capability.clone(),
    })
}

/// The same as [`verify_authority_derivation`], for a token that may be missing, with the outcome
/// in the categories of the published contract.
#[must_use]
pub fn validate_authority_derivation(
    authority: &AuthorityBundle,
    role_keys: &RoleKeys,
    binding: LeafBinding,
) -> AuthorityValidationResult {
    let Some(token) = &authority.authority_derivation else {
        return AuthorityValidationResult::MissingDerivationToken;
    };
    let spec = AuthorityCapability::from_bundle(authority);
    let leaf = &token.leaf_capability;
    match verify_authority_derivation(authority, token, role_keys, binding) {
        Ok(_) => AuthorityValidationResult::Valid,
        Err(DerivationError::LeafExceedsEgress {
            declared, claimed, ..
        }) => AuthorityValidationResult::ExceedsGrantorEgress { declared, claimed },
        Err(DerivationError::LeafExceedsSecrets {
            declared, claimed, ..
        }) => AuthorityValidationResult::ExceedsGrantorSecrets { declared, claimed },
        Err(DerivationError::SpecExceedsLeaf { .. }) => {
            if super::exceeding(leaf, &spec).egress_rules.is_empty() {
                AuthorityValidationResult::ExceedsGrantorSecrets {
                    declared: spec.secret_refs.len(),
                    claimed: leaf.secret_refs.len(),
                }
            } else {
                AuthorityValidationResult::ExceedsGrantorEgress {
                    declared: spec.egress_rules.len(),
                    claimed: leaf.egress_rules.len(),
                }
            }
        }
        Err(error) => AuthorityValidationResult::InvalidSignature {
            reason: error.to_string(),
        },
    }
}

/// Checks that a token was handed on by a run. A blank `parentRunId` names no run.
///
/// # Errors
/// [`DerivationError::Unscoped`].
pub fn enforce_derivation_scope_policy(
    token: &AuthorityDerivationToken,
    policy: ParentRunPolicy,
) -> Result<DerivationScope<'_>, DerivationError> {
    let parent = token
        .parent_run_id
        .as_deref()
        .filter(|id| !id.trim().is_empty());
    match (parent, policy) {
        (Some(id), _) => Ok(DerivationScope::ParentRun(id)),
        (None, ParentRunPolicy::AllowUniversal) => Ok(DerivationScope::Universal),
        (None, ParentRunPolicy::Required) => Err(DerivationError::Unscoped),
    }
}

fn leaf_within_spec(
    leaf: &AuthorityCapability,
    spec: &AuthorityCapability,
) -> Result<(), DerivationError> {
    let excess = super::exceeding(spec, leaf);
    if !excess.egress_rules.is_empty() {
        return Err(DerivationError::LeafExceedsEgress {
            rules: describe_rules(&excess.egress_rules).join(", "),
            declared: spec.egress_rules.len(),
            claimed: leaf.egress_rules.len(),
        });
    }
    if !excess.secret_refs.is_empty() {
        return Err(DerivationError::LeafExceedsSecrets {
            secrets: excess.secret_refs.join(", "),
            declared: spec.secret_refs.len(),
            claimed: leaf.secret_refs.len(),
        });
    }
    Ok(())
}

/// Each step narrows, starts inside the end of the one before it, and the leaf lies inside the last.
fn steps_narrow(token: &AuthorityDerivationToken) -> Result<(), DerivationError> {
    let mut previous: Option<&AuthorityCapability> = None;
    for (index, step) in token.derivation_steps.iter().enumerate() {
        if let Some(what) =
            previous.and_then(|previous| describe_excess(previous, &step.from_capability))
        {
            return Err(DerivationError::StepWidens {
                index,
                field: "fromCapability",
                what,
            });
        }
        if let Some(what) = describe_excess(&step.from_capability, &step.to_capability) {
            return Err(DerivationError::StepWidens {
                index,
                field: "toCapability",
                what,
            });
        }
        previous = Some(&step.to_capability);
    }
    match previous.and_then(|last| describe_excess(last, &token.leaf_capability)) {
        None => Ok(()),
        Some(what) => Err(DerivationError::LeafExceedsSteps { what }),
    }
}

/// What `child` claims beyond `parent`, for a message; `None` when nothing.
fn describe_excess(parent: &AuthorityCapability, child: &AuthorityCapability) -> Option<String> {
    let excess = super::exceeding(parent, child);
    let mut parts = describe_rules(&excess.egress_rules);
    parts.extend(
        excess
            .secret_refs
            .iter()
            .map(|name| format!("secret {name}")),
    );
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn describe_rules(rules: &[EgressRule]) -> Vec<String> {
    rules
        .iter()
        .map(|rule| {
            let protocol = rule.protocol.as_deref().unwrap_or("tcp");
            format!("{}:{}/{protocol}", rule.host, rule.port)
        })
        .collect()
}
