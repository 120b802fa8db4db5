//! Standard streams for the workloads of the contract.

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::OwnedFd,
};

use cellos_core::ports::workload::Streams;

use super::{Violation, promptly};

/// Most bytes read from a workload of the contract, none of which writes a hundredth of it.
const READ_LIMIT: u64 = 64 * 1024;

/// All three streams on `/dev/null`.
///
/// # Errors
/// When `/dev/null` cannot be opened.
pub fn silent() -> io::Result<Streams> {
    let null = || File::options().read(true).write(true).open("/dev/null");
    Ok(Streams {
        stdin: null()?.into(),
        stdout: null()?.into(),
        stderr: null()?.into(),
    })
}

/// The test's ends of a workload's streams.
#[derive(Debug)]
pub struct Taps {
    stdin: PipeWriter,
    stdout: PipeReader,
    stderr: PipeReader,
}

/// Three pipes: one half for the workload, one for the test.
///
/// # Errors
/// When no pipe can be made.
pub fn pipes() -> io::Result<(Streams, Taps)> {
    let (stdin, writer) = io::pipe()?;
    let (out_reader, stdout) = io::pipe()?;
    let (err_reader, stderr) = io::pipe()?;
    Ok((
        Streams {
            stdin: OwnedFd::from(stdin),
            stdout: OwnedFd::from(stdout),
            stderr: OwnedFd::from(stderr),
        },
        Taps {
            stdin: writer,
            stdout: out_reader,
            stderr: err_reader,
        },
    ))
}

impl Taps {
    /// Writes all input, closes it, and reads both outputs to their end.
    ///
    /// # Errors
    /// [`Violation`] when an output does not end.
    pub async fn converse(self, input: &'static [u8]) -> Result<(String, String), Violation> {
        let Self {
            mut stdin,
            stdout,
            stderr,
        } = self;
        stdin.write_all(input)?;
        drop(stdin);
        let out = tokio::task::spawn_blocking(move || read_all(stdout));
        let err = tokio::task::spawn_blocking(move || read_all(stderr));
        let out = promptly("the end of standard output", out).await?;
        let err = promptly("the end of standard error", err).await?;
        let text = |read: Result<io::Result<String>, _>| -> Result<String, Violation> {
            Ok(read.map_err(|_: tokio::task::JoinError| Violation::new("the reader panicked"))??)
        };
        Ok((text(out)?, text(err)?))
    }

    /// Waits for the first line of standard output, and gives the taps back, still open.
    ///
    /// # Errors
    /// [`Violation`] when none comes.
    pub async fn first_line(mut self) -> Result<(String, Self), Violation> {
        let reading = tokio::task::spawn_blocking(move || {
            let mut line = Vec::new();
            let mut byte = [0];
            while self.stdout.read(&mut byte)? == 1 && byte != *b"\n" {
                line.extend(byte);
            }
            io::Result::Ok((String::from_utf8_lossy(&line).into_owned(), self))
        });
        Ok(promptly("the workload's first line", reading)
            .await?
            .map_err(|_| Violation::new("the reader panicked"))??)
    }
}

fn read_all(pipe: PipeReader) -> io::Result<String> {
    let mut text = String::new();
    pipe.take(READ_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}
