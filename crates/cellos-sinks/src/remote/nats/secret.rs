//! What a sink logs in with: in a file, which is read anew for every connection, or in the
//! environment, never in a configuration.
//!
//! Unlike a [`Credential`](crate::remote::credential::Credential), it may have several lines, as
//! credential files of NATS have.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use zeroize::Zeroizing;

use crate::remote::Surroundings;

/// Largest file with a secret in bytes; the largest are credentials with a long token.
pub const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Where a secret is: `{file: PATH}` or `{env: NAME}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file; white space at its end is left out.
    File(PathBuf),
    /// A variable of the environment.
    Env(String),
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("the secret in {path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no secret.
    #[error("the secret in {path} is larger than {MAX_SECRET_BYTES} bytes")]
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
    #[error("the secret in {place} is empty")]
    Empty {
        /// The file or the variable.
        place: String,
    },
}

impl SecretSource {
    /// The secret, from where the source refers to.
    ///
    /// # Errors
    /// [`SecretError`], when it cannot be read now.
    pub(super) fn open(&self, surroundings: &Surroundings<'_>) -> Result<Secret, SecretError> {
        let secret = match self {
            Self::File(path) => Secret::File(surroundings.folder.join(path)),
            Self::Env(name) => (surroundings.env)(name)
                .map(|text| Secret::Env(name.clone(), Zeroizing::new(text)))
                .ok_or_else(|| SecretError::Env { name: name.clone() })?,
        };
        secret.read().map(|_| secret)
    }
}

/// A secret that can be read. Never printed.
pub(super) enum Secret {
    /// In a file.
    File(PathBuf),
    /// In an environment variable, with what it was.
    Env(String, Zeroizing<String>),
}

impl Secret {
    /// Reads it.
    ///
    /// # Errors
    /// [`SecretError`], never with the secret in it.
    pub(super) fn read(&self) -> Result<Zeroizing<String>, SecretError> {
        let (mut text, place) = match self {
            Self::File(path) => (read_file(path)?, path.display().to_string()),
            Self::Env(name, text) => (text.clone(), format!("the environment variable {name}")),
        };
        let end = text.trim_end().len();
        text.truncate(end);
        match text.is_empty() {
            false => Ok(text),
            true => Err(SecretError::Empty { place }),
        }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    let failed = |source| SecretError::File {
        path: path.to_owned(),
        source,
    };
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text))
        .map_err(failed)?;
    match text.len() as u64 > MAX_SECRET_BYTES {
        false => Ok(text),
        true => Err(SecretError::TooLarge {
            path: path.to_owned(),
        }),
    }
}

/// By hand, because a derived one would show a secret that somebody wrote in the place of its source.
impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

const RULE: &str = "a secret is not written here: name its source, `file` or `env`";

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with `file` or `env`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretSource, A::Error> {
        let source = match map.next_key::<String>()?.as_deref() {
            Some("file") => SecretSource::File(map.next_value()?),
            Some("env") => SecretSource::Env(map.next_value()?),
            _ => return Err(A::Error::custom(RULE)),
        };
        match map.next_key::<String>()? {
            None => Ok(source),
            Some(_) => Err(A::Error::custom("a secret has one source")),
        }
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<SecretSource, E> {
        Err(E::custom(RULE))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<SecretSource, E> {
        Err(E::custom(RULE))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<SecretSource, E> {
        Err(E::custom(RULE))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<SecretSource, E> {
        Err(E::custom(RULE))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_comes_from_a_file_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            folder: folder.path(),
            env: &|_| None,
        };
        let path = folder.path().join("token");
        let source = SecretSource::File("token".into());
        let failed = || source.open(&surroundings).map(drop).unwrap_err();
        assert!(matches!(failed(), SecretError::File { .. }));
        fs::write(&path, "\n").unwrap();
        assert!(matches!(failed(), SecretError::Empty { .. }));
        fs::write(&path, vec![b'x'; 64 * 1024 + 1]).unwrap();
        assert!(matches!(failed(), SecretError::TooLarge { .. }));

        fs::write(&path, "s3cret\r\n").unwrap();
        let secret = source.open(&surroundings).unwrap();
        assert_eq!(secret.read().unwrap().as_str(), "s3cret");
        fs::write(&path, "renewed").unwrap();
        assert_eq!(secret.read().unwrap().as_str(), "renewed");
    }

    #[test]
    fn a_secret_comes_from_the_environment() {
        let surroundings = Surroundings {
            folder: Path::new("/"),
            env: &|name| (name == "TOKEN").then(|| "s3cret".to_owned()),
        };
        let open = |name: &str| SecretSource::Env(name.into()).open(&surroundings);
        assert_eq!(open("TOKEN").unwrap().read().unwrap().as_str(), "s3cret");
        assert!(matches!(open("OTHER"), Err(SecretError::Env { .. })));
    }

    #[test]
    fn a_secret_in_the_place_of_its_source_is_refused_and_not_shown() {
        for given in [
            json!("hunter2"),
            json!({"hunter2": "x"}),
            json!({"file": "a", "hunter2": "b"}),
            json!({}),
            json!(90210),
            json!(-90210),
            json!(0.90210),
        ] {
            let error = serde_json::from_value::<SecretSource>(given.clone())
                .unwrap_err()
                .to_string();
            assert!(
                !error.contains("hunter2") && !error.contains("9021"),
                "{error}"
            );
        }
        let file = serde_json::from_value::<SecretSource>(json!({"file": "/run/token"})).unwrap();
        assert_eq!(file, SecretSource::File("/run/token".into()));
    }
}
