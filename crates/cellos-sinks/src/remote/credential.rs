//! Credentials: in a file or in the environment. A configuration says where one is and never holds it.
//!
//! NATS reads a file anew for every connection, sinks over HTTP read it when they are made.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use zeroize::Zeroizing;

use super::Surroundings;

/// Largest file with a credential in bytes; the largest are those of NATS with a long token.
pub const MAX_CREDENTIAL_BYTES: u64 = 64 * 1024;

/// Where a credential is: `{file: PATH}` or `{env: NAME}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// A file; white space at its end is left out.
    File(PathBuf),
    /// A variable of the environment.
    Env(String),
}

/// Why there is no credential. Never with the credential in it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("the credential in {path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no credential.
    #[error("the credential in {path} is larger than {MAX_CREDENTIAL_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The variable is not there.
    #[error("the environment variable {name} is not set to text")]
    Env {
        /// Its name.
        name: String,
    },
    /// Nothing is in it.
    #[error("the credential in {place} is empty")]
    Empty {
        /// The file or the variable.
        place: String,
    },
    /// It cannot stand in a header.
    #[error("the credential in {place} is not one line of visible ASCII characters")]
    NotOneLine {
        /// The file or the variable.
        place: String,
    },
}

impl CredentialSource {
    /// The file that it is in, as it is named.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Env(_) => None,
        }
    }

    /// The credential, from where the source refers to.
    ///
    /// # Errors
    /// [`CredentialError`], when it cannot be read now.
    pub(crate) fn open(
        &self,
        surroundings: &Surroundings<'_>,
    ) -> Result<Credential, CredentialError> {
        let credential = match self {
            Self::File(path) => Credential::File(surroundings.folder.join(path)),
            Self::Env(name) => (surroundings.env)(name)
                .map(|text| Credential::Env(name.clone(), Zeroizing::new(text)))
                .ok_or_else(|| CredentialError::Env { name: name.clone() })?,
        };
        credential.read().map(|_| credential)
    }
}

/// A credential that can be read. Never printed.
pub(crate) enum Credential {
    /// In a file.
    File(PathBuf),
    /// In an environment variable, with what it was.
    Env(String, Zeroizing<String>),
}

impl Credential {
    /// Reads it.
    ///
    /// # Errors
    /// [`CredentialError`], never with the credential in it.
    pub(crate) fn read(&self) -> Result<Zeroizing<String>, CredentialError> {
        let mut text = match self {
            Self::File(path) => read_file(path)?,
            Self::Env(_, text) => text.clone(),
        };
        let end = text.trim_end().len();
        text.truncate(end);
        match text.is_empty() {
            false => Ok(text),
            true => Err(CredentialError::Empty {
                place: self.place(),
            }),
        }
    }

    /// Reads one that is to stand in a header.
    ///
    /// # Errors
    /// [`CredentialError`], also when it cannot stand there.
    pub(crate) fn one_line(&self) -> Result<OneLine, CredentialError> {
        let text = self.read()?;
        let line = text.trim_ascii();
        match line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            true => Ok(OneLine(Zeroizing::new(line.to_owned()))),
            false => Err(CredentialError::NotOneLine {
                place: self.place(),
            }),
        }
    }

    fn place(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Env(name, _) => format!("the environment variable {name}"),
        }
    }
}

/// A credential that can stand in a header. Never printed, wiped when dropped.
#[derive(Clone)]
pub(crate) struct OneLine(Zeroizing<String>);

impl OneLine {
    /// The credential itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for OneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<REDACTED>")
    }
}

/// Opens a file that a configuration names. A pipe or a device could make whoever reads it wait for
/// ever, while a run waits for its sinks.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        )),
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, CredentialError> {
    let failed = |source| CredentialError::File {
        path: path.to_owned(),
        source,
    };
    let mut text = Zeroizing::new(String::new());
    open_regular(path)
        .and_then(|file| {
            file.take(MAX_CREDENTIAL_BYTES + 1)
                .read_to_string(&mut text)
        })
        .map_err(failed)?;
    match text.len() as u64 > MAX_CREDENTIAL_BYTES {
        false => Ok(text),
        true => Err(CredentialError::TooLarge {
            path: path.to_owned(),
        }),
    }
}

/// By hand, because a derived one would show a credential that somebody wrote in the place of its source.
impl<'de> Deserialize<'de> for CredentialSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

const RULE: &str = "a credential is not written here: name its source, `file` or `env`";

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = CredentialSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with `file` or `env`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CredentialSource, A::Error> {
        let source = match map.next_key::<String>()?.as_deref() {
            Some("file") => CredentialSource::File(map.next_value()?),
            Some("env") => CredentialSource::Env(map.next_value()?),
            _ => return Err(A::Error::custom(RULE)),
        };
        match map.next_key::<String>()? {
            None => Ok(source),
            Some(_) => Err(A::Error::custom("a credential has one source")),
        }
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<CredentialSource, E> {
        Err(E::custom(RULE))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<CredentialSource, E> {
        Err(E::custom(RULE))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<CredentialSource, E> {
        Err(E::custom(RULE))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<CredentialSource, E> {
        Err(E::custom(RULE))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_credential_comes_from_a_file_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            folder: folder.path(),
            env: &|_| None,
        };
        let path = folder.path().join("token");
        let source = CredentialSource::File("token".into());
        let failed = || source.open(&surroundings).map(drop).unwrap_err();
        assert!(matches!(failed(), CredentialError::File { .. }));
        fs::write(&path, "\n").unwrap();
        assert!(matches!(failed(), CredentialError::Empty { .. }));
        fs::write(&path, vec![b'x'; 64 * 1024 + 1]).unwrap();
        assert!(matches!(failed(), CredentialError::TooLarge { .. }));

        fs::write(&path, "s3cret\r\n").unwrap();
        let credential = source.open(&surroundings).unwrap();
        assert_eq!(credential.read().unwrap().as_str(), "s3cret");
        fs::write(&path, "renewed").unwrap();
        assert_eq!(credential.read().unwrap().as_str(), "renewed");
    }

    #[test]
    fn a_credential_comes_from_the_environment() {
        let surroundings = Surroundings {
            folder: Path::new("/"),
            env: &|name| (name == "TOKEN").then(|| "s3cret".to_owned()),
        };
        let open = |name: &str| CredentialSource::Env(name.into()).open(&surroundings);
        assert_eq!(open("TOKEN").unwrap().read().unwrap().as_str(), "s3cret");
        assert!(matches!(open("OTHER"), Err(CredentialError::Env { .. })));
    }

    #[test]
    fn what_stands_in_a_header_is_one_line_and_never_shown() {
        let open = |text: &str| {
            let surroundings = Surroundings {
                folder: Path::new("/"),
                env: &|_| Some(text.to_owned()),
            };
            let source = CredentialSource::Env("TOKEN".into());
            source.open(&surroundings).unwrap().one_line()
        };
        let token = open(" s3cret\n").unwrap();
        assert_eq!(token.expose(), "s3cret");
        assert_eq!(format!("{token:?}"), "<REDACTED>");
        for wrong in ["s3\ncret", "s3\tcret", "s3cret\u{e9}"] {
            let error = open(wrong).unwrap_err();
            assert!(matches!(error, CredentialError::NotOneLine { .. }));
            assert!(!error.to_string().contains("s3"), "{error}");
        }
    }

    #[test]
    fn a_credential_in_the_place_of_its_source_is_refused_and_not_shown() {
        for given in [
            json!("hunter2"),
            json!({"hunter2": "x"}),
            json!({"file": "a", "hunter2": "b"}),
            json!({}),
            json!(90210),
            json!(-90210),
            json!(0.90210),
        ] {
            let error = serde_json::from_value::<CredentialSource>(given.clone())
                .unwrap_err()
                .to_string();
            assert!(
                !error.contains("hunter2") && !error.contains("9021"),
                "{error}"
            );
        }
        let file =
            serde_json::from_value::<CredentialSource>(json!({"file": "/run/token"})).unwrap();
        assert_eq!(file, CredentialSource::File("/run/token".into()));
    }

    #[test]
    fn a_pipe_makes_nobody_wait() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let error = read_file(&pipe).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }
}
