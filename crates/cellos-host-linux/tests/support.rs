//! Backends and documents for tests.

use std::{fs::File, io::Read, os::fd::OwnedFd, process::Command};

use cellos_core::{ExecutionCellDocument, ports::workload::Streams};
use cellos_host_linux::{Launcher, LauncherOptions, LinuxBackend};

pub fn backend() -> LinuxBackend {
    let options = LauncherOptions::default();
    let program = Command::new(env!("CARGO_BIN_EXE_cellos-launcher"));
    let launcher = Launcher::execute(program, &options).unwrap();
    LinuxBackend::new(launcher, &options).unwrap()
}

pub fn document(id: &str, argv: &[&str]) -> ExecutionCellDocument {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {
            "id": id,
            "run": { "argv": argv },
            "authority": {},
            "lifetime": { "ttlSeconds": 60 },
        },
    }))
    .unwrap()
}

/// Streams whose output can be read back.
pub fn streams() -> (Streams, Output) {
    let (read, write) = std::io::pipe().unwrap();
    let write: OwnedFd = write.into();
    let streams = Streams {
        stdin: File::open("/dev/null").unwrap().into(),
        stdout: write.try_clone().unwrap(),
        stderr: write,
    };
    (streams, Output(read))
}

pub struct Output(std::io::PipeReader);

impl Output {
    pub fn read(mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        text
    }
}
