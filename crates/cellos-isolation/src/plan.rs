//! What a document comes to on Linux: everything the launcher needs to build one cell.

use std::{collections::BTreeMap, time::Duration};

use cellos_core::{
    CellosError, ExecutionCellDocument,
    document::{Mount, RunLimits, RunUser},
    ports::network::NetworkNeeds,
};
use serde::{Deserialize, Serialize};

/// `PATH` of a workload that declares none, as the published contract has it.
pub const DEFAULT_PATH: &str = "/usr/bin:/bin:/usr/local/bin";

/// The working folder of a workload that declares none.
pub const DEFAULT_WORKING_FOLDER: &str = "/work";

/// Identity inside the cell of a workload that declares none: an ordinary user.
pub const DEFAULT_USER: RunUser = RunUser {
    uid: 1000,
    gid: 1000,
};

/// Bound on what a cell may write to `/tmp`, `/dev/shm` and its working folder together, in
/// bytes, where no larger memory limit is declared. The pages count as the cell's memory.
pub const WRITABLE_MAX_BYTES: u64 = 1 << 30;

/// Most processes and threads of a cell that declares no `pidsMax`: far above what builds and
/// test suites need, far below what hurts a host.
pub const DEFAULT_PROCESS_LIMIT: u64 = 4096;

/// Seconds between the polite request to end and the kill where the document is silent, as the
/// published hosts have it.
pub const DEFAULT_GRACE_SECONDS: u64 = 5;

/// Most sockets of one cell's network. Each takes about 2 KiB of the kernel's memory, and a
/// descriptor of the process that serves it.
pub const MAX_NETWORK_SOCKETS: usize = 4096;

/// How much longer than lifetime and grace the launcher waits for the supervisor to end a cell
/// before it ends the cell itself.
const BACKSTOP_MARGIN: Duration = Duration::from_secs(2);

/// One cell, ready to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellPlan {
    /// `spec.id`.
    pub cell_id: String,
    /// Program and arguments; empty for a cell without a command.
    pub argv: Vec<String>,
    /// The whole environment of the command.
    pub environment: BTreeMap<String, String>,
    /// Absolute path in the cell.
    pub working_folder: String,
    /// Identity inside the cell.
    pub user: RunUser,
    /// Declared mounts.
    pub mounts: Vec<Mount>,
    /// Memory and swap of the whole cell, in bytes.
    pub memory_max_bytes: Option<u64>,
    /// Quota and period in microseconds.
    pub cpu_max: Option<(u64, u64)>,
    /// Processes and threads of the whole cell.
    pub pids_max: Option<u64>,
    /// What it may write to its own folders together, in bytes.
    pub writable_bytes: u64,
    /// From now to the launcher's own end of the cell.
    pub backstop: Duration,
    /// The sockets of its network; a cell without has nothing but a loopback device.
    #[serde(default)]
    pub network: Option<NetworkNeeds>,
    /// Whether it takes the network card of the machine that it is in.
    #[serde(default)]
    pub card: Card,
}

/// The network card of a machine, whose other end a gateway on the host serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Card {
    /// There is none, or it is left alone.
    #[default]
    Left,
    /// The cell has it, and nothing else in the machine.
    Taken,
}

/// Period of CPU bandwidth where the document is silent, in microseconds: the kernel's default.
const DEFAULT_CPU_PERIOD_MICROS: u64 = 100_000;

impl CellPlan {
    /// The plan of an admitted document.
    ///
    /// # Errors
    /// [`CellosError::InvalidSpec`] for what this backend cannot map.
    pub fn from_document(document: &ExecutionCellDocument) -> Result<Self, CellosError> {
        let spec = &document.spec;
        let run = spec.run.as_ref();
        let limits: Option<&RunLimits> = run.and_then(|run| run.limits.as_ref());
        let memory_max_bytes = limits.and_then(|limits| limits.memory_max_bytes);
        let grace = limits
            .and_then(|limits| limits.graceful_shutdown_seconds)
            .unwrap_or(DEFAULT_GRACE_SECONDS);
        let working_folder = run
            .and_then(|run| run.working_directory.clone())
            .unwrap_or_else(|| DEFAULT_WORKING_FOLDER.to_owned());
        check_cell_path("spec.run.workingDirectory", &working_folder)?;
        let mounts = spec
            .authority
            .filesystem
            .as_ref()
            .map(|filesystem| filesystem.mounts.clone())
            .unwrap_or_default();
        for (index, mount) in mounts.iter().enumerate() {
            let path = format!("spec.authority.filesystem.mounts[{index}]");
            check_cell_path(&format!("{path}.target"), &mount.target)?;
            check_cell_path(&format!("{path}.source"), &mount.source)?;
        }
        let mut environment = run.map(|run| run.env.clone()).unwrap_or_default();
        environment
            .entry("PATH".to_owned())
            .or_insert_with(|| DEFAULT_PATH.to_owned());
        environment
            .entry("HOME".to_owned())
            .or_insert_with(|| working_folder.clone());
        let argv = run.map(|run| run.argv.clone()).unwrap_or_default();
        for (what, text) in argv
            .iter()
            .map(|argument| ("spec.run.argv", argument))
            .chain(
                environment
                    .iter()
                    .flat_map(|(name, value)| [("spec.run.env", name), ("spec.run.env", value)]),
            )
        {
            if text.contains('\0') {
                return Err(CellosError::InvalidSpec(format!(
                    "{what}: holds a NUL byte"
                )));
            }
        }
        Ok(Self {
            cell_id: spec.id.clone(),
            argv,
            environment,
            working_folder,
            user: run.and_then(|run| run.user).unwrap_or(DEFAULT_USER),
            mounts,
            memory_max_bytes,
            cpu_max: limits.and_then(|limits| limits.cpu_max).map(|cpu| {
                (
                    cpu.quota_micros,
                    cpu.period_micros.unwrap_or(DEFAULT_CPU_PERIOD_MICROS),
                )
            }),
            pids_max: limits.and_then(|limits| limits.pids_max),
            writable_bytes: memory_max_bytes.unwrap_or(0).max(WRITABLE_MAX_BYTES),
            backstop: Duration::from_secs(spec.lifetime.ttl_seconds)
                .saturating_add(Duration::from_secs(grace))
                .saturating_add(BACKSTOP_MARGIN),
            network: None,
            card: Card::Left,
        })
    }

    /// Gives the cell a network with these sockets.
    ///
    /// # Errors
    /// [`CellosError::InvalidSpec`] for more than [`MAX_NETWORK_SOCKETS`].
    pub fn with_network(mut self, needs: NetworkNeeds) -> Result<Self, CellosError> {
        let count = socket_count(&needs);
        if count > MAX_NETWORK_SOCKETS {
            return Err(CellosError::InvalidSpec(format!(
                "spec.authority.egressRules: the declared ports and the connections from outside \
                 need {count} sockets, at most {MAX_NETWORK_SOCKETS} are possible; declare fewer \
                 ports"
            )));
        }
        self.network = Some(needs);
        Ok(self)
    }

    /// Whether names and addresses mean something to it.
    pub(crate) fn has_network(&self) -> bool {
        self.network.is_some() || self.card == Card::Taken
    }

    /// The mount whose target is the working folder or holds it, if any.
    pub(crate) fn mount_over(&self, folder: &str) -> Option<&Mount> {
        self.mounts
            .iter()
            .find(|mount| is_beneath(folder, &mount.target))
    }
}

/// Most sockets that these needs come to: ports and the name server's, one of each address family
/// for each connection from outside, and the one that sees refusals.
#[must_use]
pub fn socket_count(needs: &NetworkNeeds) -> usize {
    let ports = needs.tcp_ports.len() + needs.udp_ports.len() + 2;
    ports + 2 * usize::from(needs.inbound_sockets) + 1
}

/// Whether `path` is `folder` or lies in it. Both are normalised.
pub(crate) fn is_beneath(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Paths are checked here again although admission does it: what reaches the kernel must not
/// depend on the caller having asked.
fn check_cell_path(field: &str, path: &str) -> Result<(), CellosError> {
    let sound = path.starts_with('/')
        && path.len() > 1
        && path.len() < 4096
        && !path.contains('\0')
        && path
            .split('/')
            .skip(1)
            .all(|part| !matches!(part, "" | "." | ".."));
    if sound {
        Ok(())
    } else {
        Err(CellosError::InvalidSpec(format!(
            "{field}: {path:?} is not an absolute path without empty, `.` and `..` parts"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(spec: &str) -> ExecutionCellDocument {
        serde_json::from_str(&format!(
            r#"{{"apiVersion":"cellos.io/v1","kind":"ExecutionCell","spec":{spec}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_bare_document_gets_the_defaults() {
        let plan = CellPlan::from_document(&document(
            r#"{"id":"a","run":{"argv":["true"]},"authority":{},"lifetime":{"ttlSeconds":10}}"#,
        ))
        .unwrap();
        assert_eq!(plan.working_folder, "/work");
        assert_eq!(plan.environment["PATH"], DEFAULT_PATH);
        assert_eq!(plan.environment["HOME"], "/work");
        assert_eq!(plan.user, DEFAULT_USER);
        assert_eq!(plan.backstop, Duration::from_secs(17));
    }

    #[test]
    fn an_endless_lifetime_does_not_overflow() {
        let plan = CellPlan::from_document(&document(
            r#"{"id":"a","authority":{},"lifetime":{"ttlSeconds":18446744073709551615}}"#,
        ))
        .unwrap();
        assert!(plan.backstop > Duration::from_secs(u64::MAX - 1));
    }

    #[test]
    fn paths_that_climb_are_refused() {
        for path in ["", "/", "work", "/a/../b", "/a//b", "/a/", "/./a", "/a\0b"] {
            let mut document = document(
                r#"{"id":"a","run":{"argv":["true"]},"authority":{},"lifetime":{"ttlSeconds":10}}"#,
            );
            if let Some(run) = document.spec.run.as_mut() {
                run.working_directory = Some(path.to_owned());
            }
            assert!(
                matches!(
                    CellPlan::from_document(&document),
                    Err(CellosError::InvalidSpec(_))
                ),
                "{path:?} was accepted"
            );
        }
    }

    #[test]
    fn beneath_is_about_whole_path_parts() {
        assert!(is_beneath("/work/a", "/work"));
        assert!(is_beneath("/work", "/work"));
        assert!(!is_beneath("/workshop", "/work"));
    }
}
