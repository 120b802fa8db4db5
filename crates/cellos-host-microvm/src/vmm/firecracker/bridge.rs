//! Where the guest's connections come out.

use std::{
    io,
    os::unix::{fs::PermissionsExt as _, net::UnixListener as BoundListener},
    path::Path,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Mutex, mpsc},
    task::AbortHandle,
    time,
};

use super::stage::Reader;

/// Connections that wait for somebody to talk to them; more are closed at once. A guest needs one,
/// and another when it was restored.
pub(crate) const MAX_WAITING: usize = 8;

/// Pause after a failed accept(2): it fails while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Takes every connection as it comes, whether or not anybody waits for one: a monitor connects in
/// its only thread, and a full backlog would stop the machine.
#[derive(Debug)]
pub(crate) struct Bridge {
    waiting: Mutex<mpsc::Receiver<UnixStream>>,
    accepting: AbortHandle,
}

impl Bridge {
    /// Binds the socket, so that `dialler` may connect to it, and begins to accept.
    ///
    /// # Errors
    /// Those of bind(2), chown(2) and chmod(2).
    pub(crate) fn bind(path: &Path, dialler: Reader) -> io::Result<Self> {
        let listener = BoundListener::bind(path)?;
        let mode = match dialler {
            Reader::Group(owner) => {
                std::os::unix::fs::lchown(path, Some(owner), Some(owner))?;
                0o600
            }
            Reader::Anybody => 0o666,
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let (come, waiting) = mpsc::channel(MAX_WAITING);
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    // A full queue closes the newest.
                    Ok((stream, _)) => drop(come.try_send(stream)),
                    Err(_) => time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        Ok(Self {
            waiting: Mutex::new(waiting),
            accepting: accepting.abort_handle(),
        })
    }

    /// The next connection; `None` when there will be none any more.
    pub(crate) async fn next(&self) -> Option<UnixStream> {
        self.waiting.lock().await.recv().await
    }

    /// Ends the accepting; the socket's file stays.
    pub(crate) fn close(&self) {
        self.accepting.abort();
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn connections_come_in_order_and_too_many_are_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v_9010");
        let bridge = Bridge::bind(&path, Reader::Anybody).unwrap();
        let mut guests = Vec::new();
        for number in 0..=MAX_WAITING {
            let mut guest = UnixStream::connect(&path).await.unwrap();
            let number = u8::try_from(number).unwrap();
            // The one too many may be closed before it has written.
            let _ = guest.write_all(&[number]).await;
            guests.push(guest);
            tokio::task::yield_now().await;
        }
        let mut last = guests.pop().unwrap();
        let closed = time::timeout(Duration::from_secs(5), last.read(&mut [0])).await;
        assert!(matches!(closed.unwrap(), Ok(0) | Err(_)));
        for number in 0..MAX_WAITING {
            let mut byte = [0];
            bridge
                .next()
                .await
                .unwrap()
                .read_exact(&mut byte)
                .await
                .unwrap();
            assert_eq!(usize::from(byte[0]), number);
        }
        bridge.close();
        assert!(bridge.next().await.is_none());
    }
}
