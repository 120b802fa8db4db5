//! Checking logs of the published form: one event a line, plain or in a signed envelope.

use cellos_core::{
    CloudEventV1,
    signing::{
        EventSigningError, EventVerifyKeys, HmacVerifyKeys, RevokedKids,
        SIGNED_ENVELOPE_EVENT_TYPE, SignatureAlgorithm, SignedEventEnvelopeV1, parse_signed_event,
        parse_signed_event_line, verify_signed_event,
    },
    strict_json,
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    report::Unchecked,
    session::{RunTag, Session, read_facts},
};
use crate::{
    finding::{FindingKind, Place},
    keyset::Keyset,
    line::MAX_LINE_BYTES,
    log::{LineEnd, RawLine},
};

/// Checks the lines of such a log.
pub(super) struct Events {
    envelopes: Envelopes,
    unsigned: Unsigned,
}

/// Events in a row that are not signed.
#[derive(Default)]
pub(super) struct Unsigned(Option<(Place, u64)>);

/// Checks signed envelopes, wherever they stand.
pub(super) struct Envelopes {
    keys: Option<EventVerifyKeys>,
}

/// What a line holds, told from its text.
#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(borrow, default, rename = "type")]
    ty: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "signerKid")]
    signer_kid: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
}

impl Events {
    pub(super) fn new(keyset: Option<&Keyset>, hmac: Option<&HmacVerifyKeys>) -> Self {
        Self {
            envelopes: Envelopes::new(keyset, hmac),
            unsigned: Unsigned::default(),
        }
    }

    /// Takes one line in.
    pub(super) fn line(&mut self, session: &mut Session<'_>, raw: &RawLine<'_>) {
        if raw.bytes.is_empty() && raw.end == LineEnd::Ended {
            return;
        }
        let place = session.place(raw.number);
        if !self.readable(session, raw, &place) {
            return;
        }
        match open(raw.bytes) {
            Ok((event, signed)) => self.event(session, raw, event, signed),
            Err(error) => session.find(place, FindingKind::Unreadable, error),
        }
    }

    fn readable(&self, session: &mut Session<'_>, raw: &RawLine<'_>, place: &Place) -> bool {
        let (kind, detail) = match raw.end {
            LineEnd::Ended => match strict_json::value_from_slice(raw.bytes) {
                Ok(_) => return true,
                Err(error) => (json_fault(&error), error.to_string()),
            },
            LineEnd::Torn => (
                FindingKind::TornEnd,
                "the last line has no end: its writer died, or is writing it now".to_owned(),
            ),
            LineEnd::TooLong => (
                FindingKind::LineTooLong,
                format!("longer than {MAX_LINE_BYTES} bytes"),
            ),
        };
        session.find(place.clone(), kind, detail);
        session.missing_before(place.clone());
        false
    }

    fn event(
        &mut self,
        session: &mut Session<'_>,
        raw: &RawLine<'_>,
        event: &str,
        signed: Option<Result<SignedEventEnvelopeV1, EventSigningError>>,
    ) {
        let place = session.place(raw.number);
        if let Err(error) = serde_json::from_str::<CloudEventV1>(event) {
            return session.find(place, FindingKind::Unreadable, format!("no event: {error}"));
        }
        let facts = match read_facts(event) {
            Ok(facts) => facts,
            Err(error) => {
                return session.find(place, FindingKind::Unreadable, format!("no event: {error}"));
            }
        };
        let tag = session.tag(&facts);
        match signed {
            Some(envelope) => {
                self.unsigned.report(session, &self.envelopes);
                self.envelopes.check(session, &place, tag, envelope);
            }
            None => self.unsigned.add(session, &self.envelopes, place, tag),
        }
        session.event(&facts, raw.number);
        session.settle();
    }

    /// The end of the log.
    pub(super) fn finish(mut self, session: &mut Session<'_>) {
        self.unsigned.report(session, &self.envelopes);
        session.summary.not_checked(Unchecked::Order);
        session.summary.not_checked(Unchecked::End);
        if let Some(head) = &session.checks.head {
            let detail = format!(
                "the published head states line {} of a chained log, and these lines are not chained",
                head.seq
            );
            let place = session.place(0);
            session.find(place, FindingKind::TailReplaced, detail);
        }
    }
}

impl Unsigned {
    /// One more that is not signed.
    pub(super) fn add(
        &mut self,
        session: &mut Session<'_>,
        envelopes: &Envelopes,
        place: Place,
        tag: RunTag,
    ) {
        session.summary.unsigned_lines += 1;
        self.0.get_or_insert((place, 0)).1 += 1;
        if envelopes.are_demanded(session) {
            session.break_run(tag);
        }
    }

    /// One finding for all of them, where a signed one follows or nothing does.
    pub(super) fn report(&mut self, session: &mut Session<'_>, envelopes: &Envelopes) {
        let Some((first, count)) = self.0.take() else {
            return;
        };
        if envelopes.are_demanded(session) {
            let detail = match count {
                1 => "this event is not signed".to_owned(),
                count => format!("{count} events from here on are not signed"),
            };
            session.find(first, FindingKind::Unsigned, detail);
        } else {
            session.summary.not_checked(Unchecked::NotSigned);
        }
    }
}

impl Envelopes {
    pub(super) fn new(keyset: Option<&Keyset>, hmac: Option<&HmacVerifyKeys>) -> Self {
        let keys = (keyset.is_some() || hmac.is_some()).then(|| EventVerifyKeys {
            ed25519: keyset
                .into_iter()
                .flat_map(Keyset::iter)
                .map(|(kid, key)| (kid.to_owned(), key.public))
                .collect(),
            hmac: hmac.cloned().unwrap_or_default(),
        });
        Self { keys }
    }

    /// Whether every event has to be in one: where there are keys, and where a policy says so.
    fn are_demanded(&self, session: &Session<'_>) -> bool {
        self.keys.is_some() || session.checks.requires_signatures()
    }

    /// Checks one envelope and whether its key counts.
    pub(super) fn check(
        &self,
        session: &mut Session<'_>,
        place: &Place,
        tag: RunTag,
        envelope: Result<SignedEventEnvelopeV1, EventSigningError>,
    ) {
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => {
                session.break_run(tag);
                return session.find(place.clone(), kind_of(&error), error.to_string());
            }
        };
        let kid = &envelope.signer_kid;
        if let Some(policy) = session.checks.policy
            && !policy.may_sign(kid)
        {
            let detail = format!("key {kid:?} may not sign this log");
            session.find(place.clone(), FindingKind::Policy, detail);
            session.break_run(tag);
        }
        let Some(keys) = &self.keys else {
            return session.signatures_unchecked(place.clone());
        };
        let verified = verify_signed_event(&envelope, keys, &RevokedKids::default())
            .map(drop)
            .or_else(|error| match is_of_old_form(&envelope, keys) {
                true => Ok(()),
                false => Err(error),
            });
        let fault = match verified {
            Err(error) => Some((kind_of(&error), error.to_string())),
            Ok(()) => key_fault(session.checks.keys, &envelope),
        };
        match fault {
            Some((kind, detail)) => {
                session.break_run(tag);
                session.find(place.clone(), kind, detail);
            }
            None => *session.summary.keys.entry(kid.clone()).or_default() += 1,
        }
    }
}

/// Whether the signature is over the event in the order of its fields, as versions up to 0.7.3 of
/// the published implementation signed.
fn is_of_old_form(envelope: &SignedEventEnvelopeV1, keys: &EventVerifyKeys) -> bool {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    if envelope.algorithm != SignatureAlgorithm::Ed25519 {
        return false;
    }
    let signature = URL_SAFE_NO_PAD
        .decode(envelope.signature.trim_end_matches('='))
        .ok()
        .and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
    let (Some(signature), Ok(message), Some(key)) = (
        signature,
        serde_json::to_vec(&envelope.event),
        keys.ed25519.get(&envelope.signer_kid),
    ) else {
        return false;
    };
    key.verifies(&message, &signature)
}

fn key_fault(
    keyset: Option<&Keyset>,
    envelope: &SignedEventEnvelopeV1,
) -> Option<(FindingKind, String)> {
    if envelope.algorithm != SignatureAlgorithm::Ed25519 {
        return None;
    }
    let kid = &envelope.signer_kid;
    let time = envelope.event.time.as_deref();
    let time = time.and_then(|time| time.parse::<Timestamp>().ok());
    keyset?.get(kid)?.judge_dated(kid, time).err()
}

/// The text of the event in a line, and the envelope around it where there is one.
type Opened<'a> = (
    &'a str,
    Option<Result<SignedEventEnvelopeV1, EventSigningError>>,
);

/// Takes a line apart whose JSON has been checked.
pub(super) fn open(line: &[u8]) -> Result<Opened<'_>, String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let shape: Shape<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let is_wrapper = shape.ty.is_some_and(|ty| {
        serde_json::from_str::<String>(ty.get()).is_ok_and(|ty| ty == SIGNED_ENVELOPE_EVENT_TYPE)
    });
    if let (true, Some(data)) = (is_wrapper, shape.data) {
        let inner: Inner<'_> = serde_json::from_str(data.get())
            .map_err(|error| format!("no signed event in its wrapper: {error}"))?;
        return Ok((inner.event.get(), Some(parse_signed_event_line(line))));
    }
    if let (Some(event), Some(_)) = (shape.event, shape.signer_kid) {
        return Ok((event.get(), Some(parse_signed_event(line))));
    }
    Ok((text, None))
}

/// What kind of finding text is that was refused as JSON.
pub(super) fn json_fault(error: &serde_json::Error) -> FindingKind {
    if error.to_string().starts_with("duplicate key") {
        FindingKind::Ambiguous
    } else {
        FindingKind::Unreadable
    }
}

fn kind_of(error: &EventSigningError) -> FindingKind {
    match error {
        EventSigningError::Revoked { .. } => FindingKind::RevokedKey,
        EventSigningError::UnknownKid { .. } => FindingKind::UnknownKey,
        EventSigningError::SignatureEncoding { .. }
        | EventSigningError::SignatureLength { .. }
        | EventSigningError::SignatureInvalid { .. } => FindingKind::SignatureInvalid,
        EventSigningError::WrapperMismatch { .. } | EventSigningError::UnknownAttribute { .. } => {
            FindingKind::Ambiguous
        }
        _ => FindingKind::Unreadable,
    }
}
