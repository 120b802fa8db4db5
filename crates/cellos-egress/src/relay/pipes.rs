//! Pipes that bulk data goes through: few, and shared by all flows of the process.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Most pipes at once, each two descriptors. Directions beyond that copy.
pub(crate) const MAX_PIPES: usize = 256;
/// Pipes that are kept open while nobody uses them.
const SPARE_PIPES: usize = 16;
/// Size of a pipe in bytes. All pipes together stay within what Linux lets one user have
/// (`/proc/sys/fs/pipe-user-pages-soft`, 64 MiB).
const PIPE_BYTES: usize = 256 * 1024;

/// The pipes of a process.
#[derive(Debug)]
pub(crate) struct Pipes {
    spare: Mutex<Vec<Pipe>>,
    lent: AtomicUsize,
    most: usize,
}

/// An empty pipe.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe that goes back when it is dropped, unless something is left in it.
#[derive(Debug)]
pub(super) struct Lent<'p> {
    pipe: Option<Pipe>,
    pipes: &'p Pipes,
    /// Bytes in it.
    pub(super) holds: usize,
}

impl Default for Pipes {
    fn default() -> Self {
        Self::with(MAX_PIPES)
    }
}

impl Pipes {
    /// At most this many.
    pub(crate) fn with(most: usize) -> Self {
        Self {
            spare: Mutex::default(),
            lent: AtomicUsize::new(0),
            most,
        }
    }

    /// A pipe, if there is one.
    pub(super) fn lend(&self) -> Option<Lent<'_>> {
        if self.lent.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.lent.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        match spare.map_or_else(Pipe::new, Ok) {
            Ok(pipe) => Some(Lent {
                pipe: Some(pipe),
                pipes: self,
                holds: 0,
            }),
            Err(_) => {
                self.lent.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one does too.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self { read, write })
    }
}

impl Lent<'_> {
    /// Both ends: to read from, to write to.
    pub(super) fn ends(&self) -> Option<(&OwnedFd, &OwnedFd)> {
        self.pipe.as_ref().map(|pipe| (&pipe.read, &pipe.write))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pipes.lent.fetch_sub(1, Ordering::Relaxed);
        let Some(pipe) = self.pipe.take() else {
            return;
        };
        let mut spare = self
            .pipes
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.holds == 0 && spare.len() < SPARE_PIPES {
            spare.push(pipe);
        }
    }
}
