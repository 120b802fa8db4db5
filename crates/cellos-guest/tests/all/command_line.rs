//! What the program makes of its arguments where it is not PID 1.

use std::process::{Command, Stdio};

use crate::host::guest_program;

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for arguments in [
        &[][..],
        &["--on-descriptor"],
        &["--on-descriptor", "x"],
        &["--on-descriptor", "1"],
        &["--on-descriptor", "77"],
        &["--on-descriptor", "-1"],
        &["--on-descriptor", "0", "more"],
        &["--version", "more"],
    ] {
        let output = Command::new(guest_program())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_descriptor_that_is_no_stream_ends_it() {
    let output = Command::new(guest_program())
        .args(["--on-descriptor", "0"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("write to the bridge"), "{said}");
}
