//! Attestations: what a log says of a run, in a form that verifiers of supply chains read.
//!
//! A run becomes in-toto Statements (v1), each in a DSSE envelope (v1) of its own, signed with
//! Ed25519: one with the SLSA provenance predicate (v1), one with the runtime-trace predicate
//! (v0.1). `docs/attestations.md` says what each field means and what none of them proves.
//!
//! * [`dsse`]: the envelope.
//! * [`statement`]: the statement, its subjects and other resources.
//! * [`run`]: what attestations need of a run, read from its log.
//! * [`provenance`] and [`runtime_trace`]: the predicates.
//! * [`verify`]: checking an envelope.

pub mod dsse;
pub mod provenance;
pub mod run;
pub mod runtime_trace;
pub mod statement;
pub mod verify;

pub use provenance::LINE_DIGEST;

use jiff::Timestamp;

/// The page that explains build type, builders and monitor. URIs of ours are places on it.
const PAGE: &str = "https://github.com/cellos/cellos/blob/main/docs/attestations.md";

/// Type of the runs that are attested: how to read `externalParameters` and `internalParameters`.
pub const BUILD_TYPE: &str =
    "https://github.com/cellos/cellos/blob/main/docs/attestations.md#build-type-v1";
/// Type of the monitor of runtime traces: how to read the entries of `monitorLog`.
pub const MONITOR_TYPE: &str =
    "https://github.com/cellos/cellos/blob/main/docs/attestations.md#monitor-v1";
/// Extension field with the time at which an attestation was made, RFC 3339. Verifiers of ours
/// hold the validity of the key against it.
pub const ATTESTED_ON: &str = "cellos_attestedOn";

/// Who attests, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attester {
    /// URI of the build platform; [`default_builder`] where the operator gave it no name.
    pub builder_id: String,
    /// Version of the program that attests.
    pub version: String,
    /// Now.
    pub now: Timestamp,
}

/// The builder of an operator who named none: it says which kind of isolation made the cell, and
/// not whose host it was.
#[must_use]
pub fn default_builder(backend: &str) -> String {
    format!("{PAGE}#builder-{backend}")
}
