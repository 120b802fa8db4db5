//! The logs that unfinished runs are in: plain files of the drop-in, and chained logs.

use std::path::Path;

use cellos_core::{CellosError, CloudEventV1};
use cellos_evidence::{
    line,
    log::{AtEnd, Durability, EventLog, LineEnd, LogConfig, LogReader},
};
use cellos_supervisor::state::{LogFormat, PlainLogs, RunLog, RunLogs, RunRecord};

use crate::keys::{self, Signing};

/// Logs of either format.
pub(crate) struct EveryLog {
    /// Who signs what is appended to a chained log.
    pub(crate) signing: Option<Signing>,
}

impl RunLogs for EveryLog {
    fn open(&self, record: &RunRecord) -> Result<Option<Box<dyn RunLog>>, CellosError> {
        match (&record.events_file, record.events_format) {
            (Some(path), LogFormat::Chained { from_seq }) => {
                let log =
                    ChainedLog::open(path, from_seq, &record.session_id, self.signing.clone())?;
                Ok(Some(Box::new(log)))
            }
            (_, LogFormat::Plain) | (None, _) => PlainLogs.open(record),
        }
    }
}

/// A chained log that is continued.
struct ChainedLog {
    log: EventLog,
    path: std::path::PathBuf,
    from_seq: u64,
    /// Stands in every event of the run.
    session: String,
}

impl ChainedLog {
    fn open(
        path: &Path,
        from_seq: u64,
        session: &str,
        signing: Option<Signing>,
    ) -> Result<Self, CellosError> {
        let config = LogConfig {
            durability: Durability::Machine,
            ..keys::signed(path, signing)
        };
        Ok(Self {
            log: EventLog::open(config)?,
            path: path.to_owned(),
            from_seq,
            session: session.to_owned(),
        })
    }
}

impl RunLog for ChainedLog {
    fn visit(&self, each: &mut dyn FnMut(&CloudEventV1)) -> Result<(), CellosError> {
        let unreadable =
            |error: cellos_evidence::log::ReadError| CellosError::EventSink(error.to_string());
        let mut reader =
            LogReader::from_seq(&self.path, self.from_seq, AtEnd::Stop).map_err(unreadable)?;
        while let Some(line) = reader.next_line().map_err(unreadable)? {
            // Whatever is no line of a log is none of this run's; to find it is the verifier's task.
            if line.raw.end != LineEnd::Ended {
                continue;
            }
            // Looking for it costs a tenth of taking the line apart, and most lines are of others.
            if !str::from_utf8(line.raw.bytes).is_ok_and(|text| text.contains(&self.session)) {
                continue;
            }
            let Ok(parsed) = line::parse(line.raw.bytes) else {
                continue;
            };
            if let Ok(event) = serde_json::from_str(parsed.event.get()) {
                each(&event);
            }
        }
        Ok(())
    }

    fn append(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        self.log.append(std::slice::from_ref(event))?;
        Ok(self.log.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(id: &str) -> CloudEventV1 {
        serde_json::from_value(json!({
            "specversion": "1.0", "id": id, "source": "t", "type": "t", "data": {},
            "cexsessionid": match id { "other" => "01K1", _ => "01K0" },
        }))
        .unwrap()
    }

    #[test]
    fn a_chained_log_is_read_from_where_the_run_began_and_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let log = EventLog::open(LogConfig::new(&path)).unwrap();
        log.append(&[event("before")]).unwrap();
        log.append(&[event("a"), event("other"), event("b")])
            .unwrap();
        let unfinished = ChainedLog::open(&path, 1, "01K0", None).unwrap();
        unfinished.append(&event("end")).unwrap();
        let mut seen = Vec::new();
        unfinished
            .visit(&mut |event| seen.push(event.id.clone()))
            .unwrap();
        assert_eq!(seen, ["a", "b", "end"]);
        // The chain goes on.
        assert_eq!(log.append(&[event("next")]).unwrap().first_seq, 5);
    }
}
