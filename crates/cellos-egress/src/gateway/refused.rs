//! Tells what the kernel of the cell's network refused, because nothing listens there.

use std::{net::SocketAddr, sync::Arc};

use cellos_core::event::{FlowReason, NetworkFlowDecision};

use super::{Serving, flow::Attempt};
use crate::refusals::{Refusals, Refused};

/// Tells each until the cell is no longer served, or nothing more can be seen.
pub(super) async fn watch(serving: Arc<Serving>, mut refusals: Refusals) {
    let telling = async {
        let reporter = &serving.cell.reporter;
        loop {
            let refused = match refusals.next().await {
                Ok(refused) => refused,
                Err(error) => {
                    tracing::error!(%error, "the kernel's refusals are no longer seen");
                    return;
                }
            };
            let mut told = reporter.flow(event(&serving, &refused)).await;
            let lost = refusals.take_lost();
            if told.is_ok() && lost > 0 {
                let event = NetworkFlowDecision {
                    count: Some(lost),
                    detail: Some(format!(
                        "{lost} refusals like this one, too fast to be seen each"
                    )),
                    ..event(&serving, &refused)
                };
                told = reporter.flow(event).await;
            }
            if told.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = serving.ended() => {}
        () = telling => {}
    }
}

fn event(serving: &Serving, refused: &Refused) -> NetworkFlowDecision {
    let cell = &serving.cell;
    let meaning = cell.names.meaning(refused.address);
    let transport = refused.transport;
    cell.learned.undeclared(&meaning, refused.port, transport);
    let attempt = Attempt::new(meaning, SocketAddr::new(refused.address, refused.port));
    NetworkFlowDecision {
        protocol: Some(transport),
        ..attempt.refused(FlowReason::UndeclaredPort, None, None)
    }
}
