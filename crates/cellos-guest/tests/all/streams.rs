//! The standard streams of a workload.

use std::time::Duration;

use cellos_core::ports::workload::WorkloadEnd;
use cellos_testkit::require;

use crate::host::{CREDIT_BYTES, Credit, Host, config, shell};

/// More than all buffers on the way together hold.
const LARGE: usize = 3 << 20;

#[test]
fn a_slow_reader_gets_everything() {
    require!("userns");
    require!("cgroups");
    let mut host = Host::running(&config(&shell(&format!(
        "head -c {LARGE} /dev/zero; head -c {LARGE} /dev/zero | tr '\\0' e >&2"
    ))));
    host.slowness = Duration::from_millis(2);
    let exit = host.exit();
    assert_eq!(exit.report.end, WorkloadEnd::Exited { code: 0 });
    assert_eq!((host.stdout.len(), host.stderr.len()), (LARGE, LARGE));
    assert!(host.stdout.iter().all(|&byte| byte == 0));
    assert!(host.stderr.iter().all(|&byte| byte == b'e'));
    assert_eq!(
        (exit.stdout.dropped_bytes, exit.stderr.dropped_bytes),
        (0, 0)
    );
    host.acknowledge();
}

#[test]
fn a_workload_waits_for_a_host_that_reads_nothing() {
    require!("userns");
    require!("cgroups");
    let mut config = config(&shell(&format!("head -c {LARGE} /dev/zero; echo done >&2")));
    config.stdout_credit_bytes = 0;
    let mut host = Host::running(&config);
    for _ in 0..20 {
        host.hear();
    }
    assert_eq!(
        (host.stdout.len(), host.stderr.len()),
        (0, 0),
        "it did not wait"
    );
    let credit = cellos_bridge::MAX_CREDIT_BYTES;
    host.end
        .grant_output(cellos_bridge::StandardStream::Stdout, credit)
        .unwrap();
    host.exit();
    assert_eq!(host.stdout.len(), LARGE);
    host.acknowledge();
}

#[test]
fn output_that_the_host_never_allows_is_counted() {
    require!("userns");
    require!("cgroups");
    let mut config = config(&shell("head -c 5000 /dev/zero"));
    config.stdout_credit_bytes = 1000;
    let (mut host, _) = Host::ready(&config);
    host.credit = Credit::NeverGivenBack;
    host.end.start().unwrap();
    let exit = host.exit();
    assert_eq!(
        (exit.stdout.sent_bytes, exit.stdout.dropped_bytes),
        (1000, 4000)
    );
    host.acknowledge();
}

#[test]
fn standard_input_arrives_whole_and_ends() {
    require!("userns");
    require!("cgroups");
    let mut host = Host::running(&config(&shell("sleep 0.2; cat")));
    let input: Vec<_> = (0..LARGE)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    let mut rest = input.as_slice();
    while !rest.is_empty() {
        assert!(host.end.input_credit() <= CREDIT_BYTES);
        let sent = host.end.input(rest).unwrap();
        rest = &rest[sent..];
        host.hear();
    }
    host.end.end_input().unwrap();
    let exit = host.exit();
    assert_eq!(exit.report.end, WorkloadEnd::Exited { code: 0 });
    assert!(
        host.stdout == input,
        "{} bytes came back",
        host.stdout.len()
    );
    host.acknowledge();
}

#[test]
fn a_workload_may_close_its_standard_input_early() {
    require!("userns");
    require!("cgroups");
    let script = "exec 0<&-; echo closed; sleep 0.3; exit 5";
    let mut host = Host::running(&config(&shell(script)));
    while host.stdout.is_empty() {
        host.hear();
    }
    let mut sent = 0;
    for _ in 0..10 {
        sent += host.end.input(&[0; 8192]).unwrap();
        host.hear();
        if sent >= CREDIT_BYTES as usize {
            break;
        }
    }
    assert!(sent > 0);
    assert_eq!(host.exit().report.end, WorkloadEnd::Exited { code: 5 });
    host.acknowledge();
}

#[test]
fn a_daemon_that_keeps_the_streams_does_not_keep_the_cell() {
    require!("userns");
    require!("cgroups");
    let mut host = Host::running(&config(&shell("sleep 60 & echo up")));
    let begun = std::time::Instant::now();
    assert_eq!(host.exit().report.end, WorkloadEnd::Exited { code: 0 });
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(host.stdout, b"up\n");
    host.acknowledge();
}

#[test]
fn a_workload_whose_reader_has_gone_is_told_so_by_its_pipe() {
    require!("userns");
    require!("cgroups");
    let mut host = Host::running(&config(&shell("yes; echo $? >&2; echo more")));
    while host.stdout.is_empty() {
        host.hear();
    }
    host.end
        .close_output(cellos_bridge::StandardStream::Stdout)
        .unwrap();
    let exit = host.exit();
    // The other stream is open still. The shell's own word then meets the closed pipe.
    assert_eq!(host.stderr, b"141\n", "not 128 + SIGPIPE");
    assert_eq!(exit.report.end, WorkloadEnd::Signalled { signal: 13 });
    host.acknowledge();
}
