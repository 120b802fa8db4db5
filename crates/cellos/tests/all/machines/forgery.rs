//! A workload that tries to write its own ending: an exit code that is not its own, or the end of
//! PID 1.

use std::process::{Command, Stdio};

use cellos_testkit::require;

use super::{Machines, available, stdout};
use crate::program::{source_file, with_input};

/// The attacks, compiled for the guest: a static program that needs nothing of the base.
fn forger(machines: &Machines) -> Vec<u8> {
    let program = machines.place.path().join("forge");
    let output = Command::new("cc")
        .args(["-static", "-Os", "-s", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg(source_file("tests/all/machines/forge.c"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::read(program).unwrap()
}

fn compiler() -> Result<(), String> {
    Command::new("cc")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .map(drop)
        .map_err(|error| format!("cc: {error}"))
}

#[test]
fn a_workload_cannot_forge_its_exit() {
    require!("machines", available());
    require!("cc", compiler());
    let machines = Machines::new();
    let program = forger(&machines);
    // The workload brings its own tools: whatever can be written can be executed.
    let mut command = machines.shell(
        &["--quiet"],
        "cat > /tmp/forge && chmod 700 /tmp/forge && exec /tmp/forge",
    );
    command.stdout(Stdio::piped());
    let output = with_input(&mut command, &program);
    let text = stdout(&output, 41);
    let attacks: Vec<_> = text.lines().collect();
    let expected = source_file("tests/all/machines/forge.c");
    let expected = std::fs::read_to_string(expected)
        .unwrap()
        .matches("attack(\"")
        .count();
    assert_eq!(attacks.len(), expected, "{text}");
    for attack in &attacks {
        assert!(attack.starts_with("refused: "), "{text}");
    }
    let log = machines.log();
    let completed = log.data("completed");
    assert_eq!(completed["exitCode"], 41, "{completed}");
    assert_eq!(log.data("destroyed")["terminalState"], "clean");
    assert_eq!(
        log.data("container_security")["machine"]["exitAuthentication"],
        "session"
    );
    machines.assert_nothing_left();
}
