//! The thread that is the parent of every confined program.
//!
//! `PR_SET_PDEATHSIG` means the thread that made the process, prctl(2): one of a runtime's pool
//! may end while the process goes on, and would take the program with it. This thread is started
//! at the first use and never ends.

use std::{
    io,
    process::{Child, Command},
    sync::{OnceLock, mpsc},
    thread,
};

struct Job {
    command: Command,
    done: mpsc::Sender<io::Result<Child>>,
}

/// Spawns a process whose parent thread lives as long as this process.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Result<mpsc::Sender<Job>, i32>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, orders) = mpsc::channel();
        thread::Builder::new()
            .name("cellos-spawner".to_owned())
            .spawn(move || serve(&orders))
            .map(|_| jobs)
            .map_err(|error| error.raw_os_error().unwrap_or_default())
    });
    let spawner = match spawner {
        Ok(spawner) => spawner,
        Err(errno) => return Err(io::Error::from_raw_os_error(*errno)),
    };
    let (done, result) = mpsc::channel();
    let ended = || io::Error::other("the spawning thread has ended");
    spawner.send(Job { command, done }).map_err(|_| ended())?;
    result.recv().map_err(|_| ended())?
}

fn serve(orders: &mpsc::Receiver<Job>) {
    // The sender is never dropped, so the loop ends only with the process.
    while let Ok(mut job) = orders.recv() {
        let result = job.command.spawn();
        // The command holds the helper's end of the socket.
        drop(job.command);
        if let Err(mpsc::SendError(Ok(mut orphan))) = job.done.send(result) {
            let _ = orphan.kill();
            let _ = orphan.wait();
        }
    }
}
