//! Operators' bounds on documents: policy packs and the authorization policy.
//!
//! A pack is loaded with [`parse_policy_pack`], which refuses whatever this build would not
//! enforce, and applied with [`admit_under_packs`], which reports every violation and returns the
//! document with the pack's caps filled in where it set no limit. Running the original document
//! instead would let a cap be dodged by saying nothing.
//!
//! Where this differs from the published implementation on purpose, [`POLICY_DIFFERENCES`] says so.

mod authorization;
mod differences;
mod evaluate;
mod host_pattern;
mod pack;
mod pack_check;
mod scope;
mod secret_refs;
mod version;

pub use authorization::{
    AuthorizationPolicyDocument, AuthorizationPolicyError, AuthorizationPolicySpec,
    AuthorizationReason, AuthorizationRejection, evaluate_authorization,
    parse_authorization_policy, validate_authorization_policy,
};
pub use differences::{POLICY_DIFFERENCES, PolicyDifference};
pub use evaluate::{
    AppliedCap, CappedField, PolicyAdmission, PolicyContext, PolicyViolation, admit_under_packs,
    validate_spec_against_policy,
};
pub use host_pattern::{AddressBlock, HostPattern, HostPatternError};
pub use pack::{PolicyPackDocument, PolicyPackSpec, PolicyRule, PolicyRules};
pub use pack_check::{
    PolicyPackError, PolicyPackProblem, parse_policy_pack, validate_policy_pack_document,
};
pub use scope::{ScopeDecision, pack_scope, spec_matches_placement_scope};
pub use secret_refs::{
    DEFAULT_CALLER, SecretRefDenial, check_secret_refs, validate_secret_refs_against_allowlist,
};
pub use version::{
    DowngradePolicy, MIN_SUPPORTED_POLICY_PACK_VERSION, PackVersion, PackVersionError,
    check_policy_pack_version_compatibility,
};
