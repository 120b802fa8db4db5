//! How workloads end, and what is not even begun.

use std::time::Instant;

use cellos_bridge::{GuestMessage, NotStarted, Refused};
use cellos_core::ports::workload::{LimitHit, StopSignal, WorkloadEnd};
use cellos_testkit::require;
use serde_json::json;

use crate::host::{Host, config, config_with, shell};

#[test]
fn a_command_runs_in_a_cell_and_its_output_and_end_arrive() {
    require!("userns");
    require!("cgroups");
    let (mut host, ready) = Host::ready(&config(&shell("echo out; echo err >&2; exit 3")));
    assert_eq!(ready.working_folder, "/work");
    assert!(ready.posture.no_new_privs);
    assert_eq!(ready.posture.seccomp_mode, 2);
    assert_eq!(ready.posture.cap_bnd, "0000000000000000");
    for (kind, namespace) in &ready.posture.namespaces {
        assert_ne!(
            Some(namespace),
            ready.posture.host_namespaces.get(kind),
            "{kind}"
        );
    }
    host.end.start().unwrap();
    let exit = host.exit();
    assert_eq!(exit.report.end, WorkloadEnd::Exited { code: 3 });
    assert_eq!(
        (host.stdout.as_slice(), host.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!((exit.stdout.sent_bytes, exit.stdout.dropped_bytes), (4, 0));
    assert_eq!(exit.residue.found, Vec::<String>::new());
    host.acknowledge();
}

#[test]
fn a_workload_is_asked_to_end_and_then_made_to() {
    require!("userns");
    require!("cgroups");
    for (how, script, end) in [
        (
            StopSignal::Terminate,
            "sleep 60",
            WorkloadEnd::Signalled { signal: 15 },
        ),
        (
            StopSignal::Terminate,
            "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.01; done",
            WorkloadEnd::Exited { code: 4 },
        ),
        (
            StopSignal::Kill,
            "trap '' TERM; echo up; while :; do sleep 0.01; done",
            WorkloadEnd::Signalled { signal: 9 },
        ),
    ] {
        // The shell is replaced, so that the signal reaches what sleeps.
        let script = script.replace("sleep 60", "echo up; exec sleep 60");
        let mut host = Host::running(&config(&shell(&script)));
        while host.stdout.is_empty() {
            host.hear();
        }
        host.end.terminate(how).unwrap();
        assert_eq!(host.exit().report.end, end, "{script}");
        host.acknowledge();
    }
}

#[test]
fn the_machines_limit_on_memory_is_the_cells_own() {
    require!("userns");
    require!("cgroups");
    let mut config = config(&shell("exec tail /dev/zero"));
    config.memory_limit_bytes = 32 << 20;
    let mut host = Host::running(&config);
    let report = host.exit().report;
    assert_eq!(report.end, WorkloadEnd::Signalled { signal: 9 });
    assert!(
        report.limits_hit.iter().any(
            |hit| matches!(hit, LimitHit::Memory { limit_bytes, .. } if *limit_bytes == 32 << 20)
        ),
        "{report:?}"
    );
    assert!(report.usage.oom_kills >= Some(1), "{report:?}");
    host.acknowledge();
}

#[test]
fn a_program_that_cannot_be_executed_is_told_from_one_that_is_not_there() {
    require!("userns");
    require!("cgroups");
    for (program, is_missing) in [("no-such-program", true), ("/etc/passwd", false)] {
        let (mut host, _) = Host::ready(&config(&json!({ "argv": [program] })));
        host.end.start().unwrap();
        let why = host.until(|message| match message {
            GuestMessage::NotStarted(why) => Some(why),
            _ => None,
        });
        match why {
            NotStarted::CommandNotFound { program: said } => {
                assert!(is_missing && said == program, "{said}");
            }
            NotStarted::NotExecutable { program: said, .. } => {
                assert!(!is_missing && said == program, "{said}");
            }
            other => panic!("{other:?}"),
        }
        host.acknowledge();
    }
}

#[test]
fn documents_that_no_machine_can_run_are_refused_with_the_place() {
    let mounts = json!({ "filesystem": { "mounts": [
        { "source": "/etc", "target": "/data", "access": "ro" },
    ] } });
    let mut of_another = config(&shell("true"));
    of_another.cell_id = "another".to_owned();
    let long = json!({ "argv": ["/bin/true", "x".repeat(200_000)] });
    for (config, place) in [
        (
            config_with(&shell("true"), &mounts),
            "spec.authority.filesystem.mounts",
        ),
        (of_another, "spec.id"),
        (
            config(&json!({ "argv": ["true"], "workingDirectory": "/a/../b" })),
            "workingDirectory",
        ),
        (config(&long), "spec.run"),
    ] {
        let mut host = Host::start();
        host.end.configure(&config, Instant::now()).unwrap();
        let refused = host.until(|message| match message {
            GuestMessage::Refused(refused) => Some(refused),
            _ => None,
        });
        assert!(
            matches!(&refused, Refused::InvalidDocument { reason } if reason.contains(place)),
            "{refused:?}"
        );
        host.acknowledge();
    }
}

#[test]
fn a_parked_guest_goes_on_saying_that_it_is_there() {
    let mut host = Host::start();
    for _ in 0..2 {
        host.until(|message| matches!(message, GuestMessage::Telemetry(_)).then_some(()));
    }
    let (status, said) = host.leave();
    assert!(status.success(), "{said}");
}
