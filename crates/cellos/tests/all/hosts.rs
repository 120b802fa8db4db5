//! Hosts that lack something: one clear error with the mend, and nothing half done.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    process::{Command, Output},
    time::{Duration, Instant},
};

use cellos_testkit::{Ability, require};
use serde_json::{Value, json};

use crate::{
    program::cellos_program,
    trial::{Ends, NO_CELL, Trial, WHOLE_RUN, assert_one_error, behind, records},
};

/// A user namespace in which the caller is root.
fn as_own_root(script: &str, command: &Command) -> Output {
    behind(
        &[
            "unshare",
            "-Urm",
            "--propagation",
            "private",
            "sh",
            "-ec",
            script,
            "sh",
        ],
        command,
    )
    .output()
    .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn root_of_a_small_user_namespace_runs_cells() {
    require!("userns");
    let trial = Trial::new();
    let run = trial.shell(&[], "exit 3");
    let output = as_own_root(r#"exec "$@""#, &run);
    trial.check(&output, &crate::trial::Ends::exited(3));
}

#[test]
fn forbidden_user_namespaces_are_named_with_the_mend() {
    require!("userns");
    let trial = Trial::new();
    let run = trial.shell(&[], "echo ran");
    let output = as_own_root(
        r#"echo 0 > /proc/sys/user/max_user_namespaces; exec "$@""#,
        &run,
    );
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_one_error(&output, Some("create the cell's namespaces: "));
    assert!(
        stderr(&output).contains("raise sysctl user.max_user_namespaces"),
        "{output:?}"
    );
    let log = trial.log();
    assert_eq!(log.types(), NO_CELL);
    let reason = log.data("failed")["reason"].as_str().unwrap();
    assert!(reason.contains("max_user_namespaces"), "{reason}");
    trial.assert_nothing_left();
}

#[test]
fn the_doctor_names_forbidden_user_namespaces() {
    require!("userns");
    let trial = Trial::new();
    let doctor = trial.place.cellos(&["doctor"]);
    let output = as_own_root(
        r#"echo 0 > /proc/sys/user/max_user_namespaces; exec "$@""#,
        &doctor,
    );
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("user.max_user_namespaces"), "{text}");
}

/// `nobody`, who owns no control group anywhere.
const NOBODY: u32 = 65534;

/// An ordinary user whom nobody has delegated control groups to; root becomes one for the test.
#[test]
fn limits_without_delegated_control_groups_are_refused_with_the_mend() {
    require!("userns");
    let is_root = Ability::Root.probe().is_ok();
    require!(
        "undelegated",
        match Ability::Cgroups.probe() {
            Ok(()) if !is_root => Err("this user may make control groups"),
            _ => Ok(()),
        }
    );
    for (flag, value, field) in [
        ("--memory", "64M", "spec.run.limits.memoryMaxBytes"),
        ("--cpus", "0.5", "spec.run.limits.cpuMax"),
        ("--pids", "50", "spec.run.limits.pidsMax"),
    ] {
        let trial = Trial::new();
        let run = trial.shell(&[flag, value], "echo ran");
        let output = if is_root {
            as_nobody(&trial, &run)
        } else {
            let mut run = run;
            run.output().unwrap()
        };
        assert_eq!(output.status.code(), Some(126), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert_one_error(
            &output,
            Some(&format!("{field}: backend `linux` cannot give ")),
        );
        let text = stderr(&output);
        assert!(
            text.contains("systemd-run --user --scope -p Delegate=yes"),
            "{text}"
        );
        assert!(text.contains("CELLOS_CGROUP_PARENT"), "{text}");
        trial.assert_nothing_left();
    }
}

fn as_nobody(trial: &Trial, command: &Command) -> Output {
    // The built program may lie where only root can go.
    let program = trial.place.path().join("cellos");
    fs::copy(cellos_program(), &program).unwrap();
    chown(trial.place.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut moved = Command::new(program);
    moved
        .args(command.get_args())
        .current_dir(trial.place.path())
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let id = NOBODY.to_string();
    behind(
        &["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"],
        &moved,
    )
    .output()
    .unwrap()
}

/// Room that is left beside whole events; less than any event needs, more than the same event
/// differs from run to run.
const SLACK_BYTES: usize = 150;

/// `cellos run` of a script, in a process whose files have no room beyond so many bytes.
fn run_with_files_up_to(trial: &Trial, bytes: usize, script: &str) -> Output {
    let limit = format!("--fsize={bytes}");
    let ignoring = r#"trap '' XFSZ; exec "$@""#;
    let wrapper = ["/bin/sh", "-c", ignoring, "sh", "prlimit", &limit];
    behind(&wrapper, &trial.shell(&[], script))
        .output()
        .unwrap()
}

/// Runs a cell to its end, so that its log has whole lines; gives their sizes.
fn filled(trial: &Trial) -> Vec<usize> {
    let before = trial.place.cellos(&[
        "run",
        "--run-id",
        "before",
        "--events",
        trial.place.events().to_str().unwrap(),
        "--",
        "/bin/echo",
        "ran",
    ]);
    let output = { before }.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let log = fs::read_to_string(trial.place.events()).unwrap();
    log.lines().map(|line| line.len() + 1).collect()
}

/// Whatever is the first that does not fit: the run fails, a command whose start could not be put
/// on record does not run on, and the cell is gone.
#[test]
fn a_disk_that_fills_fails_the_run_at_any_event() {
    require!("userns");
    // The events that are written together.
    let groups: [&[&str]; 5] = [
        &WHOLE_RUN[..3],
        &WHOLE_RUN[3..5],
        &WHOLE_RUN[5..6],
        &WHOLE_RUN[6..7],
        &WHOLE_RUN[7..],
    ];
    let mut fit = 0;
    for group in groups {
        let trial = Trial::new();
        let before = filled(&trial);
        let measured = Trial::new();
        filled(&measured);
        measured.run(&[], "echo ran", &Ends::exited(0));
        let log = fs::read_to_string(measured.place.events()).unwrap();
        let sizes: Vec<usize> = log
            .lines()
            .skip(before.len())
            .map(|line| line.len() + 1)
            .collect();
        let room = sizes.iter().take(fit).sum::<usize>() + SLACK_BYTES;
        let begun = Instant::now();
        let spawned = WHOLE_RUN[fit].ends_with("process_spawned");
        let script = match spawned {
            // It would go on for more than a minute.
            true => r#"echo ran; exec sleep "$0""#,
            false => "echo ran",
        };
        let bytes = before.iter().sum::<usize>() + room;
        let output = run_with_files_up_to(&trial, bytes, script);
        assert_eq!(output.status.code(), Some(125), "{fit}: {output:?}");
        let missing = group.last().unwrap();
        assert_one_error(
            &output,
            Some(&format!(
                "event dev.cellos.events.{missing}: event sink: sink full: "
            )),
        );
        assert_eq!(trial.run_log().types(), WHOLE_RUN[..fit], "{output:?}");
        if fit < WHOLE_RUN.len() - 5 {
            assert!(output.stdout.is_empty(), "{fit}: {output:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{fit}");
        trial.assert_dead_within(Duration::from_secs(1));

        // The last event is owed; with room again the reaper writes it.
        assert_eq!(records(&trial.place), [format!("{}.json", trial.id)]);
        let reap = trial.place.cellos(&["reap", "--json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&reap.stdout).unwrap();
        assert_eq!(report["reaped"][0]["finalEvent"], "written", "{report}");
        let log = trial.run_log();
        let detail = log.data("destroyed")["reasonDetail"].as_str().unwrap();
        assert!(detail.contains("sink full"), "{detail}");
        assert_eq!(log.data("destroyed")["residue"]["found"], json!([]));
        trial.assert_nothing_left();
        fit += group.len();
    }
}

#[test]
fn events_files_that_cannot_be_appended_to_are_refused_before_anything_runs() {
    let trial = Trial::new();
    fs::create_dir(trial.place.path().join("folder")).unwrap();
    std::os::unix::fs::symlink("target", trial.place.path().join("link")).unwrap();
    let made = Command::new("mkfifo")
        .arg(trial.place.path().join("fifo"))
        .status()
        .unwrap();
    assert!(made.success());
    for file in ["folder", "link", "fifo", "missing/file", "/dev/full"] {
        let output = trial
            .place
            .cellos(&[
                "run",
                "--events",
                file,
                "--",
                "/bin/echo",
                "ran",
                &trial.marker,
            ])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125), "{file}: {output:?}");
        assert!(output.stdout.is_empty(), "{file}: {output:?}");
        assert_one_error(&output, Some("events cannot be written: "));
        trial.assert_nothing_left();
    }
    assert!(!trial.place.path().join("target").exists());
}
