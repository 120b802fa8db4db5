//! Whether the lines of a run are signed: nothing is attested of a log that anybody could have
//! written.

use crate::{
    finding::FindingKind,
    keyset::Keyset,
    line::{LineSignature, MAX_LINES_PER_SIGNATURE, ParsedLine, signed_bytes},
};

/// Follows the lines of a log, and which signatures speak for those of the run.
pub(super) struct SignedLines<'k> {
    keys: &'k Keyset,
    /// The lines that wait for a signature: of those of the run, the times of their events.
    waiting: Vec<Waiting>,
}

enum Waiting {
    Other,
    OfRun { time: Option<jiff::Timestamp> },
}

/// What is wrong with a line of the run, or a signature that speaks for one.
pub(super) type Fault = (FindingKind, String);

impl<'k> SignedLines<'k> {
    pub(super) const fn new(keys: &'k Keyset) -> Self {
        Self {
            keys,
            waiting: Vec::new(),
        }
    }

    /// A line that does not follow the one before: no signature after it speaks for those before.
    pub(super) fn broken(&mut self) -> Option<Fault> {
        give_up(self.waiting.drain(..))
    }

    /// The next line; `time` is of an event of the run.
    pub(super) fn line(
        &mut self,
        parsed: &ParsedLine<'_>,
        of_run: Option<Option<jiff::Timestamp>>,
    ) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.waiting.len() >= MAX_LINES_PER_SIGNATURE as usize {
            faults.extend(self.broken());
        }
        self.waiting.push(match of_run {
            Some(time) => Waiting::OfRun { time },
            None => Waiting::Other,
        });
        if let Some(signature) = &parsed.signature {
            let signs = usize::try_from(signature.signs).unwrap_or(usize::MAX);
            let covered = self
                .waiting
                .split_off(self.waiting.len().saturating_sub(signs));
            faults.extend(self.broken());
            if covered.iter().any(|it| matches!(it, Waiting::OfRun { .. })) {
                faults.extend(self.check(signature, parsed.entry, &covered));
            }
        }
        faults
    }

    /// The end of the log.
    pub(super) fn finish(&mut self) -> Option<Fault> {
        self.broken()
    }

    fn check(
        &self,
        signature: &LineSignature<'_>,
        entry: &[u8],
        covered: &[Waiting],
    ) -> Option<Fault> {
        let kid = signature.kid;
        let Some(key) = self.keys.get(kid) else {
            let detail = format!("key {kid:?} is none of those that may have signed the log");
            return Some((FindingKind::UnknownKey, detail));
        };
        if !key.public.verifies(&signed_bytes(entry), &signature.bytes) {
            let detail = format!("not a signature of key {kid:?}");
            return Some((FindingKind::SignatureInvalid, detail));
        }
        let kind = match key.revoked {
            Some(_) => FindingKind::RevokedKey,
            None => FindingKind::KeyOutsideValidity,
        };
        covered.iter().find_map(|line| {
            let Waiting::OfRun { time } = line else {
                return None;
            };
            // Without a time only a key without an end counts.
            let fault = key.judge(time.unwrap_or(jiff::Timestamp::MAX)).err()?;
            Some((kind, format!("key {kid:?} does not count: {fault}")))
        })
    }
}

fn give_up(lines: impl Iterator<Item = Waiting>) -> Option<Fault> {
    let of_run = lines.filter(|line| matches!(line, Waiting::OfRun { .. }));
    match of_run.count() {
        0 => None,
        1 => Some("a line of the run is not signed".to_owned()),
        count => Some(format!("{count} lines of the run are not signed")),
    }
    .map(|detail| (FindingKind::Unsigned, detail))
}
