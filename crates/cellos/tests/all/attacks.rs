//! What a hostile command may try against whoever runs it: each of these once worked.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use cellos_testkit::require;

use crate::program::Place;

/// A place without links in its path, with a folder that cells may write to.
fn place_with_work() -> (Place, PathBuf) {
    let place = Place::new();
    let work = place.path().canonicalize().unwrap().join("work");
    fs::create_dir(&work).unwrap();
    (place, work)
}

/// Runs a shell script in a cell that may write to `work`, which is also the current folder.
fn run(place: &Place, work: &PathBuf, flags: &[&str], script: &str) -> Output {
    let head = ["run", "--mount", ".:/work:rw"];
    place
        .cellos(&[&head[..], flags, &["--", "sh", "-c", script]].concat())
        .current_dir(work)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_link_in_place_of_the_result_record_is_not_followed() {
    require!("userns");
    let (place, work) = place_with_work();
    let victim = place.file("victim", "precious");
    let script = format!(
        "rm -f result.json; ln -s {} result.json",
        victim.to_str().unwrap()
    );
    let during = run(&place, &work, &["--json=result.json"], &script);
    assert_eq!(during.status.code(), Some(125), "{}", stderr(&during));
    // The link is there before the next run begins.
    let before = run(&place, &work, &["--json=result.json"], "true");
    assert_eq!(before.status.code(), Some(125), "{}", stderr(&before));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_fifo_in_place_of_the_result_record_does_not_hang_the_supervisor() {
    require!("userns");
    let (place, work) = place_with_work();
    let script = "rm -f result.json; mkfifo result.json";
    let output = run(&place, &work, &["--json=result.json"], script);
    assert!(
        stderr(&output).contains("deleted while the cell ran"),
        "{}",
        stderr(&output)
    );
    let again = run(&place, &work, &["--json=result.json"], "true");
    assert_eq!(again.status.code(), Some(125), "{}", stderr(&again));
}

#[test]
fn a_link_in_place_of_the_artifact_folder_is_not_followed() {
    require!("userns");
    let (place, work) = place_with_work();
    let elsewhere = place.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let script = format!(
        "echo data > art; mv out gone 2>/dev/null; ln -s {} out",
        elsewhere.to_str().unwrap()
    );
    let document = place.file(
        "cell.json",
        format!(
            r#"{{"apiVersion":"cellos.io/v1","kind":"ExecutionCell","spec":{{"id":"exporter",
            "authority":{{"filesystem":{{"mounts":[
                {{"source":{work:?},"target":"/work","access":"rw"}}]}}}},
            "lifetime":{{"ttlSeconds":30}},"run":{{"argv":["sh","-c",{script:?}]}},
            "export":{{"artifacts":[{{"name":"art","path":"art"}}]}}}}}}"#
        ),
    );
    let output = place
        .cellos(&["run", "--export-dir", "out", document.to_str().unwrap()])
        .current_dir(&work)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(
        fs::read_to_string(work.join("gone/exporter/art")).unwrap(),
        "data\n"
    );
}

#[test]
fn evidence_that_the_command_could_change_is_refused() {
    require!("userns");
    let (place, work) = place_with_work();
    for flags in [["--events", "events.jsonl"], ["--state-dir", "state"]] {
        let output = run(&place, &work, &flags, "echo ran");
        assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
        assert!(
            stderr(&output).contains("would let the cell write to"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_folder_is_no_standard_input() {
    require!("userns");
    let place = Place::new();
    let output = place
        .cellos(&["run", "--", "echo", "ran"])
        .stdin(Stdio::from(File::open("/").unwrap()))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    assert!(
        stderr(&output).contains("standard input is a folder"),
        "{}",
        stderr(&output)
    );
}

/// Where mounts are shared, as systemd makes them: in a mount namespace of the test's own.
#[test]
fn a_mount_in_a_shared_mount_does_not_appear_on_the_host() {
    require!("root");
    require!("userns");
    let (place, work) = place_with_work();
    let inner = place.path().join("inner");
    fs::create_dir_all(work.join("sub")).unwrap();
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("given"), "given\n").unwrap();
    let script = format!(
        "mount --make-rshared / && \
         {cellos} run --mount {work}:/work:rw --mount {inner}:/work/sub -- cat sub/given && \
         ls {work}/sub && grep {work} /proc/self/mountinfo; true",
        cellos = env!("CARGO_BIN_EXE_cellos"),
        work = work.display(),
        inner = inner.canonicalize().unwrap().display(),
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .env("CELLOS_STATE_DIR", place.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "given\n",
        "{}",
        stderr(&output)
    );
}

/// A cell with a writable mount leaves a link there for the next cell that has a mount inside it.
#[test]
fn a_nested_target_does_not_follow_what_an_earlier_command_left() {
    require!("userns");
    let (place, work) = place_with_work();
    let (victim, inner) = (place.path().join("victim"), place.path().join("inner"));
    fs::create_dir(&victim).unwrap();
    fs::create_dir(&inner).unwrap();
    symlink(&victim, work.join("link")).unwrap();
    let inner = inner.canonicalize().unwrap();
    let nested = format!("{}:/work/link/planted", inner.display());
    let output = run(&place, &work, &["--mount", &nested], "ls link/planted");
    assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("passes a symbolic link"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
}

/// The new root is put together in the middle of the host's paths, and must not cover any.
#[test]
fn a_source_beneath_tmp_is_the_hosts() {
    require!("userns");
    let place = Place::new();
    let source = tempfile::tempdir_in("/tmp").unwrap();
    fs::write(source.path().join("given"), "given\n").unwrap();
    fs::set_permissions(
        source.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let mount = format!("{}:/data", source.path().display());
    let output = place
        .cellos(&["run", "--mount", &mount, "--", "cat", "/data/given"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "given\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_hosts_command_line_is_not_shown_in_the_cell() {
    require!("userns");
    let place = Place::new();
    let script = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
    let output = place
        .cellos(&["run", "--id", "told-on-the-host", "--", "sh", "-c", script])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("sh -c"), "{shown}");
    assert!(!shown.contains("told-on-the-host"), "{shown}");
}

/// The streams are shared with whoever runs the command, and so are their flags.
#[test]
fn streams_that_do_not_block_do_not_change_the_exit_code() {
    require!("userns");
    require!("python3");
    let (place, work) = place_with_work();
    let script = "import os
for stream in (1, 2):
    os.set_blocking(stream, False)
    try:
        while True:
            os.write(stream, b'x' * 4096)
    except BlockingIOError:
        pass
open('full', 'w')
";
    let child = place
        .cellos(&["run", "--mount", ".:/work:rw", "--show-evidence", "--json"])
        .args(["--", "python3", "-c", script])
        .current_dir(&work)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..500 {
        if work.join("full").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Time to say something into the full pipes before anybody reads.
    std::thread::sleep(Duration::from_millis(500));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_terminal_is_as_it_was_when_the_command_has_ended() {
    require!("userns");
    require!("python3");
    let place = Place::new();
    let script = "import os, termios; os.system('stty -echo -icanon'); \
                  termios.tcflow(1, termios.TCOOFF)";
    let file = place.file(
        "session",
        format!(
            "{cellos} run --show-evidence -- python3 -c \"{script}\"; echo code $?; stty -a",
            cellos = env!("CARGO_BIN_EXE_cellos"),
        ),
    );
    let output = Command::new("timeout")
        .args(["--signal=KILL", "20", "script", "--quiet", "--command"])
        .arg(format!("sh {}", file.display()))
        .arg("/dev/null")
        .env("CELLOS_STATE_DIR", place.path().join("state"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("code 0"), "{shown}");
    assert!(
        shown.contains(" echo ") && shown.contains(" icanon "),
        "{shown}"
    );
}

/// A file that can only be read can be locked all the same, and then nobody writes to the log.
#[test]
fn a_cell_cannot_hold_the_lock_of_the_log() {
    require!("userns");
    let (place, work) = place_with_work();
    let log = place.path().canonicalize().unwrap().join("logs");
    fs::create_dir(&log).unwrap();
    let events = log.join("events.jsonl");
    let first = ["--events", events.to_str().unwrap()];
    assert_eq!(run(&place, &work, &first, "true").status.code(), Some(0));
    for source in [&log, &log.join("events.jsonl.lock")] {
        let mount = format!("{}:/logs:ro", source.display());
        let flags = ["--events", events.to_str().unwrap(), "--mount", &mount];
        let output = run(&place, &work, &flags, "echo ran");
        assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
        assert!(
            stderr(&output).contains("the lock of the event log"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn files_beside_the_log_are_out_of_a_cells_reach() {
    require!("userns");
    let (place, work) = place_with_work();
    let log = place.path().canonicalize().unwrap().join("logs");
    fs::create_dir(&log).unwrap();
    let events = log.join("events.jsonl");
    let first = ["--events", events.to_str().unwrap()];
    assert_eq!(run(&place, &work, &first, "true").status.code(), Some(0));
    let second_name = work.join("innocent");
    fs::hard_link(&events, &second_name).unwrap();
    for source in [log.join("events.jsonl.head"), second_name] {
        let mount = format!("{}:/x:rw", source.display());
        let flags = ["--events", events.to_str().unwrap(), "--mount", &mount];
        let output = run(&place, &work, &flags, "echo gone > /x");
        assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
    }
}

#[test]
fn what_sinks_log_in_with_is_not_shown_to_a_cell() {
    require!("userns");
    let (place, work) = place_with_work();
    let elsewhere = place.path().canonicalize().unwrap().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let sinks = |credential: &str| {
        format!(
            "apiVersion: cellos.io/v1\nkind: EventSinks\ndeliverWithinMs: 100\nsinks:\n\
             - {{name: hook, kind: webhook, url: 'http://127.0.0.1:9/', token: {{file: {credential}}}}}\n\
             - {{name: bus, kind: nats, servers: ['nats://127.0.0.1:9'], auth: {{creds: {{file: {credential}}}}}}}\n"
        )
    };
    fs::write(elsewhere.join("token"), "s3cret").unwrap();
    fs::write(work.join("token"), "s3cret").unwrap();
    // The settings in reach of a cell that can write.
    fs::write(work.join("sinks.yaml"), sinks("/nowhere/token")).unwrap();
    let output = run(&place, &work, &["--sinks", "sinks.yaml"], "echo ran");
    assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the settings of the sinks"),
        "{}",
        stderr(&output)
    );
    // The credential in reach of one that can only read.
    fs::write(elsewhere.join("sinks.yaml"), sinks("../work/token")).unwrap();
    let settings = elsewhere.join("sinks.yaml");
    let output = place
        .cellos(&["run", "--sinks", settings.to_str().unwrap()])
        .args(["--mount", ".:/work:ro", "--", "cat", "token"])
        .current_dir(&work)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    assert!(
        stderr(&output).contains("the credentials of a sink"),
        "{}",
        stderr(&output)
    );
}

/// A cell with this flag is refused, and the refusal is on record.
fn does_not_begin(flag: [&str; 2]) -> Place {
    let (place, work) = place_with_work();
    let events = place.events();
    let flags = [&flag[..], &["--events", events.to_str().unwrap()]].concat();
    let output = run(&place, &work, &flags, "echo ran");
    assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    assert!(
        stderr(&output).contains("could not be put on record"),
        "{}",
        stderr(&output)
    );
    let [refusal] = &place.event_types()[..] else {
        panic!("{:?}", place.event_types());
    };
    assert!(refusal.ends_with("admission.v1.rejected"), "{refusal}");
    place
}

#[test]
fn a_limit_that_cannot_be_put_on_record_is_refused() {
    require!("userns");
    require!("cgroups");
    does_not_begin(["--memory", "9007199254740992"]);
}

/// The log keeps integers exactly, so it cannot hold this one; a run that it cannot hold does not begin.
#[test]
fn a_run_that_cannot_be_put_on_record_does_not_begin() {
    require!("userns");
    let place = does_not_begin(["--ttl", "9007199254740992s"]);
    // Within the log's range, and each character takes two bytes there.
    let document = format!(
        "apiVersion: cellos.io/v1\nkind: ExecutionCell\nspec:\n  id: large\n  authority: {{}}\n  \
         lifetime: {{ttlSeconds: 30}}\n  correlation: {{platform: '{}'}}\n  run: {{argv: [echo, ran]}}\n",
        "\\".repeat(900_000)
    );
    let document = place.file("large.yaml", document);
    let output = place
        .cellos(&["run", document.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
}

/// JSON may hold any character as it is, and a terminal turns the line's order around for this one.
#[test]
fn what_a_hostile_log_holds_does_not_reach_a_terminal() {
    let place = Place::new();
    let event = "{\"specversion\":\"1.0\",\"id\":\"\u{202e}\",\"source\":\"\u{202e}\",\
        \"type\":\"dev.cellos.events.cell.lifecycle.v1.started\u{202e}\",\"data\":{\"runId\":\"\u{202e}r\"}}\n";
    let log = place.file("hostile.jsonl", event.repeat(2));
    let log = log.to_str().unwrap();
    let document = place.file(
        "hostile.json",
        "{\"apiVersion\":\"\u{202e}\",\"kind\":\"\u{202e}\",\"spec\":{\"\u{202e}\":1}}",
    );
    let document = document.to_str().unwrap();
    for call in [
        &["verify", log][..],
        &["verify", "--json", log],
        &["ps", "--all", "--log", log],
        &["ps", "--all", "--json", "--log", log],
        &["validate", "--json", document],
    ] {
        let output = place.cellos(call).output().unwrap();
        assert!(!output.stdout.is_empty(), "{call:?}");
        for bytes in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains('\u{202e}'), "{call:?}: {text}");
        }
    }
}
