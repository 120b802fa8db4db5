//! Help, versions, schema, completions and manual pages.

use crate::program::{Place, cellos_program, snapshot};

#[test]
fn every_command_has_a_help_text() {
    let place = Place::new();
    for command in [
        "",
        "run",
        "validate",
        "doctor",
        "schema",
        "ps",
        "inspect",
        "explain",
        "verify",
        "attest",
        "reap",
        "keys",
        "forward",
        "version",
        "completions",
        "man",
    ] {
        let arguments: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|it| !it.is_empty())
            .collect();
        let output = place.cellos(&arguments).output().unwrap();
        let name = if command.is_empty() {
            "cellos"
        } else {
            command
        };
        snapshot!(format!("help-{name}"), place, &output);
    }
}

#[test]
fn the_drop_in_answers_help_and_version_without_looking_at_anything() {
    let place = Place::new();
    for (name, argument) in [("help", "--help"), ("version", "--version"), ("v", "-V")] {
        // A configuration that every run would refuse.
        let output = place
            .supervisor(&[argument])
            .env("CELLOS_DEPLOYMENT_PROFILE", "nonsense")
            .output()
            .unwrap();
        snapshot!(format!("supervisor-{name}"), place, &output);
    }
}

#[test]
fn a_link_named_cellos_supervisor_is_the_drop_in() {
    let place = Place::new();
    let link = place.path().join("cellos-supervisor");
    std::os::unix::fs::symlink(cellos_program(), &link).unwrap();
    let output = std::process::Command::new(link).arg("-V").output().unwrap();
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .starts_with("cellos-supervisor ")
    );
}

#[test]
fn versions_name_the_documents_and_backends() {
    let place = Place::new();
    snapshot!(
        "version",
        place,
        &place.cellos(&["version"]).output().unwrap()
    );
    let output = place.cellos(&["version", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        json["backends"],
        serde_json::json!(["linux", "microvm", "stub"])
    );
}

#[test]
fn the_schema_is_the_one_of_the_core() {
    let place = Place::new();
    let output = place
        .cellos(&["schema", "execution-cell"])
        .output()
        .unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, cellos_core::schema::execution_cell());
}

#[test]
fn completions_know_the_flags_of_run() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = place.cellos(&["completions", shell]).output().unwrap();
        assert!(output.status.success());
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("show-evidence"),
            "{shell}"
        );
    }
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let place = Place::new();
    let output = place.cellos(&["man", "pages"]).output().unwrap();
    assert!(output.status.success());
    for page in [
        "cellos.1",
        "cellos-run.1",
        "cellos-validate.1",
        "cellos-doctor.1",
    ] {
        assert!(place.path().join("pages").join(page).exists(), "{page}");
    }
}

#[test]
fn nothing_is_coloured_off_a_terminal() {
    let place = Place::new();
    let output = place.cellos(&["--help"]).output().unwrap();
    assert!(!output.stdout.contains(&0x1b));
    let output = place.cellos(&["run"]).output().unwrap();
    assert!(!output.stderr.contains(&0x1b));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::Stdio;
    let place = Place::new();
    let mut child = place
        .cellos(&["schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
