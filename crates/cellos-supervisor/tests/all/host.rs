//! Commands on the host, with real processes.

use std::{
    fs::{self, File},
    io::Read,
    os::fd::OwnedFd,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use cellos_core::{
    event::EndedBy,
    ports::workload::{Streams, WorkloadEnd},
};
use cellos_supervisor::{
    HostRunner, RunOutcome, StopRequests, Supervisor, SupervisorSignal, host_runner,
};
use serde_json::{Value, json};

use crate::{
    doubles::{Recorder, RunsNothing, document, null, shared},
    run::request,
};

const FIXTURE: &str = env!("CARGO_BIN_EXE_host-runner-fixture");
/// Longest time a test waits for something that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

fn runner() -> HostRunner {
    HostRunner {
        program: FIXTURE.into(),
        args: vec![host_runner::HELPER_ARGUMENT.into()],
    }
}

async fn run_with(run: Value, stop: StopRequests, stdout: OwnedFd) -> (RunOutcome, Arc<Recorder>) {
    let events = shared(Recorder::default());
    let mut request = request(document(run));
    request.streams = Streams {
        stdin: null().into(),
        stdout,
        stderr: null().into(),
    };
    let outcome = Supervisor::new(Arc::new(RunsNothing::default()))
        .events(events.clone())
        .host_runner(runner())
        .run(request, stop)
        .await;
    (outcome, events)
}

async fn run(run: Value) -> (RunOutcome, Arc<Recorder>) {
    run_with(run, StopRequests::none(), null().into()).await
}

fn sh(script: &str) -> Value {
    json!({"argv": ["/bin/sh", "-c", script]})
}

/// A script of two processes that outlive their parent, one of them in a session of its own; each
/// writes its id to the folder.
fn daemons(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "(sh -c 'echo $$ >{folder}/a; exec sleep 300' &) ; \
         setsid sh -c '(sh -c \"echo \\$\\$ >{folder}/b; exec sleep 300\" &)' ; \
         while [ ! -s {folder}/a ] || [ ! -s {folder}/b ]; do sleep 0.01; done"
    )
}

fn pids(folder: &Path) -> Vec<String> {
    ["a", "b"]
        .iter()
        .map(|name| {
            fs::read_to_string(folder.join(name))
                .unwrap()
                .trim()
                .to_owned()
        })
        .collect()
}

/// A zombie counts as gone: it runs nothing, and somebody else has to wait for it.
fn is_gone(pid: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(_) => true,
        Ok(stat) => stat[stat.rfind(')').unwrap()..].starts_with(") Z"),
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn exit_code_signal_and_output_come_through() {
    let mut output = tempfile::tempfile().unwrap();
    let stdout = output.try_clone().unwrap().into();
    let (outcome, events) = run_with(sh("echo hello; exit 3"), StopRequests::none(), stdout).await;
    assert_eq!(outcome.shell_exit_code(), 3);
    let mut text = String::new();
    std::io::Seek::rewind(&mut output).unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
    assert_eq!(events.data("destroyed").get("terminalState"), None);

    let (outcome, _) = run(sh("kill -SEGV $$")).await;
    assert_eq!(outcome.end, Some(WorkloadEnd::Signalled { signal: 11 }));
    assert_eq!(outcome.shell_exit_code(), 139);
}

#[tokio::test]
async fn environment_is_the_fixed_path_and_the_declared_variables() {
    let mut output = tempfile::tempfile().unwrap();
    let stdout = output.try_clone().unwrap().into();
    let run = json!({"argv": ["env"], "env": {"GREETING": "hi"}});
    run_with(run, StopRequests::none(), stdout).await;
    let mut text = String::new();
    std::io::Seek::rewind(&mut output).unwrap();
    output.read_to_string(&mut text).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["GREETING=hi", "PATH=/usr/bin:/bin:/usr/local/bin"]);
}

#[tokio::test]
async fn only_three_descriptors_are_inherited() {
    // A descriptor without the close-on-exec flag, as a careless caller leaves it.
    let leaky = File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let stdout = output.try_clone().unwrap().into();
    run_with(sh("ls /proc/$$/fd"), StopRequests::none(), stdout).await;
    let mut text = String::new();
    std::io::Seek::rewind(&mut output).unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "0\n1\n2\n");
}

#[tokio::test]
async fn command_that_cannot_be_executed_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let orphan = dir.path().join("orphan");
    fs::write(&orphan, "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&orphan, mode).unwrap();
    for (argv, code) in [
        (json!(["no-such-program"]), 127),
        (json!(["/no/such/program"]), 127),
        (json!(["/etc/passwd"]), 126),
        (json!(["/"]), 126),
        (json!([orphan]), 126),
    ] {
        let (outcome, events) = run(json!({"argv": argv})).await;
        assert_eq!(
            outcome.shell_exit_code(),
            code,
            "{argv}: {:?}",
            outcome.first_error
        );
        assert_eq!(outcome.ended_by, EndedBy::Refused);
        assert_eq!(events.data("completed")["exitCode"], -1);
        assert_eq!(events.data("destroyed")["reason"], "command_refused");
        assert!(!events.kinds().iter().any(|kind| kind.contains("spawned")));
    }
}

#[tokio::test]
async fn missing_working_folder_is_a_failure_of_its_own() {
    let (outcome, _) = run(json!({"argv": ["true"], "workingDirectory": "/no/such"})).await;
    assert_eq!(outcome.shell_exit_code(), 125);
    let text = outcome.first_error.unwrap().to_string();
    assert!(text.contains("run.workingDirectory /no/such"), "{text}");
}

#[tokio::test]
async fn daemons_die_when_the_command_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (outcome, _) = run(sh(&daemons(dir.path()))).await;
    assert!(outcome.succeeded(), "{:?}", outcome.first_error);
    for pid in pids(dir.path()) {
        assert!(is_gone(&pid), "{pid}");
    }
    assert!(outcome.left_over_processes >= 2);
    let residue = outcome.residue.unwrap();
    assert_eq!(residue.looked_for, ["processes"]);
    assert!(residue.found.is_empty());
}

#[tokio::test]
async fn deadline_kills_double_forked_children_and_a_command_that_ignores_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "trap '' TERM; {}; while :; do sleep 1; done",
        daemons(dir.path())
    );
    let began = Instant::now();
    let (outcome, events) = run(json!({
        "argv": ["/bin/sh", "-c", script], "timeoutMs": 500,
        "limits": {"gracefulShutdownSeconds": 1}
    }))
    .await;
    assert_eq!(outcome.ended_by, EndedBy::DeadlineTimeout);
    assert_eq!(outcome.shell_exit_code(), 124);
    assert!(began.elapsed() >= Duration::from_millis(1500));
    assert_eq!(
        events.data("completed")["spawnError"],
        "command timed out after 500 ms (spec.run.timeoutMs)"
    );
    for pid in pids(dir.path()) {
        assert!(is_gone(&pid), "{pid}");
    }
}

#[tokio::test]
async fn stop_request_reaches_the_whole_process_group() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("cleaned");
    let ready = dir.path().join("ready");
    let script = format!(
        "trap 'echo x >{}; exit 0' TERM; echo x >{}; sleep 300 & wait",
        marker.display(),
        ready.display()
    );
    let (handle, stop) = StopRequests::channel();
    let asking = tokio::spawn(async move {
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        handle.request(SupervisorSignal::Interrupt);
    });
    let (outcome, _) = run_with(sh(&script), stop, null().into()).await;
    asking.await.unwrap();
    assert!(marker.exists());
    assert_eq!(outcome.ended_by, EndedBy::SupervisorSignal);
    assert_eq!(outcome.shell_exit_code(), 130);
}

#[tokio::test]
async fn helper_joins_the_control_group_before_the_command_starts() {
    let group = tempfile::tempdir().unwrap();
    let events = shared(Recorder::default());
    let outcome = Supervisor::new(Arc::new(RunsNothing {
        cgroup: Some(group.path().to_owned()),
    }))
    .events(events)
    .host_runner(runner())
    .run(
        request(document(sh(&format!(
            "test \"$(cat {}/cgroup.procs)\" = $PPID",
            group.path().display()
        )))),
        StopRequests::none(),
    )
    .await;
    assert!(outcome.succeeded(), "{:?}", outcome.first_error);

    let outcome = Supervisor::new(Arc::new(RunsNothing {
        cgroup: Some("/no/such/group".into()),
    }))
    .host_runner(runner())
    .run(request(document(sh("exit 0"))), StopRequests::none())
    .await;
    assert_eq!(outcome.shell_exit_code(), 125);
}

#[tokio::test]
async fn command_is_refused_where_no_host_runner_is_configured() {
    let events = shared(Recorder::default());
    let outcome = Supervisor::new(Arc::new(RunsNothing::default()))
        .events(events.clone())
        .run(request(document(sh("exit 0"))), StopRequests::none())
        .await;
    assert_eq!(outcome.shell_exit_code(), 125);
    assert_eq!(events.data("completed")["exitCode"], -1);
}

#[tokio::test]
async fn command_that_kills_its_helper_is_lost_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!(
        "echo $$ >{}; sleep 0.3; kill -9 $PPID; exec sleep 300",
        pid.display()
    );
    let (outcome, events) = run(sh(&script)).await;
    assert_eq!(outcome.ended_by, EndedBy::Lost);
    assert_eq!(outcome.shell_exit_code(), 125);
    assert_eq!(events.data("destroyed")["endedBy"], "lost");
    let pid = fs::read_to_string(pid).unwrap();
    wait_until("the command ends", || is_gone(pid.trim()));
}

#[test]
fn killed_supervisor_takes_every_descendant_of_its_cell_along() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{}; sleep 300", daemons(dir.path()));
    let mut supervisor = Command::new(FIXTURE)
        .arg("supervise")
        .arg(dir.path().join("state"))
        .arg(dir.path().join("events.jsonl"))
        .args(["/bin/sh", "-c", &script])
        .spawn()
        .unwrap();
    wait_until("the daemons start", || {
        ["a", "b"].iter().all(|name| {
            fs::read_to_string(dir.path().join(name)).is_ok_and(|text| text.ends_with('\n'))
        })
    });
    let pids = pids(dir.path());
    assert!(pids.iter().all(|pid| !is_gone(pid)));
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    for pid in pids {
        wait_until("the daemons end", || is_gone(&pid));
    }
}
