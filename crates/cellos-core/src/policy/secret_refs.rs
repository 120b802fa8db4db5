//! Which caller may name which secrets.

use super::PolicyRules;
use crate::{CellosError, ExecutionCellSpec};

/// Name of the caller where nothing else is known about it.
pub const DEFAULT_CALLER: &str = "default";

/// A secret that a caller may not name. The first word of the message is a code that users match
/// on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretRefDenial {
    /// The allowlist does not list the caller.
    #[error(
        "caller_unmapped: secretRefAllowlist has no entry for caller {caller:?}, which names \
         secrets in authority.secretRefs"
    )]
    CallerUnmapped {
        /// The caller.
        caller: String,
    },
    /// The allowlist does not list the secret for the caller.
    #[error(
        "secret_ref_denied: authority.secretRefs names {secret_ref:?}, which secretRefAllowlist \
         does not grant to caller {caller:?}"
    )]
    SecretRefDenied {
        /// The secret.
        secret_ref: String,
        /// The caller.
        caller: String,
    },
}

/// Every secret of a document that the caller may not name. Texts compare exactly; nothing is
/// inherited from another caller. A document without secrets is fine for everybody.
#[must_use]
pub fn check_secret_refs(
    spec: &ExecutionCellSpec,
    rules: &PolicyRules,
    caller: &str,
) -> Vec<SecretRefDenial> {
    let refs = spec.authority.secret_refs.as_deref().unwrap_or_default();
    let Some(allowlist) = rules
        .secret_ref_allowlist
        .as_ref()
        .filter(|_| !refs.is_empty())
    else {
        return Vec::new();
    };
    let Some(allowed) = allowlist.get(caller) else {
        return vec![SecretRefDenial::CallerUnmapped {
            caller: caller.to_owned(),
        }];
    };
    refs.iter()
        .filter(|secret_ref| !allowed.contains(secret_ref))
        .map(|secret_ref| SecretRefDenial::SecretRefDenied {
            secret_ref: secret_ref.clone(),
            caller: caller.to_owned(),
        })
        .collect()
}

/// The same as [`check_secret_refs`], with the first denial as the contract's error.
///
/// # Errors
/// [`CellosError::InvalidSpec`] with `caller_unmapped` or `secret_ref_denied`.
pub fn validate_secret_refs_against_allowlist(
    spec: &ExecutionCellSpec,
    rules: &PolicyRules,
    caller: &str,
) -> Result<(), CellosError> {
    match check_secret_refs(spec, rules, caller).into_iter().next() {
        None => Ok(()),
        Some(denial) => Err(CellosError::InvalidSpec(denial.to_string())),
    }
}
