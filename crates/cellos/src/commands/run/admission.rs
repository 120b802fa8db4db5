//! What the log says about a document that was admitted or refused.

use cellos_core::{
    CellosError,
    event::{AdmissionAllowed, AdmissionFacts, AdmissionRejected, Stamp, Subject, event},
    ports::EventSink,
};

use crate::{compose, say};

/// Most problems of one document that its event lists.
const MAX_PROBLEMS: usize = 32;
/// Longest problem in its event, in characters: a document may hold texts of any length.
const MAX_PROBLEM_CHARACTERS: usize = 512;

/// What a document was judged by.
pub(super) struct Verdict<'a> {
    pub(super) backend: &'a str,
    pub(super) sha256: &'a str,
}

impl Verdict<'_> {
    /// It was admitted; written with the first event of its run.
    pub(super) fn admitted(&self) -> AdmissionAllowed {
        AdmissionAllowed(AdmissionFacts::by_backend(
            self.backend,
            Vec::new(),
            self.sha256,
        ))
    }

    /// It was refused. The refusal stands whether or not it can be put on record.
    pub(super) async fn record_refusal(
        &self,
        problems: Vec<String>,
        subject: &Subject,
        events: &dyn EventSink,
    ) {
        let problems = problems
            .iter()
            .take(MAX_PROBLEMS)
            .map(|problem| problem.chars().take(MAX_PROBLEM_CHARACTERS).collect())
            .collect();
        let facts = AdmissionFacts::by_backend(self.backend, problems, self.sha256);
        if let Err(error) = record(AdmissionRejected(facts), subject, events).await {
            say::warning(&format!("the refusal is not on record: {error}"));
        }
    }
}

async fn record(
    refusal: AdmissionRejected,
    subject: &Subject,
    events: &dyn EventSink,
) -> Result<(), CellosError> {
    let stamp = Stamp {
        id: compose::fresh_event_id(),
        time: jiff::Timestamp::now().to_string(),
    };
    events.emit(&event(stamp, subject, &refusal)?).await?;
    events.flush().await
}
