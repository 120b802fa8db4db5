//! Payloads about the workload's network, process, isolation and end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Declared, DeclaredEgress, EndedBy, EventData, EventKind, LimitRecord, NetworkMode, Scope,
    UsageRecord,
};
use crate::{
    ExecutionCellSpec,
    document::RunLimits,
    ports::workload::{ExitAuthentication, GuestExecution, Machine, MachineOrigin, Posture},
};

/// Data of `observability.v1.network_scope`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkScope {
    /// How many egress rules are declared.
    pub egress_rule_count: usize,
    /// Whether `authority.network`, which has no defined meaning, is set.
    pub has_opaque_network_authority: bool,
}

impl NetworkScope {
    /// What this document declares.
    #[must_use]
    pub fn of(spec: &ExecutionCellSpec) -> Self {
        Self {
            egress_rule_count: spec.authority.egress_rules.as_ref().map_or(0, Vec::len),
            has_opaque_network_authority: spec.authority.network.is_some(),
        }
    }
}

impl EventData for NetworkScope {
    const KIND: EventKind = EventKind::NetworkScope;
}

/// The published name of a network namespace of the cell's own.
const OWN_NETWORK: &str = "clone_newnet";
/// The kind of namespace that a network is in.
const NETWORK_NAMESPACE: &str = "net";

/// Data of `observability.v1.network_policy`: the workload's process was seen in a network of its
/// own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// How the network is isolated: always `clone_newnet`.
    pub isolation_mode: String,
    /// How many egress rules are declared.
    pub declared_egress_count: usize,
    /// The declared egress rules.
    pub declared_egress: Vec<DeclaredEgress>,
    /// Always `true`: the kernel was asked about the workload's process; ours.
    pub observed: bool,
}

impl NetworkPolicy {
    /// What was observed against what this document declares, where the process has a network of
    /// its own on this host.
    #[must_use]
    pub fn observed(spec: &ExecutionCellSpec, posture: &Posture) -> Option<Self> {
        let own = posture.machine.is_none()
            && posture
                .private_namespaces()
                .any(|kind| kind == NETWORK_NAMESPACE);
        let declared_egress = own.then(|| Declared::of(spec).egress_rules)?;
        Some(Self {
            isolation_mode: OWN_NETWORK.into(),
            declared_egress_count: declared_egress.len(),
            declared_egress,
            observed: true,
        })
    }
}

impl EventData for NetworkPolicy {
    const KIND: EventKind = EventKind::NetworkPolicy;
}

/// Data of `observability.v1.network_enforcement`: what stood between the workload and the network
/// while it ran. From `network_mode` on the fields are ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkEnforcement {
    /// How the network is isolated: always `clone_newnet`.
    pub isolation_mode: String,
    /// Whether there were firewall rules; never, because there is nothing that they could filter.
    pub nft_rules_applied: bool,
    /// How many egress rules are declared.
    pub declared_egress_rule_count: usize,
    /// Whether something else let through what is declared, and nothing else.
    pub supplementary_egress_filter_active: bool,
    /// The command's code as in `command.v1.completed`.
    pub command_exit_code: i32,
    /// Why the command never ran, or which deadline ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spawn_error: Option<String>,
    /// How strict the gateway was.
    pub network_mode: NetworkMode,
}

impl NetworkEnforcement {
    /// A gateway served the cell until the command had ended like this.
    #[must_use]
    pub fn by_gateway(
        spec: &ExecutionCellSpec,
        mode: NetworkMode,
        command_exit_code: i32,
        spawn_error: Option<String>,
    ) -> Self {
        Self {
            isolation_mode: OWN_NETWORK.into(),
            nft_rules_applied: false,
            declared_egress_rule_count: spec.authority.egress_rules.as_ref().map_or(0, Vec::len),
            supplementary_egress_filter_active: mode == NetworkMode::Enforce,
            command_exit_code,
            spawn_error,
            network_mode: mode,
        }
    }
}

impl EventData for NetworkEnforcement {
    const KIND: EventKind = EventKind::NetworkEnforcement;
}

/// Data of `observability.v1.process_spawned`. Emitted once the program has been executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessSpawned {
    /// `argv[0]`.
    pub program: String,
    /// Number of arguments, the program included.
    pub argc: usize,
    /// Process id on the host, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Whether the execution was seen, or only the backend's word that it happens is known.
    pub observed: bool,
}

impl EventData for ProcessSpawned {
    const KIND: EventKind = EventKind::ProcessSpawned;
}

/// Data of `observability.v1.container_security`, read from the workload's own process. From
/// `observed` on the fields are ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSecurity {
    /// Inheritable capabilities, 16 hexadecimal digits.
    pub cap_inh: String,
    /// Permitted capabilities.
    pub cap_prm: String,
    /// Effective capabilities.
    pub cap_eff: String,
    /// Bounding set.
    pub cap_bnd: String,
    /// Ambient capabilities.
    pub cap_amb: String,
    /// Whether the process has every capability.
    pub privileged: bool,
    /// Always `true`: the kernel was asked about the workload's process.
    pub observed: bool,
    /// Process id on the host.
    pub pid: u32,
    /// User id outside the cell.
    pub host_uid: u32,
    /// Inode numbers of the process's namespaces, by kind.
    pub namespaces: BTreeMap<String, u64>,
    /// Kinds of namespaces that are not the host's.
    pub private_namespaces: Vec<String>,
    /// `NoNewPrivs` of `/proc/PID/status`.
    pub no_new_privs: bool,
    /// `Seccomp`: 0 off, 1 strict, 2 filter.
    pub seccomp_mode: u32,
    /// `Seccomp_filters`.
    pub seccomp_filters: u32,
    /// Landlock ABI in force, 0 for none.
    pub landlock_abi: u32,
    /// Control groups by hierarchy.
    pub cgroups: BTreeMap<String, String>,
    /// The virtual machine around the process; what stands above is then the guest kernel's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineRecord>,
}

/// The virtual machine of a cell in the form of the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineRecord {
    /// The monitor: `qemu`, `firecracker`.
    pub monitor: String,
    /// Its version as it says.
    pub monitor_version: String,
    /// SHA-256 of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor_digest_sha256: Option<String>,
    /// `kvm`, `emulated`, or `fake` in tests.
    pub execution: GuestExecution,
    /// SHA-256 of the initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_digest_sha256: Option<String>,
    /// Release of the guest's kernel.
    pub guest_kernel: String,
    /// Release of the guest's PID 1.
    pub guest_version: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory of the machine in bytes.
    pub memory_bytes: u64,
    /// `booted`, `parked` or `restored`.
    pub origin: MachineOrigin,
    /// From the start of the monitor, or the checkout, to a PID 1 that has spoken, in
    /// milliseconds.
    pub ready_after_ms: u64,
    /// `session`, or `publishedFrame`, which is weaker.
    pub exit_authentication: ExitAuthentication,
}

impl From<&Machine> for MachineRecord {
    fn from(machine: &Machine) -> Self {
        Self {
            monitor: machine.monitor.clone(),
            monitor_version: machine.monitor_version.clone(),
            monitor_digest_sha256: machine.monitor_digest_sha256.clone(),
            execution: machine.execution,
            initrd_digest_sha256: machine.initrd_digest_sha256.clone(),
            guest_kernel: machine.guest_kernel.clone(),
            guest_version: machine.guest_version.clone(),
            vcpus: machine.vcpus,
            memory_bytes: machine.memory_bytes,
            origin: machine.origin,
            ready_after_ms: u64::try_from(machine.ready_after.as_millis()).unwrap_or(u64::MAX),
            exit_authentication: machine.exit_authentication,
        }
    }
}

/// `CapEff` of a process that has every capability of the contract's list.
const ALL_CAPABILITIES: &str = "0000001fffffffff";

impl From<&Posture> for ContainerSecurity {
    fn from(posture: &Posture) -> Self {
        Self {
            cap_inh: posture.cap_inh.clone(),
            cap_prm: posture.cap_prm.clone(),
            cap_eff: posture.cap_eff.clone(),
            cap_bnd: posture.cap_bnd.clone(),
            cap_amb: posture.cap_amb.clone(),
            privileged: posture.cap_eff == ALL_CAPABILITIES,
            observed: true,
            pid: posture.pid,
            host_uid: posture.host_uid,
            namespaces: posture.namespaces.clone(),
            private_namespaces: posture.private_namespaces().map(str::to_owned).collect(),
            no_new_privs: posture.no_new_privs,
            seccomp_mode: posture.seccomp_mode,
            seccomp_filters: posture.seccomp_filters,
            landlock_abi: posture.landlock_abi,
            cgroups: posture.cgroups.clone(),
            machine: posture.machine.as_ref().map(Into::into),
        }
    }
}

impl EventData for ContainerSecurity {
    const KIND: EventKind = EventKind::ContainerSecurity;
    const SCOPE: Scope = Scope::CellAndRun;
}

/// Data of `command.v1.completed`. From `ended_by` on the fields are ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandCompleted {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The command's code; 128 plus the number for a signal; -1 when it never ran or when a
    /// deadline ended it.
    pub exit_code: i32,
    /// From the start of the command to its end, in milliseconds.
    pub duration_ms: u64,
    /// Why it never ran, or which deadline ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spawn_error: Option<String>,
    /// Who or what ended it.
    pub ended_by: EndedBy,
    /// Number of the signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What it used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageRecord>,
    /// Limits that were hit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits_hit: Vec<LimitRecord>,
    /// What the document allows it, to compare with the usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared: Option<DeclaredRun>,
}

/// What a document allows its command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeclaredRun {
    /// `lifetime.ttlSeconds`.
    pub ttl_seconds: u64,
    /// `run.timeoutMs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// `run.limits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RunLimits>,
}

impl DeclaredRun {
    /// What this document allows.
    #[must_use]
    pub fn of(spec: &ExecutionCellSpec) -> Self {
        let run = spec.run.as_ref();
        Self {
            ttl_seconds: spec.lifetime.ttl_seconds,
            timeout_ms: run.and_then(|run| run.timeout_ms),
            limits: run.and_then(|run| run.limits.clone()),
        }
    }
}

impl EventData for CommandCompleted {
    const KIND: EventKind = EventKind::CommandCompleted;
}
