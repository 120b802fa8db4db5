//! Documentation that is made from the program.

use crate::program::source_file;

/// Set to write the files instead of comparing them.
const BLESS: &str = "BLESS_DOCS";

fn assert_true_to(name: &str, expected: &str) {
    let path = source_file("../../docs").join(name);
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is not what the program says; {BLESS}=1 cargo test -p cellos writes it"
    );
}

#[test]
fn exit_codes_are_documented_as_they_are() {
    assert_true_to("exit-codes.md", &cellos::exit::documentation());
}

#[test]
fn variables_of_the_drop_in_are_documented_as_they_are() {
    assert_true_to(
        "supervisor-variables.md",
        &cellos::supervisor_variables_documentation(),
    );
}
