//! What a backend enforces, as data that admission compares a document with.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::Serialize;

/// Something a document can ask for and a backend can enforce or provide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Feature {
    /// A root file system of the cell's own; host files are absent unless mounted.
    Filesystem,
    /// `authority.filesystem.mounts`.
    Mounts,
    /// Processes see, signal and outlive nothing outside the cell.
    Processes,
    /// `run.limits.memoryMaxBytes`.
    Memory,
    /// `run.limits.cpuMax`.
    Cpu,
    /// `run.limits.pidsMax`.
    Pids,
    /// No network but what is declared.
    Network,
    /// `authority.egressRules`, `dnsAuthority`, `cdnAuthority`: declared destinations work.
    Egress,
    /// Sockets in the cell's network that a gateway outside serves: with a gateway, egress rules.
    GatewaySockets,
    /// `run.secretDelivery: env`.
    SecretsInEnvironment,
    /// `run.secretDelivery: runtimeBroker` and `runtimeLeasedBroker`.
    SecretsAtRuntime,
    /// `spec.identity`.
    Identity,
    /// `spec.environment`: a root file system from an image.
    Image,
    /// `spec.ingress`: inputs fetched before the start.
    Ingress,
    /// `run.user`.
    User,
    /// `spec.export.artifacts`: files leave through a sink.
    Artifacts,
    /// `spec.export.targets`: sinks the document names.
    ExportTargets,
    /// `spec.telemetry`.
    Telemetry,
    /// A guest kernel of its own between the workload and the host's.
    KernelBoundary,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filesystem => "a private file system",
            Self::Mounts => "mounts",
            Self::Processes => "process isolation",
            Self::Memory => "memory limits",
            Self::Cpu => "CPU limits",
            Self::Pids => "process limits",
            Self::Network => "network isolation",
            Self::Egress => "egress rules",
            Self::GatewaySockets => "sockets for a gateway",
            Self::SecretsInEnvironment => "secrets in the environment",
            Self::SecretsAtRuntime => "secrets at run time",
            Self::Identity => "workload identities",
            Self::Image => "images",
            Self::Ingress => "ingress",
            Self::User => "a chosen user",
            Self::Artifacts => "artifact export",
            Self::ExportTargets => "export targets",
            Self::Telemetry => "guest telemetry",
            Self::KernelBoundary => "a kernel boundary",
        })
    }
}

/// Whether a feature can be had on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Support {
    /// Enforced, and by which mechanism.
    Enforced {
        /// Mechanism, for people: `cgroup v1 memory`.
        mechanism: Cow<'static, str>,
    },
    /// The backend could, but this host lacks something.
    Unavailable {
        /// What is missing.
        why: String,
        /// What a person can do about it.
        mend: String,
    },
}

/// What one backend enforces on this host. A feature that is not listed is not enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendDescriptor {
    /// Name as given to `--backend`.
    pub name: Cow<'static, str>,
    /// One line for people.
    pub summary: Cow<'static, str>,
    /// The features.
    pub features: BTreeMap<Feature, Support>,
}

impl BackendDescriptor {
    /// A backend that enforces nothing.
    #[must_use]
    pub fn nothing(
        name: impl Into<Cow<'static, str>>,
        summary: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            name: name.into(),
            summary: summary.into(),
            features: BTreeMap::new(),
        }
    }

    /// Adds an enforced feature.
    #[must_use]
    pub fn enforces(mut self, feature: Feature, mechanism: impl Into<Cow<'static, str>>) -> Self {
        self.features.insert(
            feature,
            Support::Enforced {
                mechanism: mechanism.into(),
            },
        );
        self
    }

    /// Adds a feature that this host cannot give.
    #[must_use]
    pub fn lacks(
        mut self,
        feature: Feature,
        why: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        self.features.insert(
            feature,
            Support::Unavailable {
                why: why.into(),
                mend: mend.into(),
            },
        );
        self
    }

    /// Whether the feature is enforced here.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        matches!(self.features.get(&feature), Some(Support::Enforced { .. }))
    }
}
