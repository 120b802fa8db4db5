//! The command line, as strict as Firecracker's: only what it knows, each once, values apart.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

/// Where the API socket is made without `--api-sock`.
const DEFAULT_SOCKET: &str = "/run/firecracker.socket";
/// The id without `--id`.
const DEFAULT_ID: &str = "anonymous-instance";
/// Most characters of an id (Firecracker's `validators.rs`, jailer.md).
pub(crate) const MAX_ID_CHARACTERS: usize = 64;
/// Most bytes of a request's body without `--http-api-max-payload-size`.
pub(crate) const DEFAULT_MAX_PAYLOAD_BYTES: usize = 51_200;

const WITH_VALUE: [&str; 12] = [
    "api-sock",
    "config-file",
    "http-api-max-payload-size",
    "id",
    "level",
    "log-path",
    "metrics-path",
    "module",
    "parent-cpu-time-us",
    "seccomp-filter",
    "start-time-cpu-us",
    "start-time-us",
];
const FLAGS: [&str; 8] = [
    "boot-timer",
    "enable-pci",
    "help",
    "no-api",
    "no-seccomp",
    "show-level",
    "show-log-origin",
    "version",
];

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    Help,
    Version,
    Run(Arguments),
}

/// How to run.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// `None` with `--no-api`.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) id: String,
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) max_payload_bytes: usize,
}

/// Why a command line is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("found argument '{0}' which wasn't expected, or isn't valid in this context")]
    Unknown(String),
    #[error("the argument '{0}' was provided more than once")]
    Repeated(String),
    #[error("the argument '{0}' requires a value, but none was supplied")]
    NoValue(String),
    #[error("the argument '{name}' has the invalid value {value:?}: {why}")]
    Value {
        name: &'static str,
        value: String,
        why: &'static str,
    },
    #[error("the argument 'no-api' requires 'config-file'")]
    NothingToRun,
    #[error("the argument 'no-api' cannot be used with 'api-sock'")]
    SocketWithoutApi,
    #[error("the argument 'no-seccomp' cannot be used with 'seccomp-filter'")]
    FilterWithoutSeccomp,
}

/// Reads the words after the program's name.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Asked, ArgumentError> {
    let mut given = collect(words)?;
    if given.contains_key("help") {
        return Ok(Asked::Help);
    }
    if given.contains_key("version") {
        return Ok(Asked::Version);
    }
    let level = given.remove("level");
    if let Some(value) = level.filter(|level| !is_level(level)) {
        let why = "it is not Error, Warning, Info, Debug, Trace or Off";
        return Err(ArgumentError::Value {
            name: "level",
            value,
            why,
        });
    }
    let id = given.remove("id").unwrap_or_else(|| DEFAULT_ID.into());
    if !is_id(&id) {
        return Err(ArgumentError::Value {
            name: "id",
            value: id,
            why: "it is not 1 to 64 letters, digits and hyphens",
        });
    }
    if given.contains_key("no-seccomp") && given.contains_key("seccomp-filter") {
        return Err(ArgumentError::FilterWithoutSeccomp);
    }
    let config_file = given.remove("config-file").map(PathBuf::from);
    let api_sock = given.remove("api-sock").map(PathBuf::from);
    let socket = match (given.contains_key("no-api"), api_sock) {
        (true, Some(_)) => return Err(ArgumentError::SocketWithoutApi),
        (true, None) if config_file.is_none() => return Err(ArgumentError::NothingToRun),
        (true, None) => None,
        (false, given) => Some(given.unwrap_or_else(|| DEFAULT_SOCKET.into())),
    };
    let max_payload_bytes = match given.remove("http-api-max-payload-size") {
        None => DEFAULT_MAX_PAYLOAD_BYTES,
        Some(value) => value.parse().map_err(|_| ArgumentError::Value {
            name: "http-api-max-payload-size",
            value,
            why: "it is not a number of bytes",
        })?,
    };
    Ok(Asked::Run(Arguments {
        socket,
        id,
        config_file,
        log_path: given.remove("log-path").map(PathBuf::from),
        max_payload_bytes,
    }))
}

/// Letters, digits and hyphens, at least one, at most [`MAX_ID_CHARACTERS`].
pub(crate) fn is_id(id: &str) -> bool {
    (1..=MAX_ID_CHARACTERS).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The names of log levels, in any case.
pub(crate) fn is_level(level: &str) -> bool {
    ["error", "warning", "warn", "info", "debug", "trace", "off"]
        .iter()
        .any(|name| level.eq_ignore_ascii_case(name))
}

fn collect(
    words: impl Iterator<Item = OsString>,
) -> Result<BTreeMap<String, String>, ArgumentError> {
    let mut words = words.map(|word| word.to_string_lossy().into_owned());
    let mut given = BTreeMap::new();
    while let Some(word) = words.next() {
        let name = word
            .strip_prefix("--")
            .filter(|name| FLAGS.contains(name) || WITH_VALUE.contains(name))
            .ok_or_else(|| ArgumentError::Unknown(word.clone()))?
            .to_owned();
        let value = match WITH_VALUE.contains(&name.as_str()) {
            false => String::new(),
            true => words
                .next()
                .filter(|value| !value.starts_with("--"))
                .ok_or_else(|| ArgumentError::NoValue(name.clone()))?,
        };
        if given.insert(name.clone(), value).is_some() {
            return Err(ArgumentError::Repeated(name));
        }
    }
    Ok(given)
}
