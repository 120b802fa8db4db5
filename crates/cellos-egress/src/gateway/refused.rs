//! Tells what the kernel of the cell's network refused, because nothing listens there.

use std::{net::SocketAddr, sync::Arc};

use cellos_core::event::{FlowReason, NetworkFlowDecision};
use tokio::pin;

use super::{Serving, flow::Attempt};
use crate::{
    refusals::{Refusals, Refused},
    report::Unrecorded,
};

/// Most refusals that are told after the cell has ended; the socket keeps fewer.
const LAST_REFUSALS: usize = 1024;

/// Tells each until the cell is no longer served, or nothing more can be seen. Then tells those that
/// wait to be read.
pub(super) async fn watch(serving: Arc<Serving>, mut refusals: Refusals) {
    let ended = serving.ended();
    pin!(ended);
    loop {
        let refused = tokio::select! {
            biased;
            () = &mut ended => break,
            refused = refusals.next() => refused,
        };
        match refused {
            Ok(refused) => match tell(&serving, &mut refusals, &refused).await {
                Ok(()) => {}
                Err(Unrecorded) => return,
            },
            Err(error) => {
                tracing::error!(%error, "the kernel's refusals are no longer seen");
                return;
            }
        }
    }
    for _ in 0..LAST_REFUSALS {
        let Some(refused) = refusals.waiting() else {
            return;
        };
        if tell(&serving, &mut refusals, &refused).await.is_err() {
            return;
        }
    }
}

/// Tells one, and how many were lost before it.
async fn tell(
    serving: &Serving,
    refusals: &mut Refusals,
    refused: &Refused,
) -> Result<(), Unrecorded> {
    let reporter = &serving.cell.reporter;
    reporter.flow(event(serving, refused)).await?;
    let lost = refusals.take_lost();
    if lost == 0 {
        return Ok(());
    }
    let event = NetworkFlowDecision {
        count: Some(lost),
        detail: Some(format!(
            "{lost} refusals like this one, too fast to be seen each"
        )),
        ..event(serving, refused)
    };
    reporter.flow(event).await
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
