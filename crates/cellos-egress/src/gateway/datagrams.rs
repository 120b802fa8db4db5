//! Serves one UDP socket of a cell.

use std::sync::Arc;

use cellos_core::ports::network::DNS_PORT;

use super::Serving;
use crate::udp::CellSocket;

/// Serves a socket until the cell is no longer served.
pub(super) async fn serve(serving: Arc<Serving>, port: u16, socket: Arc<CellSocket>) {
    let flows = Arc::clone(&serving.datagrams);
    let served = async {
        match port {
            DNS_PORT => {
                Arc::clone(&serving.name_server)
                    .serve_udp(socket, flows)
                    .await
            }
            port => flows.serve(port, socket).await,
        }
    };
    tokio::select! {
        () = serving.ended() => {}
        served = served => if let Err(error) = served {
            tracing::error!(port, %error, "a cell's UDP socket is no longer served");
        }
    }
}
