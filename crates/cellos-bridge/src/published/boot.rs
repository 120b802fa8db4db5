//! The tokens of the kernel's command line by which a guest learns its command:
//! `cellos.cell_id=`, `cellos.vsock_port=`, `cellos.argv=`, `cellos.exit_hmac_key=`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{SessionKey, secret::KEY_BYTES};

/// Longest command line that is read or written, in bytes. Linux allows 2048 on x86-64 and arm64;
/// the published admission reckons with 4096.
pub const MAX_COMMAND_LINE_BYTES: usize = 4096;

const PREFIX: &str = "cellos.";
const CELL_ID: &str = "cellos.cell_id";
const VSOCK_PORT: &str = "cellos.vsock_port";
const ARGV: &str = "cellos.argv";
const EXIT_HMAC_KEY: &str = "cellos.exit_hmac_key";

/// What the command line says about a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTokens {
    /// The cell's id.
    pub cell_id: String,
    /// Port of the host that awaits the exit frame.
    pub vsock_port: u32,
    /// The command; empty where the command line has none.
    pub argv: Vec<String>,
    /// Key of the exit frame.
    pub exit_hmac_key: SessionKey,
}

/// Why tokens cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootTokensError {
    /// Longer than a command line may be.
    #[error("command line of {found} bytes, at most {MAX_COMMAND_LINE_BYTES} are allowed")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// A token that must be there is not.
    #[error("the command line has no {token}")]
    Missing {
        /// Its name.
        token: &'static str,
    },
    /// A token stands twice.
    #[error("the command line has {token} twice")]
    Repeated {
        /// Its name.
        token: &'static str,
    },
    /// A token that begins with `cellos.` and does not exist.
    #[error("the command line has an unknown token {name:?}")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A token whose value is not what it must be. The value is left out, since it may be a key.
    #[error("{token} of the command line {rule}")]
    Invalid {
        /// Its name.
        token: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

impl BootTokens {
    /// The tokens in the published order, separated by one space each. Holds the key, so it is
    /// wiped when dropped.
    ///
    /// # Errors
    /// [`BootTokensError`] for an id that would be more than one token, and for a line that is too
    /// long.
    pub fn to_command_line(&self) -> Result<Zeroizing<String>, BootTokensError> {
        check_cell_id(&self.cell_id)?;
        // At full size from the beginning: a buffer that grows leaves copies of the key.
        let mut line = Zeroizing::new(String::with_capacity(MAX_COMMAND_LINE_BYTES));
        for part in [CELL_ID, "=", &self.cell_id, " ", VSOCK_PORT, "="] {
            line.push_str(part);
        }
        line.push_str(&self.vsock_port.to_string());
        if !self.argv.is_empty() {
            let json = serde_json::to_vec(&self.argv).map_err(|_| BootTokensError::Invalid {
                token: ARGV,
                rule: "cannot be written as JSON",
            })?;
            for part in [" ", ARGV, "=", &STANDARD.encode(json)] {
                line.push_str(part);
            }
        }
        let key = Zeroizing::new(STANDARD.encode(self.exit_hmac_key.as_bytes()));
        for part in [" ", EXIT_HMAC_KEY, "=", &key] {
            line.push_str(part);
        }
        within_bound(&line)?;
        Ok(line)
    }

    /// Reads a whole command line; tokens that are not CellOS's are passed over.
    ///
    /// # Errors
    /// [`BootTokensError`].
    pub fn parse(command_line: &str) -> Result<Self, BootTokensError> {
        within_bound(command_line)?;
        let mut found = Found::default();
        for token in command_line.split_ascii_whitespace() {
            if let Some(rest) = token.strip_prefix(PREFIX) {
                let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
                found.add(name, value)?;
            }
        }
        let cell_id = required(found.cell_id, CELL_ID)?;
        check_cell_id(cell_id)?;
        Ok(Self {
            cell_id: cell_id.to_owned(),
            vsock_port: port(required(found.vsock_port, VSOCK_PORT)?)?,
            argv: found.argv.map_or(Ok(Vec::new()), argv)?,
            exit_hmac_key: key(required(found.exit_hmac_key, EXIT_HMAC_KEY)?)?,
        })
    }
}

/// Values of the tokens, not read yet.
#[derive(Default)]
struct Found<'a> {
    cell_id: Option<&'a str>,
    vsock_port: Option<&'a str>,
    argv: Option<&'a str>,
    exit_hmac_key: Option<&'a str>,
}

impl<'a> Found<'a> {
    fn add(&mut self, name: &str, value: &'a str) -> Result<(), BootTokensError> {
        let (slot, token) = match name {
            "cell_id" => (&mut self.cell_id, CELL_ID),
            "vsock_port" => (&mut self.vsock_port, VSOCK_PORT),
            "argv" => (&mut self.argv, ARGV),
            "exit_hmac_key" => (&mut self.exit_hmac_key, EXIT_HMAC_KEY),
            _ => {
                return Err(BootTokensError::Unknown {
                    name: format!("{PREFIX}{name}"),
                });
            }
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(BootTokensError::Repeated { token }),
        }
    }
}

fn within_bound(line: &str) -> Result<(), BootTokensError> {
    if line.len() > MAX_COMMAND_LINE_BYTES {
        return Err(BootTokensError::TooLong { found: line.len() });
    }
    Ok(())
}

fn check_cell_id(id: &str) -> Result<(), BootTokensError> {
    if cellos_core::admission::is_portable_id(id) {
        return Ok(());
    }
    Err(BootTokensError::Invalid {
        token: CELL_ID,
        rule: "is not a portable id",
    })
}

fn required<'a>(value: Option<&'a str>, token: &'static str) -> Result<&'a str, BootTokensError> {
    value.ok_or(BootTokensError::Missing { token })
}

fn port(value: &str) -> Result<u32, BootTokensError> {
    let digits_only = value.bytes().all(|byte| byte.is_ascii_digit());
    value
        .parse()
        .ok()
        .filter(|_| digits_only)
        .ok_or(BootTokensError::Invalid {
            token: VSOCK_PORT,
            rule: "is not a port number",
        })
}

fn argv(value: &str) -> Result<Vec<String>, BootTokensError> {
    STANDARD
        .decode(value)
        .ok()
        .and_then(|json| serde_json::from_slice::<Vec<String>>(&json).ok())
        .filter(|argv| !argv.is_empty())
        .ok_or(BootTokensError::Invalid {
            token: ARGV,
            rule: "is not the padded base64 of a JSON array of strings",
        })
}

fn key(value: &str) -> Result<SessionKey, BootTokensError> {
    STANDARD
        .decode(value)
        .ok()
        .map(Zeroizing::new)
        .and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok())
        .map(SessionKey::new)
        .ok_or(BootTokensError::Invalid {
            token: EXIT_HMAC_KEY,
            rule: "is not the padded base64 of 32 bytes",
        })
}
