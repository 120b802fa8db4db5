//! How many bytes a command wrote into streams that it shares with its caller.
//!
//! Nothing stands between a command and its streams, so of pipes and terminals nothing is known. Of
//! a file the kernel keeps the position that all its holders share, which every write moves.

use std::os::fd::{AsFd, OwnedFd};

use cellos_core::{
    event::{Counted, OutputRecord, StreamRecord},
    ports::workload::Streams,
};
use rustix::fs::{FileType, OFlags, Stat};

/// Where the output streams stood before the command ran.
pub(crate) struct OutputMark {
    stdout: Mark,
    stderr: Mark,
}

/// One stream.
enum Mark {
    /// A file. This descriptor shares its position with the command's.
    File {
        file: OwnedFd,
        position: u64,
        /// Where the first write goes: for a descriptor that appends, to the end, which the
        /// position follows only then.
        next: u64,
    },
    /// Nothing can be counted.
    Uncounted(Counted),
}

impl OutputMark {
    /// Notes where the streams are.
    pub(crate) fn of(streams: &Streams) -> Self {
        let files = [&streams.stdout, &streams.stderr].map(rustix::fs::fstat);
        if let [Ok(stdout), Ok(stderr)] = &files
            && is_file(stdout)
            && (stdout.st_dev, stdout.st_ino) == (stderr.st_dev, stderr.st_ino)
        {
            return Self {
                stdout: Mark::Uncounted(Counted::SharedFile),
                stderr: Mark::Uncounted(Counted::SharedFile),
            };
        }
        let [stdout, stderr] = files;
        Self {
            stdout: mark(&streams.stdout, stdout),
            stderr: mark(&streams.stderr, stderr),
        }
    }

    /// How far they moved.
    pub(crate) fn measure(&self) -> OutputRecord {
        OutputRecord {
            stdout: self.stdout.measure(),
            stderr: self.stderr.measure(),
        }
    }
}

impl Mark {
    fn measure(&self) -> StreamRecord {
        let (file, before, next) = match self {
            Self::File {
                file,
                position,
                next,
            } => (file, *position, *next),
            Self::Uncounted(why) => {
                return StreamRecord {
                    bytes: None,
                    counted: *why,
                };
            }
        };
        let bytes = match position(file) {
            Some(now) if now == before => Some(0),
            Some(now) => now.checked_sub(next),
            None => None,
        };
        StreamRecord {
            bytes,
            counted: match bytes {
                Some(_) => Counted::FilePosition,
                None => Counted::FileRewound,
            },
        }
    }
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn mark(stream: &OwnedFd, stat: Result<Stat, rustix::io::Errno>) -> Mark {
    let Ok(stat) = stat else {
        return Mark::Uncounted(Counted::Unknown);
    };
    let why = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            return file(stream, &stat).unwrap_or(Mark::Uncounted(Counted::Unknown));
        }
        FileType::Fifo => Counted::Pipe,
        FileType::Socket => Counted::Socket,
        FileType::CharacterDevice | FileType::BlockDevice => Counted::Device,
        FileType::Directory | FileType::Symlink | FileType::Unknown => Counted::Unknown,
    };
    Mark::Uncounted(why)
}

fn file(stream: &OwnedFd, stat: &Stat) -> Option<Mark> {
    let flags = rustix::fs::fcntl_getfl(stream).ok()?;
    let position = position(stream)?;
    let next = match flags.contains(OFlags::APPEND) {
        true => u64::try_from(stat.st_size).ok()?,
        false => position,
    };
    Some(Mark::File {
        file: stream.try_clone().ok()?,
        position,
        next,
    })
}

fn position(file: impl AsFd) -> Option<u64> {
    rustix::fs::tell(file).ok()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _, process::Command};

    use rustix::fs::SeekFrom;

    use super::*;

    fn streams(stdout: impl Into<OwnedFd>, stderr: impl Into<OwnedFd>) -> Streams {
        Streams {
            stdin: File::open("/dev/null").unwrap().into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    fn run(streams: &Streams, script: &str) {
        let status = Command::new("/bin/sh")
            .args(["-c", script])
            .stdout(streams.stdout.try_clone().unwrap())
            .stderr(streams.stderr.try_clone().unwrap())
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    fn bytes_into_files_are_counted_from_where_the_files_stood() {
        let dir = tempfile::tempdir().unwrap();
        let mut out = File::create(dir.path().join("out")).unwrap();
        out.write_all(b"before").unwrap();
        let err = dir.path().join("err");
        std::fs::write(&err, "older").unwrap();
        let err = File::options().append(true).open(err).unwrap();
        let streams = streams(out, err);
        let mark = OutputMark::of(&streams);
        run(&streams, "printf 123; printf 1234567 >&2");
        let measured = mark.measure();
        assert_eq!(measured.stdout.bytes, Some(3));
        assert_eq!(measured.stderr.bytes, Some(7));
        assert_eq!(measured.stderr.counted, Counted::FilePosition);
    }

    #[test]
    fn what_cannot_be_counted_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("both")).unwrap();
        let shared = streams(file.try_clone().unwrap(), file);
        let mark = OutputMark::of(&shared);
        run(&shared, "echo x");
        assert_eq!(mark.measure().stdout.counted, Counted::SharedFile);

        let (_reader, writer) = std::io::pipe().unwrap();
        let device = File::options().write(true).open("/dev/null").unwrap();
        let measured = OutputMark::of(&streams(writer, device)).measure();
        assert_eq!(
            (measured.stdout.bytes, measured.stdout.counted),
            (None, Counted::Pipe)
        );
        assert_eq!(measured.stderr.counted, Counted::Device);
    }

    #[test]
    fn a_position_that_went_backwards_counts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut out = File::create(dir.path().join("out")).unwrap();
        out.write_all(b"before").unwrap();
        let device = File::options().write(true).open("/dev/null").unwrap();
        let streams = streams(out, device);
        let mark = OutputMark::of(&streams);
        rustix::fs::seek(&streams.stdout, SeekFrom::Start(1)).unwrap();
        let measured = mark.measure().stdout;
        assert_eq!(
            (measured.bytes, measured.counted),
            (None, Counted::FileRewound)
        );
    }
}
