//! What the operator demands of a document beyond its own rules, in the published order.

use std::{
    fs, io,
    num::NonZeroU32,
    path::{Component, Path, PathBuf},
};

use cellos_core::{
    CellosError, CloudEventV1, ExecutionCellDocument,
    authority::{
        AdmissionVerdict, CeilingDecision, CeilingGate, DerivationError, DerivationScope,
        EnforcementBinding, LeafBinding, ParentRunPolicy, UncomparableAuthority,
        admit_under_ceiling, enforce_derivation_scope_policy, verify_authority_derivation,
    },
    document::AuthorityBundle,
    event::{
        self, AdmissionAllowed, AdmissionFacts, AdmissionRejected, AuthzReason, AuthzRejected,
        PolicyRejected, Stamp, Subject, UniversalTokenAccepted,
    },
    policy::{
        AuthorizationPolicyDocument, AuthorizationPolicyError, AuthorizationReason,
        AuthorizationRejection, DEFAULT_CALLER, DowngradePolicy, PolicyContext, PolicyPackDocument,
        PolicyPackError, PolicyViolation, admit_under_packs, evaluate_authorization,
        parse_authorization_policy, parse_policy_pack,
    },
    signing::{
        EpochAnchor, EpochError, KeyFileError, RevokedKids, RoleKeys, SignedTrustKeysetEnvelope,
        TrustEnvelopeError, TrustVerification, TrustVerifyKeys, parse_trust_envelope,
    },
};
use cellos_supervisor::DerivationFacts;

use super::config::{Config, Profile};
use crate::document_file::{self, DocumentFileError, DocumentSource};

/// An operator's file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OperatorFileError {
    #[error("{variable}: {source}")]
    Unreadable {
        variable: &'static str,
        source: DocumentFileError,
    },
    #[error("{variable}: {source}")]
    Keys {
        variable: &'static str,
        source: KeyFileError,
    },
    #[error("CELLOS_AUTHORITY_CEILING_PATH: {0}")]
    Ceiling(#[from] TrustEnvelopeError),
    #[error("CELLOS_AUTHORITY_CEILING_ANCHOR_PATH: {0}")]
    Anchor(#[from] EpochError),
    #[error("CELLOS_AUTHORITY_CEILING_ANCHOR_PATH: {} cannot be {operation}: {source}", path.display())]
    AnchorFile {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("CELLOS_POLICY_PACK_PATH: {0}")]
    PolicyPack(#[from] PolicyPackError),
    #[error("CELLOS_AUTHZ_POLICY_PATH: {0}")]
    Authorization(#[from] AuthorizationPolicyError),
}

/// Why a document does not get past the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error(
        "spec.authority.authorityDerivation is missing: CELLOS_REQUIRE_AUTHORITY_DERIVATION wants \
         a token for egress rules and secrets"
    )]
    DerivationMissing,
    #[error("spec.telemetry is missing: CELLOS_REQUIRE_TELEMETRY_DECLARED wants it")]
    TelemetryMissing,
    #[error("spec.placement.kubernetesNamespace is {declared:?}, CELLOS_K8S_NAMESPACE is {here:?}")]
    Namespace { declared: String, here: String },
    #[error(
        "spec.run.argv[0] {program:?} must be an absolute path without . and .. below one of CELLOS_RUN_ARGV0_ALLOW_PREFIXES"
    )]
    Program { program: String },
    #[error("spec.authority.authorityDerivation: {0}")]
    Derivation(#[from] DerivationError),
    #[error("authority ceiling: {}{}", reason_text(verdict), detail.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Ceiling {
        verdict: Box<AdmissionVerdict>,
        detail: Option<String>,
    },
    #[error("authorization policy: {0}")]
    Authorization(AuthorizationRejection),
    #[error("policy pack {pack}: {}", violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Policy {
        pack: String,
        version: Option<String>,
        violations: Vec<PolicyViolation>,
    },
}

/// The closed, published name of a verdict's reason.
fn reason_text(verdict: &AdmissionVerdict) -> String {
    match serde_json::to_value(verdict.reason) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{:?}", verdict.reason),
    }
}

/// What the gates measure a document against, loaded once.
pub(super) struct Gates<'a> {
    config: &'a Config,
    role_keys: RoleKeys,
    ceiling: Option<Ceiling>,
    authorization: Option<AuthorizationPolicyDocument>,
    pack: Option<PolicyPackDocument>,
}

struct Ceiling {
    envelope: SignedTrustKeysetEnvelope,
    keys: TrustVerifyKeys,
    anchor: EpochAnchor,
}

/// What is known about a document that got past all gates.
#[derive(Debug)]
pub(super) struct Passed {
    /// The document with the pack's caps filled in.
    pub(super) document: ExecutionCellDocument,
    /// Its derivation token.
    pub(super) derivation: Option<DerivationFacts>,
    /// What should be known.
    pub(super) warnings: Vec<String>,
    anchor: Option<EpochAnchor>,
    /// What the ceiling said, where there is one.
    verdict: Option<AdmissionVerdict>,
    /// What the token is good for, where there is one.
    scope: Option<TokenScope>,
}

/// What a derivation token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenScope {
    /// The run that it names.
    OneRun,
    /// Every run of its role.
    EveryRun,
}

fn under_ceiling(verdict: &AdmissionVerdict, sha256: &str) -> AdmissionFacts {
    AdmissionFacts::by_ceiling(
        verdict.admitted,
        verdict.reason,
        verdict.enforcement_binding,
        sha256,
    )
}

fn read(variable: &'static str, path: &Path) -> Result<String, OperatorFileError> {
    document_file::read(&DocumentSource::File(path.to_path_buf()))
        .map_err(|source| OperatorFileError::Unreadable { variable, source })
}

impl<'a> Gates<'a> {
    /// Reads the operator's files.
    pub(super) fn load(config: &'a Config) -> Result<Self, OperatorFileError> {
        const ROLE_KEYS: &str = "CELLOS_AUTHORITY_KEYS_PATH";
        let role_keys = match &config.authority_keys {
            Some(path) => RoleKeys::parse(read(ROLE_KEYS, path)?.as_bytes()).map_err(|source| {
                OperatorFileError::Keys {
                    variable: ROLE_KEYS,
                    source,
                }
            })?,
            None => RoleKeys::default(),
        };
        let downgrade = if config.policy_version_floor.is_required() {
            DowngradePolicy::Refuse
        } else {
            DowngradePolicy::Allow
        };
        let pack = match &config.policy_pack {
            Some(path) => {
                let text = read("CELLOS_POLICY_PACK_PATH", path)?;
                Some(parse_policy_pack(text.as_bytes(), downgrade)?)
            }
            None => None,
        };
        let authorization = match &config.authorization_policy {
            Some(path) => {
                let text = read("CELLOS_AUTHZ_POLICY_PATH", path)?;
                Some(parse_authorization_policy(text.as_bytes())?)
            }
            None => None,
        };
        Ok(Self {
            config,
            role_keys,
            ceiling: load_ceiling(config)?,
            authorization,
            pack,
        })
    }

    /// The gates after `--validate`: derivation, ceiling, authorization, policy.
    pub(super) fn admit(&self, document: &ExecutionCellDocument) -> Result<Passed, Rejection> {
        let spec = &document.spec;
        let mut warnings = Vec::new();
        let (derivation, scope) = self.derivation(&spec.authority, &mut warnings)?.unzip();
        let (anchor, verdict) = self.under_ceiling(&spec.authority, &mut warnings)?.unzip();
        if let Some(policy) = &self.authorization {
            evaluate_authorization(&policy.spec, spec).map_err(Rejection::Authorization)?;
        }
        let mut document = document.clone();
        if let Some(pack) = &self.pack {
            let context = PolicyContext {
                host_placement: None,
                caller: DEFAULT_CALLER,
            };
            let admission =
                admit_under_packs(spec, &[&pack.spec], &context).map_err(|violations| {
                    Rejection::Policy {
                        pack: pack.spec.id.clone(),
                        version: pack.spec.version.clone(),
                        violations,
                    }
                })?;
            document.spec = admission.effective;
        }
        Ok(Passed {
            document,
            derivation,
            warnings,
            anchor,
            verdict,
            scope,
        })
    }

    fn derivation(
        &self,
        authority: &AuthorityBundle,
        warnings: &mut Vec<String>,
    ) -> Result<Option<(DerivationFacts, TokenScope)>, Rejection> {
        let Some(token) = &authority.authority_derivation else {
            return Ok(None);
        };
        let verified =
            verify_authority_derivation(authority, token, &self.role_keys, LeafBinding::Exact)?;
        let policy = if self.config.scoped_tokens.is_required() {
            ParentRunPolicy::Required
        } else {
            ParentRunPolicy::AllowUniversal
        };
        let scope = match enforce_derivation_scope_policy(token, policy)? {
            DerivationScope::Universal => TokenScope::EveryRun,
            DerivationScope::ParentRun(_) => TokenScope::OneRun,
        };
        if scope == TokenScope::EveryRun {
            warnings.push(
                "the derivation token names no parent run and is good for any run of its role"
                    .into(),
            );
        }
        let facts = DerivationFacts {
            verified: true,
            role_root: verified.role_root,
            parent_run_id: verified.parent_run_id,
        };
        Ok(Some((facts, scope)))
    }

    fn under_ceiling(
        &self,
        authority: &AuthorityBundle,
        warnings: &mut Vec<String>,
    ) -> Result<Option<(EpochAnchor, AdmissionVerdict)>, Rejection> {
        let Some(ceiling) = &self.ceiling else {
            return Ok(None);
        };
        let uncomparable = match self.config.profile {
            Profile::Portable => UncomparableAuthority::Warn,
            Profile::Unset | Profile::Hardened | Profile::Airgapped => {
                UncomparableAuthority::Refuse
            }
        };
        let CeilingDecision {
            verdict,
            detail,
            uncomparable,
            anchor,
        } = admit_under_ceiling(
            authority,
            &CeilingGate {
                envelope: &ceiling.envelope,
                verification: TrustVerification {
                    keys: &ceiling.keys,
                    revoked: &RevokedKids::default(),
                    now: jiff::Timestamp::now(),
                    minimum_signers: NonZeroU32::MIN,
                },
                anchor: ceiling.anchor,
                uncomparable,
                // Nothing filters packets: a cell has no network at all.
                binding: EnforcementBinding::DeclaredAudit,
            },
        );
        if !verdict.admitted {
            return Err(Rejection::Ceiling {
                verdict: Box::new(verdict),
                detail,
            });
        }
        warnings.extend(
            uncomparable
                .into_iter()
                .map(|dimension| format!("{} is not measured by the ceiling", dimension.path())),
        );
        Ok(Some((anchor, verdict)))
    }
}

fn load_ceiling(config: &Config) -> Result<Option<Ceiling>, OperatorFileError> {
    const TRUST_KEYS: &str = "CELLOS_TRUST_VERIFY_KEYS_PATH";
    let (Some(path), Some(keys)) = (&config.ceiling, &config.trust_keys) else {
        return Ok(None);
    };
    let keys = TrustVerifyKeys::parse(read(TRUST_KEYS, keys)?.as_bytes()).map_err(|source| {
        OperatorFileError::Keys {
            variable: TRUST_KEYS,
            source,
        }
    })?;
    let envelope = parse_trust_envelope(read("CELLOS_AUTHORITY_CEILING_PATH", path)?.as_bytes())?;
    let anchor = match &config.ceiling_anchor {
        None => EpochAnchor::first_use(),
        Some(path) => {
            let variable = "CELLOS_AUTHORITY_CEILING_ANCHOR_PATH";
            match read(variable, path) {
                Ok(text) => EpochAnchor::parse(&text)?,
                Err(OperatorFileError::Unreadable {
                    source: DocumentFileError::Missing { .. },
                    ..
                }) => EpochAnchor::first_use(),
                Err(error) => return Err(error),
            }
        }
    };
    Ok(Some(Ceiling {
        envelope,
        keys,
        anchor,
    }))
}

/// The gates before `--validate`, which look at the document alone.
pub(super) fn check_demands(
    document: &ExecutionCellDocument,
    config: &Config,
) -> Result<(), Rejection> {
    let spec = &document.spec;
    let authority = &spec.authority;
    let has_authority = authority
        .egress_rules
        .as_ref()
        .is_some_and(|rules| !rules.is_empty())
        || authority
            .secret_refs
            .as_ref()
            .is_some_and(|secrets| !secrets.is_empty());
    if config.derivation.is_required() && has_authority && authority.authority_derivation.is_none()
    {
        return Err(Rejection::DerivationMissing);
    }
    if config.telemetry.is_required() && spec.telemetry.is_none() {
        return Err(Rejection::TelemetryMissing);
    }
    if let (Some(here), Some(declared)) = (
        &config.kubernetes_namespace,
        spec.placement
            .as_ref()
            .and_then(|placement| placement.kubernetes_namespace.as_ref()),
    ) && here != declared
    {
        return Err(Rejection::Namespace {
            declared: declared.clone(),
            here: here.clone(),
        });
    }
    if let Some(run) = &spec.run
        && !config.argv0_prefixes.is_empty()
    {
        let program = run.argv.first().map_or("", String::as_str);
        if !is_below(Path::new(program), &config.argv0_prefixes) {
            return Err(Rejection::Program {
                program: program.to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether a program lies below one of the folders, part by part: `/usr/binary` is not below
/// `/usr/bin`, and `..` is nowhere.
fn is_below(program: &Path, prefixes: &[PathBuf]) -> bool {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    // `components` drops `.` parts, which are harmless for the kernel too.
    program.is_absolute()
        && program.components().all(is_plain)
        && prefixes
            .iter()
            .any(|prefix| program.starts_with(prefix) && program != prefix)
}

impl Passed {
    /// That the ceiling admitted the document, where there is one.
    pub(super) fn admission(&self, sha256: &str) -> Option<AdmissionAllowed> {
        let verdict = self.verdict.as_ref()?;
        Some(AdmissionAllowed(under_ceiling(verdict, sha256)))
    }

    /// That a derivation token which names no run was accepted.
    pub(super) fn universal_token(&self, sha256: &str) -> Option<UniversalTokenAccepted> {
        (self.scope == Some(TokenScope::EveryRun)).then(|| UniversalTokenAccepted {
            spec_hash: Some(sha256.to_owned()),
            role_root: self
                .derivation
                .as_ref()
                .map(|derivation| derivation.role_root.clone()),
            reason: "the derivation token names no parent run".into(),
            remediation: "issue tokens with parentRunId and set \
                          CELLOS_REQUIRE_SCOPED_DERIVATION_TOKENS"
                .into(),
        })
    }

    /// Keeps the highest epoch, before anything runs under the ceiling that has it.
    pub(super) fn keep_anchor(&self, config: &Config) -> Result<(), OperatorFileError> {
        let (Some(path), Some(highest)) = (
            &config.ceiling_anchor,
            self.anchor.and_then(EpochAnchor::highest),
        ) else {
            return Ok(());
        };
        let failed = |operation| {
            move |source| OperatorFileError::AnchorFile {
                operation,
                path: path.clone(),
                source,
            }
        };
        // A reader sees the old number or the new one, never half of one.
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        fs::write(&temporary, format!("{highest}\n")).map_err(failed("written"))?;
        fs::rename(&temporary, path).map_err(failed("replaced"))
    }
}

impl Rejection {
    /// The event of this rejection, where the contract has one.
    pub(super) fn event(
        &self,
        stamp: Stamp,
        subject: &Subject,
        sha256: &str,
    ) -> Option<Result<CloudEventV1, CellosError>> {
        match self {
            Self::Ceiling { verdict, .. } => {
                let data = AdmissionRejected(under_ceiling(verdict, sha256));
                Some(event::event(stamp, subject, &data))
            }
            Self::Policy {
                pack,
                version,
                violations,
            } => {
                let mut data = PolicyRejected::new(
                    violations
                        .iter()
                        .map(|violation| event::PolicyViolation {
                            rule: violation.rule.to_string(),
                            message: violation.message.clone(),
                        })
                        .collect(),
                );
                data.policy_pack_id = Some(pack.clone());
                data.policy_pack_version.clone_from(version);
                Some(event::event(stamp, subject, &data))
            }
            Self::Authorization(rejection) => {
                let data = AuthzRejected {
                    reason: match rejection.reason {
                        AuthorizationReason::SubjectNotAuthorized => {
                            AuthzReason::SubjectNotAuthorized
                        }
                        AuthorizationReason::PoolNotAllowed => AuthzReason::PoolNotAllowed,
                        AuthorizationReason::PolicyPackNotAllowed => {
                            AuthzReason::PolicyPackNotAllowed
                        }
                        AuthorizationReason::RateLimitExceeded => AuthzReason::RateLimitExceeded,
                    },
                    message: rejection.message.clone(),
                    tenant_id: subject.tenant_id().map(str::to_owned),
                    subject: rejection.subject.clone(),
                    denied_pool_id: rejection.denied_pool_id.clone(),
                    denied_policy_pack_id: rejection.denied_policy_pack_id.clone(),
                };
                Some(event::event(stamp, subject, &data))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_compared_part_by_part() {
        let prefixes = [PathBuf::from("/usr/bin"), PathBuf::from("/opt/tools/")];
        for (program, below) in [
            ("/usr/bin/true", true),
            ("/opt/tools/a/b", true),
            ("/usr/bin/../../tmp/x", false),
            ("/usr/binary/x", false),
            ("/usr/bin", false),
            ("true", false),
            ("", false),
        ] {
            assert_eq!(is_below(Path::new(program), &prefixes), below, "{program}");
        }
    }
}
