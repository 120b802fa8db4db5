//! `spec.telemetry`: what a guest agent is expected to report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::AGENT_VERSION;

/// What a guest agent is expected to report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TelemetrySpec {
    /// Only `vsock-cbor`.
    #[schemars(extend("const" = "vsock-cbor"))]
    pub channel: String,
    /// Event names; at least one, none blank. Names that start with `net.` need an egress rule.
    #[schemars(length(min = 1))]
    pub events: Vec<String>,
    /// Bounds on the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limits: Option<TelemetryRateLimits>,
    /// Which side vouches for which field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_vs_guest_fields: Option<TelemetryFields>,
    /// Version of the agent: `MAJOR.MINOR.PATCH`, optionally `-` and a pre-release.
    #[schemars(regex(pattern = AGENT_VERSION))]
    pub agent_version: String,
}

/// Bounds on a telemetry stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TelemetryRateLimits {
    /// Events per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<u32>,
    /// Bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u32>,
}

/// Which side vouches for which telemetry field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TelemetryFields {
    /// Fields the host fills in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_fields: Vec<String>,
    /// Fields the guest declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guest_fields: Vec<String>,
}
