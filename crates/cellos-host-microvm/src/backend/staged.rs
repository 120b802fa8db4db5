//! A cell whose guest speaks the published contract: it is booted when it is released.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use cellos_core::{
    CellosError,
    ports::workload::{ReleaseError, StopSignal, WorkloadEnd},
};
use tokio::{sync::watch, task::AbortHandle};

use crate::{
    process,
    session::{
        Fate,
        published::{self, Asked, Staged},
    },
    vmm::{self, VmmError},
};

pub(super) struct StagedCell {
    staged: Staged,
    fate: watch::Sender<Option<Fate>>,
    /// Held by the one release for as long as it boots.
    released: tokio::sync::Mutex<Released>,
    running: Mutex<Option<Running>>,
}

/// Whether it was released.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Released {
    No,
    Yes,
}

struct Running {
    machine: Arc<dyn vmm::Machine>,
    started: Option<u64>,
    since: Instant,
    listener: AbortHandle,
    asked: Arc<Asked>,
}

impl StagedCell {
    pub(super) fn new(staged: Staged) -> Self {
        Self {
            staged,
            fate: watch::Sender::new(None),
            released: tokio::sync::Mutex::new(Released::No),
            running: Mutex::new(None),
        }
    }

    pub(super) fn fate(&self) -> watch::Receiver<Option<Fate>> {
        self.fate.subscribe()
    }

    pub(super) fn console(&self) -> String {
        let tail = self.machine().map(|machine| machine.console_tail());
        match tail.as_deref().map(str::trim).unwrap_or_default() {
            "" => String::new(),
            tail => format!("; the guest's console ends with: {tail}"),
        }
    }

    /// Boots it, once. The guest's init starts the command without telling anybody, so what this
    /// knows is that the machine runs.
    pub(super) async fn release(&self) -> Result<u32, ReleaseError> {
        let mut released = self.released.lock().await;
        if *released == Released::Yes {
            let twice = "it was released already".to_owned();
            return Err(CellosError::Host(twice).into());
        }
        *released = Released::Yes;
        let (machine, key) = published::boot(&self.staged).await?;
        let pid = machine.pid();
        let asked = Arc::new(Asked::default());
        let listener = tokio::spawn(published::listen(
            Arc::clone(&machine),
            Arc::clone(&asked),
            self.staged.plan.document.spec.id.clone(),
            key,
            self.staged.backstop,
            self.fate.clone(),
        ));
        *self.running() = Some(Running {
            started: process::start_time(pid),
            machine,
            since: Instant::now(),
            listener: listener.abort_handle(),
            asked,
        });
        Ok(pid)
    }

    /// Asks the guest to end as far as the published contract has a way, or kills its machine.
    ///
    /// # Errors
    /// [`VmmError`] when nobody could be asked, so that nobody waits for an answer.
    pub(super) async fn stop(&self, how: StopSignal) -> Result<(), VmmError> {
        let running = self.running().as_ref().map(|running| {
            let (machine, asked) = (&running.machine, &running.asked);
            (Arc::clone(machine), Arc::clone(asked), running.since)
        });
        let Some((machine, asked, since)) = running else {
            return Ok(());
        };
        match how {
            StopSignal::Terminate => {
                // Before its end can be seen, which would be taken for a crash.
                asked.note();
                let answered = machine.ask_to_end().await;
                if answered.is_err() {
                    asked.withdraw();
                }
                answered
            }
            StopSignal::Kill => {
                self.kill(&*machine, since).await;
                Ok(())
            }
        }
    }

    async fn kill(&self, machine: &dyn vmm::Machine, since: Instant) {
        let killed = published::ended_with(WorkloadEnd::Signalled { signal: 9 }, since.elapsed());
        // Before its end is seen, which would be taken for a crash. An end that is known stays.
        self.fate.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(killed);
            }
            first
        });
        // What is left of it is told by whoever destroys the cell.
        let _ = machine.remove().await;
    }

    /// Kills the machine and removes everything; one line for each thing that is left.
    pub(super) async fn remove(&self) -> Vec<String> {
        let running = self.running().take();
        let mut left = Vec::new();
        if let Some(running) = running {
            running.listener.abort();
            left.extend(running.machine.remove().await);
            let pid = running.machine.pid();
            if running.started.is_some() && process::start_time(pid) == running.started {
                left.push(format!("process {pid}"));
            }
        }
        left.extend(self.staged.place.remove());
        left
    }

    fn machine(&self) -> Option<Arc<dyn vmm::Machine>> {
        let running = self.running();
        running.as_ref().map(|running| Arc::clone(&running.machine))
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        // No code that holds the lock panics or waits.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StagedCell {
    fn drop(&mut self) {
        // The listener holds the machine, which its last holder kills.
        if let Some(running) = self.running().take() {
            running.listener.abort();
        }
    }
}
