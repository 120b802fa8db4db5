//! The error type that every port speaks.

/// What can go wrong behind a port.
///
/// The variants and their texts are part of the published contract: consumers match on them, so a
/// new kind of failure gets its place inside one of these messages and not a variant of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CellosError {
    /// The document breaks an admission rule; the text names the field by its path.
    #[error("invalid cell specification: {0}")]
    InvalidSpec(String),
    /// `run.argv` is larger than every backend can carry.
    #[error(
        "argv is too large: {encoded_bytes} bytes encoded, the limit is {limit_bytes} \
         (one backend carries argv on the kernel cmdline)"
    )]
    ArgvTooLarge {
        /// Size of the base64 form of the compact JSON array, in bytes.
        encoded_bytes: usize,
        /// The limit it was compared with, in bytes.
        limit_bytes: usize,
    },
    /// A backend could not create, run or take apart a cell.
    #[error("host backend: {0}")]
    Host(String),
    /// An event could not be written or delivered.
    #[error("event sink: {0}")]
    EventSink(String),
    /// A secret could not be resolved, leased or revoked.
    #[error("secret broker: {0}")]
    SecretBroker(String),
    /// An artifact could not be exported.
    #[error("export sink: {0}")]
    ExportSink(String),
    /// The lifecycle itself was violated, for example a phase out of order.
    #[error("lifecycle: {0}")]
    Lifecycle(String),
    /// An inference request failed.
    #[error("inference broker: {0}")]
    InferenceBroker(String),
}
