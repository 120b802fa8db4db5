//! What a standard output sink is told.

use std::sync::Arc;

use serde::Deserialize;

use super::StdoutSink;
use crate::remote::{Reach, RemoteSink, SinkConfig, SinkOpenError, Surroundings};

/// Nothing: there is one standard output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {}

impl SinkConfig for StdoutConfig {
    fn open(&self, _surroundings: &Surroundings<'_>) -> Result<Arc<dyn RemoteSink>, SinkOpenError> {
        Ok(Arc::new(StdoutSink::new(std::io::stdout())))
    }

    fn reach(&self) -> Reach {
        Reach::OwnOutput
    }
}
