//! The standard output sink against the contract, over an output that fails as files and pipes do.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use cellos_core::CloudEventV1;
use cellos_sinks::remote::{RemoteSink, stdout::StdoutSink};

use crate::remote_contract::{Harness, remote_sink_contract};

remote_sink_contract!(Output);

struct Output {
    shared: Arc<Mutex<Shared>>,
    sink: StdoutSink<Writer>,
}

#[derive(Debug, Default)]
struct Shared {
    written: Vec<u8>,
    failure: Option<io::ErrorKind>,
    /// How many more lines are taken.
    room: Option<usize>,
}

#[derive(Debug)]
struct Writer(Arc<Mutex<Shared>>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut shared = self.0.lock().unwrap();
        if let Some(kind) = shared.failure {
            return Err(kind.into());
        }
        match &mut shared.room {
            Some(0) => return Err(io::ErrorKind::StorageFull.into()),
            Some(lines) => *lines -= 1,
            None => {}
        }
        shared.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Harness for Output {
    async fn start() -> Self {
        let shared = Arc::<Mutex<Shared>>::default();
        Self {
            sink: StdoutSink::new(Writer(Arc::clone(&shared))),
            shared,
        }
    }

    fn sink(&self) -> &dyn RemoteSink {
        &self.sink
    }

    fn debug(&self) -> String {
        format!("{:?}", self.sink)
    }

    fn credential(&self) -> Option<&str> {
        None
    }

    async fn received(&mut self) -> Vec<String> {
        let written = String::from_utf8(self.shared.lock().unwrap().written.clone()).unwrap();
        written
            .lines()
            .map(|line| serde_json::from_str::<CloudEventV1>(line).unwrap().id)
            .collect()
    }

    async fn go_away(&mut self) {
        self.shared.lock().unwrap().failure = Some(io::ErrorKind::StorageFull);
    }

    async fn come_back(&mut self) {
        self.shared.lock().unwrap().failure = None;
    }

    async fn refuse(&mut self) {
        self.shared.lock().unwrap().failure = Some(io::ErrorKind::BrokenPipe);
    }

    async fn fail_after(&mut self, accepted: usize) -> bool {
        self.shared.lock().unwrap().room = Some(accepted);
        true
    }
}
