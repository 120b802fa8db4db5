//! Port 53 over TCP; RFC 7766.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{CONNECTION_IDLE, MAX_QUERY, MESSAGE_LIMIT, NameServer, Transport};

impl NameServer {
    /// Serves one connection until the other side closes it, is too slow, or sends what is no query.
    /// One beyond the bound is closed at once.
    pub(crate) async fn serve_connection<S>(self: Arc<Self>, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Ok(_place) = self.connections.try_acquire() else {
            return;
        };
        let mut query = Vec::new();
        loop {
            let Ok(Ok(length)) = timeout(CONNECTION_IDLE, stream.read_u16()).await else {
                return;
            };
            // One byte more than allowed is read of a query that is too long: enough to refuse it.
            let length = usize::from(length);
            query.resize(length.min(MAX_QUERY + 1), 0);
            let Ok(Ok(_)) = timeout(MESSAGE_LIMIT, stream.read_exact(&mut query)).await else {
                return;
            };
            let Ok(Some(answer)) = self.answer(&query, Transport::Tcp).await else {
                return;
            };
            let Ok(size) = u16::try_from(answer.len()) else {
                return;
            };
            let mut message = Vec::with_capacity(2 + answer.len());
            message.extend_from_slice(&size.to_be_bytes());
            message.extend_from_slice(&answer);
            let Ok(Ok(())) = timeout(MESSAGE_LIMIT, stream.write_all(&message)).await else {
                return;
            };
            if length > MAX_QUERY {
                return;
            }
        }
    }
}
