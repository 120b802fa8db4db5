//! What readers look at in an event, without making values of the rest.
//!
//! An event may hold anything. A field of another type than expected is named in `wrong` and is as
//! good as absent; everything else of the event is read. Only what is no JSON object at all is an
//! error.

mod shapes;
mod tolerant;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de};

pub use self::shapes::{IdentityKind, TargetName};
pub use self::tolerant::{List, MAX_LIST_ITEMS};
use self::tolerant::{Tolerant, facts};

/// The attributes of an event and those fields of its data that some reader looks at; everything
/// borrows from the event's bytes where it can.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// Id of the event.
    pub id: Cow<'a, str>,
    /// Full type.
    pub ty: Cow<'a, str>,
    /// When it happened, RFC 3339.
    pub time: Option<Cow<'a, str>>,
    /// Session of the run.
    pub cexsessionid: Option<Cow<'a, str>>,
    /// Id of the event that this one follows from.
    pub cexparenttrace: Option<Cow<'a, str>>,
    /// The payload.
    pub data: Option<Box<DataFacts<'a>>>,
    /// Names of attributes that are of another type than expected, stand there twice, or are
    /// missing and have to be there.
    pub wrong: Vec<&'static str>,
}

impl<'a> Facts<'a> {
    /// Reads an event.
    ///
    /// # Errors
    /// It is no JSON object.
    pub fn of(event: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(event)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Facts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Tolerant::Is(read) = Tolerant::<EnvelopeFacts<'de>>::deserialize(deserializer)? else {
            return Err(de::Error::custom("an event is a JSON object"));
        };
        let mut wrong = read.wrong;
        for (name, absent) in [("id", read.id.is_none()), ("type", read.ty.is_none())] {
            if absent && !wrong.contains(&name) {
                wrong.push(name);
            }
        }
        Ok(Self {
            id: read.id.unwrap_or_default(),
            ty: read.ty.unwrap_or_default(),
            time: read.time,
            cexsessionid: read.cexsessionid,
            cexparenttrace: read.cexparenttrace,
            data: read.data,
            wrong,
        })
    }
}

facts! {
    /// The attributes.
    pub struct EnvelopeFacts {
        /// `id`.
        id: Cow<'a, str> = "id",
        /// `type`.
        ty: Cow<'a, str> = "type",
        /// `time`.
        time: Cow<'a, str> = "time",
        /// `cexsessionid`.
        cexsessionid: Cow<'a, str> = "cexsessionid",
        /// `cexparenttrace`.
        cexparenttrace: Cow<'a, str> = "cexparenttrace",
        /// `data`.
        data: Box<DataFacts<'a>> = "data",
    }

    /// Fields of the payloads of all types; `docs/events.md` says what each means.
    pub struct DataFacts {
        /// The cell.
        cell_id: Cow<'a, str> = "cellId",
        /// The run.
        run_id: Cow<'a, str> = "runId",
        /// `spec.id` of the document.
        spec_id: Cow<'a, str> = "specId",
        /// `spec.correlation`.
        correlation: Box<CorrelationFacts<'a>> = "correlation",
        /// Copy of the tenant.
        tenant_id: Cow<'a, str> = "tenantId",
        /// `spec.placement`.
        placement: PlacementFacts<'a> = "placement",
        /// SHA-256 of the document, with `sha256:`.
        document_digest: Cow<'a, str> = "documentDigest",
        /// SHA-256 of the document's bytes, or with `sha256:` of the typed specification.
        spec_hash: Cow<'a, str> = "specHash",
        /// `lifetime.ttlSeconds`.
        ttl_seconds: u64 = "ttlSeconds",
        /// The same in the summary.
        lifetime_ttl_seconds: u64 = "lifetimeTtlSeconds",
        /// Name of the backend.
        backend: Cow<'a, str> = "backend",
        /// Digest of a machine's kernel.
        kernel_digest: Cow<'a, str> = "kernelDigestSha256",
        /// Digest of a machine's root file system.
        rootfs_digest: Cow<'a, str> = "rootfsDigestSha256",
        /// Digest of a machine's monitor.
        firecracker_digest: Cow<'a, str> = "firecrackerDigestSha256",
        /// Whether a derivation token was verified.
        derivation_verified: bool = "derivationVerified",
        /// Role of the derivation token.
        role_root: Cow<'a, str> = "roleRoot",
        /// Run that the derivation token is of.
        parent_run_id: Cow<'a, str> = "parentRunId",
        /// What the document declares.
        declared: Box<DeclaredFacts<'a>> = "declared",
        /// How many egress rules are declared.
        egress_rule_count: u64 = "egressRuleCount",
        /// Whether the process has every capability.
        privileged: bool = "privileged",
        /// Effective capabilities.
        cap_eff: Cow<'a, str> = "capEff",
        /// Bounding set.
        cap_bnd: Cow<'a, str> = "capBnd",
        /// Whether something was seen or is only declared.
        observed: bool = "observed",
        /// Process id on the host.
        pid: u64 = "pid",
        /// User id on the host.
        host_uid: u64 = "hostUid",
        /// Kinds of namespaces that are not the host's.
        private_namespaces: List<Cow<'a, str>> = "privateNamespaces",
        /// `NoNewPrivs`.
        no_new_privs: bool = "noNewPrivs",
        /// Mode of seccomp.
        seccomp_mode: u64 = "seccompMode",
        /// Number of seccomp filters.
        seccomp_filters: u64 = "seccompFilters",
        /// ABI of Landlock.
        landlock_abi: u64 = "landlockAbi",
        /// The virtual machine.
        machine: Box<MachineFacts<'a>> = "machine",
        /// `argv[0]`.
        program: Cow<'a, str> = "program",
        /// Number of arguments.
        argc: u64 = "argc",
        /// Program and arguments.
        argv: List<Cow<'a, str>> = "argv",
        /// The command's code.
        exit_code: i64 = "exitCode",
        /// The same in the summary.
        command_exit_code: i64 = "commandExitCode",
        /// From start to end of the command, in milliseconds.
        duration_ms: u64 = "durationMs",
        /// Why the command never ran, or which deadline ended it.
        spawn_error: Cow<'a, str> = "spawnError",
        /// Who or what ended the run.
        ended_by: Cow<'a, str> = "endedBy",
        /// Number of the signal that ended the command.
        signal: i64 = "signal",
        /// What the command used.
        usage: Box<UsageFacts<'a>> = "usage",
        /// Limits that were hit.
        limits_hit: List<LimitFacts<'a>> = "limitsHit",
        /// Bytes of standard output and error.
        output: OutputFacts<'a> = "output",
        /// Path of an artifact inside the cell.
        source_path: Cow<'a, str> = "sourcePath",
        /// Name of an artifact.
        artifact_name: Cow<'a, str> = "artifactName",
        /// Where an artifact went.
        receipt: Box<ReceiptFacts<'a>> = "receipt",
        /// SHA-256 of an artifact.
        sha256: Cow<'a, str> = "sha256",
        /// Size of an artifact in version 1.
        bytes_written: u64 = "bytesWritten",
        /// Place of an artifact in version 1.
        destination_relative: Cow<'a, str> = "destinationRelative",
        /// Kind of the target that failed.
        target_kind: Cow<'a, str> = "targetKind",
        /// Name of the target that failed.
        target_name: Cow<'a, str> = "targetName",
        /// Where a failed artifact would have gone.
        destination: Cow<'a, str> = "destination",
        /// The event that this one follows from.
        provenance: ProvenanceFacts<'a> = "provenance",
        /// How secrets reach the command.
        secret_delivery_mode: Cow<'a, str> = "secretDeliveryMode",
        /// Whether limits are declared.
        resource_limits_present: bool = "resourceLimitsPresent",
        /// The policy pack.
        policy_pack_id: Cow<'a, str> = "policyPackId",
        /// Its version.
        policy_pack_version: Cow<'a, str> = "policyPackVersion",
        /// How many secrets are declared.
        declared_secret_count: u64 = "declaredSecretCount",
        /// How many connections were made.
        exercised_egress_connections: u64 = "exercisedEgressConnections",
        /// `succeeded` or `failed`.
        outcome: Cow<'a, str> = "outcome",
        /// Why something failed or was refused.
        reason: Cow<'a, str> = "reason",
        /// The same in full.
        reason_detail: Cow<'a, str> = "reasonDetail",
        /// Whether a document was admitted.
        admitted: bool = "admitted",
        /// All that is wrong with a refused document.
        problems: List<Cow<'a, str>> = "problems",
        /// Errors after the first one.
        later_errors: List<Cow<'a, str>> = "laterErrors",
        /// How the end of the workload is known.
        terminal_state: Cow<'a, str> = "terminalState",
        /// What kind of remains.
        residue_class: Cow<'a, str> = "residueClass",
        /// What was left of the cell.
        residue: Box<ResidueFacts<'a>> = "residue",
        /// An identity.
        identity: Box<IdentityFacts<'a>> = "identity",
        /// `materialize` or `revoke`.
        operation: Cow<'a, str> = "operation",
        /// `allow` or `deny`.
        decision: Cow<'a, str> = "decision",
        /// The same of the gate for names.
        action: Cow<'a, str> = "action",
        /// `egress` or `ingress`.
        direction: Cow<'a, str> = "direction",
        /// Why it was decided like that.
        reason_code: Cow<'a, str> = "reasonCode",
        /// Address that a flow goes to.
        dst_addr: Cow<'a, str> = "dstAddr",
        /// Port that a flow goes to.
        dst_port: u64 = "dstPort",
        /// Protocol of a flow.
        protocol: Cow<'a, str> = "protocol",
        /// Name that a connection asks for.
        sni_host: Cow<'a, str> = "sniHost",
        /// Rule that a flow was decided by.
        nft_rule_ref: Cow<'a, str> = "nftRuleRef",
        /// Id of a decision about a flow.
        decision_id: Cow<'a, str> = "decisionId",
        /// Id of a name query.
        query_id: Cow<'a, str> = "queryId",
        /// Name that a flow was asked for.
        requested_name: Cow<'a, str> = "requestedName",
        /// Name that the bytes of a flow carried instead.
        presented_name: Cow<'a, str> = "presentedName",
        /// Bytes of a flow out of the cell.
        bytes_out: u64 = "bytesOut",
        /// Bytes of a flow into the cell.
        bytes_in: u64 = "bytesIn",
        /// More about a decision.
        detail: Cow<'a, str> = "detail",
        /// How many decisions an event sums up.
        count: u64 = "count",
        /// Name that was asked for.
        query_name: Cow<'a, str> = "queryName",
        /// Type of the question.
        query_type: Cow<'a, str> = "queryType",
        /// Name that was resolved.
        fqdn: Cow<'a, str> = "fqdn",
        /// What it resolved to.
        targets: List<TargetFacts<'a>> = "targets",
        /// What the cell did with its network.
        egress: Box<EgressRecordFacts<'a>> = "egress",
        /// Which file is not what the manifest says.
        role: Cow<'a, str> = "role",
        /// Whether a warm pool had a machine.
        pool_hit: bool = "poolHit",
    }

    /// `spec.correlation`.
    pub struct CorrelationFacts {
        /// The platform that asked for the run.
        platform: Cow<'a, str> = "platform",
        /// Its run.
        external_run_id: Cow<'a, str> = "externalRunId",
        /// Its job.
        external_job_id: Cow<'a, str> = "externalJobId",
        /// The tenant.
        tenant_id: Cow<'a, str> = "tenantId",
        /// What ties events of several systems together.
        correlation_id: Cow<'a, str> = "correlationId",
    }

    /// `spec.placement`.
    pub struct PlacementFacts {
        /// The pool.
        pool_id: Cow<'a, str> = "poolId",
        /// The namespace.
        kubernetes_namespace: Cow<'a, str> = "kubernetesNamespace",
        /// The queue.
        queue_name: Cow<'a, str> = "queueName",
    }

    /// What the document declares.
    pub struct DeclaredFacts {
        /// Connections.
        egress_rules: List<EgressFacts<'a>> = "egressRules",
        /// Secrets.
        secret_refs: List<Cow<'a, str>> = "secretRefs",
        /// Files and folders of the host.
        mounts: List<MountFacts<'a>> = "mounts",
        /// Files that may leave the cell.
        artifacts: List<ArtifactFacts<'a>> = "artifacts",
        /// Where they may go.
        export_targets: List<TargetName<'a>> = "exportTargets",
        /// Limits.
        limits: LimitsFacts<'a> = "limits",
        /// `run.timeoutMs`.
        timeout_ms: u64 = "timeoutMs",
        /// `learn` where the network lets everything through.
        network_mode: Cow<'a, str> = "networkMode",
    }

    /// What a cell did with its network, counted.
    pub struct EgressRecordFacts {
        /// How many rules are declared.
        declared_rules: u64 = "declaredRules",
        /// Places of the rules that let something through.
        exercised_rules: List<u64> = "exercisedRules",
        /// Flows that were let through.
        flows_allowed: u64 = "flowsAllowed",
        /// Flows that were refused.
        flows_refused: u64 = "flowsRefused",
        /// Name queries that were refused.
        queries_refused: u64 = "queriesRefused",
        /// Bytes out of the cell.
        bytes_out: u64 = "bytesOut",
        /// Bytes into the cell.
        bytes_in: u64 = "bytesIn",
        /// Refusals that have no event of their own.
        summed_up: u64 = "summedUp",
        /// Whether everything was let through.
        learning: bool = "learning",
    }

    /// One egress rule.
    pub struct EgressFacts {
        /// Name, address or network.
        host: Cow<'a, str> = "host",
        /// Port.
        port: u64 = "port",
        /// Protocol.
        protocol: Cow<'a, str> = "protocol",
    }

    /// One mount.
    pub struct MountFacts {
        /// On the host.
        source: Cow<'a, str> = "source",
        /// In the cell.
        target: Cow<'a, str> = "target",
        /// Reading or writing.
        access: Cow<'a, str> = "access",
    }

    /// One artifact.
    pub struct ArtifactFacts {
        /// Its name.
        name: Cow<'a, str> = "name",
        /// Its path in the cell.
        path: Cow<'a, str> = "path",
        /// The target it goes to.
        target: Cow<'a, str> = "target",
    }

    /// `run.limits`.
    pub struct LimitsFacts {
        /// Memory in bytes.
        memory_max_bytes: u64 = "memoryMaxBytes",
        /// CPU bandwidth.
        cpu_max: CpuFacts<'a> = "cpuMax",
        /// Processes.
        pids_max: u64 = "pidsMax",
        /// Seconds between the polite request to end and the kill.
        graceful_shutdown_seconds: u64 = "gracefulShutdownSeconds",
    }

    /// CPU bandwidth.
    pub struct CpuFacts {
        /// Microseconds of each period.
        quota_micros: u64 = "quotaMicros",
        /// Length of a period in microseconds.
        period_micros: u64 = "periodMicros",
    }

    /// What a command used.
    pub struct UsageFacts {
        /// From the first instruction to the end, in microseconds.
        wall_micros: u64 = "wallMicros",
        /// CPU time in user mode, in microseconds.
        cpu_user_micros: u64 = "cpuUserMicros",
        /// CPU time in kernel mode, in microseconds.
        cpu_system_micros: u64 = "cpuSystemMicros",
        /// Highest memory use in bytes.
        memory_peak_bytes: u64 = "memoryPeakBytes",
        /// Largest resident set in bytes.
        max_rss_bytes: u64 = "maxRssBytes",
        /// Processes killed for memory.
        oom_kills: u64 = "oomKills",
        /// Most processes at once.
        pids_peak: u64 = "pidsPeak",
    }

    /// Bytes of the streams.
    pub struct OutputFacts {
        /// Of standard output.
        stdout: StreamFacts<'a> = "stdout",
        /// Of standard error.
        stderr: StreamFacts<'a> = "stderr",
    }

    /// Bytes of one stream.
    pub struct StreamFacts {
        /// How many.
        bytes: u64 = "bytes",
        /// How they were counted, or why they were not.
        counted: Cow<'a, str> = "counted",
    }

    /// A limit that was hit.
    pub struct LimitFacts {
        /// Which.
        kind: Cow<'a, str> = "kind",
        /// Memory in bytes.
        limit_bytes: u64 = "limitBytes",
        /// Processes killed.
        kills: u64 = "kills",
        /// Processes allowed.
        limit: u64 = "limit",
        /// Processes refused.
        refusals: u64 = "refusals",
    }

    /// The virtual machine of a cell.
    pub struct MachineFacts {
        /// The monitor.
        monitor: Cow<'a, str> = "monitor",
        /// Its version.
        monitor_version: Cow<'a, str> = "monitorVersion",
        /// Its digest.
        monitor_digest: Cow<'a, str> = "monitorDigestSha256",
        /// Digest of the initial RAM disk.
        initrd_digest: Cow<'a, str> = "initrdDigestSha256",
        /// Who executes the guest.
        execution: Cow<'a, str> = "execution",
        /// Release of the guest's kernel.
        guest_kernel: Cow<'a, str> = "guestKernel",
        /// Release of the guest's PID 1.
        guest_version: Cow<'a, str> = "guestVersion",
        /// Virtual processors.
        vcpus: u64 = "vcpus",
        /// Memory in bytes.
        memory_bytes: u64 = "memoryBytes",
        /// Where the machine came from.
        origin: Cow<'a, str> = "origin",
        /// How its exit code is authenticated.
        exit_authentication: Cow<'a, str> = "exitAuthentication",
    }

    /// Where an artifact went.
    pub struct ReceiptFacts {
        /// Kind of the target.
        target_kind: Cow<'a, str> = "targetKind",
        /// Its name.
        target_name: Cow<'a, str> = "targetName",
        /// Where.
        destination: Cow<'a, str> = "destination",
        /// Bytes.
        bytes_written: u64 = "bytesWritten",
        /// SHA-256 of the artifact.
        sha256: Cow<'a, str> = "sha256",
    }

    /// The event that another one follows from.
    pub struct ProvenanceFacts {
        /// Its id.
        parent: Cow<'a, str> = "parent",
        /// Its type.
        parent_type: Cow<'a, str> = "parentType",
    }

    /// What was left of a cell.
    pub struct ResidueFacts {
        /// Kinds of things looked for.
        looked_for: List<Cow<'a, str>> = "lookedFor",
        /// What was found.
        found: List<Cow<'a, str>> = "found",
    }

    /// An identity.
    pub struct IdentityFacts {
        /// What kind.
        kind: IdentityKind<'a> = "kind",
        /// Who gives it.
        provider: Cow<'a, str> = "provider",
        /// For whom.
        audience: Cow<'a, str> = "audience",
        /// The secret it becomes.
        secret_ref: Cow<'a, str> = "secretRef",
        /// How long it counts, in seconds.
        ttl_seconds: u64 = "ttlSeconds",
    }

    /// What a name resolved to.
    pub struct TargetFacts {
        /// The address.
        address: Cow<'a, str> = "address",
    }
}

#[cfg(test)]
mod tests;
