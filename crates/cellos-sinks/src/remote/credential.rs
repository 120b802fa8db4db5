//! Credentials: a configuration says where one is and never holds it.

use std::{fmt, fs::File, io::Read as _, path::PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::Surroundings;

/// Largest credential in bytes. Tokens have a few kilobytes at most; the bound keeps a wrong file
/// name from costing more.
pub const MAX_CREDENTIAL_BYTES: usize = 64 * 1024;

/// Where a credential is: in exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSource {
    /// A file that holds nothing else; white space around it is cut off.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// An environment variable.
    #[serde(default)]
    pub env: Option<String>,
}

/// A credential. Never printed, wiped when dropped.
#[derive(Clone)]
pub struct Credential(Zeroizing<String>);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<REDACTED>")
    }
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// It is not said where it is, or said twice.
    #[error("a credential is named by exactly one of `file` and `env`")]
    Source,
    /// Its file cannot be read.
    #[error("credential file {path:?} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its file is too large.
    #[error("credential file {path:?} is larger than {MAX_CREDENTIAL_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Its variable is not set.
    #[error("credential variable {name} is not set, or not UTF-8")]
    Unset {
        /// The variable.
        name: String,
    },
    /// There is nothing in it, or something that is no text of one line.
    #[error("the credential in {place} is empty or not one line of visible ASCII characters")]
    Malformed {
        /// Where it is.
        place: String,
    },
}

impl Credential {
    /// Looks a credential up.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn look_up(
        source: &CredentialSource,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, CredentialError> {
        let (place, text) = match (&source.file, &source.env) {
            (Some(file), None) => {
                let path = surroundings.folder.join(file);
                (format!("file {path:?}"), read(path)?)
            }
            (None, Some(name)) => {
                let value = (surroundings.env)(name)
                    .ok_or_else(|| CredentialError::Unset { name: name.clone() })?;
                (format!("variable {name}"), Zeroizing::new(value))
            }
            (None, None) | (Some(_), Some(_)) => return Err(CredentialError::Source),
        };
        let trimmed = text.trim_ascii();
        if trimmed.is_empty() || !trimmed.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(CredentialError::Malformed { place });
        }
        Ok(Self(Zeroizing::new(trimmed.to_owned())))
    }

    /// The credential itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

fn read(path: PathBuf) -> Result<Zeroizing<String>, CredentialError> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(&path).and_then(|file| {
        file.take(MAX_CREDENTIAL_BYTES as u64 + 1)
            .read_to_string(&mut text)
    });
    match read {
        Ok(bytes) if bytes > MAX_CREDENTIAL_BYTES => Err(CredentialError::TooLarge { path }),
        Ok(_) => Ok(text),
        Err(source) => Err(CredentialError::File { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: Option<&str>, env: Option<&str>) -> CredentialSource {
        CredentialSource {
            file: file.map(Into::into),
            env: env.map(Into::into),
        }
    }

    #[test]
    fn it_comes_from_exactly_one_place_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        std::fs::write(folder.path().join("two-lines"), "a\nb").unwrap();
        let surroundings = Surroundings {
            folder: folder.path(),
            env: &|name| (name == "TOKEN").then(|| "from-env".to_owned()),
        };
        let look_up = |source| Credential::look_up(&source, &surroundings);
        let from_file = look_up(source(Some("token"), None)).unwrap();
        assert_eq!(from_file.expose(), "from-file");
        assert_eq!(format!("{from_file:?}"), "<REDACTED>");
        let from_env = look_up(source(None, Some("TOKEN"))).unwrap();
        assert_eq!(from_env.expose(), "from-env");
        for wrong in [
            source(None, None),
            source(Some("token"), Some("TOKEN")),
            source(Some("absent"), None),
            source(Some("two-lines"), None),
            source(None, Some("ABSENT")),
        ] {
            let error = look_up(wrong.clone()).unwrap_err().to_string();
            assert!(!error.contains("from-"), "{wrong:?}: {error}");
        }
    }
}
