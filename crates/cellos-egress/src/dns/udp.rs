//! Port 53 over UDP.

use std::{io, sync::Arc};

use cellos_core::{event::FlowProtocol, ports::network::DNS_PORT};

use super::{BURST, MAX_QUERY, NameServer, Transport, answer::Step};
use crate::udp::{CellSocket, Flows, Letter};

impl NameServer {
    /// Serves the socket of port 53 until it is aborted, or the record takes no more. Datagrams to a
    /// destination that a rule names are flows.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub(crate) async fn serve_udp(
        self: Arc<Self>,
        socket: Arc<CellSocket>,
        flows: Arc<Flows>,
    ) -> io::Result<()> {
        let mut asking = tokio::task::JoinSet::new();
        loop {
            socket.readable().await?;
            for _ in 0..BURST {
                let Some(letter) = socket.receive()? else {
                    break;
                };
                while asking.try_join_next().is_some() {}
                let meaning = self.cell.names.meaning(letter.to.ip());
                if !self.cell.rules.dns_is_ours(&meaning, FlowProtocol::Udp) {
                    flows.letter(&socket, DNS_PORT, letter).await;
                    continue;
                }
                let Letter { from, to, bytes } = letter;
                let bytes = bytes.get(..MAX_QUERY + 1).unwrap_or(&bytes);
                let step = match self.begin(bytes, Transport::Udp).await {
                    Ok(step) => step,
                    Err(_unrecorded) => return Ok(()),
                };
                match step {
                    Step::Done(None) => {}
                    Step::Done(Some(answer)) => socket.send(&answer, to.ip(), from),
                    Step::Ask(outside) => {
                        // One that fails at once for want of room still is reported, so it waits.
                        if self.outside.available_permits() == 0
                            || asking.len() >= super::MAX_OUTSIDE
                        {
                            match self.ask_nobody(*outside, Transport::Udp).await {
                                Ok(answer) => socket.send(&answer, to.ip(), from),
                                Err(_unrecorded) => return Ok(()),
                            }
                            continue;
                        }
                        let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                        asking.spawn(async move {
                            if let Ok(answer) = server.ask(*outside, Transport::Udp).await {
                                socket.send(&answer, to.ip(), from);
                            }
                        });
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }
}
