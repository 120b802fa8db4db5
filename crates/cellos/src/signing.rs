//! Signs events on their way to a sink.

use std::{borrow::Cow, fmt};

use cellos_core::{
    CellosError, CloudEventV1,
    signing::{
        EventSigningError, HmacKey, SoftwareSigner, sign_event_ed25519, sign_event_hmac,
        wrap_signed_event,
    },
};
use cellos_sinks::EventTransform;

/// What events are signed with.
pub(crate) enum EventSigning {
    /// RFC 8032.
    Ed25519(SoftwareSigner),
    /// RFC 2104 with SHA-256.
    Hmac {
        /// Id that verifiers know the key by.
        kid: String,
        /// The key.
        key: HmacKey,
    },
}

impl fmt::Debug for EventSigning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519(_) => "EventSigning::Ed25519",
            Self::Hmac { .. } => "EventSigning::Hmac",
        })
    }
}

impl EventSigning {
    fn sign(&self, event: &CloudEventV1) -> Result<CloudEventV1, EventSigningError> {
        let envelope = match self {
            Self::Ed25519(signer) => sign_event_ed25519(event.clone(), signer)?,
            Self::Hmac { kid, key } => sign_event_hmac(event.clone(), kid, key)?,
        };
        wrap_signed_event(&envelope)
    }
}

impl EventTransform for EventSigning {
    fn transform<'e>(&self, event: &'e CloudEventV1) -> Result<Cow<'e, CloudEventV1>, CellosError> {
        self.sign(event)
            .map(Cow::Owned)
            .map_err(|error| CellosError::EventSink(error.to_string()))
    }
}
