//! A consumer that looks at errors.

use cellos_core::CellosError;

/// Matches on every variant without a fallback, so a new variant would break this consumer.
#[must_use]
pub fn stage(error: &CellosError) -> &'static str {
    match error {
        CellosError::InvalidSpec(_) => "admission",
        CellosError::ArgvTooLarge {
            encoded_bytes: _,
            limit_bytes: _,
        } => "argv",
        CellosError::Host(_) => "host",
        CellosError::EventSink(_) => "events",
        CellosError::SecretBroker(_) => "secrets",
        CellosError::ExportSink(_) => "export",
        CellosError::Lifecycle(_) => "lifecycle",
        CellosError::InferenceBroker(_) => "inference",
    }
}
