//! What a command writes goes past cellos, so no reader and no disk can hold cellos up.

use std::{
    fs::File,
    io::Read as _,
    process::Stdio,
    time::{Duration, Instant},
};

use cellos_testkit::require;

use crate::trial::{Ends, Trial, wait};

#[test]
fn a_slow_reader_gets_every_byte_and_then_the_end() {
    require!("userns");
    let trial = Trial::new();
    let mut child = trial
        .shell(&[], "head -c 3000000 /dev/zero; exit 4")
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        if total < 500_000 {
            std::thread::sleep(Duration::from_millis(20));
        }
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            read => total += read,
        }
    }
    assert_eq!(total, 3_000_000);
    trial.check(&wait(child), &Ends::exited(4));
}

#[test]
fn a_flood_that_nobody_reads_ends_with_its_deadline() {
    require!("userns");
    let trial = Trial::new();
    let mut child = trial
        .shell(&["--timeout", "300ms", "--grace", "0s"], "exec yes")
        .spawn()
        .unwrap();
    // Held open and never read, so that the command blocks in the middle of a write.
    let unread = child.stdout.take().unwrap();
    trial.check(&wait(child), &Ends::timed_out());
    drop(unread);
}

#[test]
fn a_flood_of_errors_into_a_full_device_is_the_commands_business() {
    require!("userns");
    let trial = Trial::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let child = trial
        .shell(&[], "yes; exit 6")
        .stdout(Stdio::from(full))
        .spawn()
        .unwrap();
    trial.check(&wait(child), &Ends::exited(6));
}

#[test]
fn a_flood_into_a_closed_pipe_ends_the_command_by_sigpipe() {
    require!("userns");
    let trial = Trial::new();
    let begun = Instant::now();
    let mut child = trial.shell(&[], "exec yes").spawn().unwrap();
    drop(child.stdout.take());
    trial.check(&wait(child), &Ends::signalled(13));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_record_that_cannot_be_written_is_an_error_and_the_evidence_is_whole() {
    require!("userns");
    let trial = Trial::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = trial
        .shell(&["--json"], "exit 0")
        .stdout(Stdio::from(full))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    crate::trial::assert_one_error(&output, Some("standard output cannot be written"));
    assert_eq!(trial.log().types(), crate::trial::WHOLE_RUN);
    trial.assert_nothing_left();
}
