//! What readers look at in an event, without making values of the rest.

use std::borrow::Cow;

use serde::Deserialize;

/// The attributes of an event and those fields of its data that some reader looks at; everything
/// borrows from the event's bytes where it can.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Facts<'a> {
    /// Id of the event.
    #[serde(borrow, default)]
    pub id: Cow<'a, str>,
    /// Full type.
    #[serde(borrow, default, rename = "type")]
    pub ty: Cow<'a, str>,
    /// When it happened, RFC 3339.
    #[serde(borrow, default)]
    pub time: Option<Cow<'a, str>>,
    /// Session of the run.
    #[serde(borrow, default)]
    pub cexsessionid: Option<Cow<'a, str>>,
    /// The payload.
    #[serde(borrow, default)]
    pub data: Option<DataFacts<'a>>,
}

/// Fields of the payloads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataFacts<'a> {
    /// The cell.
    #[serde(borrow, default)]
    pub cell_id: Option<Cow<'a, str>>,
    /// The run.
    #[serde(borrow, default)]
    pub run_id: Option<Cow<'a, str>>,
    /// `spec.id` of the document.
    #[serde(borrow, default)]
    pub spec_id: Option<Cow<'a, str>>,
}
