//! What a cell's network has to report, on its way into the record.
//!
//! Reports wait in a bounded channel for a writer of their own, which writes those that are there
//! together. They are durable with the next flush. Whoever reports waits for room, so nothing is
//! dropped; and nothing is taken any more once the writer could not write.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use cellos_core::{
    CellosError,
    ports::network::{NetworkReport, NetworkReports},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{RunError, bounds, error::NetworkError, journal::Journal};

/// Where a gateway reports to.
struct Reports {
    sender: mpsc::Sender<NetworkReport>,
}

#[async_trait]
impl NetworkReports for Reports {
    async fn report(&self, report: NetworkReport) -> Result<(), CellosError> {
        self.sender.send(report).await.map_err(|_| {
            CellosError::EventSink("the record takes no more reports of the network".into())
        })
    }
}

/// How far the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// What belongs before the reports is not written yet.
    Held,
    /// Reports are written as they come.
    Writing,
    /// Nothing more is taken; what is there is written.
    Closing,
}

/// Writes the reports of one cell.
pub(crate) struct ReportWriter {
    stage: watch::Sender<Stage>,
    /// Answers when the writer has ended, which before its time means that it failed.
    ended: Option<oneshot::Receiver<()>>,
    task: JoinHandle<Result<(), RunError>>,
}

impl ReportWriter {
    /// A writer that holds back what is reported, and where to report.
    pub(crate) fn start(journal: Journal) -> (Self, Arc<dyn NetworkReports>) {
        let (sender, receiver) = mpsc::channel(bounds::REPORTS);
        let (stage, stages) = watch::channel(Stage::Held);
        let (ending, ended) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            // Dropped with the task, whatever ends it.
            let _ending = ending;
            write(journal, receiver, stages).await
        });
        let writer = Self {
            stage,
            ended: Some(ended),
            task,
        };
        (writer, Arc::new(Reports { sender }))
    }

    /// Lets it write.
    pub(crate) fn release(&self) {
        self.stage.send_replace(Stage::Writing);
    }

    /// Ready when the writer could not write. To be asked for once.
    pub(crate) fn failure(&mut self) -> impl Future<Output = ()> + use<> {
        let ended = self.ended.take();
        async move {
            match ended {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        }
    }

    /// Takes no more, and returns when everything that was taken is written.
    pub(crate) async fn finish(self) -> Result<(), RunError> {
        self.stage.send_replace(Stage::Closing);
        self.task
            .await
            .unwrap_or(Err(RunError::Network(NetworkError::ReportsLost)))
    }
}

async fn write(
    mut journal: Journal,
    mut reports: mpsc::Receiver<NetworkReport>,
    mut stages: watch::Receiver<Stage>,
) -> Result<(), RunError> {
    // Without its other side the run is no more, and what is there is written.
    reached(&mut stages, |stage| stage != Stage::Held).await;
    let mut batch = Vec::new();
    let mut closed = false;
    loop {
        tokio::select! {
            biased;
            () = reached(&mut stages, |stage| stage == Stage::Closing), if !closed => {
                reports.close();
                closed = true;
            }
            taken = reports.recv_many(&mut batch, bounds::REPORTS_TOGETHER) => {
                if taken == 0 {
                    return Ok(());
                }
                for report in batch.drain(..) {
                    match report {
                        NetworkReport::Flow(flow) => journal.queue(&*flow)?,
                        NetworkReport::Query(query) => journal.queue(&*query)?,
                        NetworkReport::Drift(drift) => journal.queue(&*drift)?,
                        NetworkReport::RebindThreshold(passed) => journal.queue(&*passed)?,
                        NetworkReport::RebindRejected(refused) => journal.queue(&*refused)?,
                        NetworkReport::DnssecFailed(failed) => journal.queue(&*failed)?,
                    }
                }
                journal.write_queued().await?;
            }
        }
    }
}

/// Returns when the run is at such a stage, or no more.
async fn reached(stages: &mut watch::Receiver<Stage>, such: impl Fn(Stage) -> bool) {
    drop(stages.wait_for(|stage| such(*stage)).await);
}
