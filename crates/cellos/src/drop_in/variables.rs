//! Every variable an existing deployment may set, with what becomes of it here.
//!
//! `docs/supervisor-variables.md` is made from this table. A variable that would guard something
//! which this build does not do is refused rather than ignored.

use std::fmt::Write as _;

use Treatment::{HostIsolation, Nats, NoEffect, RefusedWhenOn, RefusedWhenSet, Used};

/// What becomes of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// It is read; the text says what for.
    Used(&'static str),
    /// It is accepted, and nothing is lost by it having no effect; the text says why.
    NoEffect(&'static str),
    /// It is a switch for something that would silently not happen; an error when it is on.
    RefusedWhenOn(&'static str),
    /// The same for variables that carry a value.
    RefusedWhenSet(&'static str),
    /// It asks for an event sink that this build lacks: an error unless `CELL_OS_USE_NOOP_SINK`.
    Nats(&'static str),
    /// It isolates a host subprocess. The Linux backend always does more; with a backend that
    /// isolates nothing it is refused.
    HostIsolation(&'static str),
}

/// One variable, or one family of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variable {
    /// Its name; a trailing `*` stands for any ending.
    pub(crate) name: &'static str,
    /// What becomes of it.
    pub(crate) treatment: Treatment,
}

const fn variable(name: &'static str, treatment: Treatment) -> Variable {
    Variable { name, treatment }
}

const IN_DOCUMENT: &str =
    "the egress gateway always enforces; the document's `dnsAuthority` says how names are resolved";
const NO_PROXIES: &str = "the egress gateway is always there and no proxy of its own: every connection and name query is judged";
const FLOWS_ARE_EVENTS: &str = "every connection is an event, by measurement";
const NO_BROKER: &str = "documents with secrets are refused until brokers exist";
const OTHER_BACKEND: &str = "configures a backend that this build lacks and refuses by name";
const NO_EXPORT_TARGET: &str = "artifacts would not go there; only CELLOS_EXPORT_DIR is supported";

/// All of them, in the order of the documentation.
pub(crate) const VARIABLES: &[Variable] = &[
    // Run, profile, admission.
    variable(
        "CELLOS_DEPLOYMENT_PROFILE",
        Used("`hardened` (also when unset), `portable` or `airgapped`"),
    ),
    variable(
        "CELLOS_RUN_ID",
        Used("run id on all events; a fresh one when unset"),
    ),
    variable("CELLOS_TENANT_ID", Nats("part of a NATS subject")),
    variable("CELLOS_CALLER_IDENTITY", NoEffect("was only logged")),
    variable(
        "CELLOS_K8S_NAMESPACE",
        Used("`spec.placement.kubernetesNamespace` must be equal"),
    ),
    variable(
        "CELLOS_STRICT_CONFIG",
        Used("on unless switched off: unknown names are errors"),
    ),
    variable(
        "CELLOS_REQUIRE_ISOLATION",
        Used("refuses a backend that isolates nothing"),
    ),
    variable(
        "CELLOS_REQUIRE_HOST_BASELINE",
        RefusedWhenOn("there is no such probe; `cellos doctor` says what the host offers"),
    ),
    variable(
        "CELLOS_TEST_FORCE_MISSING_ISOLATION_PRIMITIVES",
        RefusedWhenSet("there are no test hooks in this program"),
    ),
    variable(
        "CELLOS_AUTHORITY_KEYS_PATH",
        Used("role keys that derivation tokens are verified with"),
    ),
    variable(
        "CELLOS_REQUIRE_AUTHORITY_DERIVATION",
        Used("egress rules and secrets need a derivation token"),
    ),
    variable(
        "CELLOS_REQUIRE_SCOPED_DERIVATION_TOKENS",
        Used("on unless switched off: a token names its parent run"),
    ),
    variable(
        "CELLOS_REQUIRE_TELEMETRY_DECLARED",
        Used("`spec.telemetry` is mandatory"),
    ),
    variable(
        "CELLOS_POLICY_PACK_PATH",
        Used("policy pack the document must satisfy"),
    ),
    variable(
        "CELLOS_POLICY_ALLOW_DOWNGRADE",
        Used("accepts a pack below the version floor"),
    ),
    variable(
        "CELLOS_AUTHZ_POLICY_PATH",
        Used("authorization policy the document must satisfy"),
    ),
    variable(
        "CELLOS_AUTHORITY_CEILING_PATH",
        Used("signed ceiling the authority must lie within"),
    ),
    variable(
        "CELLOS_AUTHORITY_CEILING_ANCHOR_PATH",
        Used("highest ceiling epoch accepted so far"),
    ),
    variable(
        "CELLOS_REQUIRE_AUTHORITY_CEILING",
        Used("a ceiling is mandatory, as in the hardened profile"),
    ),
    variable(
        "CELLOS_REQUIRE_ADMISSION_RECEIPTS",
        NoEffect("always so: an event that cannot be written stops the run"),
    ),
    variable(
        "CELLOS_TRUST_VERIFY_KEYS_PATH",
        Used("keys that signed envelopes are verified with"),
    ),
    variable(
        "CELLOS_TRUST_KEYSET_PATH",
        RefusedWhenSet("the keyset envelope would not be verified"),
    ),
    variable(
        "CELLOS_TRUST_KEYSET_CHAIN_PATH",
        RefusedWhenSet("the keyset chain would not be verified"),
    ),
    variable(
        "CELLOS_REQUIRE_TRUST_VERIFY_KEYS",
        Used("a missing keyring is an error"),
    ),
    variable(
        "CELLOS_RUN_ARGV0_ALLOW_PREFIXES",
        Used("folders that the program must be in"),
    ),
    variable(
        "CELLOS_RUN_TIMEOUT_MS",
        Used("another cap on the run, in milliseconds"),
    ),
    variable(
        "CELLOS_CELL_BACKEND",
        Used("`linux` when unset, `microvm`, `stub`; `firecracker` is `microvm` by Firecracker"),
    ),
    // Events and signing.
    variable("NATS_URL", Nats("address of a NATS server")),
    variable("NATS_CA_FILE", Nats("its certificate authority")),
    variable("CELL_OS_REQUIRE_JETSTREAM", Nats("makes its absence fatal")),
    variable(
        "CELL_OS_USE_NOOP_SINK",
        Used("says that no NATS sink is wanted"),
    ),
    variable("CELL_OS_EVENTS_SUBJECT", Nats("a NATS subject")),
    variable("CELLOS_EVENTS_SUBJECT_TEMPLATE", Nats("a NATS subject")),
    variable(
        "CELL_OS_JSONL_EVENTS",
        Used("event log; a file of the run's own when unset"),
    ),
    variable(
        "CELL_OS_AUDIT_CHAIN",
        RefusedWhenSet("the log would not be chained"),
    ),
    variable(
        "CELLOS_EVENT_SIGNING",
        Used("`off`, `ed25519`, `hmac` or `hmac-sha256`"),
    ),
    variable("CELLOS_EVENT_SIGNING_KID", Used("key id of the signatures")),
    variable(
        "CELLOS_EVENT_SIGNING_KEY_BASE64",
        Used("the key, base64url"),
    ),
    variable(
        "CELLOS_REDACT_EVENT_FIELDS",
        Used("fields that are blanked in events, or `defaults`"),
    ),
    variable(
        "CELLOS_DLQ_DIR",
        NoEffect("an event that cannot be written stops the run instead"),
    ),
    variable(
        "CELLOS_SPOOL_DIR",
        RefusedWhenSet("events would not be spooled"),
    ),
    variable("CELLOS_KEY_DIR", NoEffect("read by `cellos` only")),
    variable(
        "CELLOS_SIGNING_KEY",
        RefusedWhenSet("events are signed with CELLOS_EVENT_SIGNING_KEY_BASE64"),
    ),
    variable(
        "CELLOS_REQUIRE_SIGNING",
        Used("refuses to run without CELLOS_EVENT_SIGNING"),
    ),
    variable("CELLOS_PKCS11_HELPER", NoEffect("read by `cellos` only")),
    variable(
        "CELLOS_SINKS",
        RefusedWhenSet("events would not be delivered to them"),
    ),
    variable(
        "CELLOS_PKCS11_*",
        RefusedWhenSet("events would not be signed by the token"),
    ),
    variable(
        "CELLOS_AUDIT_*",
        RefusedWhenSet("the log would not be chained"),
    ),
    variable(
        "CELLOS_EVENT_REQUIRE_SIGNED",
        NoEffect("read by consumers of events only"),
    ),
    variable(
        "CELLOS_EVENT_REVOCATION_PATH",
        NoEffect("read by consumers of events only"),
    ),
    variable(
        "CELLOS_EVENT_VERIFY_*",
        NoEffect("read by consumers of events only"),
    ),
    variable(
        "RUST_LOG",
        Used("log filter, such as `info,cellos_supervisor=debug`"),
    ),
    variable("RUST_BACKTRACE", NoEffect("errors carry their causes")),
    variable("CELLOS_LOG", Used("log filter; beats RUST_LOG")),
    variable("CELLOS_STATE_DIR", Used("state folder")),
    // Isolation of host subprocesses.
    variable(
        "CELLOS_SUBPROCESS_UNSHARE",
        HostIsolation("a cell always has all namespaces of its own"),
    ),
    variable(
        "CELLOS_SUBPROCESS_SECCOMP",
        HostIsolation("a cell always has a system call filter"),
    ),
    variable(
        "CELLOS_SECCOMP_BPF_PATH",
        RefusedWhenSet("the filter would not be installed"),
    ),
    variable(
        "CELLOS_CGROUP_PARENT",
        Used("control group that cells are made in"),
    ),
    variable(
        "CELLOS_CGROUP_MEMORY_MAX",
        RefusedWhenSet("the limit would not hold; write spec.run.limits.memoryMaxBytes"),
    ),
    variable(
        "CELLOS_CGROUP_CPU_MAX",
        RefusedWhenSet("the limit would not hold; write spec.run.limits.cpuMax"),
    ),
    // Network.
    variable(
        "CELLOS_EGRESS_PROXY",
        Used(
            "connections to the outside go through this proxy: `http://` or `socks5://` (`http+names://`, `socks5h://` where it resolves names), then `[USER:PASSWORD@]HOST:PORT`",
        ),
    ),
    variable(
        "CELLOS_TRUST_PLANE_EVENTS",
        NoEffect("only what was measured becomes an event"),
    ),
    variable(
        "CELLOS_TRUST_KEYSET_ID",
        NoEffect("was a label on those events"),
    ),
    variable(
        "CELLOS_TRUST_RESOLVER_KID",
        NoEffect("was a label on those events"),
    ),
    variable(
        "CELLOS_TRUST_L7_KID",
        NoEffect("was a label on those events"),
    ),
    variable("CELLOS_RESOLVE_EGRESS_DNS", NoEffect(IN_DOCUMENT)),
    variable("CELLOS_DNS_AUTHORITY_*", NoEffect(IN_DOCUMENT)),
    variable("CELLOS_DNSSEC_TRUST_ANCHORS_PATH", NoEffect(IN_DOCUMENT)),
    variable("CELLOS_L7_GATE_OBSERVABILITY", NoEffect(FLOWS_ARE_EVENTS)),
    variable("CELLOS_DNS_PROXY", NoEffect(NO_PROXIES)),
    variable("CELLOS_DNS_PROXY_UPSTREAM_OVERRIDE", NoEffect(NO_PROXIES)),
    variable("CELLOS_DNS_UPSTREAM_*", NoEffect(IN_DOCUMENT)),
    variable("CELLOS_SNI_PROXY", NoEffect(NO_PROXIES)),
    variable("CELLOS_SNI_PROXY_*", NoEffect(NO_PROXIES)),
    variable("CELLOS_PER_FLOW_*", NoEffect(FLOWS_ARE_EVENTS)),
    variable("CELLOS_EBPF_OBJECT_PATH", NoEffect(FLOWS_ARE_EVENTS)),
    // Secrets.
    variable("CELLOS_BROKER", NoEffect(NO_BROKER)),
    variable("CELLOS_BROKER_*", NoEffect(NO_BROKER)),
    variable("CELLOS_SECRET_*", NoEffect(NO_BROKER)),
    variable("CELLOS_RUNTIME_SECRET_*", NoEffect("belongs into a cell")),
    variable("CELLOS_VAULT_*", NoEffect(NO_BROKER)),
    variable(
        "CELLOS_CA_BUNDLE",
        Used(
            "root certificates (PEM) that name servers over TLS and HTTPS may be certified by, besides those of the host",
        ),
    ),
    // Exports.
    variable(
        "CELLOS_EXPORT_DIR",
        Used("folder that artifacts are stored in"),
    ),
    variable(
        "CELLOS_EXPORT_DIR__*",
        RefusedWhenSet("targets of a document are not supported yet"),
    ),
    variable("CELLOS_EXPORT_HTTP_*", RefusedWhenSet(NO_EXPORT_TARGET)),
    variable("CELLOS_EXPORT_S3_*", RefusedWhenSet(NO_EXPORT_TARGET)),
    variable(
        "CELL_OS_REQUIRE_HTTP_EXPORT",
        RefusedWhenOn(NO_EXPORT_TARGET),
    ),
    variable("CELL_OS_REQUIRE_S3_EXPORT", RefusedWhenOn(NO_EXPORT_TARGET)),
    // Other backends.
    variable(
        "CELLOS_FIRECRACKER_BINARY",
        Used("the monitor, absolute; makes Firecracker the monitor of the microVM backend"),
    ),
    variable(
        "CELLOS_FIRECRACKER_KERNEL_IMAGE",
        Used("kernel of a published guest; the bundle of `cellos vm prepare` when unset"),
    ),
    variable(
        "CELLOS_FIRECRACKER_ROOTFS_IMAGE",
        Used("root file system of a published guest, attached read-only"),
    ),
    variable(
        "CELLOS_FIRECRACKER_JAILER_BINARY",
        Used("the jailer, absolute; required unless switched off"),
    ),
    variable(
        "CELLOS_FIRECRACKER_CHROOT_BASE",
        Used("where jails are made, absolute"),
    ),
    variable(
        "CELLOS_FIRECRACKER_JAILER_UID",
        Used("first id of the pool; each machine has an id of its own"),
    ),
    variable(
        "CELLOS_FIRECRACKER_JAILER_GID",
        Used("must be the same number, where both are set"),
    ),
    variable(
        "CELLOS_FIRECRACKER_MANIFEST",
        Used("digests of the published guest's files"),
    ),
    variable(
        "CELLOS_FIRECRACKER_ALLOW_NO_MANIFEST",
        Used("exactly `1`, and only together with the next"),
    ),
    variable(
        "CELLOS_FIRECRACKER_ALLOW_NO_MANIFEST_REALLY",
        Used("boots files that no manifest names"),
    ),
    variable(
        "CELLOS_FIRECRACKER_REQUIRE_JAILER",
        Used("on unless switched off"),
    ),
    variable(
        "CELLOS_FIRECRACKER_ALLOW_NO_JAILER",
        Used("goes without a jailer, under the confinement that QEMU gets"),
    ),
    variable(
        "CELLOS_FIRECRACKER_POOL_SIZE",
        Used("as CELLOS_VM_POOL_SIZE, which beats it"),
    ),
    variable(
        "CELLOS_FIRECRACKER_NO_SECCOMP",
        RefusedWhenOn("the monitor's system call filter stays on"),
    ),
    variable(
        "CELLOS_FIRECRACKER_ALLOW_NO_VSOCK",
        RefusedWhenOn("without the bridge nobody knows how the command ended"),
    ),
    variable(
        "CELLOS_FIRECRACKER_NO_VSOCK_TIMEOUT_SECS",
        NoEffect("every wait is bounded by the cell's lifetime"),
    ),
    variable(
        "CELLOS_FIRECRACKER_SOCKET_DIR",
        NoEffect("sockets are in a private folder of the machine, see CELLOS_VM_RUN_DIR"),
    ),
    variable(
        "CELLOS_FIRECRACKER_SCRATCH_DIR",
        NoEffect("what a cell writes is in the guest's memory, bounded"),
    ),
    variable(
        "CELLOS_FIRECRACKER_ENABLE_NETWORK",
        NoEffect(
            "the document decides: machines that QEMU runs get what its egress rules declare, by the gateway",
        ),
    ),
    variable(
        "CELLOS_FIRECRACKER_PER_FLOW_EBPF",
        NoEffect(
            "the document decides: machines that QEMU runs get what its egress rules declare, by the gateway",
        ),
    ),
    variable("CELLOS_VM_DIR", Used("what machines boot from")),
    variable(
        "CELLOS_VM_TRUST_KEYS",
        Used("public keys that its manifest may be signed with"),
    ),
    variable(
        "CELLOS_VM_REVOKED_KEYS",
        Used("a list of those among them that do not count any more"),
    ),
    variable(
        "CELLOS_VM_ALLOW_UNSIGNED",
        Used("exactly `1`: boots what nobody signed; digests are compared all the same"),
    ),
    variable("CELLOS_VM_RUN_DIR", Used("private folder of live machines")),
    variable(
        "CELLOS_VM_MONITOR",
        Used("`qemu` or `firecracker`; Firecracker where its binary is named"),
    ),
    variable(
        "CELLOS_VM_ACCELERATOR",
        Used("`best`, `kvm` or `emulation`, for QEMU"),
    ),
    variable("CELLOS_VM_POOL_SIZE", Used("machines kept parked")),
    variable(
        "CELLOS_VM_DISK_BYTES_PER_SECOND",
        Used("bound on each machine's disk"),
    ),
    variable(
        "CELLOS_VM_DISK_OPERATIONS_PER_SECOND",
        Used("bound on each machine's disk"),
    ),
    variable(
        "CELLOS_VM_NETWORK_BYTES_PER_SECOND",
        Used("bound on each machine's network device"),
    ),
    variable(
        "CELLOS_QEMU_BINARY",
        Used("QEMU, absolute; searched in PATH when unset"),
    ),
    variable("CELLOS_GVISOR_*", NoEffect(OTHER_BACKEND)),
    variable(
        "CELLOS_HOST_TELEMETRY_SIGN_ALG",
        NoEffect("documents with telemetry are refused"),
    ),
    variable(
        "CELLOS_TELEMETRY_INOTIFY_PATH",
        NoEffect("documents with telemetry are refused"),
    ),
];

/// Whether a name lies in the name space that is ours to know.
pub(crate) fn is_ours(name: &str) -> bool {
    name.starts_with("CELLOS_") || name.starts_with("CELL_OS_")
}

/// The entry for a name: an exact one, else the longest family it belongs to.
pub(crate) fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES
        .iter()
        .filter(|variable| match variable.name.strip_suffix('*') {
            Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
            None => variable.name == name,
        })
        .max_by_key(|variable| (!variable.name.ends_with('*'), variable.name.len()))
}

/// The known name that is closest to an unknown one.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    /// Edits beyond which a name is no longer a misspelling of another.
    const MAX_EDITS: usize = 4;
    VARIABLES
        .iter()
        .map(|variable| (strsim::levenshtein(name, variable.name), variable.name))
        .filter(|(edits, _)| *edits <= MAX_EDITS)
        .min()
        .map(|(_, known)| known)
}

/// The text of `docs/supervisor-variables.md`.
pub(crate) fn documentation() -> String {
    let mut text = String::from(
        "# Variables of cellos-supervisor\n\n\
         Made from `crates/cellos/src/drop_in/variables.rs`; a test keeps it true.\n\n\
         Switches are `1`, `true`, `yes`, `on` or `0`, `false`, `no`, `off` in any case; anything \
         else is an error. A name that starts with `CELLOS_` or `CELL_OS_` and is not listed here \
         is an error, and a warning with `CELLOS_STRICT_CONFIG=0`. `*` stands for any ending.\n\n\
         | variable | treatment | |\n| --- | --- | --- |\n",
    );
    for variable in VARIABLES {
        let (treatment, why) = match variable.treatment {
            Used(why) => ("used", why),
            NoEffect(why) => ("accepted without effect", why),
            RefusedWhenOn(why) => ("refused when on", why),
            RefusedWhenSet(why) => ("refused when set", why),
            Nats(why) => ("refused without `CELL_OS_USE_NOOP_SINK`", why),
            HostIsolation(why) => ("without effect on `linux`, refused with `stub`", why),
        };
        let _ = writeln!(text, "| `{}` | {treatment} | {why} |", variable.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_beat_families() {
        assert_eq!(find("CELLOS_EXPORT_DIR").unwrap().name, "CELLOS_EXPORT_DIR");
        assert_eq!(
            find("CELLOS_EXPORT_DIR__OUT").unwrap().name,
            "CELLOS_EXPORT_DIR__*"
        );
        assert_eq!(find("CELLOS_SNI_PROXY").unwrap().name, "CELLOS_SNI_PROXY");
        assert_eq!(
            find("CELLOS_SECRET_API_KEY").unwrap().name,
            "CELLOS_SECRET_*"
        );
        assert!(find("CELLOS_SECRET_").is_none());
        assert!(find("CELLOS_UNHEARD_OF").is_none());
    }

    #[test]
    fn misspellings_find_their_name() {
        assert_eq!(
            nearest("CELLOS_RUN_TIMOUT_MS"),
            Some("CELLOS_RUN_TIMEOUT_MS")
        );
        assert_eq!(nearest("CELLOS_SOMETHING_ELSE_ENTIRELY"), None);
    }

    #[test]
    fn every_name_is_listed_once() {
        let mut names: Vec<_> = VARIABLES.iter().map(|variable| variable.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), VARIABLES.len());
    }
}
