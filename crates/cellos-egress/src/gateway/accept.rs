//! Takes the connections of one of a cell's ports.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use cellos_core::{
    event::{FlowProtocol, FlowReason},
    ports::network::DNS_PORT,
};
use tokio::{
    net::{TcpListener, TcpStream},
    pin,
    task::JoinSet,
    time::sleep,
};

use super::{
    Serving,
    flow::{self, Attempt, Plan},
};
use crate::{relay::reset, report::Unrecorded};

/// How long nothing is accepted after the process, or the host, had no room for a connection.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);

/// Where the cell wanted to go: every address is local to it, so the connection has that address.
pub(super) fn intended(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.local_addr()
}

/// Takes connections until the cell is no longer served, then ends those that there are.
pub(super) async fn serve(
    serving: Arc<Serving>,
    listener: TcpListener,
    intended: impl Fn(&TcpStream) -> io::Result<SocketAddr>,
) {
    let mut flows = JoinSet::new();
    let ended = serving.ended();
    pin!(ended);
    loop {
        tokio::select! {
            biased;
            () = &mut ended => break,
            Some(_) = flows.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    // Gone again, if it has no address.
                    if let Ok(intended) = intended(&client)
                        && admit(&serving, client, intended, &mut flows).await.is_err()
                    {
                        break;
                    }
                }
                Err(error) if is_about_one(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept a connection of a cell");
                    sleep(NO_ROOM_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while flows.join_next().await.is_some() {}
}

/// Decides on one connection. Those that no rule covers are gone at once, and cost no task.
async fn admit(
    serving: &Arc<Serving>,
    client: TcpStream,
    intended: SocketAddr,
    flows: &mut JoinSet<()>,
) -> Result<(), Unrecorded> {
    let cell = &serving.cell;
    let meaning = cell.names.meaning(intended.ip());
    if intended.port() == DNS_PORT && cell.rules.dns_is_ours(&meaning, FlowProtocol::Tcp) {
        if let Ok(slot) = serving.slots.take() {
            let serving = Arc::clone(serving);
            flows.spawn(async move {
                tokio::select! {
                    () = serving.ended() => {}
                    () = Arc::clone(&serving.name_server).serve_connection(client) => {}
                }
                drop(slot);
            });
        }
        return Ok(());
    }
    let attempt = Attempt::new(meaning, intended);
    let decided = cell
        .rules
        .decide(&attempt.meaning, intended.port(), FlowProtocol::Tcp)
        .map(|permit| Plan::of(permit));
    match decided {
        Ok(plan) => match serving.slots.take() {
            Ok(slot) => {
                let serving = Arc::clone(serving);
                flows.spawn(async move {
                    flow::serve(&serving, client, attempt, plan).await;
                    drop(slot);
                });
                Ok(())
            }
            Err(full) => {
                close(client);
                let rule = plan.rule.clone();
                let event = attempt.refused(FlowReason::TooManyFlows, rule, Some(full.to_string()));
                cell.reporter.flow(event).await
            }
        },
        Err(denial) => {
            close(client);
            let rule = denial.rule.map(crate::Rule::reference);
            let event = attempt.refused(denial.reason, rule, denial.detail);
            attempt.note_forbidden(cell, denial.reason);
            cell.reporter.flow(event).await
        }
    }
}

/// The client sees at once that nothing is there.
fn close(client: TcpStream) {
    reset(&client);
    drop(client);
}

/// Whether an error of accept(2) is about a connection that is gone, and not about accepting.
fn is_about_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}
