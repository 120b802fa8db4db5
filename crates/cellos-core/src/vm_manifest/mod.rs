//! The manifest of what a microVM boots from: a digest, a role and a path on each line.
//!
//! ```text
//! # comment
//! sha256:<64 hexadecimal digits> kernel kernel
//! sha256:<64 hexadecimal digits> rootfs base
//! ```
//!
//! The format is the published one, read more strictly: a role that is not known or stands twice is
//! an error, because what a reader skips is not verified. The signature stands in a file of its own
//! ([`sign`], [`verify`]), so that the manifest stays what other programs can read.
//!
//! Nothing here reads a file; contents are arguments.

mod signature;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Component, Path},
    str::FromStr,
};

use crate::canonical::SHA256_PREFIX;

pub use signature::{
    MANIFEST_SIGNATURE_DOMAIN, MAX_SIGNATURE_BYTES, ManifestSignature, ManifestTrust,
    SIGNATURE_ALGORITHM, SIGNATURE_SCHEMA_VERSION, SignatureError, Unsigned, VerifiedManifest,
    sign, verify,
};

/// Largest manifest, in bytes: six lines with the longest paths Linux has fit many times.
pub const MAX_MANIFEST_BYTES: usize = 64 * 1024;

/// Longest path of an entry, in bytes: `PATH_MAX` of Linux without its NUL.
pub const MAX_MANIFEST_PATH_BYTES: usize = 4095;

/// Size of a SHA-256 digest, in bytes (FIPS 180-4).
const DIGEST_BYTES: usize = 32;

/// Digits of a SHA-256 digest in hexadecimal.
const DIGEST_DIGITS: usize = 2 * DIGEST_BYTES;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The guest's kernel. Every manifest has one.
    Kernel,
    /// The guest's root file system. Every manifest has one.
    Rootfs,
    /// The initial RAM disk. Not in the published format.
    Initrd,
    /// The Firecracker program.
    Firecracker,
    /// Firecracker's jailer. Not in the published format.
    Jailer,
    /// The QEMU program. Not in the published format.
    Qemu,
}

impl Role {
    /// Every role, in the order in which manifests are written.
    pub const ALL: [Self; 6] = [
        Self::Kernel,
        Self::Rootfs,
        Self::Initrd,
        Self::Firecracker,
        Self::Jailer,
        Self::Qemu,
    ];

    /// The roles without which there is nothing to boot.
    pub const MANDATORY: [Self; 2] = [Self::Kernel, Self::Rootfs];

    /// The word in the manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Rootfs => "rootfs",
            Self::Initrd => "initrd",
            Self::Firecracker => "firecracker",
            Self::Jailer => "jailer",
            Self::Qemu => "qemu",
        }
    }

    /// The role that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A SHA-256 digest; written `sha256:` and 64 lowercase digits, read in either case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest([u8; DIGEST_BYTES]);

impl Sha256Digest {
    /// Takes a digest as it is computed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; DIGEST_BYTES]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; DIGEST_BYTES] {
        &self.0
    }

    /// The digest in lowercase hexadecimal, without the name of the algorithm.
    #[must_use]
    pub fn to_hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(DIGEST_DIGITS), |mut text, byte| {
                // Writing to a `String` cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SHA256_PREFIX}{}", self.to_hex())
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Why a text is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The name of the algorithm is missing or another one.
    #[error("digest must begin with {SHA256_PREFIX}")]
    Prefix,
    /// There are too few or too many digits.
    #[error("digest must have {DIGEST_DIGITS} hexadecimal digits, found {found} bytes")]
    Length {
        /// Bytes after the prefix.
        found: usize,
    },
    /// A character is no hexadecimal digit.
    #[error("digest holds something else than hexadecimal digits")]
    Digit,
}

impl FromStr for Sha256Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = text
            .strip_prefix(SHA256_PREFIX)
            .ok_or(DigestError::Prefix)?
            .as_bytes();
        if digits.len() != DIGEST_DIGITS {
            return Err(DigestError::Length {
                found: digits.len(),
            });
        }
        let mut bytes = [0; DIGEST_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = match pair {
                [high, low] => nibble(*high)? << 4 | nibble(*low)?,
                _ => return Err(DigestError::Digit),
            };
        }
        Ok(Self(bytes))
    }
}

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEntry {
    /// What it is for.
    pub role: Role,
    /// The digest of its content.
    pub digest: Sha256Digest,
    /// Where it is: absolute, or relative to the folder that the manifest is in.
    pub path: String,
}

/// A manifest that has every mandatory role, no role twice and no path that leaves its folder
/// upwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest(BTreeMap<Role, ManifestEntry>);

/// Why a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The text is too long.
    #[error("manifest has {found} bytes, more than {MAX_MANIFEST_BYTES}")]
    TooLarge {
        /// Its size in bytes.
        found: usize,
    },
    /// A line is wrong.
    #[error("manifest line {line}: {problem}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        problem: EntryProblem,
    },
    /// An entry that is to be written is wrong.
    #[error("manifest entry {role}: {problem}")]
    Entry {
        /// Role of the entry.
        role: Role,
        /// What is wrong.
        problem: EntryProblem,
    },
    /// A role that every manifest needs is missing.
    #[error("manifest has no {role}")]
    MissingRole {
        /// The role.
        role: Role,
    },
}

/// What is wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// The line is no UTF-8.
    #[error("not UTF-8")]
    Encoding,
    /// The line has too few or too many fields.
    #[error("must have three fields (digest, role, path), found {found}")]
    Fields {
        /// How many it has.
        found: usize,
    },
    /// The digest cannot be read.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The role is not known.
    #[error("unknown role {found:?}; roles are kernel, rootfs, initrd, firecracker, jailer, qemu")]
    UnknownRole {
        /// The word, shortened.
        found: String,
    },
    /// The role stood before.
    #[error("role {role} stands twice")]
    DuplicateRole {
        /// The role.
        role: Role,
    },
    /// The path is empty.
    #[error("path is empty")]
    EmptyPath,
    /// The path is too long.
    #[error("path has {found} bytes, more than {MAX_MANIFEST_PATH_BYTES}")]
    LongPath {
        /// Its size in bytes.
        found: usize,
    },
    /// The path holds a character that a line of fields cannot carry.
    #[error("path holds white space or a control character")]
    PathCharacter,
    /// The path has a `..` in it.
    #[error("path must not hold `..`")]
    PathUpwards,
}

/// Longest excerpt of an unknown word in a message, in characters.
const EXCERPT_CHARS: usize = 32;

impl Manifest {
    /// Makes a manifest to be written.
    ///
    /// # Errors
    /// [`ManifestError::Entry`] and [`ManifestError::MissingRole`].
    pub fn new(entries: impl IntoIterator<Item = ManifestEntry>) -> Result<Self, ManifestError> {
        let mut manifest = Self(BTreeMap::new());
        for entry in entries {
            let role = entry.role;
            manifest
                .insert(entry)
                .map_err(|problem| ManifestError::Entry { role, problem })?;
        }
        manifest.complete()
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ManifestError`], with the number of the line where one is at fault.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        if text.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge { found: text.len() });
        }
        let mut manifest = Self(BTreeMap::new());
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            parse_line(line)
                .and_then(|entry| entry.map_or(Ok(()), |entry| manifest.insert(entry)))
                .map_err(|problem| ManifestError::Line {
                    line: index + 1,
                    problem,
                })?;
        }
        manifest.complete()
    }

    /// The entry of a role.
    #[must_use]
    pub fn get(&self, role: Role) -> Option<&ManifestEntry> {
        self.0.get(&role)
    }

    /// The entries, in the order of [`Role::ALL`].
    pub fn entries(&self) -> impl Iterator<Item = &ManifestEntry> {
        self.0.values()
    }

    fn insert(&mut self, entry: ManifestEntry) -> Result<(), EntryProblem> {
        check_path(&entry.path)?;
        let role = entry.role;
        match self.0.insert(role, entry) {
            None => Ok(()),
            Some(_) => Err(EntryProblem::DuplicateRole { role }),
        }
    }

    fn complete(self) -> Result<Self, ManifestError> {
        match Role::MANDATORY
            .into_iter()
            .find(|role| !self.0.contains_key(role))
        {
            Some(role) => Err(ManifestError::MissingRole { role }),
            None => Ok(self),
        }
    }
}

/// The text of the manifest, one line for each entry.
impl fmt::Display for Manifest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries().try_for_each(|entry| {
            writeln!(formatter, "{} {} {}", entry.digest, entry.role, entry.path)
        })
    }
}

/// Reads one line; `None` for a comment or a blank one.
fn parse_line(line: &[u8]) -> Result<Option<ManifestEntry>, EntryProblem> {
    let line = std::str::from_utf8(line).map_err(|_| EntryProblem::Encoding)?;
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    match fields.as_slice() {
        [] => Ok(None),
        [first, ..] if first.starts_with('#') => Ok(None),
        [digest, role, path] => Ok(Some(ManifestEntry {
            digest: digest.parse()?,
            role: Role::from_word(role).ok_or_else(|| EntryProblem::UnknownRole {
                found: role.chars().take(EXCERPT_CHARS).collect(),
            })?,
            path: (*path).to_owned(),
        })),
        _ => Err(EntryProblem::Fields {
            found: fields.len(),
        }),
    }
}

fn check_path(path: &str) -> Result<(), EntryProblem> {
    if path.is_empty() {
        return Err(EntryProblem::EmptyPath);
    }
    if path.len() > MAX_MANIFEST_PATH_BYTES {
        return Err(EntryProblem::LongPath { found: path.len() });
    }
    if path
        .chars()
        .any(|character| character.is_control() || character.is_whitespace())
    {
        return Err(EntryProblem::PathCharacter);
    }
    if Path::new(path)
        .components()
        .any(|component| component == Component::ParentDir)
    {
        return Err(EntryProblem::PathUpwards);
    }
    Ok(())
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(DigestError::Digit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Sha256Digest {
        Sha256Digest::from_bytes([byte; DIGEST_BYTES])
    }

    fn line(role: &str, path: &str) -> String {
        format!("{} {role} {path}\n", digest(0xab))
    }

    fn problem(text: &str) -> ManifestError {
        Manifest::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let entries = Role::ALL.map(|role| ManifestEntry {
            role,
            digest: digest(7),
            path: format!("/srv/{role}"),
        });
        let manifest = Manifest::new(entries).unwrap();
        assert_eq!(
            Manifest::parse(manifest.to_string().as_bytes()).unwrap(),
            manifest
        );
    }

    #[test]
    fn comments_blank_lines_and_any_spacing_are_read() {
        let text = format!(
            "# a comment\n\n   \t# another\n  {}\t kernel   vmlinux \r\n{}",
            digest(1).to_string().replace("01", "0A"),
            line("rootfs", "./base")
        );
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.get(Role::Kernel).unwrap().path, "vmlinux");
        assert_eq!(manifest.get(Role::Kernel).unwrap().digest, digest(10));
        assert!(manifest.get(Role::Qemu).is_none());
    }

    #[test]
    fn errors_name_the_line() {
        let short = "sha256:abcd kernel k";
        let cases = [
            (line("kernel", "k x"), EntryProblem::Fields { found: 4 }),
            ("kernel k\n".to_owned(), EntryProblem::Fields { found: 2 }),
            (
                short.to_owned(),
                EntryProblem::Digest(DigestError::Length { found: 4 }),
            ),
            (
                line("kernel", "k").replace("sha256:", "sha512:"),
                EntryProblem::Digest(DigestError::Prefix),
            ),
            (
                line("kernel", "k").replace("abab", "zzzz"),
                EntryProblem::Digest(DigestError::Digit),
            ),
            (
                line("Kernel", "k"),
                EntryProblem::UnknownRole {
                    found: "Kernel".to_owned(),
                },
            ),
            (
                line("rootfs", "other"),
                EntryProblem::DuplicateRole { role: Role::Rootfs },
            ),
            (line("kernel", "a/../b"), EntryProblem::PathUpwards),
            (line("kernel", ".."), EntryProblem::PathUpwards),
            (line("kernel", "/a/.."), EntryProblem::PathUpwards),
            (line("kernel", "a\u{7}"), EntryProblem::PathCharacter),
            (line("kernel", "a\u{2003}b"), EntryProblem::PathCharacter),
        ];
        for (wrong, expected) in cases {
            let text = format!("# head\n{}{wrong}", line("rootfs", "base"));
            assert_eq!(
                problem(&text),
                ManifestError::Line {
                    line: 3,
                    problem: expected
                },
                "{text}"
            );
        }
    }

    #[test]
    fn a_line_that_is_no_text_is_refused() {
        assert_eq!(
            Manifest::parse(b"\n\xff"),
            Err(ManifestError::Line {
                line: 2,
                problem: EntryProblem::Encoding
            })
        );
    }

    #[test]
    fn kernel_and_root_file_system_must_be_there() {
        for (text, role) in [
            (String::new(), Role::Kernel),
            (line("kernel", "k"), Role::Rootfs),
            (line("rootfs", "r"), Role::Kernel),
        ] {
            assert_eq!(problem(&text), ManifestError::MissingRole { role });
        }
    }

    #[test]
    fn a_manifest_without_bound_is_refused() {
        let text = "#\n".repeat(MAX_MANIFEST_BYTES);
        assert!(matches!(problem(&text), ManifestError::TooLarge { .. }));
        let path = "a".repeat(MAX_MANIFEST_PATH_BYTES + 1);
        assert!(matches!(
            problem(&line("kernel", &path)),
            ManifestError::Line { line: 1, .. }
        ));
    }

    #[test]
    fn entries_that_a_line_cannot_carry_are_not_written() {
        let entry = |path: &str| ManifestEntry {
            role: Role::Kernel,
            digest: digest(0),
            path: path.to_owned(),
        };
        for path in ["", "a b", "a\nb", "../a"] {
            assert!(
                matches!(
                    Manifest::new([entry(path)]),
                    Err(ManifestError::Entry { .. })
                ),
                "{path:?}"
            );
        }
    }
}
