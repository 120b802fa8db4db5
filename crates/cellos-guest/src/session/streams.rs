//! The workload's standard streams, as pipes whose other ends are here.

use std::{collections::VecDeque, io, os::fd::OwnedFd};

use cellos_bridge::{GuestEnd, MAX_BULK_BACKLOG_BYTES, MAX_CHUNK_BYTES, SendError, StandardStream};
use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

/// Standard input that the host may send before the workload has read any, in bytes: as much as a
/// pipe holds on Linux, and so what this end may have to keep.
pub const INPUT_CREDIT_BYTES: u32 = 64 * 1024;

/// The workload's ends, to be handed over.
pub(super) struct WorkloadEnds {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// This program's ends.
pub(super) struct Streams {
    pub(super) input: Inlet,
    pub(super) outputs: [Outlet; 2],
}

impl Streams {
    /// Nobody takes more of an output stream.
    pub(super) fn close_output(&mut self, stream: StandardStream) {
        for outlet in &mut self.outputs {
            if outlet.stream == stream {
                outlet.close();
            }
        }
    }
}

/// Three pipes.
pub(super) fn open() -> io::Result<(Streams, WorkloadEnds)> {
    let pipe = || -> io::Result<_> { Ok(pipe_with(PipeFlags::CLOEXEC)?) };
    let ((stdin, input), (output, stdout), (error, stderr)) = (pipe()?, pipe()?, pipe()?);
    for own in [&input, &output, &error] {
        // Of this end alone: the workload gets pipes as programs expect them.
        rustix::io::ioctl_fionbio(own, true)?;
    }
    let streams = Streams {
        input: Inlet {
            pipe: Some(input),
            waiting: VecDeque::new(),
            has_ended: false,
            taken: 0,
        },
        outputs: [
            Outlet::new(StandardStream::Stdout, output),
            Outlet::new(StandardStream::Stderr, error),
        ],
    };
    let ends = WorkloadEnds {
        stdin,
        stdout,
        stderr,
    };
    Ok((streams, ends))
}

/// Standard input.
pub(super) struct Inlet {
    /// `None` once it has ended, or the workload has closed its end.
    pipe: Option<OwnedFd>,
    /// Sent by the host, not yet taken by the pipe: never more than the credit.
    waiting: VecDeque<u8>,
    has_ended: bool,
    /// Taken by the pipe; the host is not told yet.
    taken: u32,
}

impl Inlet {
    /// The pipe, where something waits for room in it.
    pub(super) fn wants_room(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref().filter(|_| !self.waiting.is_empty())
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        // Nobody reads it any more; the host gets no credit for it, so it soon sends no more.
        if self.pipe.is_some() {
            self.waiting.extend(bytes);
            self.write();
        }
    }

    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.write();
    }

    /// Writes what the pipe takes.
    pub(super) fn write(&mut self) {
        while let Some(pipe) = &self.pipe {
            let (front, _) = self.waiting.as_slices();
            if front.is_empty() {
                break;
            }
            match rustix::io::write(pipe, front) {
                Ok(written) => {
                    self.waiting.drain(..written);
                    let written = u32::try_from(written).unwrap_or(u32::MAX);
                    self.taken = self.taken.saturating_add(written);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // The workload has closed its end, which is its right.
                Err(_) => self.close(),
            }
        }
        if self.has_ended {
            self.close();
        }
    }

    fn close(&mut self) {
        self.pipe = None;
        self.waiting.clear();
    }

    /// Lets the host send as much as the pipe took.
    pub(super) fn grant(&mut self, end: &mut GuestEnd) -> Result<(), SendError> {
        if self.taken == 0 || self.has_ended {
            return Ok(());
        }
        match end.grant_input(self.taken) {
            Ok(()) => {
                self.taken = 0;
                Ok(())
            }
            // Tried again when something has been written.
            Err(SendError::Backlog { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What became of an attempt to pass output on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// Some of it was.
    Some,
    /// There was none, or no room or credit for it.
    Nothing,
}

/// An output stream.
pub(super) struct Outlet {
    stream: StandardStream,
    /// `None` once everything that holds the other end has closed it, or nobody takes more.
    pipe: Option<OwnedFd>,
    dropped: u64,
}

impl Outlet {
    fn new(stream: StandardStream, pipe: OwnedFd) -> Self {
        Self {
            stream,
            pipe: Some(pipe),
            dropped: 0,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The pipe, where there is credit and room for what it holds. Otherwise it is left alone, so
    /// that the workload waits.
    pub(super) fn wants_data(&self, end: &GuestEnd) -> Option<&OwnedFd> {
        self.pipe.as_ref().filter(|_| self.room(end) > 0)
    }

    fn room(&self, end: &GuestEnd) -> usize {
        if end.outgoing_bytes() >= MAX_BULK_BACKLOG_BYTES {
            return 0;
        }
        usize::try_from(end.output_credit(self.stream))
            .unwrap_or(usize::MAX)
            .min(MAX_CHUNK_BYTES)
    }

    /// Passes on what has come, as far as there is credit and room.
    pub(super) fn pass_on(
        &mut self,
        end: &mut GuestEnd,
        buffer: &mut [u8],
    ) -> Result<Passed, SendError> {
        let room = self.room(end);
        let Some(pipe) = &self.pipe else {
            return Ok(Passed::Nothing);
        };
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else {
            return Ok(Passed::Nothing);
        };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => {
                self.pipe = None;
                Ok(Passed::Nothing)
            }
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                let sent = end.output(self.stream, bytes)?;
                // None, since no more was read than there was credit and room for.
                self.drop_bytes(length.saturating_sub(sent));
                Ok(Passed::Some)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Passed::Nothing),
            Err(_) => {
                self.pipe = None;
                Ok(Passed::Nothing)
            }
        }
    }

    /// Closes this end, so that whoever writes learns that nobody reads (pipe(7)). What is in the
    /// pipe is counted and not read: a workload could fill it for ever.
    fn close(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            let waiting = rustix::io::ioctl_fionread(&pipe).unwrap_or(0);
            self.dropped = self.dropped.saturating_add(waiting);
        }
    }

    /// Looks whether a stream that has no credit has come to its end, when nobody can write to it
    /// any more.
    pub(super) fn close_if_empty(&mut self) {
        if let Some(pipe) = &self.pipe
            && rustix::io::ioctl_fionread(pipe).is_ok_and(|waiting| waiting == 0)
        {
            self.pipe = None;
        }
    }

    /// Gives up what is still in the pipe, and counts it. Nobody can write to it any more.
    pub(super) fn give_up(&mut self, buffer: &mut [u8]) {
        while let Some(pipe) = &self.pipe {
            match rustix::io::read(pipe, &mut *buffer) {
                Ok(length) if length > 0 => self.drop_bytes(length),
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => self.pipe = None,
            }
        }
    }

    fn drop_bytes(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.dropped = self.dropped.saturating_add(bytes);
    }
}
