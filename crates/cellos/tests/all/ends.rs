//! Every way a command can end: the exit code, the one message, the evidence, and nothing left.

use std::time::{Duration, Instant};

use cellos_testkit::require;

use crate::trial::{Ends, Trial};

#[test]
fn exit_codes_pass_through_unchanged() {
    require!("userns");
    // Among them the codes that cellos itself uses, which the evidence tells apart.
    for code in [0, 1, 2, 7, 123, 124, 125, 126, 127, 128, 137, 254, 255] {
        let trial = Trial::new();
        trial.run(&[], &format!("exit {code}"), &Ends::exited(code));
    }
}

#[test]
fn a_command_that_kills_itself_is_128_and_the_signal() {
    require!("userns");
    for signal in [1, 2, 6, 9, 11, 15, 31] {
        let trial = Trial::new();
        let script = format!("ulimit -c 0; kill -{signal} $$");
        trial.run(&[], &script, &Ends::signalled(signal));
        let log = trial.log();
        assert_eq!(log.data("command.v1.completed")["signal"], signal);
    }
}

#[test]
fn a_command_that_kills_its_whole_group_has_ended_by_a_signal() {
    require!("userns");
    let script = r#"sleep "$0" & sleep "$0" & kill -9 0"#;
    Trial::new().run(&[], script, &Ends::signalled(9));
}

#[test]
fn a_command_that_kills_all_it_can_see_does_not_reach_init_or_the_host() {
    require!("userns");
    let trial = Trial::new();
    let script = r#"sleep "$0" & kill -9 -1; sleep 0.1; kill -0 1 2>/dev/null; echo alive; exit 3"#;
    let output = trial.run(&[], script, &Ends::exited(3));
    assert_eq!(output.stdout, b"alive\n", "{output:?}");
}

#[test]
fn daemons_end_with_the_command() {
    require!("userns");
    let trial = Trial::new();
    // Twice forked, in sessions of their own, and deaf to what is sent before SIGKILL.
    let daemon =
        r#"(setsid sh -c 'trap "" TERM HUP INT; sleep "$0" & sleep "$0"' "$0" >/dev/null 2>&1 &)"#;
    let script = format!("{daemon}; {daemon}; sleep 0.1; exit 5");
    trial.run(&[], &script, &Ends::exited(5));
}

#[test]
fn daemons_do_not_keep_the_output_open() {
    require!("userns");
    let trial = Trial::new();
    let begun = Instant::now();
    // They hold standard output; a reader of ours would wait for them if they lived on.
    trial.run(&[], r#"setsid sleep "$0" & exit 0"#, &Ends::exited(0));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_command_that_closes_its_descriptors_ends_as_ever() {
    require!("userns");
    let script =
        r#"exec 0<&- 1>&- 2>&-; for fd in 3 4 5 6 7 8 9; do eval "exec $fd>&-"; done; exit 3"#;
    Trial::new().run(&[], script, &Ends::exited(3));
}

#[test]
fn a_stopped_command_is_ended_by_its_deadline() {
    require!("userns");
    let flags = ["--timeout", "300ms", "--grace", "1s"];
    Trial::new().run(&flags, "kill -STOP $$", &Ends::timed_out());
}

/// How each ends that never ran: exit code, message, who ended it.
#[test]
fn commands_that_cannot_be_started_are_named() {
    require!("userns");
    for (command, code, error) in [
        (
            "/no/such/command",
            127,
            "command not found in the cell: \"/no/such/command\"",
        ),
        (
            "no-such-command",
            127,
            "command not found in the cell: \"no-such-command\"",
        ),
        (
            "/etc/passwd",
            126,
            "command cannot be executed: \"/etc/passwd\": Permission denied",
        ),
        ("/usr", 126, "command cannot be executed: \"/usr\": "),
    ] {
        let trial = Trial::new();
        let output = trial
            .command(&[], &[command, &trial.marker])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        crate::trial::assert_one_error(&output, Some(error));
        let log = trial.log();
        log.none("process_spawned");
        assert_eq!(log.types().last(), Some(&"cell.lifecycle.v1.destroyed"));
        let destroyed = log.data("destroyed");
        assert_eq!(destroyed["endedBy"], "refused", "{destroyed}");
        assert_eq!(destroyed["reason"], "command_refused", "{destroyed}");
        trial.assert_nothing_left();
    }
}

#[test]
fn a_missing_working_folder_is_refused_by_name() {
    require!("userns");
    let trial = Trial::new();
    let output = trial
        .shell(&["--workdir", "/usr/no/such/folder"], "true")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    crate::trial::assert_one_error(&output, Some("working folder \"/usr/no/such/folder\""));
    let log = trial.log();
    assert_eq!(log.types(), crate::trial::NO_CELL);
    trial.assert_nothing_left();
}

#[test]
fn a_cell_is_not_preferred_because_its_caller_is() {
    require!("userns");
    require!("root");
    let trial = Trial::new();
    let run = trial.shell(
        &[],
        "cut -d' ' -f19 /proc/self/stat; cat /proc/self/oom_score_adj",
    );
    let mut preferred = std::process::Command::new("/usr/bin/nice");
    preferred.args([
        "-n",
        "-5",
        "/bin/sh",
        "-c",
        r#"echo -500 > /proc/self/oom_score_adj; exec "$@""#,
        "sh",
    ]);
    preferred
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(trial.place.path());
    for (name, value) in run.get_envs() {
        preferred.env(name, value.unwrap_or_default());
    }
    let output = preferred.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "0\n0\n",
        "{output:?}"
    );
}
