//! What a test tells the fake VMM: which program is the guest, and what shall go wrong.
//!
//! Read at the start from the environment variable [`SETTINGS_VARIABLE`] (JSON), else from the file
//! [`SETTINGS_FILE`] in the current folder, else from the same file in the root. A jailer clears the
//! environment, so inside a jail only the file works. [`GUEST_VARIABLE`] and
//! [`GUEST_ARGUMENTS_VARIABLE`] replace the guest of either.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The file with [`Settings`] as JSON.
pub const SETTINGS_FILE: &str = "fake-vmm.json";
/// Environment variable with [`Settings`] as JSON; wins over the file.
pub const SETTINGS_VARIABLE: &str = "FAKE_VMM_SETTINGS";
/// Environment variable with the path of the guest program.
pub const GUEST_VARIABLE: &str = "FAKE_VMM_GUEST";
/// Environment variable with the guest's arguments, a JSON array of strings.
pub const GUEST_ARGUMENTS_VARIABLE: &str = "FAKE_VMM_GUEST_ARGUMENTS";

/// The whole of what can be set. Every part may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The program that plays the guest.
    pub guest: Option<Guest>,
    /// Who runs the guest.
    pub placement: Placement,
    /// The version that is pretended.
    pub version: Version,
    /// How the host's network devices are looked at.
    pub taps: Taps,
    /// What goes wrong in calls; the first that fits and is not used up is taken.
    pub calls: Vec<CallFault>,
    /// What goes wrong before the API socket is there.
    pub launch: LaunchFault,
    /// What goes wrong at the start of the machine.
    pub start: StartFault,
}

/// The program that plays the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Its path, seen from the VMM: inside a jail, relative to that.
    pub program: PathBuf,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Its environment, besides the `FAKE_VMM_…` variables that the VMM sets.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// Who runs the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// The VMM, as its child: [`Settings::guest`].
    #[default]
    Inside,
    /// Whoever connects to the VMM's socket: [`outside`](crate::outside).
    Outside,
}

/// A version of Firecracker, `1.16.1`. Some fields of the interface exist only from one version on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// Major, minor, patch.
    pub parts: [u16; 3],
}

/// How the host's network devices are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Taps {
    /// A device that is not there makes the call fail. It is not opened: the fake moves no packets.
    #[default]
    Checked,
    /// Every name is taken as one that is there.
    Assumed,
}

/// A fault in a call of the management interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallFault {
    /// Method and path, `PUT /drives/rootfs`, or for an action also its name,
    /// `PUT /actions InstanceStart`. `*` is every call.
    pub call: String,
    /// Milliseconds to wait before anything else is done.
    #[serde(default)]
    pub delay_ms: u64,
    /// What is done then.
    #[serde(default)]
    pub then: Then,
    /// How often; without it, every time.
    #[serde(default)]
    pub times: Option<u32>,
}

/// What a faulty call ends in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Then {
    /// The ordinary answer.
    #[default]
    Answer,
    /// An error; the call is not carried out.
    Error {
        /// The status code.
        status: u16,
        /// The `fault_message`.
        message: String,
    },
    /// The connection is closed; the call is not carried out.
    Drop,
    /// The call is carried out, and the connection closed in place of an answer.
    DropAfter,
    /// The connection stays open and nothing comes; the call is not carried out.
    NeverAnswer,
    /// The VMM ends.
    End(End),
}

/// How a VMM ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum End {
    /// With an exit code.
    Exit(u8),
    /// By a signal that it sends itself. As the first process of a PID namespace it cannot be killed
    /// so, and exits with 128 plus the number.
    Signal(u8),
}

/// A fault before the API socket is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LaunchFault {
    /// Milliseconds to wait first.
    pub delay_ms: u64,
    /// Written to stderr after that.
    pub stderr: Option<String>,
    /// The VMM ends in place of making its socket.
    pub end: Option<End>,
}

/// A fault at the start of the machine, by `InstanceStart` or by a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StartFault {
    /// Whether the guest runs.
    pub guest: GuestFault,
    /// Whether the guest finds its vsock device.
    pub vsock: VsockFault,
    /// The VMM ends although the guest still runs. With `{"exit": 0}` it looks like a guest that
    /// reset itself.
    pub end: Option<LateEnd>,
}

/// Whether the guest runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestFault {
    /// It runs.
    #[default]
    Runs,
    /// No process is started and the machine counts as running: a kernel that hangs.
    Silent,
}

/// Whether the guest finds its vsock device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VsockFault {
    /// As configured.
    #[default]
    Present,
    /// Not even if it is configured: a guest kernel without the driver.
    Absent,
}

/// An end some time after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LateEnd {
    /// Milliseconds after the start.
    pub after_ms: u64,
    /// How.
    pub how: End,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is there and cannot be read.
    #[error("cannot read the fake VMM's settings from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not what [`Settings`] or a list of arguments looks like.
    #[error("{place} does not hold the fake VMM's settings")]
    Parse {
        /// The file or the variable.
        place: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl Settings {
    /// Reads them from the process's environment, its current folder or its root.
    ///
    /// # Errors
    /// A source that is there and cannot be understood is an error, never skipped.
    pub fn load() -> Result<Self, SettingsError> {
        let mut settings = match env::var(SETTINGS_VARIABLE) {
            Ok(text) => parse(&text, SETTINGS_VARIABLE)?,
            Err(_) => Self::from_files()?,
        };
        if let Some(program) = env::var_os(GUEST_VARIABLE) {
            let arguments = match env::var(GUEST_ARGUMENTS_VARIABLE) {
                Ok(text) => parse(&text, GUEST_ARGUMENTS_VARIABLE)?,
                Err(_) => Vec::new(),
            };
            settings.guest = Some(Guest {
                program: program.into(),
                arguments,
                environment: BTreeMap::new(),
            });
        }
        Ok(settings)
    }

    fn from_files() -> Result<Self, SettingsError> {
        for path in [
            Path::new(SETTINGS_FILE),
            &Path::new("/").join(SETTINGS_FILE),
        ] {
            match fs::read_to_string(path) {
                Ok(text) => return parse(&text, &path.display().to_string()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(SettingsError::Read {
                        path: path.to_owned(),
                        source,
                    });
                }
            }
        }
        Ok(Self::default())
    }
}

impl CallFault {
    /// How long to wait first.
    #[must_use]
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    /// Whether it is meant for a call; `name` is method and path, `action` the name of an action.
    #[must_use]
    pub fn fits(&self, name: &str, action: Option<&str>) -> bool {
        self.call == "*"
            || self.call == name
            || action.is_some_and(|action| self.call == format!("{name} {action}"))
    }
}

impl Default for Version {
    /// The version that the project's driver is written for.
    fn default() -> Self {
        Self { parts: [1, 16, 1] }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.parts;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let parts: Vec<u16> = text
            .split('.')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("version {text:?}: {error}"))?;
        match parts.try_into() {
            Ok(parts) => Ok(Self { parts }),
            Err(_) => Err(format!("version {text:?} is not three numbers")),
        }
    }
}

fn parse<T: for<'a> Deserialize<'a>>(text: &str, place: &str) -> Result<T, SettingsError> {
    serde_json::from_str(text).map_err(|source| SettingsError::Parse {
        place: place.to_owned(),
        source,
    })
}
