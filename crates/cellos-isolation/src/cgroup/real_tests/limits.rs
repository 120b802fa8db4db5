//! The kernel holds the limits, and counts.

use super::*;

#[test]
fn a_memory_hog_is_killed_and_counted() {
    let Some(host) = host_with(&[Controller::Memory]) else {
        return;
    };
    let limits = Limits {
        memory_max_bytes: Some(24 * MIB + 100),
        ..Limits::default()
    };
    let group = create(&host, &limits);
    let held = group.0.effective_limits().unwrap();
    assert_eq!(
        held.memory_max_bytes,
        Some(24 * MIB),
        "rounded down to pages"
    );
    let mut hog = start(&group, Command::new("tail").arg("/dev/zero"));
    let status = hog.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "{status}"
    );
    let stats = group.0.stats().unwrap();
    assert!(stats.oom_kills.unwrap() >= 1, "{stats:?}");
    let peak = stats.memory_peak_bytes.unwrap();
    assert!((16 * MIB..=24 * MIB).contains(&peak), "{stats:?}");
    // How many depends on the kernel, see the field.
    assert!(stats.memory_limit_hits.is_some(), "{stats:?}");
    group.0.remove().unwrap();
    assert!(gone(&group.0));
}

#[test]
fn a_cell_without_limits_has_leaves_only_for_accounting() {
    let Some(host) = host_with(&[Controller::Memory]) else {
        return;
    };
    let plain = create(&host, &Limits::default());
    assert_eq!(plain.0.primary_path(), None);
    assert!(plain.0.unified_directory().is_none());
    let limits = Limits {
        accounting: Accounting::Always,
        ..Limits::default()
    };
    let group = create(&host, &limits);
    assert!(
        start(&group, &mut Command::new("true"))
            .wait()
            .unwrap()
            .success()
    );
    let stats = group.0.stats().unwrap();
    assert!(stats.memory_peak_bytes.unwrap() > 0, "{stats:?}");
    assert_eq!(group.0.effective_limits().unwrap().memory_max_bytes, None);
    group.0.remove().unwrap();
    assert!(gone(&group.0));
}

#[test]
fn forks_beyond_the_limit_are_refused_and_counted() {
    let Some(host) = host_with(&[Controller::Pids]) else {
        return;
    };
    let limits = Limits {
        pids_max: Some(3),
        ..Limits::default()
    };
    let group = create(&host, &limits);
    assert_eq!(group.0.effective_limits().unwrap().pids_max, Some(3));
    let mut bomb = start(
        &group,
        &mut shell("sleep 9 & sleep 9 & sleep 9 & sleep 9 & wait"),
    );
    assert!(
        !bomb.wait().unwrap().success(),
        "a shell that cannot fork fails"
    );
    let stats = group.0.stats().unwrap();
    assert!(stats.pids_limit_hits.unwrap() >= 1, "{stats:?}");
    if let Some(peak) = stats.pids_peak {
        assert_eq!(peak, 3, "{stats:?}");
    }
    group.0.kill().unwrap();
    group.0.remove().unwrap();
    assert!(gone(&group.0));
}

#[test]
fn a_cpu_quota_throttles_and_is_counted() {
    let Some(host) = host_with(&[Controller::Cpu]) else {
        return;
    };
    let cpu_max = CpuMax {
        quota_micros: 10_000,
        period_micros: 50_000,
    };
    let limits = Limits {
        cpu_max: Some(cpu_max),
        ..Limits::default()
    };
    let group = create(&host, &limits);
    assert_eq!(group.0.effective_limits().unwrap().cpu_max, Some(cpu_max));
    let mut spinner = start(&group, &mut shell("while :; do :; done"));
    eventually("the spinner is throttled", || {
        group.0.stats().unwrap().cpu_throttled_periods.unwrap() >= 3
    });
    assert!(group.0.stats().unwrap().cpu_throttled.unwrap() > Duration::ZERO);
    group.0.kill().unwrap();
    spinner.wait().unwrap();
    group.0.remove().unwrap();
}
