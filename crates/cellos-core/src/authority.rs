//! Who may grant what: comparing capabilities, derivation tokens and organisation ceilings.

mod capability;
mod ceiling;
mod derivation;
mod verdict;

pub use capability::{NormalizedProtocol, exceeding, normalized_protocol};
pub use ceiling::{
    CeilingDecision, CeilingGate, NamedCeiling, OrgAuthorityCeilingManifestV1,
    UncomparableAuthority, UncomparableDimension, admit_under_ceiling, uncomparable_dimensions,
};
pub use derivation::{
    AuthorityValidationResult, DerivationError, DerivationScope, LeafBinding, ParentRunPolicy,
    VerifiedDerivation, check_derivation_structure, derivation_signing_payload,
    enforce_derivation_scope_policy, validate_authority_derivation, verify_authority_derivation,
};
pub use verdict::{AdmissionReason, AdmissionVerdict, EnforcementBinding};
