//! Backends, documents and finished runs for tests.

use std::{
    fs::File,
    io::{PipeReader, Read},
    os::fd::OwnedFd,
    process::Command,
};

use cellos_core::{
    ExecutionCellDocument,
    ports::{
        CellBackend,
        workload::{ExitReport, Posture, Residue, Streams, WorkloadControl},
    },
};
use cellos_host_linux::LinuxBackend;
use cellos_isolation::{Launcher, LauncherOptions};

pub(crate) fn backend_with(options: &LauncherOptions) -> LinuxBackend {
    let program = Command::new(launcher_program());
    let launcher = Launcher::execute(program, options).unwrap();
    LinuxBackend::new(launcher, options).unwrap()
}

pub(crate) fn backend() -> LinuxBackend {
    backend_with(&LauncherOptions::default())
}

/// A backend whose launcher, and so every cell, can have no more descriptors than this.
pub(crate) fn backend_with_open_files(most: u32) -> LinuxBackend {
    let options = LauncherOptions::default();
    let mut program = Command::new("sh");
    program.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")]);
    program.arg(launcher_program());
    let launcher = Launcher::execute(program, &options).unwrap();
    LinuxBackend::new(launcher, &options).unwrap()
}

/// Read at run time: the tests may have been moved since they were built.
fn launcher_program() -> String {
    std::env::var("NEXTEST_BIN_EXE_cellos-launcher")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_cellos-launcher").to_owned())
}

/// A document with the given `run` and `authority`.
pub(crate) fn document(
    id: &str,
    run: &serde_json::Value,
    authority: &serde_json::Value,
) -> ExecutionCellDocument {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": { "id": id, "run": run, "authority": authority, "lifetime": { "ttlSeconds": 60 } },
    }))
    .unwrap()
}

pub(crate) fn shell(script: &str) -> serde_json::Value {
    serde_json::json!({ "argv": ["/bin/sh", "-c", script] })
}

/// A run from creation to teardown.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) output: String,
    pub(crate) posture: Posture,
    pub(crate) report: ExitReport,
    pub(crate) residue: Residue,
}

pub(crate) async fn run(backend: &LinuxBackend, document: &ExecutionCellDocument) -> Finished {
    let handle = backend.create(document).await.unwrap();
    let id = handle.cell_id.as_str();
    let posture = backend.posture(id).await.unwrap();
    let (streams, output) = streams();
    let reader = std::thread::spawn(move || read_all(output));
    backend.release(id, streams).await.unwrap();
    backend.wait_for_in_vm_exit(id).await.unwrap().unwrap();
    let report = backend.exit_report(id).await.unwrap();
    let output = reader.join().unwrap();
    let (_, residue) = backend.destroy_and_measure(&handle).await.unwrap();
    Finished {
        output,
        posture,
        report,
        residue,
    }
}

/// Runs a shell script in a cell without any authority.
pub(crate) async fn run_script(script: &str) -> Finished {
    let nothing = serde_json::json!({});
    run(&backend(), &document("script", &shell(script), &nothing)).await
}

pub(crate) fn streams() -> (Streams, PipeReader) {
    let (read, write) = std::io::pipe().unwrap();
    let write: OwnedFd = write.into();
    let streams = Streams {
        stdin: File::open("/dev/null").unwrap().into(),
        stdout: write.try_clone().unwrap(),
        stderr: write,
    };
    (streams, read)
}

pub(crate) fn read_all(mut output: PipeReader) -> String {
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
