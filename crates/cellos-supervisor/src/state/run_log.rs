//! The logs that unfinished runs are in, as the reaper sees them.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use cellos_core::{CellosError, CloudEventV1};
use rustix::fs::OFlags;

use super::record::{LogFormat, RunRecord};

/// Longest line of a plain events file that is looked at, in bytes; as sinks bound it.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Finds the logs of runs.
pub trait RunLogs {
    /// Opens the log that a run's events are in; `None` for a run that has none.
    ///
    /// # Errors
    /// [`CellosError::EventSink`] when it cannot be opened for appending.
    fn open(&self, record: &RunRecord) -> Result<Option<Box<dyn RunLog>>, CellosError>;
}

/// The log that a run's events are in.
pub trait RunLog {
    /// Shows the events that can be the run's, in their order, and possibly others.
    ///
    /// # Errors
    /// [`CellosError::EventSink`] when it cannot be read.
    fn visit(&self, each: &mut dyn FnMut(&CloudEventV1)) -> Result<(), CellosError>;

    /// Appends an event, and returns when it is durable.
    ///
    /// # Errors
    /// [`CellosError::EventSink`] when that cannot be had.
    fn append(&self, event: &CloudEventV1) -> Result<(), CellosError>;
}

/// Files with one event in a line.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainLogs;

impl RunLogs for PlainLogs {
    fn open(&self, record: &RunRecord) -> Result<Option<Box<dyn RunLog>>, CellosError> {
        let Some(path) = &record.events_file else {
            return Ok(None);
        };
        match record.events_format {
            LogFormat::Plain => Ok(Some(Box::new(PlainLog::open(path)?))),
            LogFormat::Chained { .. } => Err(CellosError::EventSink(format!(
                "events file {}: it is a chained log, which is not understood here",
                path.display()
            ))),
        }
    }
}

/// A file with one event in a line.
struct PlainLog {
    path: PathBuf,
    file: File,
}

impl PlainLog {
    fn open(path: &Path) -> Result<Self, CellosError> {
        let opened = || {
            let file = File::options()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(
                    i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits())
                        .map_err(io::Error::other)?,
                )
                .open(path)?;
            match file.metadata()?.is_file() {
                true => Ok(file),
                false => Err(io::Error::other("not a regular file")),
            }
        };
        match opened() {
            Ok(file) => Ok(Self {
                path: path.to_owned(),
                file,
            }),
            Err(error) => Err(failed(path, &error)),
        }
    }

    fn ends_with_newline(&self) -> io::Result<bool> {
        let mut file = &self.file;
        if file.seek(SeekFrom::End(0))? == 0 {
            return Ok(true);
        }
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last == *b"\n")
    }

    fn read(&self, each: &mut dyn FnMut(&CloudEventV1)) -> io::Result<()> {
        let mut reader = BufReader::new(&self.file);
        reader.seek(SeekFrom::Start(0))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            let part = reader.by_ref().take(MAX_LINE_BYTES);
            if { part }.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            // A torn line is no event.
            if let Ok(event) = serde_json::from_slice(&line) {
                each(&event);
            }
        }
    }

    fn write(&self, event: &CloudEventV1) -> io::Result<()> {
        let mut line = Vec::new();
        if !self.ends_with_newline()? {
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, event)?;
        line.push(b'\n');
        // One write, so that the line is whole or missing, not interleaved.
        (&self.file).write_all(&line)?;
        self.file.sync_all()
    }
}

impl RunLog for PlainLog {
    fn visit(&self, each: &mut dyn FnMut(&CloudEventV1)) -> Result<(), CellosError> {
        self.read(each).map_err(|error| failed(&self.path, &error))
    }

    fn append(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        self.write(event)
            .map_err(|error| failed(&self.path, &error))
    }
}

fn failed(path: &Path, error: &io::Error) -> CellosError {
    CellosError::EventSink(format!("events file {}: {error}", path.display()))
}
