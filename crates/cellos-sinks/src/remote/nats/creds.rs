//! Credential files of NATS: a user's token (JWT) and the seed of its key, between marks.
//!
//! ```text
//! -----BEGIN NATS USER JWT-----
//! eyJ0eXAi…
//! ------END NATS USER JWT------
//!
//! -----BEGIN USER NKEY SEED-----
//! SUA…
//! ------END USER NKEY SEED------
//! ```

use zeroize::Zeroizing;

use super::nkey::{NkeyError, UserKey};

/// Longest token in bytes: it goes to the server in one line, of which that takes 4 KiB by default
/// and an operator may allow more.
pub const MAX_JWT_BYTES: usize = 32 * 1024;

const JWT: &str = "NATS USER JWT";
const SEED: &str = "USER NKEY SEED";

/// What a credential file holds. Never printed.
pub(super) struct Credentials {
    /// The token. Anybody may see it who may see the connection; it proves nothing without the key.
    pub(super) jwt: Zeroizing<String>,
    /// The key.
    pub(super) key: UserKey,
}

/// Why a text is no credential file. Nothing of the text appears in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredsError {
    /// A part is not there, or has no end.
    #[error("credentials: no part `{part}` between its marks")]
    Missing {
        /// The words of its marks.
        part: &'static str,
    },
    /// The token is no JWT.
    #[error("credentials: the token is no JWT of at most {MAX_JWT_BYTES} bytes")]
    Jwt,
    /// The seed is none.
    #[error("credentials: {0}")]
    Seed(#[from] NkeyError),
}

impl Credentials {
    /// Reads a credential file.
    ///
    /// # Errors
    /// [`CredsError`].
    pub(super) fn parse(text: &str) -> Result<Self, CredsError> {
        let jwt = part(text, JWT)?;
        let is_jwt = jwt.split('.').count() == 3
            && jwt.len() <= MAX_JWT_BYTES
            && jwt.split('.').all(|section| {
                !section.is_empty()
                    && section
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            });
        match is_jwt {
            true => Ok(Self {
                key: UserKey::from_seed(part(text, SEED)?)?,
                jwt: Zeroizing::new(jwt.to_owned()),
            }),
            false => Err(CredsError::Jwt),
        }
    }
}

/// The one line between the marks of a part. The number of hyphens around a mark differs among the
/// tools that write such files.
fn part<'a>(text: &'a str, name: &'static str) -> Result<&'a str, CredsError> {
    let missing = CredsError::Missing { part: name };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .find(|line| mark(line).strip_prefix("BEGIN ") == Some(name) && line.starts_with("---"))
        .ok_or(missing)?;
    let content = lines.next().ok_or(missing)?;
    match lines.next().map(|line| mark(line).strip_prefix("END ")) {
        Some(Some(end)) if end == name => Ok(content),
        _ => Err(missing),
    }
}

fn mark(line: &str) -> &str {
    line.trim_matches('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED_TEXT: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

    fn file(jwt: &str, seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\r\n{jwt}\r\n------END NATS USER JWT------\r\n\r\n\
             ************************* IMPORTANT *************************\n\
             NKEY Seed printed below can be used to sign and prove identity.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn a_file_gives_its_token_and_its_key() {
        let read = Credentials::parse(&file("aa.b-b.c_c", SEED_TEXT)).unwrap();
        assert_eq!(read.jwt.as_str(), "aa.b-b.c_c");
        assert_eq!(
            read.key.public(),
            UserKey::from_seed(SEED_TEXT).unwrap().public()
        );
    }

    #[test]
    fn other_texts_are_refused() {
        let whole = file("a.b.c", SEED_TEXT);
        let no_jwt = CredsError::Missing { part: JWT };
        let no_seed = CredsError::Missing { part: SEED };
        for (text, expected) in [
            (String::new(), no_jwt),
            (whole.replace("BEGIN NATS", "BEGIN"), no_jwt),
            (whole.replace("END NATS", "END"), no_jwt),
            (whole.replace("USER NKEY", "NKEY"), no_seed),
            (whole.replace("a.b.c", "a.b"), CredsError::Jwt),
            (whole.replace("a.b.c", "a.b.\u{e9}"), CredsError::Jwt),
            (whole.replace("a.b.c", "a..c"), CredsError::Jwt),
            (
                whole.replace("a.b.c", &format!("a.b.{}", "c".repeat(MAX_JWT_BYTES))),
                CredsError::Jwt,
            ),
            (
                whole.replace("SUACSS", "SUACS"),
                CredsError::Seed(NkeyError::Length { found: 57 }),
            ),
        ] {
            let error = Credentials::parse(&text).map(drop).unwrap_err();
            assert_eq!(error, expected);
            assert!(!error.to_string().contains("ACSSL3UAHU"));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,400}") {
            let _ = Credentials::parse(&text);
        }

        #[test]
        fn a_damaged_file_gives_no_other_key(at in 0..500_usize, byte in 0x20_u8..0x7F) {
            let whole = file("aa.bb.cc", SEED_TEXT);
            let mut bytes = whole.into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let text = String::from_utf8(bytes).unwrap();
            if let Ok(read) = Credentials::parse(&text) {
                let expected = UserKey::from_seed(SEED_TEXT).unwrap().public();
                prop_assert_eq!(read.key.public(), expected);
            }
        }
    }
}
