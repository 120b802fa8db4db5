//! One direction of a flow.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::pipe::{SpliceFlags, splice};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, task::coop::consume_budget, time::Instant};

use super::pipes::{Lent, Pipes};

/// Bytes that are copied at once, on the stack. Who fills this has more to say.
const COPY_BYTES: usize = 16 * 1024;
/// Bytes that are spliced at once, at most; the pipe holds less.
const SPLICE_BYTES: usize = 1024 * 1024;

/// Moves bytes from one connection to another.
#[derive(Debug)]
pub(super) struct Lane<'f> {
    from: &'f TcpStream,
    to: &'f TcpStream,
    pipes: &'f Pipes,
    moved: &'f AtomicU64,
    last: &'f Mutex<Instant>,
    bulk: Bulk<'f>,
}

/// Whether a direction goes through a pipe.
#[derive(Debug)]
enum Bulk<'f> {
    /// It copies; there was little so far.
    Small,
    /// It does next time.
    Wanted,
    /// It does.
    Through(Lent<'f>),
    /// It cannot: splice(2) does not work between these.
    Impossible,
}

impl<'f> Lane<'f> {
    pub(super) fn new(
        from: &'f TcpStream,
        to: &'f TcpStream,
        pipes: &'f Pipes,
        moved: &'f AtomicU64,
        last: &'f Mutex<Instant>,
    ) -> Self {
        Self {
            from,
            to,
            pipes,
            moved,
            last,
            bulk: Bulk::Small,
        }
    }

    /// Reads some bytes, waiting for them; none at the end. Holds no buffer while it waits.
    pub(super) async fn read(&self) -> io::Result<Vec<u8>> {
        loop {
            consume_budget().await;
            self.from.readable().await?;
            match read_now(self.from) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Writes all bytes, waiting for room.
    pub(super) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.to.try_write(bytes) {
                Ok(written) => {
                    self.count(written);
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.to.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the receiver that there is no more.
    pub(super) fn finish(&self) -> io::Result<()> {
        match SockRef::from(self.to).shutdown(std::net::Shutdown::Write) {
            // It is gone already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Moves everything there is, to the end.
    pub(super) async fn move_all(&mut self) -> io::Result<()> {
        while self.move_some(u64::MAX).await? > 0 {}
        Ok(())
    }

    /// Moves some bytes unseen, `most` at most, waiting for them; 0 at the end.
    pub(super) async fn move_some(&mut self, most: u64) -> io::Result<u64> {
        loop {
            consume_budget().await;
            if let Some(moved) = self.move_now(most).await? {
                return Ok(moved);
            }
            // Nothing there: whoever has bytes to move may have the pipe.
            if let Bulk::Through(_) = self.bulk {
                self.bulk = Bulk::Wanted;
            }
            self.from.readable().await?;
        }
    }

    /// Moves what is there now; nothing when that is nothing.
    async fn move_now(&mut self, most: u64) -> io::Result<Option<u64>> {
        if let Bulk::Wanted = self.bulk
            && let Some(lent) = self.pipes.lend()
        {
            self.bulk = Bulk::Through(lent);
        }
        if let Bulk::Through(lent) = &mut self.bulk {
            let most = usize::try_from(most)
                .unwrap_or(SPLICE_BYTES)
                .min(SPLICE_BYTES);
            match fill(self.from, lent, most) {
                Ok(0) => return Ok(Some(0)),
                Ok(filled) => {
                    while lent.holds > 0 {
                        let emptied = empty(self.to, lent).await?;
                        count(self.moved, self.last, emptied);
                    }
                    if filled < COPY_BYTES {
                        self.bulk = Bulk::Small;
                    }
                    return Ok(Some(filled as u64));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.bulk = Bulk::Impossible;
                }
                Err(error) => return Err(error),
            }
        }
        let (read, rest) = match copy(self.from, self.to, most) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            copied => copied?,
        };
        self.count(read - rest.len());
        self.write(&rest).await?;
        if read == COPY_BYTES && matches!(self.bulk, Bulk::Small) {
            self.bulk = Bulk::Wanted;
        }
        Ok(Some(read as u64))
    }

    fn count(&self, bytes: usize) {
        count(self.moved, self.last, bytes);
    }
}

fn count(moved: &AtomicU64, last: &Mutex<Instant>, bytes: usize) {
    moved.fetch_add(bytes as u64, Ordering::Relaxed);
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
}

/// Reads what is there.
fn read_now(from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut buffer = [0; COPY_BYTES];
    let read = from.try_read(&mut buffer)?;
    Ok(buffer[..read].to_vec())
}

/// Copies once, at once. Says how much was read, and what of it the receiver had no room for.
fn copy(from: &TcpStream, to: &TcpStream, most: u64) -> io::Result<(usize, Vec<u8>)> {
    let mut buffer = [0; COPY_BYTES];
    let most = usize::try_from(most).unwrap_or(COPY_BYTES).min(COPY_BYTES);
    let read = from.try_read(&mut buffer[..most])?;
    let written = match to.try_write(&buffer[..read]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        written => written?,
    };
    Ok((read, buffer[written..read].to_vec()))
}

/// Fills an empty pipe with what a connection has now.
fn fill(from: &TcpStream, lent: &mut Lent<'_>, most: usize) -> io::Result<usize> {
    let Some((_, write)) = lent.ends() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let filled = from.try_io(Interest::READABLE, || {
        splice(from, None, write, None, most, flags).map_err(io::Error::from)
    })?;
    lent.holds = filled;
    Ok(filled)
}

/// Sends something of what is in a pipe, waiting for room.
async fn empty(to: &TcpStream, lent: &mut Lent<'_>) -> io::Result<usize> {
    let holds = lent.holds;
    let Some((read, _)) = lent.ends() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let emptied = to
        .async_io(Interest::WRITABLE, || {
            splice(read, None, to, None, holds, flags).map_err(io::Error::from)
        })
        .await?;
    if emptied == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    lent.holds = holds - emptied;
    Ok(emptied)
}
