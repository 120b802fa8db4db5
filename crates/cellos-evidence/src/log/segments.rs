//! Which files make up a log.
//!
//! ```text
//! events.jsonl                                    the live file, which is appended to
//! events.000000000000-000000000099.jsonl          a sealed segment: lines 0 to 99
//! events.000000000000-000000000099.seal.json      its seal
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Digits of a line number in a file name; longer numbers take as many as they need.
const NUMBER_DIGITS: usize = 12;
/// Most files of one log that a reader takes in: 64 TiB at the default size of a segment.
pub const MAX_SEGMENTS: usize = 1_000_000;

/// The files of a log, in the order of their lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// Where the live file is, or would be.
    pub log: PathBuf,
    /// Sealed segments, first lines first.
    pub sealed: Vec<Segment>,
    /// The live file, where there is one.
    pub live: Option<PathBuf>,
}

/// A sealed segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// Number of its first line, as its name says.
    pub first: u64,
    /// Number of its last line, as its name says.
    pub last: u64,
    /// Its seal, where there is one.
    pub seal: Option<PathBuf>,
}

/// Why the files of a log cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum SegmentsError {
    /// The path names no file.
    #[error("event log {path:?}: names no file")]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// It is no regular file; links are not followed.
    #[error("event log {path:?}: is not a regular file; links are not followed")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// More files than a reader takes in.
    #[error("event log {path:?}: has more than {MAX_SEGMENTS} segments beside it")]
    TooMany {
        /// The log.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("event log {path:?}: cannot look for its files: {source}")]
    Io {
        /// The log.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Segments {
    /// Finds the files of the log at `path`. Nothing is opened. Links that have the name of a
    /// segment are passed over, so their lines are missing.
    ///
    /// # Errors
    /// [`SegmentsError`]; a log of which nothing is there yet is none.
    pub fn of(path: &Path) -> Result<Self, SegmentsError> {
        let io_error = |source| SegmentsError::Io {
            path: path.to_owned(),
            source,
        };
        let names = Names::of(path).ok_or_else(|| SegmentsError::NoName {
            path: path.to_owned(),
        })?;
        // The live file is looked for first: a rotation meanwhile makes it a segment, which is
        // then found in the folder.
        let live = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() => Some(path.to_owned()),
            Ok(_) => {
                return Err(SegmentsError::NotAFile {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error(error)),
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(folder_of(path)).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            let Some(name) = entry.file_name().to_str().and_then(|name| names.kind(name)) else {
                continue;
            };
            if entry.file_type().map_err(io_error)?.is_file() {
                found.push(name);
            }
            if found.len() > 2 * MAX_SEGMENTS {
                return Err(SegmentsError::TooMany {
                    path: path.to_owned(),
                });
            }
        }
        Ok(Self {
            log: path.to_owned(),
            sealed: names.sealed(found),
            live,
        })
    }

    /// All files that hold lines, in their order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let sealed = self.sealed.iter().map(|segment| segment.path.as_path());
        sealed.chain(self.live.as_deref())
    }
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// What the name of a file beside a log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileName {
    /// A sealed segment.
    Segment { first: u64, last: u64 },
    /// The seal of one.
    Seal { first: u64, last: u64 },
}

/// How the files of one log are called.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    log: PathBuf,
    stem: String,
    /// With its dot; empty where the log's name has none.
    extension: String,
}

impl Names {
    pub(crate) fn of(log: &Path) -> Option<Self> {
        let part =
            |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_str().map(str::to_owned));
        Some(Self {
            log: log.to_owned(),
            stem: part(log.file_stem())??,
            extension: match part(log.extension()) {
                Some(extension) => format!(".{}", extension?),
                None => String::new(),
            },
        })
    }

    /// Where the segment of these lines goes.
    pub(crate) fn segment(&self, first: u64, last: u64) -> PathBuf {
        let (stem, extension) = (&self.stem, &self.extension);
        self.log
            .with_file_name(format!("{stem}.{first:012}-{last:012}{extension}"))
    }

    /// Where its seal goes.
    pub(crate) fn seal(&self, first: u64, last: u64) -> PathBuf {
        let stem = &self.stem;
        self.log
            .with_file_name(format!("{stem}.{first:012}-{last:012}.seal.json"))
    }

    /// What a name in the folder means for this log.
    pub(crate) fn kind(&self, name: &str) -> Option<FileName> {
        let rest = name.strip_prefix(&self.stem)?.strip_prefix('.')?;
        // A log called `events.seal.json` would have segments that look like seals.
        if let Some((first, last)) = rest.strip_suffix(".seal.json").and_then(range) {
            return Some(FileName::Seal { first, last });
        }
        let (first, last) = range(rest.strip_suffix(&self.extension)?)?;
        Some(FileName::Segment { first, last })
    }

    /// The segments among what was found, in order and with their seals.
    pub(crate) fn sealed(&self, mut found: Vec<FileName>) -> Vec<Segment> {
        found.sort_unstable();
        let seals = found.partition_point(|name| matches!(name, FileName::Segment { .. }));
        let (segments, seals) = found.split_at(seals);
        let segment = |name: &FileName| match *name {
            FileName::Seal { .. } => None,
            FileName::Segment { first, last } => Some(Segment {
                path: self.segment(first, last),
                first,
                last,
                seal: seals
                    .binary_search(&FileName::Seal { first, last })
                    .is_ok()
                    .then(|| self.seal(first, last)),
            }),
        };
        segments.iter().filter_map(segment).collect()
    }
}

/// `000000000012-000000000099`, exactly as it is written.
fn range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once('-')?;
    let number = |digits: &str| -> Option<u64> {
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let padded = digits.len() == NUMBER_DIGITS
            || (digits.len() > NUMBER_DIGITS && !digits.starts_with('0'));
        (plain && padded).then(|| digits.parse().ok()).flatten()
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_lines_a_file_holds() {
        let names = Names::of(Path::new("/x/events.jsonl")).unwrap();
        assert_eq!(
            names.segment(5, 1_234_567_890_123),
            Path::new("/x/events.000000000005-1234567890123.jsonl")
        );
        for (name, expected) in [
            (
                "events.000000000005-1234567890123.jsonl",
                Some(FileName::Segment {
                    first: 5,
                    last: 1_234_567_890_123,
                }),
            ),
            (
                "events.000000000000-000000000009.seal.json",
                Some(FileName::Seal { first: 0, last: 9 }),
            ),
            ("events.000000000010-000000000009.jsonl", None),
            ("events.10-12.jsonl", None),
            ("events.+00000000005-000000000009.jsonl", None),
            ("events.jsonl", None),
            ("events.jsonl.head", None),
            ("other.000000000000-000000000009.jsonl", None),
        ] {
            assert_eq!(names.kind(name), expected, "{name}");
        }
    }

    #[test]
    fn files_come_in_the_order_of_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.jsonl");
        assert_eq!(Segments::of(&log).unwrap().files().count(), 0);
        for name in [
            "events.000000000010-000000000019.jsonl",
            "events.000000000000-000000000009.jsonl",
            "events.000000000000-000000000009.seal.json",
            "events.jsonl",
            "events.jsonl.lock",
            "x.jsonl",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let link = folder.path().join("events.000000000020-000000000029.jsonl");
        std::os::unix::fs::symlink(&log, &link).unwrap();
        let segments = Segments::of(&log).unwrap();
        let files: Vec<_> = segments
            .files()
            .map(|file| file.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(
            files,
            [
                "events.000000000000-000000000009.jsonl",
                "events.000000000010-000000000019.jsonl",
                "events.jsonl"
            ]
        );
        assert!(segments.sealed[0].seal.is_some());
        assert_eq!(segments.sealed[1].seal, None);
        assert!(matches!(
            Segments::of(&link),
            Err(SegmentsError::NotAFile { .. })
        ));
    }
}
