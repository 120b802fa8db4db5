//! A guest of the published contract: everything it is told stands on its kernel's command line, and
//! all it says is one frame of 36 bytes with its exit code.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cellos_bridge::{
    Exit, SessionKey, StreamTotals,
    published::{ACKNOWLEDGEMENT, BootTokens, ExitFrameReader, verify_exit_frame},
};
use cellos_core::{
    CellosError,
    ports::workload::{ExitReport, LimitHit, Residue, Usage, WorkloadEnd},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::watch,
};
use zeroize::Zeroizing;

use super::Fate;
use crate::{
    artifacts::Artifacts,
    capacity::Promise,
    error::LostGuest,
    place::Place,
    plan::VmPlan,
    vmm::{self, BootOrder, Driver, MonitorEnd, MonitorLimits},
};

/// The vsock port of the published contract.
const PUBLISHED_PORT: u32 = 9000;

/// How long one connection may take to bring its frame. The workload can dial the port as well, and
/// must not hold up the guest's init for longer.
const FRAME_BOUND: Duration = Duration::from_secs(2);

/// Connections that are looked at. An init needs one; the others are the workload's.
const MAX_ATTEMPTS: u32 = 32;

/// What a command that was asked to end ended by (signal(7)).
const SIGTERM: i32 = 15;

/// Whether a guest was asked to end.
#[derive(Debug, Default)]
pub(crate) struct Asked(AtomicBool);

impl Asked {
    /// It is asked now.
    pub(crate) fn note(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Nobody could be asked after all.
    pub(crate) fn withdraw(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn whether(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A cell that waits for its release to be booted.
pub(crate) struct Staged {
    pub(crate) place: Place,
    pub(crate) plan: VmPlan,
    pub(crate) artifacts: Artifacts,
    /// Kept until the machine has its memory.
    #[expect(dead_code, reason = "holds what was promised as long as it lives")]
    pub(crate) promise: Promise,
    pub(crate) driver: Arc<dyn Driver>,
    /// When the host ends the machine itself.
    pub(crate) backstop: Option<Instant>,
}

/// Boots the staged machine with the published tokens.
///
/// # Errors
/// [`CellosError::InvalidSpec`] for a command that does not fit on the command line,
/// [`CellosError::Host`] when the machine does not boot.
pub(crate) async fn boot(
    staged: &Staged,
) -> Result<(Arc<dyn vmm::Machine>, SessionKey), CellosError> {
    let host = |what: &dyn std::fmt::Display| CellosError::Host(what.to_string());
    let mut key = Zeroizing::new([0; 32]);
    crate::random::fill(&mut *key).map_err(|error| host(&error))?;
    let key = SessionKey::new(*key);
    let document = &staged.plan.document;
    let tokens = BootTokens {
        cell_id: document.spec.id.clone(),
        vsock_port: PUBLISHED_PORT,
        argv: document
            .spec
            .run
            .as_ref()
            .map(|run| run.argv.clone())
            .unwrap_or_default(),
        exit_hmac_key: key.clone(),
    };
    let line = tokens
        .to_command_line()
        .map_err(|error| CellosError::InvalidSpec(format!("spec.run.argv: {error}")))?;
    let machine = staged
        .driver
        .boot(BootOrder {
            name: staged.place.name(),
            shape: staged.plan.shape,
            artifacts: &staged.artifacts,
            folder: staged.place.folder(),
            record: staged.place.record(),
            limits: MonitorLimits {
                memory_bytes: None,
                cpu_max: staged.plan.cpu_max,
            },
            network: None,
            extra_boot_arguments: &line,
        })
        .await
        .map_err(|error| host(&format!("boot failed: {error}")))?;
    Ok((Arc::from(machine), key))
}

/// Waits for the exit frame, and tells the fate.
pub(crate) async fn listen(
    machine: Arc<dyn vmm::Machine>,
    asked: Arc<Asked>,
    cell_id: String,
    key: SessionKey,
    backstop: Option<Instant>,
    fate: watch::Sender<Option<Fate>>,
) {
    let begun = Instant::now();
    let ends = async {
        match backstop {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    let told = tokio::select! {
        told = frame(&*machine, &cell_id, &key, begun) => told,
        end = machine.ended() => if asked.whether() {
            // A guest's kernel that restarts before its init could say more.
            ended_with(WorkloadEnd::Signalled { signal: SIGTERM }, begun.elapsed())
        } else {
            Fate::Lost(ended(end))
        },
        () = ends => {
            // What is left of it is told by whoever destroys the cell.
            let _ = machine.remove().await;
            Fate::Backstop { wall: begun.elapsed() }
        }
    };
    fate.send_if_modified(|known| {
        // Somebody who killed it has said so.
        let first = known.is_none();
        if first {
            *known = Some(told);
        }
        first
    });
}

/// The first authentic frame of any connection.
async fn frame(
    machine: &dyn vmm::Machine,
    cell_id: &str,
    key: &SessionKey,
    begun: Instant,
) -> Fate {
    for _ in 0..MAX_ATTEMPTS {
        let stream = match machine.bridge().await {
            Ok(stream) => stream,
            Err(error) => {
                return Fate::Lost(LostGuest::Stream {
                    what: error.to_string(),
                });
            }
        };
        let received = tokio::time::timeout(FRAME_BOUND, receive(stream, cell_id, key)).await;
        if let Ok(Some(code)) = received {
            return ended_with(WorkloadEnd::Exited { code }, begun.elapsed());
        }
    }
    Fate::Lost(LostGuest::Attempts {
        attempts: MAX_ATTEMPTS,
    })
}

/// The code of an authentic frame, acknowledged.
async fn receive(mut stream: UnixStream, cell_id: &str, key: &SessionKey) -> Option<i32> {
    let mut reader = ExitFrameReader::default();
    let mut buffer = [0; 64];
    loop {
        let read = stream.read(&mut buffer).await.ok()?;
        let mut bytes = buffer.get(..read).filter(|bytes| !bytes.is_empty())?;
        if let Some(frame) = reader.receive(&mut bytes) {
            let code = verify_exit_frame(frame, cell_id, key).ok()?;
            // An init that has gone already needs none.
            let _ = stream.write_all(&[ACKNOWLEDGEMENT]).await;
            return Some(code);
        }
    }
}

/// An end of which nothing but this is known.
pub(crate) fn ended_with(end: WorkloadEnd, wall: Duration) -> Fate {
    Fate::Ended(Arc::new(Exit {
        report: ExitReport {
            end,
            usage: Usage {
                wall,
                ..Usage::default()
            },
            limits_hit: Vec::<LimitHit>::new(),
        },
        residue: Residue::default(),
        stdout: StreamTotals::default(),
        stderr: StreamTotals::default(),
    }))
}

fn ended(end: MonitorEnd) -> LostGuest {
    LostGuest::Machine {
        end: end
            .0
            .map_or_else(|| "how is not known".to_owned(), |end| end.to_string()),
    }
}
