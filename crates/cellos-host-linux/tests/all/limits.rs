//! Limits hold, and what hit them is told.

use cellos_core::ports::{
    CellBackend,
    workload::{LimitHit, WorkloadEnd},
};
use cellos_isolation::{LauncherOptions, Warm};
use cellos_testkit::require;
use serde_json::json;

use crate::support::{backend, backend_with, document, run, shell};

const MIB: u64 = 1 << 20;

async fn limited(limits: serde_json::Value, script: &str) -> crate::support::Finished {
    let mut command = shell(script);
    command["limits"] = limits;
    run(&backend(), &document("limited", &command, &json!({}))).await
}

#[tokio::test]
async fn a_memory_hog_is_killed_and_told_as_such() {
    require!("userns");
    require!("cgroups");
    let finished = limited(
        json!({ "memoryMaxBytes": 64 * MIB }),
        "tail /dev/zero; echo survived",
    )
    .await;
    let kills = finished.report.limits_hit.iter().any(|hit| {
        matches!(hit, LimitHit::Memory { limit_bytes, kills: 1.. } if *limit_bytes == 64 * MIB)
    });
    assert!(kills, "{:?}", finished.report);
    let peak = finished.report.usage.memory_peak_bytes.unwrap();
    assert!((32 * MIB..=64 * MIB).contains(&peak), "{peak}");
    assert!(finished.residue.found.is_empty(), "{:?}", finished.residue);
}

#[tokio::test]
async fn files_in_the_working_folder_count_as_memory() {
    require!("userns");
    require!("cgroups");
    let finished = limited(
        json!({ "memoryMaxBytes": 64 * MIB }),
        "head -c 200M /dev/zero > /work/big; stat -c %s /work/big",
    )
    .await;
    let size: u64 = finished
        .output
        .lines()
        .last()
        .and_then(|line| line.parse().ok())
        .unwrap_or(0);
    assert!(
        size <= 64 * MIB,
        "{size} bytes were written: {}",
        finished.output
    );
    let told = finished
        .report
        .limits_hit
        .iter()
        .any(|hit| matches!(hit, LimitHit::Memory { .. }));
    assert!(told, "{:?}", finished.report);
}

#[tokio::test]
async fn a_fork_bomb_meets_its_limit_and_dies_with_its_cell() {
    require!("userns");
    require!("cgroups");
    let finished = limited(
        json!({ "pidsMax": 32 }),
        "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 0.5; exit 7",
    )
    .await;
    let refused = finished.report.limits_hit.iter().any(|hit| {
        matches!(
            hit,
            LimitHit::Pids {
                limit: 32,
                refusals: 1..
            }
        )
    });
    assert!(refused, "{:?}", finished.report);
    assert_eq!(finished.report.end, WorkloadEnd::Exited { code: 7 });
    assert!(finished.residue.found.is_empty(), "{:?}", finished.residue);
}

#[tokio::test]
async fn cpu_time_is_held_to_its_quota() {
    require!("userns");
    require!("cgroups");
    let finished = limited(
        json!({ "cpuMax": { "quotaMicros": 20000, "periodMicros": 100_000 } }),
        "end=$(($(date +%s%N) + 1000000000)); while [ $(date +%s%N) -lt $end ]; do :; done",
    )
    .await;
    let usage = &finished.report.usage;
    let used = usage.cpu_user.unwrap() + usage.cpu_system.unwrap();
    // A fifth of a second of CPU per second, and some room for the first period.
    assert!(
        used < usage.wall.mul_f64(0.35),
        "{used:?} of {:?}",
        usage.wall
    );
}

#[tokio::test]
async fn processes_are_bounded_without_a_declared_limit() {
    require!("userns");
    let nothing = json!({});
    let finished = run(
        &backend(),
        &document(
            "plain",
            &shell("grep 'Max processes' /proc/self/limits"),
            &nothing,
        ),
    )
    .await;
    let limit: u64 = finished
        .output
        .split_whitespace()
        .nth(2)
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        limit <= cellos_isolation::plan::DEFAULT_PROCESS_LIMIT,
        "{limit}"
    );
}

#[tokio::test]
async fn the_process_is_in_its_control_group() {
    require!("userns");
    require!("cgroups");
    let finished = limited(
        json!({ "memoryMaxBytes": 64 * MIB }),
        "cat /proc/self/cgroup",
    )
    .await;
    let group = finished
        .posture
        .cgroups
        .values()
        .find(|path| path.contains("cellos_limited"));
    assert!(group.is_some(), "{:?}", finished.posture.cgroups);
    // From inside, the cell's own group is the root: the host's layout does not show.
    assert!(
        !finished.output.contains("cellos_limited"),
        "{}",
        finished.output
    );
}

#[tokio::test]
async fn a_begun_cell_that_the_only_cell_cannot_use_is_ended() {
    require!("userns");
    require!("cgroups");
    let options = LauncherOptions {
        warm: Warm::Once,
        ..LauncherOptions::default()
    };
    let backend = backend_with(&options);
    let mut command = shell("true");
    command["limits"] = json!({ "memoryMaxBytes": 64 * MIB });
    let handle = backend
        .create(&document("only", &command, &json!({})))
        .await
        .unwrap();
    // The launcher's children are the cell's init and nothing else, once it has had the time.
    let mut left = usize::MAX;
    for _ in 0..200 {
        left = inits_of_this_process();
        if left == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(left, 1);
    backend.destroy(&handle).await.unwrap();
}

/// Grandchildren of this test's thread: what its launcher has made.
fn inits_of_this_process() -> usize {
    let children = |path: String| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let launchers = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .flat_map(|thread| {
            children(
                thread
                    .unwrap()
                    .path()
                    .join("children")
                    .display()
                    .to_string(),
            )
        });
    launchers
        .flat_map(|pid| children(format!("/proc/{pid}/task/{pid}/children")))
        .count()
}

#[tokio::test]
async fn what_a_cell_writes_is_bounded_without_a_declared_limit() {
    require!("userns");
    require!("python3");
    let script = r#"
import errno, os
chunk = b"x" * (1 << 24)
written = 0
with open("/work/big", "wb", buffering=0) as file:
    try:
        while written < 1 << 31:
            written += file.write(chunk)
    except OSError as error:
        print(errno.errorcode[error.errno], written)
os.unlink("/work/big")
made = 0
try:
    while made < 1 << 19:
        os.close(os.open(f"/tmp/{made}", os.O_CREAT | os.O_WRONLY))
        made += 1
except OSError as error:
    print(errno.errorcode[error.errno], made)
"#;
    let command = json!({ "argv": ["/usr/bin/python3", "-c", script] });
    let finished = run(&backend(), &document("writer", &command, &json!({}))).await;
    let figures: Vec<(&str, u64)> = finished
        .output
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(error, count)| (error, count.parse().unwrap()))
        .collect();
    let [(first, bytes), (second, files)] = figures[..] else {
        panic!("{}", finished.output);
    };
    assert_eq!((first, second), ("ENOSPC", "ENOSPC"));
    assert!(
        (1 << 29..=cellos_isolation::plan::WRITABLE_MAX_BYTES).contains(&bytes),
        "{bytes}"
    );
    assert!((1 << 17..=1 << 18).contains(&files), "{files}");
}
