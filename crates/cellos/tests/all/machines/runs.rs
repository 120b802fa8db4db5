//! What a user does with machines.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    time::{Duration, Instant},
};

use cellos_testkit::require;

use super::{Machines, available, stdout};
use crate::program::source_file;

#[test]
fn hello_runs_in_a_machine_and_its_evidence_names_kernel_and_root() {
    require!("machines", available());
    let machines = Machines::new();
    let hello = source_file("../../examples/hello.yaml");
    // Emulated, beside other tests: the document's ten seconds may be over before the boot is.
    let patient = std::fs::read_to_string(hello)
        .unwrap()
        .replace("ttlSeconds: 10", "ttlSeconds: 120");
    let document = machines.place.file("hello.yaml", patient);
    let output = machines
        .run(&["--show-evidence", document.to_str().unwrap()])
        .output()
        .unwrap();
    let text = stdout(&output, 0);
    assert!(text.contains("Hello from a cell."), "{text}");
    assert!(text.contains("on cell."), "{text}");
    assert!(text.contains("Home folders:    0"), "{text}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("machine "), "{stderr}");
    assert!(stderr.contains("authenticated by the session"), "{stderr}");

    let log = machines.log();
    let started = log.data("started");
    for digest in ["kernelDigestSha256", "rootfsDigestSha256"] {
        let text = started[digest].as_str().unwrap();
        assert_eq!(text.len(), 64, "{digest}: {started}");
    }
    let security = log.data("container_security");
    assert_eq!(security["machine"]["monitor"], "qemu", "{security}");
    assert_eq!(security["machine"]["exitAuthentication"], "session");
    assert_eq!(security["seccompMode"], 2);
    assert_eq!(security["noNewPrivs"], true);
    assert_eq!(security["capEff"], "0000000000000000");
    let destroyed = log.data("destroyed");
    assert_eq!(destroyed["outcome"], "succeeded", "{destroyed}");
    assert_eq!(destroyed["exitCode"], 0);
    assert_eq!(destroyed["terminalState"], "clean");
    assert_eq!(destroyed["residue"]["found"], serde_json::json!([]));
    machines.assert_nothing_left();
}

#[test]
fn the_same_document_runs_on_both_backends_unchanged() {
    require!("machines", available());
    require!("userns");
    let machines = Machines::new();
    let document = machines.place.file(
        "same.yaml",
        "apiVersion: cellos.io/v1\nkind: ExecutionCell\nspec:\n  id: same\n  run:\n    \
         argv: [sh, -c, 'echo $GREETING from $(pwd) as $(id -u):$(id -g); exit 7']\n    \
         env: {GREETING: hello}\n    workingDirectory: /job\n    user: {uid: 1234, gid: 4321}\n  \
         authority: {}\n  lifetime: {ttlSeconds: 120}\n",
    );
    let document = document.to_str().unwrap();
    let in_machine = machines.run(&[document]).output().unwrap();
    let on_host = machines.place.cellos(&["run", document]).output().unwrap();
    assert_eq!(stdout(&in_machine, 7), "hello from /job as 1234:4321\n");
    assert_eq!(in_machine.stdout, on_host.stdout);
    assert_eq!(in_machine.status, on_host.status);
}

#[test]
fn streams_pass_unharmed_and_a_slow_reader_holds_nothing_up() {
    require!("machines", available());
    let machines = Machines::new();
    let mut input = Vec::new();
    for number in 0..200_000_u32 {
        input.extend_from_slice(&number.to_le_bytes());
    }
    let mut child = machines
        .shell(&["--quiet"], "echo aside >&2; cat; echo end >&2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Far more than any buffer between the two ends: it flows only if both directions do.
    let mut stdin = child.stdin.take().unwrap();
    let written = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&written).unwrap());
    std::thread::sleep(Duration::from_secs(4));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{:?}", output.stderr);
    assert!(output.stdout == input, "{} bytes", output.stdout.len());
    assert_eq!(output.stderr, b"aside\nend\n");
    machines.assert_nothing_left();
}

#[test]
fn a_reader_that_goes_ends_a_command_that_writes_as_on_a_host() {
    require!("machines", available());
    let machines = Machines::new();
    let mut child = machines
        .run(&["--quiet", "--ttl", "120s", "--", "yes"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    // The reader was dropped with its line.
    let gone = Instant::now();
    assert_eq!(line, "y\n");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
    assert!(gone.elapsed() < Duration::from_secs(30), "{gone:?}");
    let destroyed = machines.log().data("destroyed").clone();
    assert_eq!(destroyed["signal"], 13, "{destroyed}");
    assert_eq!(destroyed["terminalState"], "clean", "{destroyed}");
    machines.assert_nothing_left();
}

#[test]
fn declared_artifacts_leave_the_machine() {
    require!("machines", available());
    let machines = Machines::new();
    let document = machines.place.file(
        "export.yaml",
        "apiVersion: cellos.io/v1\nkind: ExecutionCell\nspec:\n  id: export\n  run:\n    \
         argv: [sh, -c, 'mkdir out && seq 1000000 > out/numbers && echo done > note']\n  \
         authority: {}\n  lifetime: {ttlSeconds: 120}\n  export:\n    artifacts:\n      \
         - {name: numbers, path: out/numbers}\n      - {name: note, path: note}\n",
    );
    let output = machines
        .run(&["--export-dir", "out", document.to_str().unwrap()])
        .output()
        .unwrap();
    stdout(&output, 0);
    let numbers = machines.place.path().join("out/export/numbers");
    let numbers = std::fs::read_to_string(numbers).unwrap();
    // More than the guest keeps at once on its way.
    assert_eq!(numbers.lines().count(), 1_000_000);
    assert_eq!(numbers.lines().last(), Some("1000000"));
    machines.assert_nothing_left();
}

#[test]
fn several_machines_run_at_once() {
    require!("machines", available());
    let places: Vec<_> = (0..3).map(|_| Machines::new()).collect();
    let children: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(number, machines)| {
            machines
                .shell(&[], &format!("exit {}", 10 + number))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let code = i32::try_from(10 + number).unwrap();
        stdout(&output, code);
    }
    for machines in &places {
        machines.assert_nothing_left();
    }
}
