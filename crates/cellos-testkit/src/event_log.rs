//! Reads an event log the way a consumer would.
#![allow(
    clippy::panic,
    reason = "these are assertions: a panic is how they fail the calling test"
)]

use std::{fs, path::Path};

use cellos_core::CloudEventV1;
use serde_json::Value;

/// What every type string of an event starts with.
pub const TYPE_PREFIX: &str = "dev.cellos.events.";

/// The events of one JSON Lines file, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct EventLog {
    events: Vec<CloudEventV1>,
}

impl EventLog {
    /// Reads a file, and fails the test on a line that is not one whole event.
    #[track_caller]
    #[must_use]
    pub fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text),
            Err(error) => panic!("event log {}: {error}", path.display()),
        }
    }

    /// The same for text.
    #[track_caller]
    #[must_use]
    pub fn parse(text: &str) -> Self {
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "the last line of the event log is not ended: {:?}",
            text.lines().last()
        );
        let events = text
            .lines()
            .enumerate()
            .map(|(index, line)| match event_of(line) {
                Ok(event) => event,
                Err(error) => panic!("event log, line {}: {error}: {line}", index + 1),
            })
            .collect();
        Self { events }
    }

    /// The events of one run.
    #[must_use]
    pub fn of_run(&self, run_id: &str) -> Self {
        let is_of_run = |event: &&CloudEventV1| {
            let data = event.data.as_ref();
            data.and_then(|data| data.get("runId")) == Some(&run_id.into())
        };
        Self {
            events: self.events.iter().filter(is_of_run).cloned().collect(),
        }
    }

    /// All events.
    #[must_use]
    pub fn events(&self) -> &[CloudEventV1] {
        &self.events
    }

    /// The types in order, without [`TYPE_PREFIX`].
    #[must_use]
    pub fn types(&self) -> Vec<&str> {
        self.events.iter().map(|event| short(&event.ty)).collect()
    }

    /// Events whose type ends with whole parts of a name: `lifecycle.v1.started`.
    pub fn all<'a, 'b>(
        &'a self,
        name: &'b str,
    ) -> impl Iterator<Item = &'a CloudEventV1> + use<'a, 'b> {
        self.events.iter().filter(move |event| {
            event
                .ty
                .strip_suffix(name)
                .is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    }

    /// The only event of a type; fails the test if there is none or more than one.
    #[track_caller]
    #[must_use]
    pub fn one(&self, name: &str) -> &CloudEventV1 {
        let mut found = self.all(name);
        match (found.next(), found.next()) {
            (Some(event), None) => event,
            (None, _) => panic!("no event {name}; there are {:?}", self.types()),
            (Some(_), Some(_)) => panic!("{name} more than once in {:?}", self.types()),
        }
    }

    /// The `data` of the only event of a type.
    #[track_caller]
    #[must_use]
    pub fn data(&self, name: &str) -> &Value {
        match &self.one(name).data {
            Some(data) => data,
            None => panic!("event {name} has no data"),
        }
    }

    /// Fails the test if there is an event of a type.
    #[track_caller]
    pub fn none(&self, name: &str) {
        assert_eq!(
            self.all(name).count(),
            0,
            "unexpected {name} in {:?}",
            self.types()
        );
    }
}

/// The event of a line, which is the event itself or the entry of a chained log.
fn event_of(line: &str) -> Result<CloudEventV1, serde_json::Error> {
    let mut value: Value = serde_json::from_str(line)?;
    match value.pointer_mut("/entry/event") {
        Some(event) => serde_json::from_value(event.take()),
        None => serde_json::from_value(value),
    }
}

fn short(ty: &str) -> &str {
    ty.strip_prefix(TYPE_PREFIX).unwrap_or(ty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ty: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"t","type":"{TYPE_PREFIX}{ty}","data":{{"n":1}}}}"#
        ) + "\n"
    }

    #[test]
    fn finds_events_by_whole_parts_of_their_type() {
        let log = EventLog::parse(&(line("cell.lifecycle.v1.started") + &line("cell.x.restarted")));
        assert_eq!(
            log.types(),
            ["cell.lifecycle.v1.started", "cell.x.restarted"]
        );
        assert_eq!(log.one("lifecycle.v1.started").id, "1");
        assert_eq!(log.data("started")["n"], 1);
        log.none("v1.destroyed");
    }

    #[test]
    #[should_panic(expected = "no event destroyed")]
    fn a_missing_event_fails() {
        let _ = EventLog::parse(&line("started")).one("destroyed");
    }

    #[test]
    #[should_panic(expected = "more than once")]
    fn a_repeated_event_fails() {
        let _ = EventLog::parse(&line("started").repeat(2)).one("started");
    }

    #[test]
    #[should_panic(expected = "not ended")]
    fn a_torn_line_fails() {
        let _ = EventLog::parse(line("started").trim_end());
    }
}
