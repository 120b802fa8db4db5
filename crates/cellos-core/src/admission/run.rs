//! `spec.run` and `spec.lifetime`.

use std::ops::RangeInclusive;

use super::{filesystem, report::Report, shown};
use crate::{
    document::{ExecutionCellSpec, RunLimits, RunSpec, SecretDeliveryMode},
    source::ProblemCode,
};

/// Largest `run.argv`, in bytes of the base64 form of its compact JSON array. One backend hands argv
/// over on the guest's kernel command line, of which 4096 bytes are read.
pub const MAX_ARGV_ENCODED_BYTES: usize = 3072;
/// Most bytes of plain variables, names and values and two bytes for each. Half of what execve(2)
/// takes for one string, so that variables never make a start fail.
pub const MAX_ENV_BYTES: usize = 64 * 1024;
/// Smallest memory limit, in bytes. Below it the kernel kills a process before its first
/// instruction, so that the limit could only mean "never run".
pub const MIN_MEMORY_BYTES: u64 = 1024 * 1024;
/// Shortest CPU time per period that the kernel takes, in microseconds.
pub const MIN_CPU_QUOTA_MICROS: u64 = 1000;
/// Longest CPU time per period that the kernel takes, in microseconds.
pub const MAX_CPU_QUOTA_MICROS: u64 = (1 << 44) - 1;
/// Periods that the kernel takes, in microseconds.
pub const CPU_PERIOD_MICROS: RangeInclusive<u64> = 1000..=1_000_000;
/// Longest grace between the polite request to end and the kill, in seconds.
pub const MAX_GRACEFUL_SHUTDOWN_SECONDS: u64 = 120;
/// Most processes and threads: the kernel's own bound of process ids (`PID_MAX_LIMIT`).
pub const MAX_PIDS: u64 = 4_194_304;
/// Largest user and group id. The two above are the overflow id and `nogroup` of many systems, and
/// mean "nobody in particular".
pub const MAX_USER_ID: u32 = 65_533;

/// Beginnings of variable names through which the system hands secrets over.
const RESERVED_VARIABLES: [&str; 2] = ["CELLOS_SECRET_", "CELLOS_RUNTIME_SECRET_"];

/// Size of the base64 form of the compact JSON array of the arguments, in bytes.
#[must_use]
pub fn argv_encoded_bytes(argv: &[String]) -> usize {
    let json = serde_json::to_vec(argv).map_or(usize::MAX, |json| json.len());
    json.div_ceil(3).saturating_mul(4)
}

pub(super) fn check(spec: &ExecutionCellSpec, report: &mut Report) {
    if let Some(run) = &spec.run {
        check_argv(&run.argv, report);
        check_timeout(spec, run, report);
        if let Some(limits) = &run.limits {
            check_limits(limits, report);
        }
        if let Some(folder) = &run.working_directory {
            check_working_directory(folder, report);
        }
        check_env(spec, run, report);
        if let Some(user) = run.user {
            for (field, id) in [("uid", user.uid), ("gid", user.gid)] {
                if id > MAX_USER_ID {
                    let message = format!("{id} is above {MAX_USER_ID}");
                    report.refuse(
                        ProblemCode::OutOfRange,
                        format!("spec.run.user.{field}"),
                        message,
                    );
                }
            }
        }
    }
    if spec.lifetime.ttl_seconds == 0 {
        report.refuse_with(
            ProblemCode::OutOfRange,
            "spec.lifetime.ttlSeconds",
            "0 is a cell that ends before it starts",
            "give it at least 1 second",
        );
    }
}

fn check_argv(argv: &[String], report: &mut Report) {
    let path = "spec.run.argv";
    if argv.is_empty() {
        report.refuse(
            ProblemCode::Empty,
            path,
            "is empty; it needs at least the program",
        );
        return;
    }
    for (index, argument) in argv.iter().enumerate() {
        if argument.is_empty() {
            report.refuse(
                ProblemCode::Empty,
                format!("{path}[{index}]"),
                "is an empty string",
            );
        }
    }
    for (index, argument) in argv.iter().enumerate() {
        if argument.contains('\0') {
            let path = format!("{path}[{index}]");
            report.refuse(ProblemCode::InvalidCharacters, path, "contains a NUL byte");
        }
    }
    let encoded = argv_encoded_bytes(argv);
    if encoded > MAX_ARGV_ENCODED_BYTES {
        report.refuse_with(
            ProblemCode::ArgvTooLarge,
            path,
            format!(
                "is too large: {encoded} bytes encoded, the limit is {MAX_ARGV_ENCODED_BYTES} \
                 (one backend carries argv on the kernel cmdline)"
            ),
            "put long scripts into a mounted file",
        );
    }
}

fn check_timeout(spec: &ExecutionCellSpec, run: &RunSpec, report: &mut Report) {
    let path = "spec.run.timeoutMs";
    let Some(timeout) = run.timeout_ms else {
        return;
    };
    let life = spec.lifetime.ttl_seconds;
    if timeout == 0 {
        let message = "0 is a command that ends before it starts";
        report.refuse_with(
            ProblemCode::OutOfRange,
            path,
            message,
            "leave it out for no limit of its own",
        );
    }
    // A life of 0 has a problem of its own.
    if life > 0 && timeout > life.saturating_mul(1000) {
        let message =
            format!("timeoutMs {timeout} is longer than spec.lifetime.ttlSeconds, {life} s");
        report.refuse(ProblemCode::ExceedsLifetime, path, message);
    }
}

fn check_limits(limits: &RunLimits, report: &mut Report) {
    let mut range = |path: &str, bad: bool, message: String| {
        if bad {
            report.refuse(
                ProblemCode::OutOfRange,
                format!("spec.run.limits.{path}"),
                message,
            );
        }
    };
    if let Some(memory) = limits.memory_max_bytes {
        range(
            "memoryMaxBytes",
            memory < MIN_MEMORY_BYTES,
            format!("{memory} bytes is below {MIN_MEMORY_BYTES}, in which no process can start"),
        );
    }
    if let Some(cpu) = limits.cpu_max {
        let quota = cpu.quota_micros;
        range(
            "cpuMax.quotaMicros",
            !(MIN_CPU_QUOTA_MICROS..=MAX_CPU_QUOTA_MICROS).contains(&quota),
            format!(
                "{quota} is outside {MIN_CPU_QUOTA_MICROS} to {MAX_CPU_QUOTA_MICROS}, which the kernel takes"
            ),
        );
        if let Some(period) = cpu.period_micros {
            let (least, most) = (CPU_PERIOD_MICROS.start(), CPU_PERIOD_MICROS.end());
            range(
                "cpuMax.periodMicros",
                !CPU_PERIOD_MICROS.contains(&period),
                format!("{period} is outside {least} to {most}, which the kernel takes"),
            );
        }
    }
    if let Some(grace) = limits.graceful_shutdown_seconds {
        range(
            "gracefulShutdownSeconds",
            grace > MAX_GRACEFUL_SHUTDOWN_SECONDS,
            format!("{grace} is above {MAX_GRACEFUL_SHUTDOWN_SECONDS}"),
        );
    }
    if let Some(pids) = limits.pids_max {
        range(
            "pidsMax",
            pids == 0 || pids > MAX_PIDS,
            format!("{pids} is outside 1 to {MAX_PIDS}"),
        );
    }
}

fn check_working_directory(folder: &str, report: &mut Report) {
    let path = "spec.run.workingDirectory";
    let mend = "write an absolute path inside the cell, or leave it out for /work";
    let message = if folder.is_empty() {
        "is empty"
    } else if !folder.starts_with('/') {
        "is relative"
    } else if let Some(message) = filesystem::path_fault(folder) {
        message
    } else {
        return;
    };
    report.refuse_with(ProblemCode::InvalidPath, path, message, mend);
}

fn check_env(spec: &ExecutionCellSpec, run: &RunSpec, report: &mut Report) {
    let mut bytes = 0_usize;
    for (name, value) in &run.env {
        let path = crate::source::field_path("spec.run.env", name);
        bytes = bytes
            .saturating_add(name.len())
            .saturating_add(value.len())
            .saturating_add(2);
        if !is_variable_name(name) {
            report.refuse_with(
                ProblemCode::InvalidName,
                &path,
                format!("`{}` is not a variable name", shown(name)),
                "use letters, digits and `_`, first no digit",
            );
        }
        if RESERVED_VARIABLES
            .iter()
            .any(|reserved| name.starts_with(reserved))
        {
            report.refuse_with(
                ProblemCode::ReservedName,
                &path,
                "is a name through which secrets are handed over",
                "list the secret in spec.authority.secretRefs",
            );
        }
        if value.contains('\0') {
            report.refuse(ProblemCode::InvalidCharacters, &path, "contains a NUL byte");
        }
        let secret_of_this_name = run.secret_delivery == SecretDeliveryMode::Env
            && spec
                .authority
                .secret_refs
                .iter()
                .flatten()
                .any(|secret| secret == name);
        if secret_of_this_name {
            report.refuse_with(
                ProblemCode::Contradiction,
                &path,
                "is also the variable of the secret of this name",
                "keep one of the two",
            );
        }
    }
    if bytes > MAX_ENV_BYTES {
        let message = format!("has {bytes} bytes, at most {MAX_ENV_BYTES} are handed over");
        report.refuse(ProblemCode::TooMany, "spec.run.env", message);
    }
}

/// A name that every shell can read.
fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::{Value, json};

    fn run(changes: Value) -> Value {
        let mut run = json!({"argv": ["/bin/true"]});
        for (name, value) in changes.as_object().expect("an object") {
            run[name] = value.clone();
        }
        json!({"run": run})
    }

    #[test]
    fn argv() {
        admitted(run(json!({"argv": ["a".repeat(2300)]})));
        refused(
            run(json!({"argv": ["a".repeat(2301)]})),
            "spec.run.argv",
            ProblemCode::ArgvTooLarge,
        );
        refused(
            run(json!({"argv": []})),
            "spec.run.argv",
            ProblemCode::Empty,
        );
        refused(
            run(json!({"argv": ["a", ""]})),
            "spec.run.argv[1]",
            ProblemCode::Empty,
        );
        refused(
            run(json!({"argv": ["a\0"]})),
            "spec.run.argv[0]",
            ProblemCode::InvalidCharacters,
        );
    }

    #[test]
    fn encoded_size_counts_bytes_and_escapes() {
        for (argv, bytes) in [(vec!["a"], 8), (vec!["é"], 8), (vec!["\u{1}"], 16)] {
            let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
            assert_eq!(argv_encoded_bytes(&argv), bytes, "{argv:?}");
        }
    }

    #[test]
    fn durations() {
        admitted(run(json!({"timeoutMs": 60000})));
        admitted(run(json!({"timeoutMs": 1})));
        let path = "spec.run.timeoutMs";
        refused(
            run(json!({"timeoutMs": 60001})),
            path,
            ProblemCode::ExceedsLifetime,
        );
        refused(run(json!({"timeoutMs": 0})), path, ProblemCode::OutOfRange);
        admitted(
            json!({"lifetime": {"ttlSeconds": u64::MAX}, "run": {"argv": ["a"], "timeoutMs": u64::MAX}}),
        );
        let path = "spec.lifetime.ttlSeconds";
        refused(
            json!({"lifetime": {"ttlSeconds": 0}}),
            path,
            ProblemCode::OutOfRange,
        );
    }

    #[test]
    fn limits() {
        for good in [
            json!({}),
            json!({"memoryMaxBytes": 1_048_576}),
            json!({"memoryMaxBytes": u64::MAX}),
            json!({"cpuMax": {"quotaMicros": 1000}}),
            json!({"cpuMax": {"quotaMicros": 1000, "periodMicros": 1000}}),
            json!({"cpuMax": {"quotaMicros": 5_000_000, "periodMicros": 1_000_000}}),
            json!({"gracefulShutdownSeconds": 0}),
            json!({"gracefulShutdownSeconds": 120}),
            json!({"pidsMax": 1}),
            json!({"pidsMax": 4_194_304}),
        ] {
            admitted(run(json!({"limits": good})));
        }
        for (bad, field) in [
            (json!({"memoryMaxBytes": 0}), "memoryMaxBytes"),
            (json!({"memoryMaxBytes": 1_048_575}), "memoryMaxBytes"),
            (
                json!({"cpuMax": {"quotaMicros": 999}}),
                "cpuMax.quotaMicros",
            ),
            (
                json!({"cpuMax": {"quotaMicros": u64::MAX}}),
                "cpuMax.quotaMicros",
            ),
            (
                json!({"cpuMax": {"quotaMicros": 1000, "periodMicros": 999}}),
                "cpuMax.periodMicros",
            ),
            (
                json!({"cpuMax": {"quotaMicros": 1000, "periodMicros": 1_000_001}}),
                "cpuMax.periodMicros",
            ),
            (
                json!({"gracefulShutdownSeconds": 121}),
                "gracefulShutdownSeconds",
            ),
            (json!({"pidsMax": 0}), "pidsMax"),
            (json!({"pidsMax": 4_194_305}), "pidsMax"),
        ] {
            let path = format!("spec.run.limits.{field}");
            refused(run(json!({"limits": bad})), &path, ProblemCode::OutOfRange);
        }
    }

    #[test]
    fn working_directory() {
        for good in ["/", "/work", "/work/", "/a.b/..c"] {
            admitted(run(json!({"workingDirectory": good})));
        }
        for bad in ["", "work", "../../etc", "/work/../etc", "/..", "/a\0b"] {
            let path = "spec.run.workingDirectory";
            refused(
                run(json!({"workingDirectory": bad})),
                path,
                ProblemCode::InvalidPath,
            );
        }
    }

    #[test]
    fn variables() {
        admitted(run(
            json!({"env": {"A": "", "_b1": "x=y\n", "LD_PRELOAD": "x", "CELLOS_SECRETS": "x"}}),
        ));
        for (name, value, path, code) in [
            ("", "", "spec.run.env[\"\"]", ProblemCode::InvalidName),
            ("1A", "", "spec.run.env.1A", ProblemCode::InvalidName),
            ("A.B", "", "spec.run.env[\"A.B\"]", ProblemCode::InvalidName),
            ("A", "a\0", "spec.run.env.A", ProblemCode::InvalidCharacters),
            (
                "CELLOS_SECRET_A",
                "",
                "spec.run.env.CELLOS_SECRET_A",
                ProblemCode::ReservedName,
            ),
            (
                "CELLOS_RUNTIME_SECRET_SOCKET",
                "",
                "spec.run.env.CELLOS_RUNTIME_SECRET_SOCKET",
                ProblemCode::ReservedName,
            ),
        ] {
            refused(run(json!({"env": {name: value}})), path, code);
        }
        let most = MAX_ENV_BYTES - 3;
        admitted(run(json!({"env": {"A": "x".repeat(most)}})));
        refused(
            run(json!({"env": {"A": "x".repeat(most + 1)}})),
            "spec.run.env",
            ProblemCode::TooMany,
        );
    }

    #[test]
    fn a_variable_is_not_also_a_secret() {
        let spec = |mode: &str| {
            json!({"authority": {"secretRefs": ["KEY"]},
                "run": {"argv": ["a"], "env": {"KEY": "x"}, "secretDelivery": mode}})
        };
        refused(spec("env"), "spec.run.env.KEY", ProblemCode::Contradiction);
        admitted(spec("runtimeBroker"));
    }

    #[test]
    fn user() {
        admitted(run(json!({"user": {"uid": 0, "gid": 65533}})));
        refused(
            run(json!({"user": {"uid": 65534, "gid": 0}})),
            "spec.run.user.uid",
            ProblemCode::OutOfRange,
        );
        refused(
            run(json!({"user": {"uid": 0, "gid": u32::MAX}})),
            "spec.run.user.gid",
            ProblemCode::OutOfRange,
        );
    }
}
