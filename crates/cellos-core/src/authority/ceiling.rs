//! The organisation's ceiling: a signed bound on what any document may claim.

use std::str::FromStr as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{AdmissionReason, AdmissionVerdict, EnforcementBinding, exceeding};
use crate::{
    document::{AuthorityBundle, AuthorityCapability, CdnAuthority, DnsAuthority},
    signing::{
        EpochAnchor, SUPPORTED_SCHEMA_VERSION, SignedTrustKeysetEnvelope, TrustPayloadType,
        TrustVerification, VerifiedTrustPayload, verify_signed_trust_keyset_envelope,
        window_contains,
    },
    strict_json,
};

/// An organisation's ceilings; the payload of a trust envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrgAuthorityCeilingManifestV1 {
    /// Exactly [`SUPPORTED_SCHEMA_VERSION`].
    pub schema_version: String,
    /// Name of the manifest.
    pub ceiling_id: String,
    /// Number of the manifest; grows with each new one.
    pub ceiling_epoch: u64,
    /// The ceilings; a document has to fit beneath one of them. Without any, nothing is admitted.
    #[serde(default)]
    pub ceilings: Vec<NamedCeiling>,
    /// First moment the manifest counts, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Last moment the manifest counts, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

/// One ceiling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedCeiling {
    /// Its name, for people.
    pub name: String,
    /// The most that a document beneath it may claim.
    pub ceiling: AuthorityCapability,
}

/// What to do with authority that no ceiling can express.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UncomparableAuthority {
    /// Refuse the document.
    #[default]
    Refuse,
    /// Admit it, and name the dimensions in the decision so that the operator is told.
    Warn,
}

/// A kind of authority that no ceiling can express.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UncomparableDimension {
    /// `authority.filesystem`.
    Filesystem,
    /// `authority.network`.
    Network,
    /// `authority.dnsAuthority`.
    DnsAuthority,
    /// `authority.cdnAuthority`.
    CdnAuthority,
}

impl UncomparableDimension {
    /// The field.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Filesystem => "spec.authority.filesystem",
            Self::Network => "spec.authority.network",
            Self::DnsAuthority => "spec.authority.dnsAuthority",
            Self::CdnAuthority => "spec.authority.cdnAuthority",
        }
    }
}

/// What a document is measured against.
#[derive(Debug, Clone, Copy)]
pub struct CeilingGate<'a> {
    /// The signed ceiling.
    pub envelope: &'a SignedTrustKeysetEnvelope,
    /// What its signatures have to fulfil.
    pub verification: TrustVerification<'a>,
    /// The highest epoch accepted so far.
    pub anchor: EpochAnchor,
    /// What to do with authority that no ceiling can express.
    pub uncomparable: UncomparableAuthority,
    /// Who makes the admitted authority true.
    pub binding: EnforcementBinding,
}

/// The verdict, and what the caller has to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CeilingDecision {
    /// The verdict.
    pub verdict: AdmissionVerdict,
    /// Why in words, for a refusal that is about the manifest and not about the document.
    pub detail: Option<String>,
    /// Authority of the document that was not measured.
    pub uncomparable: Vec<UncomparableDimension>,
    /// The anchor to keep; unchanged when the manifest was not accepted.
    pub anchor: EpochAnchor,
}

/// Measures a document's authority against a signed ceiling.
///
/// A manifest that does not verify, cannot be read, is outside its window or stale refuses every
/// document.
#[must_use]
pub fn admit_under_ceiling(authority: &AuthorityBundle, gate: &CeilingGate<'_>) -> CeilingDecision {
    let uncomparable = uncomparable_dimensions(authority);
    match accept_manifest(gate) {
        Ok((manifest, digest, anchor)) => {
            let mut verdict = measure(authority, &manifest, gate);
            if !uncomparable.is_empty() && gate.uncomparable == UncomparableAuthority::Refuse {
                verdict.admitted = false;
                verdict.reason = AdmissionReason::CeilingDimensionUncomparable;
            }
            verdict.ceiling_id = Some(manifest.ceiling_id);
            verdict.manifest_digest = Some(digest);
            CeilingDecision {
                verdict,
                detail: None,
                uncomparable,
                anchor,
            }
        }
        Err((reason, detail)) => CeilingDecision {
            verdict: AdmissionVerdict::refused(reason, gate.binding),
            detail: Some(detail),
            uncomparable,
            anchor: gate.anchor,
        },
    }
}

/// The populated authority of a document that no ceiling can express.
#[must_use]
pub fn uncomparable_dimensions(authority: &AuthorityBundle) -> Vec<UncomparableDimension> {
    let populated = [
        (
            UncomparableDimension::Filesystem,
            authority
                .filesystem
                .as_ref()
                .is_some_and(|files| !files.mounts.is_empty()),
        ),
        (UncomparableDimension::Network, authority.network.is_some()),
        (
            UncomparableDimension::DnsAuthority,
            authority
                .dns_authority
                .as_ref()
                .is_some_and(|dns| *dns != DnsAuthority::default()),
        ),
        (
            UncomparableDimension::CdnAuthority,
            authority
                .cdn_authority
                .as_ref()
                .is_some_and(|cdn| *cdn != CdnAuthority::default()),
        ),
    ];
    populated
        .into_iter()
        .filter(|(_, is)| *is)
        .map(|(dimension, _)| dimension)
        .collect()
}

type Refusal = (AdmissionReason, String);

fn accept_manifest(
    gate: &CeilingGate<'_>,
) -> Result<(OrgAuthorityCeilingManifestV1, String, EpochAnchor), Refusal> {
    if gate.envelope.payload_type != TrustPayloadType::AuthorityCeiling {
        return Err((
            AdmissionReason::CeilingManifestWrongPayloadType,
            format!(
                "payloadType must be {}, found {}",
                TrustPayloadType::AuthorityCeiling.as_str(),
                gate.envelope.payload_type.as_str()
            ),
        ));
    }
    let verified = verify_signed_trust_keyset_envelope(gate.envelope, &gate.verification).map_err(
        |error| {
            (
                AdmissionReason::CeilingManifestUnverified,
                error.to_string(),
            )
        },
    )?;
    let manifest = parse_manifest(&verified)
        .map_err(|detail| (AdmissionReason::CeilingManifestUnparseable, detail))?;
    let time = |field: &str, text: &Option<String>| {
        text.as_deref()
            .map(Timestamp::from_str)
            .transpose()
            .map_err(|error| {
                (
                    AdmissionReason::CeilingManifestUnparseable,
                    format!("{field} is not an RFC 3339 time: {error}"),
                )
            })
    };
    let not_before = time("notBefore", &manifest.not_before)?;
    let not_after = time("notAfter", &manifest.not_after)?;
    if !window_contains(not_before, not_after, gate.verification.now) {
        return Err((
            AdmissionReason::CeilingManifestUnverified,
            format!(
                "ceiling {} is outside its own notBefore and notAfter",
                manifest.ceiling_id
            ),
        ));
    }
    let anchor = gate
        .anchor
        .advance(manifest.ceiling_epoch)
        .map_err(|error| (AdmissionReason::CeilingEpochStale, error.to_string()))?;
    Ok((manifest, verified.digest, anchor))
}

fn parse_manifest(
    verified: &VerifiedTrustPayload,
) -> Result<OrgAuthorityCeilingManifestV1, String> {
    let manifest: OrgAuthorityCeilingManifestV1 =
        strict_json::from_slice(&verified.payload).map_err(|error| error.to_string())?;
    if manifest.schema_version == SUPPORTED_SCHEMA_VERSION {
        Ok(manifest)
    } else {
        Err(format!(
            "schemaVersion must be {SUPPORTED_SCHEMA_VERSION}, found {:?}",
            manifest.schema_version
        ))
    }
}

/// Some ceiling has to contain the whole claim; parts of two do not add up.
fn measure(
    authority: &AuthorityBundle,
    manifest: &OrgAuthorityCeilingManifestV1,
    gate: &CeilingGate<'_>,
) -> AdmissionVerdict {
    let claimed = AuthorityCapability::from_bundle(authority);
    let closest = manifest
        .ceilings
        .iter()
        .map(|named| exceeding(&named.ceiling, &claimed))
        .min_by_key(|excess| excess.egress_rules.len() + excess.secret_refs.len());
    match closest {
        Some(excess) if excess == AuthorityCapability::default() => AdmissionVerdict {
            admitted: true,
            ..AdmissionVerdict::refused(AdmissionReason::AdmittedWithinCeiling, gate.binding)
        },
        closest => AdmissionVerdict {
            exceeded: closest.unwrap_or(claimed),
            ..AdmissionVerdict::refused(AdmissionReason::AuthorityExceedsCeiling, gate.binding)
        },
    }
}
