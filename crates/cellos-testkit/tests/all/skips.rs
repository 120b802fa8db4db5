//! Skipping: said aloud, and a failure where the ability is required.

use std::{env, process::Command};

use cellos_testkit::{
    Missing,
    contract::{self, CaseResult, Subject},
    require, test_name,
};

use crate::double::Double;

/// Set in the child: which way of skipping it tries.
const WAY: &str = "CELLOS_TESTKIT_SKIPS";

fn missing() -> Missing {
    Missing {
        word: "unobtainium".into(),
        why: "there is none".into(),
    }
}

fn skip_by_macro() {
    require!("unobtainium", Err::<(), _>("there is none"));
    println!("the body ran");
}

fn skip_by_factory() -> CaseResult {
    async fn case(_: Subject) -> CaseResult {
        println!("the body ran");
        Ok(())
    }
    contract::run("skip_by_factory", || Err::<Double, _>(missing()), case)
}

/// Whether the test passed, and all it printed.
fn child(way: &str, required: &str) -> (bool, String) {
    let output = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "skips::a_missing_ability_is_reported_and_fails_where_required",
        ])
        .arg("--nocapture")
        .env(WAY, way)
        .env("CELLOS_TEST_REQUIRE", required)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_missing_ability_is_reported_and_fails_where_required() {
    match env::var(WAY).as_deref() {
        Ok("macro") => return skip_by_macro(),
        Ok("factory") => return skip_by_factory().unwrap(),
        _ => {}
    }
    assert!(test_name!().ends_with("fails_where_required"));
    for way in ["macro", "factory"] {
        let (passed, text) = child(way, "userns");
        assert!(passed, "{text}");
        let line = format!(
            "SKIPPED {}",
            match way {
                "macro" => "skips::skip_by_macro: needs unobtainium: there is none",
                _ => "skip_by_factory: needs unobtainium: there is none",
            }
        );
        assert!(text.lines().any(|other| other.contains(&line)), "{text}");

        for required in ["unobtainium", "userns,unobtainium", "all"] {
            let (passed, text) = child(way, required);
            assert!(!passed, "{way} with {required}: {text}");
            assert!(text.contains("needs unobtainium: there is none"), "{text}");
            assert!(!text.contains("SKIPPED"), "{text}");
        }
        assert!(!text.contains("the body ran"));
    }
}
