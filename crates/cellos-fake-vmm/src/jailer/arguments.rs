//! The jailer's command line, as jailer.md has it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::vmm::is_id;

/// Where jails are made without `--chroot-base-dir`.
const DEFAULT_BASE: &str = "/srv/jailer";
/// Bound on open files without `--resource-limit no-file=…` (jailer.md).
const DEFAULT_OPEN_FILES: u64 = 2_048;
/// What the name of the program to execute must contain (jailer.md).
const NAME_PART: &str = "firecracker";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    Help,
    Version,
    Run(Box<Arguments>),
}

/// What to jail, and how.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) id: String,
    /// Resolved.
    pub(crate) exec_file: PathBuf,
    pub(crate) exec_name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Resolved.
    pub(crate) base: PathBuf,
    pub(crate) cgroups: Cgroups,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) pid_namespace: PidNamespace,
    pub(crate) session: Session,
    pub(crate) limits: Limits,
    /// What follows `--`.
    pub(crate) rest: Vec<OsString>,
}

/// Which control groups to make and join.
#[derive(Debug)]
pub(crate) struct Cgroups {
    pub(crate) version: CgroupVersion,
    /// Relative to the hierarchy's root; the program's name if not given.
    pub(crate) parent: PathBuf,
    pub(crate) parent_given: bool,
    pub(crate) values: Vec<CgroupValue>,
}

/// Which hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CgroupVersion {
    V1,
    V2,
}

/// `memory.max=1G`: the file and what is written to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CgroupValue {
    pub(crate) controller: String,
    pub(crate) file: String,
    pub(crate) value: String,
}

/// Whether the program becomes the first process of a PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    Own,
    New,
}

/// Whether the program gets a session without a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    Own,
    Daemon,
}

/// Resource limits.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) file_bytes: Option<u64>,
    pub(crate) open_files: u64,
}

/// Why a command line is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("found argument '{0}' which wasn't expected, or isn't valid in this context")]
    Unknown(String),
    #[error("the argument '{0}' was provided more than once")]
    Repeated(&'static str),
    #[error("the argument '{0}' requires a value, but none was supplied")]
    NoValue(String),
    #[error("required argument missing: '{0}'")]
    Missing(&'static str),
    #[error("invalid value for '{name}', {value:?}: {why}")]
    Value {
        name: &'static str,
        value: String,
        why: String,
    },
}

/// Everything as given, before it is checked.
#[derive(Default)]
struct Given {
    id: Option<String>,
    exec_file: Option<String>,
    uid: Option<String>,
    gid: Option<String>,
    base: Option<String>,
    cgroup_version: Option<String>,
    parent_cgroup: Option<String>,
    netns: Option<String>,
    cgroups: Vec<String>,
    limits: Vec<String>,
    flags: Vec<&'static str>,
    rest: Vec<OsString>,
}

/// Reads the words after the program's name.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Asked, ArgumentError> {
    let given = collect(words)?;
    if given.flags.contains(&"help") {
        return Ok(Asked::Help);
    }
    if given.flags.contains(&"version") {
        return Ok(Asked::Version);
    }
    let id = given.id.ok_or(ArgumentError::Missing("id"))?;
    if !is_id(&id) {
        return Err(invalid(
            "id",
            id,
            "it is not 1 to 64 letters, digits and hyphens",
        ));
    }
    let exec_file = given.exec_file.ok_or(ArgumentError::Missing("exec-file"))?;
    let (exec_file, exec_name) = executable(exec_file)?;
    let base = given.base.unwrap_or_else(|| DEFAULT_BASE.into());
    let base = Path::new(&base)
        .canonicalize()
        .map_err(|error| invalid("chroot-base-dir", base, error))?;
    Ok(Asked::Run(Box::new(Arguments {
        id,
        exec_file,
        uid: number("uid", given.uid)?,
        gid: number("gid", given.gid)?,
        base,
        cgroups: Cgroups {
            version: match given.cgroup_version.as_deref() {
                None | Some("1") => CgroupVersion::V1,
                Some("2") => CgroupVersion::V2,
                Some(other) => return Err(invalid("cgroup-version", other, "it is not 1 or 2")),
            },
            parent_given: given.parent_cgroup.is_some(),
            parent: parent_cgroup(given.parent_cgroup, &exec_name)?,
            values: given
                .cgroups
                .into_iter()
                .map(cgroup)
                .collect::<Result<_, _>>()?,
        },
        exec_name,
        netns: given.netns.map(PathBuf::from),
        pid_namespace: match given.flags.contains(&"new-pid-ns") {
            true => PidNamespace::New,
            false => PidNamespace::Own,
        },
        session: match given.flags.contains(&"daemonize") {
            true => Session::Daemon,
            false => Session::Own,
        },
        limits: limits(given.limits)?,
        rest: given.rest,
    })))
}

fn collect(mut words: impl Iterator<Item = OsString>) -> Result<Given, ArgumentError> {
    let mut given = Given::default();
    while let Some(word) = words.next() {
        let word = word.to_string_lossy().into_owned();
        let mut value = || {
            words
                .next()
                .map(|value| value.to_string_lossy().into_owned())
                .filter(|value| !value.starts_with("--"))
                .ok_or_else(|| ArgumentError::NoValue(word.clone()))
        };
        match word.as_str() {
            "--" => {
                given.rest = words.collect();
                break;
            }
            "--id" => once("id", &mut given.id, value()?)?,
            "--exec-file" => once("exec-file", &mut given.exec_file, value()?)?,
            "--uid" => once("uid", &mut given.uid, value()?)?,
            "--gid" => once("gid", &mut given.gid, value()?)?,
            "--chroot-base-dir" => once("chroot-base-dir", &mut given.base, value()?)?,
            "--cgroup-version" => once("cgroup-version", &mut given.cgroup_version, value()?)?,
            "--parent-cgroup" => once("parent-cgroup", &mut given.parent_cgroup, value()?)?,
            "--netns" => once("netns", &mut given.netns, value()?)?,
            "--cgroup" => given.cgroups.push(value()?),
            "--resource-limit" => given.limits.push(value()?),
            "--new-pid-ns" => given.flags.push("new-pid-ns"),
            "--daemonize" => given.flags.push("daemonize"),
            "--help" => given.flags.push("help"),
            "--version" => given.flags.push("version"),
            _ => return Err(ArgumentError::Unknown(word)),
        }
    }
    Ok(given)
}

fn once(
    name: &'static str,
    place: &mut Option<String>,
    value: String,
) -> Result<(), ArgumentError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(ArgumentError::Repeated(name)),
    }
}

fn executable(given: String) -> Result<(PathBuf, String), ArgumentError> {
    let path = Path::new(&given)
        .canonicalize()
        .map_err(|error| invalid("exec-file", &given, error))?;
    if !path.is_file() {
        return Err(invalid("exec-file", given, "it is not a file"));
    }
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    match name.contains(NAME_PART) {
        true => Ok((path, name)),
        false => Err(invalid(
            "exec-file",
            given,
            "its name does not contain 'firecracker'",
        )),
    }
}

fn parent_cgroup(given: Option<String>, exec_name: &str) -> Result<PathBuf, ArgumentError> {
    let given = given.unwrap_or_else(|| exec_name.into());
    let path = PathBuf::from(&given);
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    match !given.is_empty() && path.components().all(plain) {
        true => Ok(path),
        false => Err(invalid(
            "parent-cgroup",
            given,
            "it is not a relative path without '..'",
        )),
    }
}

fn cgroup(given: String) -> Result<CgroupValue, ArgumentError> {
    let wrong = |why: &str| invalid("cgroup", &given, why);
    let (file, value) = given
        .split_once('=')
        .ok_or_else(|| wrong("it is not <file>=<value>"))?;
    let (controller, rest) = file
        .split_once('.')
        .ok_or_else(|| wrong("the file is not <controller>.<name>"))?;
    if controller.is_empty() || rest.is_empty() || value.is_empty() || file.contains('/') {
        return Err(wrong(
            "the file is not <controller>.<name>, or there is no value",
        ));
    }
    Ok(CgroupValue {
        controller: controller.to_owned(),
        file: file.to_owned(),
        value: value.to_owned(),
    })
}

fn limits(given: Vec<String>) -> Result<Limits, ArgumentError> {
    let mut limits = Limits {
        file_bytes: None,
        open_files: DEFAULT_OPEN_FILES,
    };
    for limit in given {
        let (name, value) = limit.split_once('=').unwrap_or((&limit, ""));
        let number = value
            .parse()
            .map_err(|error| invalid("resource-limit", &limit, error))?;
        match name {
            "fsize" => limits.file_bytes = Some(number),
            "no-file" => limits.open_files = number,
            _ => {
                return Err(invalid(
                    "resource-limit",
                    &limit,
                    "it is not fsize or no-file",
                ));
            }
        }
    }
    Ok(limits)
}

fn number(name: &'static str, given: Option<String>) -> Result<u32, ArgumentError> {
    let given = given.ok_or(ArgumentError::Missing(name))?;
    given.parse().map_err(|error| invalid(name, given, error))
}

fn invalid(
    name: &'static str,
    value: impl Into<String>,
    why: impl std::fmt::Display,
) -> ArgumentError {
    ArgumentError::Value {
        name,
        value: value.into(),
        why: why.to_string(),
    }
}
