//! From a payload to an envelope.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    CloudEventV1, Destroyed, EventKind, JSON_CONTENT_TYPE, SPEC_VERSION, SUPERVISOR_SOURCE, Started,
};
use crate::{CellosError, ExecutionCellSpec, document::Correlation};

/// Id and time of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Unique id, UUID version 4.
    pub id: String,
    /// When it happened, RFC 3339 in UTC.
    pub time: String,
}

/// The run that events are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The cell.
    pub cell_id: String,
    /// `spec.id` of its document.
    pub spec_id: String,
    /// The run; together with the cell it is unique.
    pub run_id: Option<String>,
    /// `spec.correlation` of its document.
    pub correlation: Option<Correlation>,
    /// `sha256:` and the hash of the document's bytes; ours.
    pub document_digest: Option<String>,
}

impl Subject {
    /// The subject of a run of this document. A cell has the id of its document.
    #[must_use]
    pub fn of(spec: &ExecutionCellSpec, run_id: impl Into<String>) -> Self {
        Self {
            cell_id: spec.id.clone(),
            spec_id: spec.id.clone(),
            run_id: Some(run_id.into()),
            correlation: spec.correlation.clone(),
            document_digest: None,
        }
    }

    /// The same with the hash of the document's bytes, given in bare hexadecimal.
    #[must_use]
    pub fn with_document(mut self, sha256: &str) -> Self {
        self.document_digest = Some(format!("sha256:{sha256}"));
        self
    }

    /// `correlation.tenantId`.
    #[must_use]
    pub fn tenant_id(&self) -> Option<&str> {
        self.correlation.as_ref()?.tenant_id.as_deref()
    }
}

/// Which fields of the subject an event repeats, besides `documentDigest` and `correlation`, which
/// all do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `cellId`, `specId`, `runId`.
    Cell,
    /// `cellId`, `runId`.
    CellAndRun,
    /// `specId`, `runId`: there is no cell yet.
    SpecAndRun,
    /// `specId`: there is no cell and no run yet.
    Spec,
}

impl Scope {
    const fn has_cell(self) -> bool {
        matches!(self, Self::Cell | Self::CellAndRun)
    }

    const fn has_spec(self) -> bool {
        !matches!(self, Self::CellAndRun)
    }

    const fn has_run(self) -> bool {
        !matches!(self, Self::Spec)
    }
}

/// A payload.
pub trait EventData: Serialize {
    /// The event's type.
    const KIND: EventKind;
    /// Fields of the subject that the payload is completed with.
    const SCOPE: Scope = Scope::Cell;
}

/// How an event stands to others of its run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Session of the run, a ULID.
    pub session_id: String,
    /// Id of the `started` event, where there was one.
    pub started_event_id: Option<String>,
}

/// Builds an event of the supervisor.
///
/// # Errors
/// [`CellosError::EventSink`] when the payload is not a JSON object.
pub fn event<D: EventData>(
    stamp: Stamp,
    subject: &Subject,
    data: &D,
) -> Result<CloudEventV1, CellosError> {
    let mut fields = object(D::KIND, data)?;
    if D::SCOPE.has_cell() {
        fields.insert("cellId".into(), subject.cell_id.clone().into());
    }
    if D::SCOPE.has_spec() {
        fields.insert("specId".into(), subject.spec_id.clone().into());
    }
    if D::SCOPE.has_run()
        && let Some(run_id) = &subject.run_id
    {
        fields.insert("runId".into(), run_id.clone().into());
    }
    if let Some(digest) = &subject.document_digest {
        fields.insert("documentDigest".into(), digest.clone().into());
    }
    if let Some(correlation) = &subject.correlation {
        fields.insert(
            "correlation".into(),
            Value::Object(object(D::KIND, correlation)?),
        );
    }
    Ok(CloudEventV1 {
        specversion: SPEC_VERSION.into(),
        id: stamp.id,
        source: SUPERVISOR_SOURCE.into(),
        ty: D::KIND.as_str().into(),
        datacontenttype: Some(JSON_CONTENT_TYPE.into()),
        data: Some(Value::Object(fields)),
        time: Some(stamp.time),
        traceparent: None,
        cexauthorityclass: None,
        cextrustceiling: None,
        cexsessionid: None,
        cexparenttrace: None,
        cexreceipthash: None,
        cexdoctrinecite: None,
        cexrevocation: None,
    })
}

/// Builds the `started` event, with its `cex` attributes.
///
/// # Errors
/// As [`event`].
pub fn started(
    stamp: Stamp,
    subject: &Subject,
    session_id: &str,
    data: &Started,
) -> Result<CloudEventV1, CellosError> {
    let mut event = event(stamp, subject, data)?;
    event.cexauthorityclass = Some("mutate".into());
    event.cextrustceiling = Some("inferred".into());
    event.cexsessionid = Some(session_id.into());
    Ok(event)
}

/// Builds the `destroyed` event, with its `cex` attributes.
///
/// # Errors
/// As [`event`].
pub fn destroyed(
    stamp: Stamp,
    subject: &Subject,
    lineage: &Lineage,
    data: &Destroyed,
) -> Result<CloudEventV1, CellosError> {
    let mut event = event(stamp, subject, data)?;
    event.cexauthorityclass = Some("destroy".into());
    event.cextrustceiling = Some("inferred".into());
    event.cexsessionid = Some(lineage.session_id.clone());
    event.cexparenttrace.clone_from(&lineage.started_event_id);
    Ok(event)
}

fn object<T: Serialize>(kind: EventKind, value: &T) -> Result<Map<String, Value>, CellosError> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(CellosError::EventSink(format!(
            "data of {kind} is not an object"
        ))),
        Err(error) => Err(CellosError::EventSink(format!(
            "data of {kind} cannot be written as JSON: {error}"
        ))),
    }
}
