//! The outcome of admission under a ceiling, as it is written into evidence.

use serde::{Deserialize, Serialize};

use crate::document::AuthorityCapability;

/// Why a cell was admitted or refused. The set is closed; consumers match on the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdmissionReason {
    /// The document claims more than every ceiling grants.
    AuthorityExceedsCeiling,
    /// The ceiling's signatures do not hold, or it is outside its window.
    CeilingManifestUnverified,
    /// The ceiling's payload cannot be read.
    CeilingManifestUnparseable,
    /// The envelope carries something else than a ceiling.
    CeilingManifestWrongPayloadType,
    /// The document claims a kind of authority that no ceiling can express.
    CeilingDimensionUncomparable,
    /// The ceiling is older than one that was accepted before.
    CeilingEpochStale,
    /// There is no ceiling, and none is demanded.
    CeilingDegradedUnconfigured,
    /// A cell of a formation claims more than the one that started it.
    FormationEdgeNotNarrowing,
    /// Some ceiling grants everything that the document claims.
    AdmittedWithinCeiling,
}

/// Who makes the admitted authority true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnforcementBinding {
    /// Rules of the Linux packet filter.
    LinuxNftables,
    /// Nobody; the verdict is a record only.
    DeclaredAudit,
}

/// The outcome of admission under a ceiling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdmissionVerdict {
    /// Whether the cell may run.
    pub admitted: bool,
    /// Why.
    pub reason: AdmissionReason,
    /// What was claimed beyond the ceiling that comes closest.
    #[serde(default)]
    pub exceeded: AuthorityCapability,
    /// The ceiling manifest's id.
    #[serde(default)]
    pub ceiling_id: Option<String>,
    /// `sha256:` and the digest of the manifest.
    #[serde(default)]
    pub manifest_digest: Option<String>,
    /// Who makes it true.
    pub enforcement_binding: EnforcementBinding,
}

impl AdmissionVerdict {
    /// The verdict where no ceiling is configured and none is demanded.
    #[must_use]
    pub fn unconfigured(binding: EnforcementBinding) -> Self {
        Self {
            admitted: true,
            ..Self::refused(AdmissionReason::CeilingDegradedUnconfigured, binding)
        }
    }

    /// The verdict on a cell that another cell starts: it may claim what its parent has, no more.
    #[must_use]
    pub fn formation_edge(
        parent: &AuthorityCapability,
        child: &AuthorityCapability,
        binding: EnforcementBinding,
    ) -> Self {
        let exceeded = super::exceeding(parent, child);
        if exceeded == AuthorityCapability::default() {
            Self {
                admitted: true,
                ..Self::refused(AdmissionReason::AdmittedWithinCeiling, binding)
            }
        } else {
            Self {
                exceeded,
                ..Self::refused(AdmissionReason::FormationEdgeNotNarrowing, binding)
            }
        }
    }

    pub(crate) fn refused(reason: AdmissionReason, binding: EnforcementBinding) -> Self {
        Self {
            admitted: false,
            reason,
            exceeded: AuthorityCapability::default(),
            ceiling_id: None,
            manifest_digest: None,
            enforcement_binding: binding,
        }
    }
}
