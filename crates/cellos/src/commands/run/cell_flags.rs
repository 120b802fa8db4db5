//! The flags that describe a cell, and the document they come to.

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

use cellos_core::{
    ExecutionCellDocument, ExecutionCellSpec,
    document::{
        API_VERSION, AuthorityBundle, EgressRule, FilesystemAuthority, KIND_EXECUTION_CELL,
        Lifetime, Mount, MountAccess, RunCpuMax, RunLimits, RunSpec, RunUser, SecretDeliveryMode,
    },
};

use super::allow;
use crate::units::{self, UnitError};

/// Time to live of a cell whose flags give none, in seconds: long enough for a build, short enough
/// for a forgotten one.
const DEFAULT_TTL_SECONDS: u64 = 600;

/// A cell without a document. Each flag is a field of the document; a document says these things
/// itself, so they are refused beside one.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "A cell without a document")]
pub(crate) struct CellFlags {
    /// Name of the cell; a fresh one by default
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Longest life of the cell, from its creation: 30s, 5m, 2h [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = units::whole_seconds)]
    ttl: Option<u64>,
    /// Longest run of the command: 500ms, 10s, 5m
    #[arg(long, value_name = "TIME", value_parser = units::milliseconds)]
    timeout: Option<u64>,
    /// Time between the request to end and the kill
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    grace: Option<std::time::Duration>,
    /// Memory of the whole cell, swap included: 256M, 1G
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    memory: Option<u64>,
    /// Processors: 0.5 is half of one
    #[arg(long, value_name = "NUMBER", value_parser = units::cpus)]
    cpus: Option<RunCpuMax>,
    /// Most processes and threads at once
    #[arg(long, value_name = "NUMBER")]
    pids: Option<u64>,
    /// A host folder or file inside the cell, read-only unless :rw; may be repeated
    #[arg(long, value_name = "SOURCE:TARGET[:ro|:rw]", value_parser = MountFlag::parse)]
    mount: Vec<MountFlag>,
    /// A destination that the command may connect to, by name or address; may be repeated.
    /// Without a protocol the connection has to be TLS or HTTP for that name; `tcp`, `udp`, `tls`
    /// and `http` say otherwise
    #[arg(long, value_name = "HOST:PORT[/PROTOCOL]", value_parser = allow::parse)]
    allow: Vec<EgressRule>,
    /// An environment variable; nothing is inherited; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = units::variable)]
    env: Vec<(String, String)>,
    /// Folder the command starts in [default: /work, which is writable and empty]
    #[arg(long, value_name = "PATH")]
    workdir: Option<String>,
    /// User and group the command sees itself as
    #[arg(long, value_name = "UID[:GID]", value_parser = units::user)]
    user: Option<RunUser>,
}

/// `SOURCE:TARGET[:ro|:rw]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountFlag {
    source: String,
    target: String,
    access: MountAccess,
}

impl MountFlag {
    fn parse(text: &str) -> Result<Self, UnitError> {
        let (text, access) = match text.rsplit_once(':') {
            Some((rest, "ro")) => (rest, MountAccess::Ro),
            Some((rest, "rw")) => (rest, MountAccess::Rw),
            _ => (text, MountAccess::Ro),
        };
        // A target never holds a colon, a source may.
        match text.rsplit_once(':') {
            Some((source, target)) if !source.is_empty() && target.starts_with('/') => Ok(Self {
                source: source.to_owned(),
                target: target.to_owned(),
                access,
            }),
            _ => Err(UnitError::Mount),
        }
    }
}

/// Why flags do not come to a document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlagError {
    #[error("argument {index} of the command is not UTF-8, which a document cannot hold")]
    ArgumentNotUtf8 { index: usize },
    #[error("--grace is in whole seconds")]
    GraceNotWholeSeconds,
    #[error("--env sets {name} twice")]
    VariableTwice { name: String },
    #[error("--mount {source_path}: the working folder it is relative to cannot be found out")]
    NoWorkingFolder {
        source_path: String,
        source: std::io::Error,
    },
    #[error("--mount {source_path}: the path is not UTF-8, which a document cannot hold")]
    MountNotUtf8 { source_path: String },
}

impl CellFlags {
    /// The names of the flags that are set.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        [
            ("--id", self.id.is_some()),
            ("--ttl", self.ttl.is_some()),
            ("--timeout", self.timeout.is_some()),
            ("--grace", self.grace.is_some()),
            ("--memory", self.memory.is_some()),
            ("--cpus", self.cpus.is_some()),
            ("--pids", self.pids.is_some()),
            ("--mount", !self.mount.is_empty()),
            ("--allow", !self.allow.is_empty()),
            ("--env", !self.env.is_empty()),
            ("--workdir", self.workdir.is_some()),
            ("--user", self.user.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }

    /// The document that these flags and this command come to.
    pub(crate) fn document(
        &self,
        command: &[OsString],
        fresh_id: impl FnOnce() -> String,
    ) -> Result<ExecutionCellDocument, FlagError> {
        let argv = command
            .iter()
            .enumerate()
            .map(|(index, argument)| {
                argument
                    .to_str()
                    .map(str::to_owned)
                    .ok_or(FlagError::ArgumentNotUtf8 { index })
            })
            .collect::<Result<_, _>>()?;
        let mut variables = std::collections::BTreeMap::new();
        for (name, value) in &self.env {
            if variables.insert(name.clone(), value.clone()).is_some() {
                return Err(FlagError::VariableTwice { name: name.clone() });
            }
        }
        let mounts = self
            .mount
            .iter()
            .map(MountFlag::mount)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(ExecutionCellDocument {
            api_version: API_VERSION.into(),
            kind: KIND_EXECUTION_CELL.into(),
            spec: ExecutionCellSpec {
                id: self.id.clone().unwrap_or_else(fresh_id),
                correlation: None,
                ingress: None,
                environment: None,
                placement: None,
                policy: None,
                identity: None,
                run: Some(RunSpec {
                    argv,
                    working_directory: self.workdir.clone(),
                    timeout_ms: self.timeout,
                    limits: self.limits()?,
                    secret_delivery: SecretDeliveryMode::default(),
                    env: variables,
                    user: self.user,
                }),
                authority: AuthorityBundle {
                    egress_rules: (!self.allow.is_empty()).then(|| self.allow.clone()),
                    filesystem: (!mounts.is_empty()).then_some(FilesystemAuthority { mounts }),
                    ..AuthorityBundle::default()
                },
                lifetime: Lifetime {
                    ttl_seconds: self.ttl.unwrap_or(DEFAULT_TTL_SECONDS),
                },
                export: None,
                telemetry: None,
            },
        })
    }

    fn limits(&self) -> Result<Option<RunLimits>, FlagError> {
        let grace = self
            .grace
            .map(|grace| match grace.subsec_nanos() {
                0 => Ok(grace.as_secs()),
                _ => Err(FlagError::GraceNotWholeSeconds),
            })
            .transpose()?;
        let limits = RunLimits {
            memory_max_bytes: self.memory,
            cpu_max: self.cpus,
            graceful_shutdown_seconds: grace,
            pids_max: self.pids,
        };
        let none = RunLimits {
            memory_max_bytes: None,
            cpu_max: None,
            graceful_shutdown_seconds: None,
            pids_max: None,
        };
        Ok((limits != none).then_some(limits))
    }
}

impl MountFlag {
    fn mount(&self) -> Result<Mount, FlagError> {
        let source = Path::new(&self.source);
        let source = if source.is_absolute() {
            source.to_path_buf()
        } else {
            let here = std::env::current_dir().map_err(|error| FlagError::NoWorkingFolder {
                source_path: self.source.clone(),
                source: error,
            })?;
            beneath(&here, source)
        };
        Ok(Mount {
            source: source
                .into_os_string()
                .into_string()
                .map_err(|_| FlagError::MountNotUtf8 {
                    source_path: self.source.clone(),
                })?,
            target: self.target.clone(),
            access: self.access,
        })
    }
}

/// An absolute form of `path`, which is relative to `folder`. `..` at its start goes up from
/// `folder`, whose own parts are no symbolic links; `..` anywhere else could lead through one, so
/// it stays and admission refuses it.
fn beneath(folder: &Path, path: &Path) -> PathBuf {
    let mut absolute = folder.to_path_buf();
    let mut is_at_start = true;
    for component in path.components() {
        match component {
            Component::ParentDir if is_at_start => {
                absolute.pop();
            }
            Component::CurDir => {}
            other => {
                is_at_start = false;
                absolute.push(other);
            }
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn fresh() -> String {
        "fresh".into()
    }

    #[test]
    fn flags_come_to_the_document_a_person_would_write() {
        let flags = CellFlags {
            ttl: Some(30),
            memory: Some(256 << 20),
            mount: vec![MountFlag::parse("/srv/data:/data").unwrap()],
            env: vec![("A".into(), "1".into())],
            ..CellFlags::default()
        };
        let document = flags.document(&words(&["echo", "hi"]), fresh).unwrap();
        assert_eq!(document.spec.id, "fresh");
        assert_eq!(document.spec.lifetime.ttl_seconds, 30);
        let run = document.spec.run.unwrap();
        assert_eq!(run.argv, ["echo", "hi"]);
        assert_eq!(run.env["A"], "1");
        assert_eq!(run.limits.unwrap().memory_max_bytes, Some(256 << 20));
        let mounts = document.spec.authority.filesystem.unwrap().mounts;
        assert_eq!(mounts[0].access, MountAccess::Ro);
    }

    #[test]
    fn a_cell_without_flags_has_no_authority_no_limits_and_a_hard_end() {
        let document = CellFlags::default()
            .document(&words(&["true"]), fresh)
            .unwrap();
        assert_eq!(document.spec.authority, AuthorityBundle::default());
        assert_eq!(document.spec.run.unwrap().limits, None);
        assert_eq!(document.spec.lifetime.ttl_seconds, DEFAULT_TTL_SECONDS);
    }

    #[test]
    fn mounts_are_read_only_unless_said_otherwise() {
        let parse =
            |text| MountFlag::parse(text).map(|mount| (mount.source, mount.target, mount.access));
        assert_eq!(
            parse(".:/work:rw"),
            Ok((".".into(), "/work".into(), MountAccess::Rw))
        );
        assert_eq!(
            parse("a:b:/c:ro"),
            Ok(("a:b".into(), "/c".into(), MountAccess::Ro))
        );
        for bad in ["", "/a", "/a:b", ":/b", "/a:/b:rx", "/a:rw"] {
            assert_eq!(parse(bad), Err(UnitError::Mount), "{bad}");
        }
    }

    #[test]
    fn relative_sources_stay_below_where_they_point() {
        let here = Path::new("/home/me/project");
        for (path, expected) in [
            (".", "/home/me/project"),
            ("./src", "/home/me/project/src"),
            ("../data", "/home/me/data"),
            ("../../../../..", "/"),
            ("link/../x", "/home/me/project/link/../x"),
        ] {
            assert_eq!(
                beneath(here, Path::new(path)),
                Path::new(expected),
                "{path}"
            );
        }
    }

    #[test]
    fn a_variable_has_one_value() {
        let flags = CellFlags {
            env: vec![("A".into(), "1".into()), ("A".into(), "2".into())],
            ..CellFlags::default()
        };
        assert!(matches!(
            flags.document(&words(&["true"]), fresh),
            Err(FlagError::VariableTwice { .. })
        ));
    }
}
