//! Backends, sinks and documents for tests.

use std::{
    collections::BTreeMap,
    fs::File,
    future,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use cellos_core::{
    CellosError, CloudEventV1, ExecutionCellDocument,
    ports::{
        CellBackend, CellHandle, EventSink, TeardownReport,
        network::{CellNetwork, NetworkNeeds},
        workload::{
            ExitReport, LimitHit, Posture, ReleaseError, Released, Residue, StopSignal, Streams,
            Usage, WorkingFolder, WorkloadControl, WorkloadEnd,
        },
    },
};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

pub(crate) fn document(run: Value) -> ExecutionCellDocument {
    document_with(json!({"run": run}))
}

pub(crate) fn document_with(fields: Value) -> ExecutionCellDocument {
    let mut spec = json!({
        "id": "cell-1",
        "authority": {},
        "lifetime": {"ttlSeconds": 30}
    });
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "cellos.io/v1", "kind": "ExecutionCell", "spec": spec
    }))
    .unwrap()
}

pub(crate) fn null() -> File {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap()
}

pub(crate) fn null_streams() -> Streams {
    Streams {
        stdin: null().into(),
        stdout: null().into(),
        stderr: null().into(),
    }
}

fn handle(cell_id: &str) -> CellHandle {
    CellHandle {
        cell_id: cell_id.into(),
        cgroup_path: None,
        nft_rules_applied: None,
        kernel_digest_sha256: None,
        rootfs_digest_sha256: None,
        firecracker_digest_sha256: None,
    }
}

fn torn_down(cell_id: &str) -> TeardownReport {
    TeardownReport {
        cell_id: cell_id.into(),
        destroyed: true,
        peers_tracked_after: 0,
    }
}

/// A backend that runs nothing, so that commands run on the host.
#[derive(Debug, Default)]
pub(crate) struct RunsNothing {
    pub(crate) cgroup: Option<PathBuf>,
}

#[async_trait]
impl CellBackend for RunsNothing {
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
        Ok(CellHandle {
            cgroup_path: self.cgroup.clone(),
            ..handle(&spec.spec.id)
        })
    }

    async fn destroy(&self, handle: &CellHandle) -> Result<TeardownReport, CellosError> {
        Ok(torn_down(&handle.cell_id))
    }
}

/// A backend with the published methods only, that runs the workload.
pub(crate) struct Bridged {
    pub(crate) exit: Option<Result<i32, CellosError>>,
    pub(crate) takes: Duration,
}

#[async_trait]
impl CellBackend for Bridged {
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
        Ok(handle(&spec.spec.id))
    }

    async fn destroy(&self, handle: &CellHandle) -> Result<TeardownReport, CellosError> {
        Ok(torn_down(&handle.cell_id))
    }

    async fn wait_for_in_vm_exit(&self, _cell_id: &str) -> Option<Result<i32, CellosError>> {
        tokio::time::sleep(self.takes).await;
        self.exit.clone()
    }
}

/// The calls of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    PrepareNetwork,
    Create,
    Network,
    Posture,
    Release,
    Wait,
    Stop,
    ExitReport,
    WorkingFolder,
    Destroy,
}

/// What a call does instead of working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Fails,
    Hangs,
}

/// What the pretended workload does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script {
    /// When it ends on its own; never, when `None`.
    pub(crate) ends_after: Option<Duration>,
    pub(crate) end: WorkloadEnd,
    /// How long it takes to follow SIGTERM; it ignores it when `None`.
    pub(crate) follows_terminate_after: Option<Duration>,
    pub(crate) dies_when_killed: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            ends_after: Some(Duration::from_millis(10)),
            end: WorkloadEnd::Exited { code: 0 },
            follows_terminate_after: Some(Duration::from_millis(5)),
            dies_when_killed: true,
        }
    }
}

/// A backend with control over a pretended workload, that keeps a log of its calls.
#[derive(Default)]
pub(crate) struct Pretended {
    pub(crate) faults: BTreeMap<Call, Fault>,
    pub(crate) script: Script,
    pub(crate) limits_hit: Vec<LimitHit>,
    pub(crate) residue: Vec<String>,
    pub(crate) working_folder: Option<PathBuf>,
    /// How long creation takes.
    pub(crate) create_takes: Duration,
    /// How long the start takes.
    pub(crate) release_takes: Duration,
    /// Exit code told by `wait`, where it differs from the truth.
    pub(crate) lies_about_code: Option<i32>,
    pub(crate) log: Mutex<Vec<String>>,
    pub(crate) ended: Mutex<Option<WorkloadEnd>>,
    pub(crate) ends_at: Mutex<Option<(Instant, WorkloadEnd)>>,
    pub(crate) changed: Notify,
}

impl Pretended {
    pub(crate) fn scripted(script: Script) -> Self {
        Self {
            script,
            ..Self::default()
        }
    }

    pub(crate) fn with_fault(call: Call, fault: Fault) -> Self {
        Self {
            faults: [(call, fault)].into(),
            ..Self::default()
        }
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    async fn call(&self, call: Call, detail: &str) -> Result<(), CellosError> {
        self.log.lock().unwrap().push(format!("{call:?}{detail}"));
        match self.faults.get(&call) {
            None => Ok(()),
            Some(Fault::Fails) => Err(CellosError::Host(format!("{call:?} was made to fail"))),
            Some(Fault::Hangs) => future::pending().await,
        }
    }

    fn ends(&self, after: Duration, end: WorkloadEnd) {
        let at = Instant::now() + after;
        let mut ends_at = self.ends_at.lock().unwrap();
        if ends_at.is_none_or(|(earlier, _)| at < earlier) {
            *ends_at = Some((at, end));
        }
        self.changed.notify_waiters();
    }
}

#[async_trait]
impl CellBackend for Pretended {
    async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
        self.call(Call::Create, "").await?;
        tokio::time::sleep(self.create_takes).await;
        Ok(handle(&spec.spec.id))
    }

    async fn destroy(&self, _handle: &CellHandle) -> Result<TeardownReport, CellosError> {
        Err(CellosError::Host("destroy_and_measure is there".into()))
    }

    async fn wait_for_in_vm_exit(&self, _cell_id: &str) -> Option<Result<i32, CellosError>> {
        if let Err(error) = self.call(Call::Wait, "").await {
            return Some(Err(error));
        }
        let end = loop {
            let changed = self.changed.notified();
            let next = *self.ends_at.lock().unwrap();
            match next {
                None => changed.await,
                Some((at, end)) => tokio::select! {
                    () = tokio::time::sleep_until(at) => break end,
                    () = changed => {}
                },
            }
        };
        *self.ended.lock().unwrap() = Some(end);
        Some(Ok(self.lies_about_code.unwrap_or(end.shell_code())))
    }

    fn workload(&self) -> Option<&dyn WorkloadControl> {
        Some(self)
    }
}

#[async_trait]
impl WorkloadControl for Pretended {
    async fn posture(&self, _cell_id: &str) -> Result<Posture, CellosError> {
        self.call(Call::Posture, "").await?;
        Ok(Posture {
            machine: None,
            pid: 7,
            cap_eff: "0000000000000000".into(),
            no_new_privs: true,
            seccomp_mode: 2,
            ..Posture::default()
        })
    }

    async fn prepare_network(
        &self,
        _cell_id: &str,
        needs: NetworkNeeds,
    ) -> Result<(), CellosError> {
        self.call(Call::PrepareNetwork, &format!(" {:?}", needs.tcp_ports))
            .await
    }

    async fn network(&self, _cell_id: &str) -> Result<CellNetwork, CellosError> {
        self.call(Call::Network, "").await?;
        Ok(CellNetwork::default())
    }

    async fn release(&self, _cell_id: &str, _streams: Streams) -> Result<Released, ReleaseError> {
        self.call(Call::Release, "").await?;
        tokio::time::sleep(self.release_takes).await;
        if let Some(after) = self.script.ends_after {
            self.ends(after, self.script.end);
        }
        Ok(Released { pid: 7 })
    }

    async fn stop(&self, _cell_id: &str, how: StopSignal) -> Result<(), CellosError> {
        self.call(Call::Stop, &format!(" {how:?}")).await?;
        match how {
            StopSignal::Terminate => {
                if let Some(after) = self.script.follows_terminate_after {
                    self.ends(after, WorkloadEnd::Signalled { signal: 15 });
                }
            }
            StopSignal::Kill if self.script.dies_when_killed => {
                self.ends(Duration::ZERO, WorkloadEnd::Signalled { signal: 9 });
            }
            StopSignal::Kill => {}
        }
        Ok(())
    }

    async fn exit_report(&self, _cell_id: &str) -> Result<ExitReport, CellosError> {
        self.call(Call::ExitReport, "").await?;
        let end = *self.ended.lock().unwrap();
        Ok(ExitReport {
            end: end.ok_or_else(|| CellosError::Host("still runs".into()))?,
            usage: Usage {
                wall: Duration::from_millis(10),
                memory_peak_bytes: Some(4096),
                ..Usage::default()
            },
            limits_hit: self.limits_hit.clone(),
        })
    }

    async fn working_folder(&self, _cell_id: &str) -> Result<WorkingFolder, CellosError> {
        self.call(Call::WorkingFolder, "").await?;
        let host = self.working_folder.clone().unwrap();
        Ok(WorkingFolder {
            directory: File::open(host).unwrap().into(),
            path: "/work".into(),
        })
    }

    async fn destroy_and_measure(
        &self,
        handle: &CellHandle,
    ) -> Result<(TeardownReport, Residue), CellosError> {
        self.call(Call::Destroy, "").await?;
        let residue = Residue {
            looked_for: vec!["processes".into(), "cgroups".into()],
            found: self.residue.clone(),
        };
        Ok((torn_down(&handle.cell_id), residue))
    }
}

/// Keeps events, and fails or hangs at one of them.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) fails_from: Option<usize>,
    pub(crate) fails_only_at: Option<usize>,
    pub(crate) hangs_at: Option<usize>,
    pub(crate) flush_fails: bool,
    pub(crate) seen: Mutex<usize>,
    pub(crate) events: Mutex<Vec<CloudEventV1>>,
}

impl Recorder {
    pub(crate) fn events(&self) -> Vec<CloudEventV1> {
        self.events.lock().unwrap().clone()
    }

    /// Types without their common prefix.
    pub(crate) fn kinds(&self) -> Vec<String> {
        self.events()
            .iter()
            .map(|event| event.ty.replace("dev.cellos.events.cell.", ""))
            .collect()
    }

    pub(crate) fn data(&self, kind: &str) -> Value {
        self.events()
            .into_iter()
            .find(|event| event.ty.ends_with(kind))
            .unwrap_or_else(|| panic!("no {kind} among {:?}", self.kinds()))
            .data
            .unwrap()
    }
}

#[async_trait]
impl EventSink for Recorder {
    async fn emit(&self, event: &CloudEventV1) -> Result<(), CellosError> {
        let index = {
            let mut seen = self.seen.lock().unwrap();
            *seen += 1;
            *seen - 1
        };
        if self.hangs_at == Some(index) {
            future::pending::<()>().await;
        }
        if self.fails_from.is_some_and(|from| index >= from) || self.fails_only_at == Some(index) {
            return Err(CellosError::EventSink(format!(
                "no space for event {index}"
            )));
        }
        self.events.lock().unwrap().push(event.clone());
        Ok(())
    }

    async fn flush(&self) -> Result<(), CellosError> {
        if self.flush_fails {
            return Err(CellosError::EventSink("no disk".into()));
        }
        Ok(())
    }
}

pub(crate) fn shared<T>(value: T) -> Arc<T> {
    Arc::new(value)
}
