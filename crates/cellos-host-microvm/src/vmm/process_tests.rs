use std::{
    process::{Command, Stdio},
    time::Instant,
};

use super::*;

fn shell(script: &str) -> Monitor {
    let process = Command::new("/bin/sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Monitor::adopt("sh", process, None).unwrap()
}

#[tokio::test]
async fn an_end_is_noticed_at_once_by_every_caller() {
    let monitor = shell("sleep 0.2; exit 7");
    let begun = Instant::now();
    let (first, second) = tokio::join!(monitor.ended(), monitor.ended());
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(first.0.unwrap().code(), Some(7));
    assert_eq!(first, second);
    assert_eq!(monitor.ended().await, first);
    assert_eq!(monitor.end(), Some(first));
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed_and_collected() {
    let monitor = shell("trap '' TERM; while :; do sleep 1; done");
    let end = monitor.kill_and_wait().await.unwrap();
    assert_eq!(describe(end), "signal: 9 (SIGKILL)");
    // Collected: not even a zombie is there.
    assert!(!std::path::Path::new(&format!("/proc/{}", monitor.pid())).exists());
    monitor.kill().unwrap();
}

#[tokio::test]
async fn what_floods_its_standard_error_is_kept_short_and_does_not_stop() {
    let monitor = shell(
        "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); \
         echo \"a line of a flood that is rather long, number $i\" >&2; done; exit 3",
    );
    assert_eq!(monitor.ended().await.0.unwrap().code(), Some(3));
    let said = monitor.said();
    assert!(said.len() <= STDERR_BYTES, "{}", said.len());
    assert!(said.ends_with("number 3000\n"), "{said}");
}

#[tokio::test]
async fn its_last_words_are_in_the_error() {
    let monitor = shell("printf '\\033[31mno such device\\n' >&2; exit 1");
    let error = monitor.ended_during("boot").await.to_string();
    assert_eq!(
        error,
        "sh ended (exit status: 1) during boot: no such device"
    );
}

#[tokio::test]
async fn dropping_it_kills_it() {
    let monitor = shell("sleep 60");
    let mut end = monitor.end.clone();
    drop(monitor);
    let end = tokio::time::timeout(Duration::from_secs(5), end.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(describe(end), "signal: 9 (SIGKILL)");
}

#[tokio::test]
async fn a_descendant_that_keeps_the_pipe_open_does_not_hide_the_end() {
    let monitor = shell("sleep 3 & exit 5");
    let begun = Instant::now();
    assert_eq!(monitor.ended().await.0.unwrap().code(), Some(5));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn its_machines_console_is_kept_apart_from_its_own_words() {
    use std::io::Write as _;
    let (console, mut machine) = std::os::unix::net::UnixStream::pair().unwrap();
    let process = Command::new("/bin/sh")
        .args(["-c", "echo monitor >&2; sleep 60"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let monitor = Monitor::adopt("sh", process, Some(console.into())).unwrap();
    // More than its ring and the socket hold: whoever floods a console is never stopped by it.
    for number in 0..20_000 {
        writeln!(machine, "line {number} of a guest").unwrap();
    }
    machine.write_all(b"\x1b[2Jlast\n").unwrap();
    drop(machine);
    while !monitor.console().ends_with("last\n") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    monitor.kill_and_wait().await.unwrap();
    assert_eq!(monitor.said(), "monitor\n");
    assert!(monitor.console().len() <= CONSOLE_BYTES);
    assert!(monitor.console().ends_with("line 19999 of a guest\nlast\n"));
}
