//! Threads that carry bytes between a workload's streams and the user's descriptors.
//!
//! The descriptors' open file descriptions are shared with whoever started us (a shell's terminal,
//! say), so they are never switched to `O_NONBLOCK`. Pipes and terminals are opened once more, which
//! makes a description of our own; sockets are asked not to wait call by call; everything else does
//! not wait for anybody. A thread waits in poll(2) with a descriptor that cancels it; one that has
//! nothing to write also looks whether its reader has gone.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{self, TryRecvError},
    },
    thread,
};

use cellos_bridge::{MAX_CHUNK_BYTES, StandardStream};
use cellos_core::ports::workload::Streams;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{FileType, Mode, OFlags},
    io::Errno,
    net::{RecvFlags, SendFlags},
};
use tokio::sync::mpsc::UnboundedSender;

/// Stack of one thread in bytes: it holds one chunk and little else.
const STACK_BYTES: usize = 256 * 1024;

/// Bytes that a pipe which poll(2) calls writable takes without waiting (`PIPE_BUF`, pipe(7)).
const SURE_BYTES: usize = 4096;

/// What the threads have to say.
#[derive(Debug)]
pub(super) enum PumpEvent {
    /// So many bytes were taken by the reader, or have none any more.
    Written {
        stream: StandardStream,
        bytes: usize,
    },
    /// Nobody reads this stream any more, or its end cannot be written to. Said once; what still
    /// comes is discarded.
    ReaderGone(StandardStream),
    /// Everything of a closed queue was written.
    OutputDone(StandardStream),
    /// Bytes for the workload; no more than were allowed.
    Input(Vec<u8>),
    /// There is no more input.
    InputEnd,
}

/// The three threads of one workload. Dropping this ends them, also those whose reader or writer
/// does nothing.
pub(super) struct Pumps {
    stdout: Option<QueueEntrance>,
    stderr: Option<QueueEntrance>,
    input_credit: Option<mpsc::Sender<u32>>,
    cancel: Arc<OwnedFd>,
}

impl Pumps {
    /// # Errors
    /// The kernel's, when there is no room for threads or descriptors.
    pub(super) fn start(streams: Streams, events: &UnboundedSender<PumpEvent>) -> io::Result<Self> {
        let cancel = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (stdout, out_queue) = queue()?;
        let (stderr, err_queue) = queue()?;
        let (credit, credits) = mpsc::channel();
        // From here on a failure drops the pumps, which ends the threads that have begun.
        let pumps = Self {
            stdout: Some(stdout),
            stderr: Some(stderr),
            input_credit: Some(credit),
            cancel,
        };
        for (stream, descriptor, queue) in [
            (StandardStream::Stdout, streams.stdout, out_queue),
            (StandardStream::Stderr, streams.stderr, err_queue),
        ] {
            let (cancel, events) = (Arc::clone(&pumps.cancel), events.clone());
            spawn("cell-output", move || {
                write_all(stream, descriptor, &queue, &cancel, &events);
            })?;
        }
        let (cancel, events) = (Arc::clone(&pumps.cancel), events.clone());
        spawn("cell-input", move || {
            read_all(streams.stdin, &credits, &cancel, &events);
        })?;
        Ok(pumps)
    }

    /// Queues bytes of the workload. The queue is bounded by the credit that the guest was given.
    pub(super) fn output(&self, stream: StandardStream, bytes: Vec<u8>) {
        let queue = match stream {
            StandardStream::Stdout => &self.stdout,
            StandardStream::Stdin | StandardStream::Stderr => &self.stderr,
        };
        if let Some(queue) = queue {
            queue.put(bytes);
        }
    }

    /// No more output comes; what is queued is still written.
    pub(super) fn end_output(&mut self) {
        self.stdout = None;
        self.stderr = None;
    }

    /// Lets so many more bytes be read from standard input.
    pub(super) fn allow_input(&self, bytes: u32) {
        if let Some(credit) = &self.input_credit {
            // The thread ends before this at the end of the input.
            let _ = credit.send(bytes);
        }
    }
}

impl Drop for Pumps {
    fn drop(&mut self) {
        // Nobody reads this counter, so it wakes every poll on it for good.
        ring(&self.cancel);
    }
}

/// The queue of one output stream, where bytes go in. Dropping it closes the queue.
struct QueueEntrance {
    chunks: Option<mpsc::Sender<Vec<u8>>>,
    bell: Arc<OwnedFd>,
}

/// Where they come out. The bell is readable when there may be more, or no more ever, so that a
/// thread can wait for that and for its descriptor at once.
struct QueueExit {
    chunks: mpsc::Receiver<Vec<u8>>,
    bell: Arc<OwnedFd>,
}

fn queue() -> io::Result<(QueueEntrance, QueueExit)> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, chunks) = mpsc::channel();
    let entrance = QueueEntrance {
        chunks: Some(sender),
        bell: Arc::clone(&bell),
    };
    Ok((entrance, QueueExit { chunks, bell }))
}

impl QueueEntrance {
    fn put(&self, bytes: Vec<u8>) {
        if let Some(chunks) = &self.chunks {
            // A thread only ends before its queue when it is cancelled.
            let _ = chunks.send(bytes);
        }
        ring(&self.bell);
    }
}

impl Drop for QueueEntrance {
    fn drop(&mut self) {
        self.chunks = None;
        ring(&self.bell);
    }
}

fn ring(bell: &OwnedFd) {
    // It can only fail where the counter is full, which rings as well.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map(drop)
}

/// How a descriptor is used without waiting in it.
enum Waitless {
    /// A description of our own, which does not wait.
    Own(OwnedFd),
    Socket(OwnedFd),
    /// A regular file or a device that never waits for somebody.
    Plain(OwnedFd),
    /// A pipe or terminal that cannot be opened once more, for example since its path is out of
    /// reach: little at a time.
    Cautious(OwnedFd),
}

impl Waitless {
    fn new(descriptor: OwnedFd, access: OFlags) -> Self {
        let Ok(status) = rustix::fs::fstat(&descriptor) else {
            return Self::Cautious(descriptor);
        };
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Socket => Self::Socket(descriptor),
            FileType::Fifo | FileType::CharacterDevice => {
                let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
                let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                match rustix::fs::open(path, flags, Mode::empty()) {
                    Ok(own) => Self::Own(own),
                    Err(_) => Self::Cautious(descriptor),
                }
            }
            _ => Self::Plain(descriptor),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(descriptor)
            | Self::Socket(descriptor)
            | Self::Plain(descriptor)
            | Self::Cautious(descriptor) => descriptor.as_fd(),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Own(descriptor) | Self::Plain(descriptor) => rustix::io::write(descriptor, bytes),
            Self::Socket(descriptor) => {
                rustix::net::send(descriptor, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            }
            Self::Cautious(descriptor) => {
                let (sure, _) = bytes.split_at(bytes.len().min(SURE_BYTES));
                rustix::io::write(descriptor, sure)
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Socket(descriptor) => {
                rustix::net::recv(descriptor, buffer, RecvFlags::DONTWAIT).map(|(read, _)| read)
            }
            other => rustix::io::read(other.descriptor(), buffer),
        }
    }

    /// Waits until the descriptor is ready.
    fn wait(&self, flags: PollFlags, cancel: &OwnedFd) -> Wake {
        loop {
            let mut both = [
                PollFd::from_borrowed_fd(self.descriptor(), flags),
                PollFd::new(cancel, PollFlags::IN),
            ];
            match poll(&mut both, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return Wake::Cancelled,
            }
            let [descriptor, cancelled] = both.map(|one| one.revents());
            if !cancelled.is_empty() {
                return Wake::Cancelled;
            }
            if !descriptor.is_empty() {
                return Wake::Ready;
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Wake {
    Ready,
    Cancelled,
}

/// The thread of one output stream.
fn write_all(
    stream: StandardStream,
    descriptor: OwnedFd,
    queue: &QueueExit,
    cancel: &OwnedFd,
    events: &UnboundedSender<PumpEvent>,
) {
    let mut sink = Some(Waitless::new(descriptor, OFlags::WRONLY));
    loop {
        let written = match queue.chunks.try_recv() {
            Ok(chunk) => write_chunk(stream, &chunk, &mut sink, cancel, events),
            Err(TryRecvError::Empty) => wait_for_more(stream, queue, &mut sink, cancel, events),
            Err(TryRecvError::Disconnected) => break,
        };
        if written == Thread::Ends {
            return;
        }
    }
    // The descriptor is closed before anybody hears of it.
    drop(sink);
    let _ = events.send(PumpEvent::OutputDone(stream));
}

/// Whether a thread goes on.
#[derive(PartialEq, Eq)]
enum Thread {
    GoesOn,
    /// It was cancelled, or nobody listens to it any more.
    Ends,
}

/// Says something to the conversation.
fn tell(events: &UnboundedSender<PumpEvent>, event: PumpEvent) -> Thread {
    match events.send(event) {
        Ok(()) => Thread::GoesOn,
        Err(_) => Thread::Ends,
    }
}

/// Writes all of a chunk, or discards what has no reader any more.
fn write_chunk(
    stream: StandardStream,
    chunk: &[u8],
    sink: &mut Option<Waitless>,
    cancel: &OwnedFd,
    events: &UnboundedSender<PumpEvent>,
) -> Thread {
    let mut rest = chunk;
    while let (Some(target), false) = (&*sink, rest.is_empty()) {
        if !matches!(target, Waitless::Plain(_))
            && target.wait(PollFlags::OUT, cancel) == Wake::Cancelled
        {
            return Thread::Ends;
        }
        let event = match target.write(rest) {
            Ok(bytes) => {
                rest = rest.get(bytes..).unwrap_or_default();
                PumpEvent::Written { stream, bytes }
            }
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(_) => {
                *sink = None;
                PumpEvent::ReaderGone(stream)
            }
        };
        if tell(events, event) == Thread::Ends {
            return Thread::Ends;
        }
    }
    if rest.is_empty() {
        return Thread::GoesOn;
    }
    let bytes = rest.len();
    tell(events, PumpEvent::Written { stream, bytes })
}

/// Waits for the queue, and notices meanwhile when the reader goes: the next byte that the workload
/// writes should already meet a closed pipe.
fn wait_for_more(
    stream: StandardStream,
    queue: &QueueExit,
    sink: &mut Option<Waitless>,
    cancel: &OwnedFd,
    events: &UnboundedSender<PumpEvent>,
) -> Thread {
    let mut polled = vec![
        PollFd::new(&queue.bell, PollFlags::IN),
        PollFd::new(cancel, PollFlags::IN),
    ];
    if let Some(target) = &*sink {
        // Asked for nothing, poll(2) still tells of an error and of a reader that has gone.
        let descriptor = target.descriptor();
        polled.push(PollFd::from_borrowed_fd(descriptor, PollFlags::empty()));
    }
    let polled_well = poll(&mut polled, None);
    let woken = |at: usize| polled.get(at).is_some_and(|one| !one.revents().is_empty());
    let (rung, cancelled, gone) = (woken(0), woken(1), woken(2));
    match polled_well {
        Ok(_) if !cancelled => {}
        Err(Errno::INTR) => return Thread::GoesOn,
        Ok(_) | Err(_) => return Thread::Ends,
    }
    if rung {
        // Before the queue is looked at, so that no ring is lost.
        let _ = rustix::io::read(&queue.bell, &mut [0_u8; 8]);
    }
    if gone {
        *sink = None;
        return tell(events, PumpEvent::ReaderGone(stream));
    }
    Thread::GoesOn
}

/// The thread of standard input.
fn read_all(
    descriptor: OwnedFd,
    credits: &mpsc::Receiver<u32>,
    cancel: &OwnedFd,
    events: &UnboundedSender<PumpEvent>,
) {
    let source = Waitless::new(descriptor, OFlags::RDONLY);
    let mut buffer = vec![0; MAX_CHUNK_BYTES];
    let mut credit = 0_usize;
    loop {
        // Nothing is taken from the user that the guest has no room for.
        while credit == 0 {
            let Ok(more) = credits.recv() else {
                return;
            };
            credit += usize::try_from(more).unwrap_or_default();
        }
        credit += credits
            .try_iter()
            .map(|more| usize::try_from(more).unwrap_or_default())
            .sum::<usize>();
        if source.wait(PollFlags::IN, cancel) == Wake::Cancelled {
            return;
        }
        let room = buffer.len().min(credit);
        let Some(room) = buffer.get_mut(..room) else {
            return;
        };
        let event = match source.read(room) {
            Ok(0) => PumpEvent::InputEnd,
            Ok(read) => {
                credit = credit.saturating_sub(read);
                PumpEvent::Input(room.get(..read).unwrap_or_default().to_vec())
            }
            Err(Errno::AGAIN | Errno::INTR) => continue,
            // For the workload an input that cannot be read is one that has ended.
            Err(_) => PumpEvent::InputEnd,
        };
        let last = matches!(event, PumpEvent::InputEnd);
        if events.send(event).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        time::Duration,
    };

    use super::*;

    fn flags(descriptor: impl AsFd) -> OFlags {
        rustix::fs::fcntl_getfl(descriptor).unwrap()
    }

    async fn next(events: &mut tokio::sync::mpsc::UnboundedReceiver<PumpEvent>) -> PumpEvent {
        tokio::time::timeout(Duration::from_secs(5), events.recv())
            .await
            .unwrap()
            .unwrap()
    }

    #[tokio::test]
    async fn bytes_pass_and_the_users_descriptions_stay_as_they_were() {
        let (stdin, mut writer) = io::pipe().unwrap();
        let (mut reader, stdout) = io::pipe().unwrap();
        let (peer, stderr) = std::os::unix::net::UnixStream::pair().unwrap();
        let (kept_in, kept_out) = (stdin.try_clone().unwrap(), stdout.try_clone().unwrap());
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let mut pumps = Pumps::start(
            Streams {
                stdin: stdin.into(),
                stdout: stdout.into(),
                stderr: stderr.into(),
            },
            &sender,
        )
        .unwrap();
        writer.write_all(b"in").unwrap();
        pumps.output(StandardStream::Stdout, b"out".to_vec());
        pumps.output(StandardStream::Stderr, b"err".to_vec());
        pumps.end_output();
        let mut out = [0; 3];
        reader.read_exact(&mut out).unwrap();
        let mut err = [0; 3];
        (&peer).read_exact(&mut err).unwrap();
        assert_eq!((&out, &err), (b"out", b"err"));
        pumps.allow_input(1);
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(format!("{:?}", next(&mut events).await));
        }
        assert!(seen.contains(&"Input([105])".to_owned()), "{seen:?}");
        for kept in [kept_in.as_fd(), kept_out.as_fd()] {
            assert!(!flags(kept).contains(OFlags::NONBLOCK));
        }
    }

    #[tokio::test]
    async fn a_reader_that_stops_holds_nobody_up_and_dropping_ends_the_threads() {
        let (stdin, _writer) = io::pipe().unwrap();
        let (_reader, stdout) = io::pipe().unwrap();
        let stderr = stdout.try_clone().unwrap();
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let pumps = Pumps::start(
            Streams {
                stdin: stdin.into(),
                stdout: stdout.into(),
                stderr: stderr.into(),
            },
            &sender,
        )
        .unwrap();
        drop(sender);
        pumps.allow_input(10);
        for _ in 0..4 {
            pumps.output(StandardStream::Stdout, vec![0; MAX_CHUNK_BYTES]);
        }
        drop(pumps);
        // The threads hold the senders; the channel closes when all three have ended.
        while tokio::time::timeout(Duration::from_secs(5), events.recv())
            .await
            .unwrap()
            .is_some()
        {}
    }

    /// Pumps whose standard output is this.
    fn pumps_to(
        stdout: impl Into<OwnedFd>,
    ) -> (
        Pumps,
        tokio::sync::mpsc::UnboundedReceiver<PumpEvent>,
        io::PipeReader,
    ) {
        let (stdin, _) = io::pipe().unwrap();
        let (others, stderr) = io::pipe().unwrap();
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let streams = Streams {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        (Pumps::start(streams, &sender).unwrap(), events, others)
    }

    #[tokio::test]
    async fn output_without_a_reader_counts_as_taken_after_that_was_told() {
        let (reader, stdout) = io::pipe().unwrap();
        drop(reader);
        let (pumps, mut events, _stderr) = pumps_to(stdout);
        pumps.output(StandardStream::Stdout, vec![0; 9]);
        assert!(matches!(
            next(&mut events).await,
            PumpEvent::ReaderGone(StandardStream::Stdout)
        ));
        assert!(matches!(
            next(&mut events).await,
            PumpEvent::Written {
                stream: StandardStream::Stdout,
                bytes: 9
            }
        ));
    }

    #[tokio::test]
    async fn a_reader_that_goes_is_noticed_although_nothing_is_written() {
        let (reader, stdout) = io::pipe().unwrap();
        let (peer, socket) = std::os::unix::net::UnixStream::pair().unwrap();
        for (reader, stdout) in [
            (OwnedFd::from(reader), OwnedFd::from(stdout)),
            (peer.into(), socket.into()),
        ] {
            let (mut pumps, mut events, _stderr) = pumps_to(stdout);
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(events.try_recv().is_err(), "the reader is still there");
            drop(reader);
            assert!(matches!(
                next(&mut events).await,
                PumpEvent::ReaderGone(StandardStream::Stdout)
            ));
            pumps.end_output();
            // Told once: what follows are the ends.
            for _ in 0..2 {
                let event = next(&mut events).await;
                assert!(matches!(event, PumpEvent::OutputDone(_)), "{event:?}");
            }
        }
    }
}
