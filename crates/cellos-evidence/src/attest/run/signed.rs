//! Whether keys that count signed the lines of a run.

use jiff::Timestamp;

use super::MAX_FINDINGS;
use crate::{
    facts::Facts,
    finding::{Finding, FindingKind, Place, RunKey},
    keyset::Keyset,
    line::{LineSignature, MAX_LINES_PER_SIGNATURE, ParsedLine, signed_bytes},
};

/// Looks at the signatures of all lines, and judges those that speak for lines of the run.
///
/// A signature speaks for the lines before it too, so the one for the last line of a run may stand
/// after it.
pub(super) struct Signed<'k> {
    keys: Option<&'k Keyset>,
    /// Lines that no signature speaks for yet, each referring to the one before.
    waiting: Vec<Waiting>,
    /// Whether a line of the run was met.
    begun: bool,
    found: Vec<(Place, FindingKind, String)>,
}

struct Waiting {
    place: Place,
    /// Whether it is of the run; the others are none of its business.
    about_run: bool,
    time: Option<Timestamp>,
}

impl<'k> Signed<'k> {
    pub(super) const fn new(keys: Option<&'k Keyset>) -> Self {
        Self {
            keys,
            waiting: Vec::new(),
            begun: false,
            found: Vec::new(),
        }
    }

    /// The next line does not follow the one before: no signature can speak for both.
    pub(super) fn interrupted(&mut self) {
        for line in std::mem::take(&mut self.waiting) {
            self.unsigned(line);
        }
    }

    /// Takes a line in.
    pub(super) fn line(&mut self, place: &Place, parsed: &ParsedLine<'_>, about_run: bool) {
        self.begun |= about_run;
        let Some(keys) = self.keys else {
            if let (true, Some(signature)) = (self.begun, &parsed.signature) {
                self.unchecked(place, signature);
            }
            return;
        };
        if self.waiting.len() == MAX_LINES_PER_SIGNATURE as usize {
            let first = self.waiting.remove(0);
            self.unsigned(first);
        }
        self.waiting.push(Waiting {
            place: place.clone(),
            about_run,
            time: match about_run {
                true => time_of(parsed),
                false => None,
            },
        });
        if let Some(signature) = &parsed.signature {
            self.signature(keys, place, parsed, signature);
        }
    }

    fn unchecked(&mut self, place: &Place, signature: &LineSignature<'_>) {
        if self.found.is_empty() {
            let detail = format!(
                "key {:?} signed this line, and there are no keys to check it with",
                signature.kid
            );
            self.find(place, FindingKind::SignaturesUnchecked, detail);
        }
    }

    fn signature(
        &mut self,
        keys: &Keyset,
        place: &Place,
        parsed: &ParsedLine<'_>,
        signature: &LineSignature<'_>,
    ) {
        let signs = usize::try_from(signature.signs).unwrap_or(usize::MAX);
        let covered = self
            .waiting
            .split_off(self.waiting.len().saturating_sub(signs));
        self.interrupted();
        if !covered.iter().any(|line| line.about_run) {
            return;
        }
        if signs > covered.len() {
            let detail = format!(
                "the signature speaks for {signs} lines, and only {} wait for one",
                covered.len()
            );
            self.find(place, FindingKind::SignatureInvalid, detail);
        }
        let kid = signature.kid;
        let Some(key) = keys.get(kid) else {
            let detail = format!("key {kid:?} is not in the keyset");
            return self.find(place, FindingKind::UnknownKey, detail);
        };
        if !key
            .public
            .verifies(&signed_bytes(parsed.entry), &signature.bytes)
        {
            let detail = format!("not a signature of key {kid:?} over this line");
            self.find(place, FindingKind::SignatureInvalid, detail);
        }
        let mut of_run = covered.iter().filter(|line| line.about_run);
        let fault = of_run.find_map(|line| {
            let (kind, detail) = key.judge_dated(kid, line.time).err()?;
            Some((&line.place, kind, detail))
        });
        if let Some((place, kind, detail)) = fault {
            self.find(place, kind, detail);
        }
    }

    fn unsigned(&mut self, line: Waiting) {
        if line.about_run {
            let detail = "no signature speaks for this line".to_owned();
            self.find(&line.place, FindingKind::Unsigned, detail);
        }
    }

    fn find(&mut self, place: &Place, kind: FindingKind, detail: String) {
        if self.found.len() < MAX_FINDINGS {
            self.found.push((place.clone(), kind, detail));
        }
    }

    /// All that is wrong with the signatures of the run's lines.
    pub(super) fn finish(mut self, run: &RunKey) -> impl Iterator<Item = Finding> {
        self.interrupted();
        self.found.into_iter().map(|(place, kind, detail)| Finding {
            place,
            run: Some(run.clone()),
            kind,
            detail,
        })
    }
}

fn time_of(parsed: &ParsedLine<'_>) -> Option<Timestamp> {
    let facts = serde_json::from_str::<Facts<'_>>(parsed.event.get()).ok()?;
    facts.time.as_deref()?.parse().ok()
}
