//! The backend over a driver of scripts: everything between the port and a monitor.

mod scripted;

use std::{
    fs::File,
    io::{PipeReader, PipeWriter, Read, Write},
    os::fd::AsRawFd,
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellDocument,
    document::{ExportArtifact, ExportChannels, RunLimits},
    ports::{
        CellBackend, CellHandle,
        workload::{
            ExitAuthentication, Loss, MachineOrigin, Notice, OutputBytes, PoolOutcome,
            ReleaseError, StopSignal, Streams, WorkloadControl, WorkloadEnd,
        },
    },
};
use cellos_testkit::minimal_document;

use self::scripted::{Guest, ScriptedDriver, kill};
use super::{MicrovmBackend, driver::MakeDriver};
use crate::{
    artifacts::{self, Artifacts},
    capacity::Capacity,
    config::{BootFiles, MicrovmConfig},
    session::Bounds,
    vmm::{Driver, Parking, VmmError},
};

/// Longest wait for what should come at once.
const SOON: Duration = Duration::from_secs(10);

struct Setup {
    folder: tempfile::TempDir,
    driver: Arc<ScriptedDriver>,
    backend: MicrovmBackend,
}

/// Hands out the driver under test.
struct Made(Arc<ScriptedDriver>);

#[async_trait]
impl MakeDriver for Made {
    async fn make(
        &self,
        _config: &MicrovmConfig,
        _artifacts: &Artifacts,
    ) -> Result<Arc<dyn Driver>, VmmError> {
        Ok(Arc::clone(&self.0) as Arc<dyn Driver>)
    }
}

fn setup(guest: Guest) -> Setup {
    setup_with(ScriptedDriver::new(guest), 0, 64 << 30)
}

fn setup_with(driver: Arc<ScriptedDriver>, pool_size: u16, memory: u64) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let mut config = artifacts::tests::bundle(folder.path());
    config.pool_size = pool_size;
    setup_on(folder, config, driver, memory)
}

fn setup_published(guest: Guest) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let mut config = artifacts::tests::bundle(folder.path());
    config.boot = BootFiles::Published {
        kernel: folder.path().join("vmlinux"),
        rootfs: folder.path().join("base"),
        manifest: Some(folder.path().join("manifest")),
    };
    setup_on(folder, config, ScriptedDriver::new(guest), 64 << 30)
}

fn setup_on(
    folder: tempfile::TempDir,
    config: MicrovmConfig,
    driver: Arc<ScriptedDriver>,
    memory: u64,
) -> Setup {
    let bounds = Bounds {
        hello: Duration::from_secs(2),
        ready: Duration::from_secs(2),
        silent_heartbeats: 2,
    };
    let backend = MicrovmBackend::with(
        config,
        Box::new(Made(Arc::clone(&driver))),
        Capacity::fixed(memory),
        bounds,
    )
    .unwrap();
    Setup {
        folder,
        driver,
        backend,
    }
}

impl Setup {
    async fn create(&self, id: &str, argv: &[&str]) -> Result<CellHandle, CellosError> {
        soon(self.backend.create(&minimal_document(id, argv.to_vec()))).await
    }

    /// Creates and releases a cell without streams.
    async fn start(&self, id: &str, argv: &[&str]) -> CellHandle {
        let handle = self.create(id, argv).await.unwrap();
        soon(self.backend.release(id, silent())).await.unwrap();
        handle
    }

    async fn end(&self, id: &str) -> Result<i32, CellosError> {
        soon(self.backend.wait_for_in_vm_exit(id)).await.unwrap()
    }

    fn places(&self) -> Vec<String> {
        places(self.folder.path())
    }

    async fn destroy(&self, handle: &CellHandle) {
        let (report, residue) = soon(self.backend.destroy_and_measure(handle))
            .await
            .unwrap();
        assert!(report.destroyed);
        assert!(residue.found.is_empty(), "{residue:?}");
        assert!(residue.looked_for.len() >= 4);
    }

    /// Waits until nothing is left, which a spawned undoing brings about.
    async fn settled(&self) {
        for _ in 0..200 {
            if self.places().is_empty() && self.backend.tracked_cell_count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("left: {:?}", self.places());
    }
}

fn places(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("run")).into_iter().flatten();
    entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.path().display().to_string())
        .collect()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap()
}

fn silent() -> Streams {
    let null = || File::options().read(true).write(true).open("/dev/null");
    Streams {
        stdin: null().unwrap().into(),
        stdout: null().unwrap().into(),
        stderr: null().unwrap().into(),
    }
}

fn pipes() -> (Streams, PipeWriter, PipeReader, PipeReader) {
    let (stdin, writer) = std::io::pipe().unwrap();
    let (out, stdout) = std::io::pipe().unwrap();
    let (err, stderr) = std::io::pipe().unwrap();
    let streams = Streams {
        stdin: stdin.into(),
        stdout: stdout.into(),
        stderr: stderr.into(),
    };
    (streams, writer, out, err)
}

async fn read_all(mut pipe: PipeReader) -> Vec<u8> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        pipe.read_to_end(&mut all).unwrap();
        all
    });
    soon(reading).await.unwrap()
}

fn pid_of(posture: &cellos_core::ports::workload::Posture) -> bool {
    crate::process::start_time(posture.pid).is_some()
}

#[tokio::test]
async fn a_cell_is_parked_runs_and_leaves_nothing() {
    let setup = setup(Guest::Works);
    let handle = setup.create("cell", &["exit", "3"]).await.unwrap();
    let places = setup.places();
    assert_eq!(places.len(), 1);
    let name = std::path::Path::new(&places[0]).file_name().unwrap();
    assert!(
        !name.to_str().unwrap().contains("cell"),
        "an id is in a path"
    );
    assert_eq!(handle.kernel_digest_sha256.as_ref().unwrap().len(), 64);
    let posture = setup.backend.posture("cell").await.unwrap();
    assert!(pid_of(&posture));
    let machine = posture.machine.unwrap();
    assert_eq!(machine.origin, MachineOrigin::Booted);
    assert_eq!(machine.guest_kernel, "6.0-scripted");
    let released = soon(setup.backend.release("cell", silent())).await.unwrap();
    assert_eq!(released.pid, posture.pid);
    assert_eq!(setup.end("cell").await, Ok(3));
    assert_eq!(setup.end("cell").await, Ok(3));
    let report = setup.backend.exit_report("cell").await.unwrap();
    assert_eq!(report.end, WorkloadEnd::Exited { code: 3 });
    setup.destroy(&handle).await;
    assert!(setup.places().is_empty());
    let again = setup.backend.destroy(&handle).await.unwrap();
    assert!(!again.destroyed);
    assert!(
        setup
            .end("cell")
            .await
            .unwrap_err()
            .to_string()
            .contains("cell")
    );
}

#[tokio::test]
async fn streams_pass_both_ways_to_their_ends() {
    let setup = setup(Guest::Works);
    let speaks = setup.create("speaks", &["speak"]).await.unwrap();
    let (streams, _stdin, out, err) = pipes();
    soon(setup.backend.release("speaks", streams))
        .await
        .unwrap();
    assert_eq!(read_all(out).await, b"out\n");
    assert_eq!(read_all(err).await, b"err\n");
    assert_eq!(setup.end("speaks").await, Ok(0));
    let spoken = OutputBytes {
        stdout: 4,
        stderr: 4,
    };
    assert_eq!(setup.backend.output_bytes("speaks"), Some(spoken));
    setup.destroy(&speaks).await;

    let copies = setup.create("copies", &["cat"]).await.unwrap();
    let (streams, mut stdin, out, _err) = pipes();
    soon(setup.backend.release("copies", streams))
        .await
        .unwrap();
    // More than the credit that the guest gives at first.
    let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let writing = tokio::task::spawn_blocking(move || stdin.write_all(&sent).unwrap());
    assert!(read_all(out).await == expected);
    writing.await.unwrap();
    assert_eq!(setup.end("copies").await, Ok(0));
    setup.destroy(&copies).await;
}

#[tokio::test]
async fn output_that_nobody_reads_holds_up_neither_stop_nor_end() {
    let setup = setup(Guest::Works);
    let handle = setup
        .create("flood", &["flood", "100000000"])
        .await
        .unwrap();
    let (streams, _stdin, out, _err) = pipes();
    soon(setup.backend.release("flood", streams)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    soon(setup.backend.stop("flood", StopSignal::Kill))
        .await
        .unwrap();
    assert_eq!(setup.end("flood").await, Ok(0));
    drop(out);
    setup.destroy(&handle).await;
}

#[tokio::test]
async fn a_guest_that_reads_late_gets_all_of_its_credit() {
    let setup = setup(Guest::Works);
    let handle = setup.create("late", &["drip", "40000"]).await.unwrap();
    let (streams, _stdin, stdout, _stderr) = pipes();
    let reader = tokio::spawn(read_all(stdout));
    soon(setup.backend.release("late", streams)).await.unwrap();
    assert_eq!(setup.end("late").await.unwrap(), 0);
    assert_eq!(soon(reader).await.unwrap().len(), 40_000);
    setup.destroy(&handle).await;
}

#[tokio::test]
async fn the_end_comes_after_all_output_was_written() {
    let setup = setup(Guest::Works);
    let handle = setup.create("late", &["flood", "200000"]).await.unwrap();
    let (streams, _stdin, mut out, _err) = pipes();
    soon(setup.backend.release("late", streams)).await.unwrap();
    let waiting = tokio::time::timeout(
        Duration::from_millis(300),
        setup.backend.wait_for_in_vm_exit("late"),
    );
    assert!(waiting.await.is_err(), "the end came before the output");
    let reading = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        out.read_to_end(&mut all).unwrap();
        all.len()
    });
    assert_eq!(setup.end("late").await, Ok(0));
    assert_eq!(reading.await.unwrap(), 200_000);
    setup.destroy(&handle).await;
}

#[tokio::test]
async fn every_loss_is_told_by_its_kind() {
    for (command, loss, text) in [
        ("crash", Loss::GuestCrashed, "the guest crashed"),
        ("silent", Loss::GuestSilent, "silent"),
        (
            "monitor-dies",
            Loss::MachineCrashed,
            "monitor ended (signal: 9",
        ),
        ("short", Loss::GuestCrashed, "within a frame"),
        ("nonsense", Loss::BridgeBroken, "protocol"),
        ("forge", Loss::ExitForged, "forged"),
    ] {
        let setup = setup(Guest::Works);
        let handle = setup.start("lost", &[command]).await;
        for _ in 0..2 {
            let error = setup.end("lost").await.unwrap_err().to_string();
            assert!(error.contains(text), "{command}: {error}");
        }
        assert_eq!(setup.backend.loss("lost"), Some(loss), "{command}");
        assert!(setup.backend.exit_report("lost").await.is_err());
        setup.destroy(&handle).await;
        assert!(setup.places().is_empty());
    }
}

#[tokio::test]
async fn a_machine_that_dies_while_parked_is_noticed_at_release() {
    let setup = setup(Guest::Works);
    let handle = setup.create("dies", &["sleep"]).await.unwrap();
    kill(setup.backend.posture("dies").await.unwrap().pid);
    let error = setup.end("dies").await.unwrap_err().to_string();
    assert!(error.contains("monitor ended"), "{error}");
    let released = soon(setup.backend.release("dies", silent())).await;
    assert!(
        matches!(&released, Err(ReleaseError::Backend(error)) if error.to_string().contains("monitor ended")),
        "{released:?}"
    );
    setup.destroy(&handle).await;
}

#[tokio::test]
async fn whatever_fails_in_a_creation_names_its_step_and_leaves_nothing() {
    for (guest, text) in [
        (Guest::SilentFromTheStart, "wait for the guest's hello"),
        (Guest::DeafWhileParked, "wait until the workload is parked"),
        (Guest::NeverReady, "wait until the workload is parked"),
        (Guest::Refuses, "told so"),
        (Guest::MonitorDiesEarly, "monitor ended"),
        (Guest::DoesNotBoot, "boot failed: scripted cannot be used"),
    ] {
        let setup = setup(guest);
        let error = setup.create("fails", &["sleep"]).await.unwrap_err();
        assert!(error.to_string().contains(text), "{guest:?}: {error}");
        match guest {
            Guest::Refuses => assert!(matches!(error, CellosError::InvalidSpec(_))),
            Guest::DoesNotBoot => {}
            _ => assert!(error.to_string().contains("last words"), "{error}"),
        }
        assert!(
            setup.places().is_empty(),
            "{guest:?} left {:?}",
            setup.places()
        );
        assert_eq!(setup.backend.tracked_cell_count(), 0);
    }
}

#[tokio::test]
async fn a_dropped_creation_is_undone_wherever_it_was() {
    for guest in [
        Guest::BootHangs,
        Guest::SilentFromTheStart,
        Guest::NeverReady,
        Guest::Works,
    ] {
        for after in [0, 1, 5, 20, 60] {
            let setup = setup(guest);
            let document = minimal_document("given-up", ["sleep"]);
            let created = tokio::time::timeout(
                Duration::from_millis(after),
                setup.backend.create(&document),
            )
            .await;
            if let Ok(Ok(handle)) = created {
                setup.destroy(&handle).await;
            }
            setup.settled().await;
        }
    }
}

#[tokio::test]
async fn an_id_is_taken_while_it_is_built_and_while_it_lives() {
    let setup = setup(Guest::NeverReady);
    let document = minimal_document("taken", ["sleep"]);
    let first = setup.backend.create(&document);
    tokio::pin!(first);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut first)
            .await
            .is_err()
    );
    let second = setup.create("taken", &["sleep"]).await.unwrap_err();
    assert!(second.to_string().contains("already active"), "{second}");
    assert_eq!(setup.driver.boots(), 1);
    // Destroying what is being built is somebody else's.
    let handle = CellHandle {
        cell_id: "taken".to_owned(),
        cgroup_path: None,
        nft_rules_applied: None,
        kernel_digest_sha256: None,
        rootfs_digest_sha256: None,
        firecracker_digest_sha256: None,
    };
    assert!(!setup.backend.destroy(&handle).await.unwrap().destroyed);
    soon(first).await.unwrap_err();
    assert!(setup.places().is_empty());
}

#[tokio::test]
async fn stops_end_the_workload() {
    let setup = setup(Guest::Works);
    for (how, code) in [(StopSignal::Terminate, 143), (StopSignal::Kill, 137)] {
        let handle = setup.start("stopped", &["sleep"]).await;
        soon(setup.backend.stop("stopped", how)).await.unwrap();
        assert_eq!(setup.end("stopped").await, Ok(code));
        soon(setup.backend.stop("stopped", how)).await.unwrap();
        setup.destroy(&handle).await;
    }
    setup
        .backend
        .stop("nobody", StopSignal::Kill)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_absent_command_is_told_as_such() {
    let setup = setup(Guest::Works);
    let handle = setup.create("absent", &["absent"]).await.unwrap();
    let released = soon(setup.backend.release("absent", silent())).await;
    assert_eq!(
        released,
        Err(ReleaseError::CommandNotFound {
            program: "absent".to_owned()
        })
    );
    assert_eq!(setup.backend.loss("absent"), None);
    setup.destroy(&handle).await;
}

#[tokio::test]
async fn a_second_release_is_refused() {
    let setup = setup(Guest::Works);
    let handle = setup.start("once", &["sleep"]).await;
    assert!(soon(setup.backend.release("once", silent())).await.is_err());
    setup.destroy(&handle).await;
}

#[tokio::test]
async fn destroying_ends_every_waiter() {
    let setup = setup(Guest::Works);
    let handle = setup.start("doomed", &["sleep"]).await;
    let waiter = setup.backend.wait_for_in_vm_exit("doomed");
    let (end, ()) = tokio::join!(soon(waiter), setup.destroy(&handle));
    let error = end.unwrap().unwrap_err().to_string();
    assert!(error.contains("destroyed before"), "{error}");
}

#[tokio::test]
async fn declared_artifacts_are_fetched_and_nothing_else() {
    let setup = setup(Guest::Works);
    let mut document = minimal_document("exports", ["exit", "0"]);
    let artifact = |name: &str, path: &str| ExportArtifact {
        name: name.to_owned(),
        path: path.to_owned(),
        target: None,
        content_type: None,
    };
    document.spec.export = Some(ExportChannels {
        artifacts: Some(vec![
            artifact("a", "small"),
            artifact("b", "/work/out/deep"),
            artifact("c", "absent"),
        ]),
        targets: None,
    });
    let handle = soon(setup.backend.create(&document)).await.unwrap();
    let before = setup.backend.working_folder("exports").await.unwrap();
    assert_eq!(before.path, Path::new("/work"));
    soon(setup.backend.release("exports", silent()))
        .await
        .unwrap();
    assert_eq!(setup.end("exports").await, Ok(0));
    let folder = soon(setup.backend.working_folder("exports")).await.unwrap();
    let at = format!("/proc/self/fd/{}", folder.directory.as_raw_fd());
    assert_eq!(std::fs::read(format!("{at}/small")).unwrap(), b"content");
    assert_eq!(std::fs::read(format!("{at}/out/deep")).unwrap(), b"deeper");
    assert!(!Path::new(&format!("{at}/absent")).exists());
    setup.destroy(&handle).await;

    refused_artifact(&setup, document).await;
}

async fn refused_artifact(setup: &Setup, mut document: ExecutionCellDocument) {
    if let Some(artifacts) = document
        .spec
        .export
        .as_mut()
        .and_then(|export| export.artifacts.as_mut())
    {
        artifacts[0].path = "refused".to_owned();
    }
    let handle = soon(setup.backend.create(&document)).await.unwrap();
    soon(setup.backend.release("exports", silent()))
        .await
        .unwrap();
    assert_eq!(setup.end("exports").await, Ok(0));
    let error = soon(setup.backend.working_folder("exports"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("it is a link"), "{error}");
    setup.destroy(&handle).await;
}

#[tokio::test]
async fn a_changed_file_boots_nothing_and_is_noticed() {
    let setup = setup(Guest::Works);
    std::fs::write(setup.folder.path().join("base"), "changed").unwrap();
    let error = setup.create("changed", &["sleep"]).await.unwrap_err();
    assert!(
        error.to_string().contains("digest mismatch: rootfs"),
        "{error}"
    );
    assert_eq!(setup.driver.boots(), 0);
    let notices = setup.backend.take_notices("changed");
    assert!(matches!(notices[..], [Notice::ManifestFailed { .. }]));
    assert!(setup.backend.take_notices("changed").is_empty());
}

#[tokio::test]
async fn a_host_without_memory_says_so() {
    let setup = setup_with(ScriptedDriver::new(Guest::Works), 0, 1 << 20);
    let error = setup.create("large", &["sleep"]).await.unwrap_err();
    assert!(
        error.to_string().contains("no memory for another machine"),
        "{error}"
    );
    assert!(setup.places().is_empty());
}

#[tokio::test]
async fn a_hundred_cells_live_at_once() {
    let setup = setup(Guest::Works);
    let ids: Vec<String> = (0..100).map(|number| format!("cell-{number}")).collect();
    let (backend, mut tasks) = (Arc::new(setup.backend), tokio::task::JoinSet::new());
    for id in &ids {
        let (backend, id) = (Arc::clone(&backend), id.clone());
        tasks.spawn(async move {
            let handle = backend
                .create(&minimal_document(&id, ["exit", "7"]))
                .await
                .unwrap();
            backend.release(&id, silent()).await.unwrap();
            assert_eq!(backend.wait_for_in_vm_exit(&id).await, Some(Ok(7)));
            handle
        });
    }
    let handles = tokio::time::timeout(Duration::from_secs(60), tasks.join_all())
        .await
        .unwrap();
    assert_eq!(backend.tracked_cell_count(), 100);
    for handle in &handles {
        assert!(soon(backend.destroy(handle)).await.unwrap().destroyed);
    }
    assert!(places(setup.folder.path()).is_empty());
}

#[tokio::test]
async fn dropping_the_backend_kills_every_machine() {
    let setup = setup(Guest::Works);
    setup.start("left", &["sleep"]).await;
    let pid = setup.backend.posture("left").await.unwrap().pid;
    let start = crate::process::start_time(pid);
    drop(setup.backend);
    assert!(places(setup.folder.path()).is_empty());
    // The process is dead at once, and gone when the runtime has reaped it.
    for _ in 0..100 {
        if crate::process::start_time(pid) != start {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("process {pid} is still there");
}

#[tokio::test]
async fn the_pool_serves_each_machine_once_and_is_filled_again() {
    let setup = setup_with(ScriptedDriver::new(Guest::Works), 2, 64 << 30);
    let first = setup.create("first", &["exit", "0"]).await.unwrap();
    assert!(matches!(
        setup.backend.take_notices("first")[..],
        [Notice::PoolCheckout {
            outcome: PoolOutcome::Miss,
            available: 0,
            ..
        }]
    ));
    // One for the cell, two parked.
    boots(&setup, 3).await;
    let second = setup.create("second", &["exit", "5"]).await.unwrap();
    assert!(matches!(
        setup.backend.take_notices("second")[..],
        [Notice::PoolCheckout {
            outcome: PoolOutcome::Hit,
            available: 2,
            ..
        }]
    ));
    let posture = setup.backend.posture("second").await.unwrap();
    assert_eq!(posture.machine.unwrap().origin, MachineOrigin::Parked);
    assert_ne!(
        posture.pid,
        setup.backend.posture("first").await.unwrap().pid
    );
    boots(&setup, 4).await;
    soon(setup.backend.release("second", silent()))
        .await
        .unwrap();
    assert_eq!(setup.end("second").await, Ok(5));
    setup.destroy(&first).await;
    setup.destroy(&second).await;
    assert_eq!(setup.places().len(), 2, "the parked ones");
    drop(setup.backend);
    assert!(places(setup.folder.path()).is_empty());
}

async fn boots(setup: &Setup, count: usize) {
    for _ in 0..200 {
        if setup.driver.boots() == count {
            // The last one has to say hello, too.
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(setup.driver.boots(), count);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} boots, {count} expected", setup.driver.boots());
}

#[tokio::test]
async fn a_parked_machine_that_dies_is_nobodys() {
    let setup = setup_with(ScriptedDriver::new(Guest::Works), 1, 64 << 30);
    let first = setup.create("first", &["sleep"]).await.unwrap();
    boots(&setup, 2).await;
    let own = setup.backend.posture("first").await.unwrap().pid;
    let record =
        |place: &String| std::fs::read_to_string(format!("{place}/machine.jsonl")).unwrap();
    let parked: u32 = setup
        .places()
        .iter()
        .map(record)
        .filter_map(|text| {
            let after = text.split("\"pid\":").nth(1)?;
            after.split(',').next()?.parse().ok()
        })
        .find(|pid| *pid != own)
        .unwrap();
    kill(parked);
    let second = setup.create("second", &["exit", "0"]).await.unwrap();
    let posture = setup.backend.posture("second").await.unwrap();
    assert_ne!(posture.pid, parked);
    setup.destroy(&first).await;
    setup.destroy(&second).await;
}

#[tokio::test]
async fn a_snapshot_is_taken_once_and_restored_for_each() {
    let driver = ScriptedDriver::parking(Guest::Works, Parking::Snapshot);
    let setup = setup_with(driver, 4, 64 << 30);
    let first = setup.create("first", &["sleep"]).await.unwrap();
    boots(&setup, 2).await;
    for id in ["second", "third"] {
        let handle = setup.create(id, &["exit", "0"]).await.unwrap();
        let posture = setup.backend.posture(id).await.unwrap();
        assert_eq!(posture.machine.unwrap().origin, MachineOrigin::Restored);
        soon(setup.backend.release(id, silent())).await.unwrap();
        assert_eq!(setup.end(id).await, Ok(0));
        setup.destroy(&handle).await;
    }
    setup.destroy(&first).await;
    drop(setup.backend);
    assert!(places(setup.folder.path()).is_empty());
}

#[tokio::test]
async fn a_published_guest_boots_at_its_release_and_outlasts_its_workloads_forgeries() {
    let setup = setup_published(Guest::Published);
    let handle = setup.create("published", &["exit", "42"]).await.unwrap();
    assert_eq!(setup.driver.boots(), 0);
    let posture = setup.backend.posture("published").await.unwrap();
    assert_eq!(
        posture.machine.unwrap().exit_authentication,
        ExitAuthentication::PublishedFrame
    );
    soon(setup.backend.release("published", silent()))
        .await
        .unwrap();
    assert!(
        soon(setup.backend.release("published", silent()))
            .await
            .is_err()
    );
    assert_eq!(setup.end("published").await, Ok(42));
    let report = setup.backend.exit_report("published").await.unwrap();
    assert_eq!(report.end, WorkloadEnd::Exited { code: 42 });
    setup.destroy(&handle).await;
    assert!(setup.places().is_empty());
}

#[tokio::test]
async fn a_published_guest_that_only_forges_is_told_as_such_and_one_that_dies_too() {
    let setup = setup_published(Guest::PublishedForger);
    let handle = setup.start("forger", &["exit", "42"]).await;
    let error = setup.end("forger").await.unwrap_err().to_string();
    assert!(error.contains("none with a right code"), "{error}");
    assert_eq!(setup.backend.loss("forger"), Some(Loss::ExitForged));
    setup.destroy(&handle).await;

    let setup = setup_published(Guest::SilentFromTheStart);
    let handle = setup.create("dies", &["exit", "42"]).await.unwrap();
    let released = soon(setup.backend.release("dies", silent())).await.unwrap();
    kill(released.pid);
    assert!(setup.end("dies").await.is_err());
    assert_eq!(setup.backend.loss("dies"), Some(Loss::MachineCrashed));
    setup.destroy(&handle).await;

    let handle = setup.start("asked", &["exit", "42"]).await;
    soon(setup.backend.stop("asked", StopSignal::Terminate))
        .await
        .unwrap();
    assert_eq!(setup.end("asked").await, Ok(128 + 15));
    assert_eq!(setup.backend.loss("asked"), None);
    setup.destroy(&handle).await;

    let handle = setup.start("killed", &["exit", "42"]).await;
    soon(setup.backend.stop("killed", StopSignal::Kill))
        .await
        .unwrap();
    assert_eq!(setup.end("killed").await, Ok(137));
    setup.destroy(&handle).await;
}

#[tokio::test]
async fn a_published_guest_that_cannot_be_asked_to_end_is_not_waited_for() {
    let setup = setup_published(Guest::Works);
    let handle = setup.start("mute", &["exit", "42"]).await;
    let asked = soon(setup.backend.stop("mute", StopSignal::Terminate)).await;
    assert!(asked.unwrap_err().to_string().contains("press keys"));
    soon(setup.backend.stop("mute", StopSignal::Kill))
        .await
        .unwrap();
    assert_eq!(setup.end("mute").await, Ok(137));
    setup.destroy(&handle).await;
}

#[tokio::test]
async fn the_host_ends_what_nobody_else_has_ended() {
    let setup = setup(Guest::Works);
    let mut document = minimal_document("forgotten", ["sleep"]);
    document.spec.lifetime.ttl_seconds = 0;
    if let Some(run) = &mut document.spec.run {
        run.limits = Some(RunLimits {
            memory_max_bytes: None,
            cpu_max: None,
            graceful_shutdown_seconds: Some(1),
            pids_max: None,
        });
    }
    let handle = soon(setup.backend.create(&document)).await.unwrap();
    soon(setup.backend.release("forgotten", silent()))
        .await
        .unwrap();
    assert_eq!(setup.end("forgotten").await, Ok(137));
    let report = setup.backend.exit_report("forgotten").await.unwrap();
    assert_eq!(report.end, WorkloadEnd::Backstop);
    setup.destroy(&handle).await;
}
