//! The programs from crates.io that the gate needs. They are installed where cargo keeps its programs,
//! so that they outlive `cargo clean` and serve every checkout.

use std::path::PathBuf;
use std::process::Command;

use crate::error::TaskError;
use crate::process;
use crate::workspace::{self, Workspace};

/// A program, the oldest version that will do, and the one that is installed if needed.
struct Tool {
    program: &'static str,
    /// Makes it say its version.
    version: &'static [&'static str],
    oldest: Version,
    install: &'static str,
}

type Version = (u32, u32, u32);

const TOOLS: &[Tool] = &[
    // `leak-timeout.result` and the archive of a run need this version.
    Tool {
        program: "cargo-nextest",
        version: &["nextest", "--version"],
        oldest: (0, 9, 100),
        install: "0.9.143",
    },
    // The licence and ban tables of deny.toml are in this version's form.
    Tool {
        program: "cargo-deny",
        version: &["deny", "--version"],
        oldest: (0, 18, 0),
        install: "0.20.2",
    },
    // The vsock device of QEMU's machines on a host whose kernel has none; about a minute to build.
    Tool {
        program: "vhost-device-vsock",
        version: &["--version"],
        oldest: (0, 3, 0),
        install: "0.3.0",
    },
];

/// Installs each tool that is absent or too old.
pub(crate) fn ensure(workspace: &Workspace) -> Result<String, TaskError> {
    let mut notes = Vec::new();
    for tool in TOOLS {
        let found = installed(tool);
        if found.is_some_and(|version| version >= tool.oldest) {
            continue;
        }
        process::run(&mut workspace.cargo(&[
            "install",
            "--locked",
            "--force",
            "--version",
            tool.install,
            tool.program,
        ]))?;
        notes.push(format!("installed {} {}", tool.program, tool.install));
    }
    if notes.is_empty() {
        return Ok(format!("all {} there", TOOLS.len()));
    }
    Ok(notes.join(", "))
}

/// Where one of them is found: on the search path, or among what it installed itself.
pub(crate) fn locate(program: &str) -> Option<PathBuf> {
    process::find(program).or_else(|| {
        let own = workspace::cargo_home()?.join("bin").join(program);
        own.is_file().then_some(own)
    })
}

fn installed(tool: &Tool) -> Option<Version> {
    let output = Command::new(locate(tool.program)?)
        .args(tool.version)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    version_of(&text)
}

/// The first `x.y.z` of a program's own version line.
fn version_of(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.').map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>().ok()
        });
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_from_what_each_tool_prints() {
        let cases = [
            ("cargo-deny 0.20.2\n", Some((0, 20, 2))),
            (
                "cargo-nextest 0.9.143 (60fa45f63 2026-08-04)\n",
                Some((0, 9, 143)),
            ),
            ("vhost-device-vsock 0.3.0\n", Some((0, 3, 0))),
            ("tool 1.2.3-rc.1", Some((1, 2, 3))),
            ("tool", None),
            ("", None),
        ];
        for (text, version) in cases {
            assert_eq!(version_of(text), version, "{text:?}");
        }
    }

    #[test]
    fn what_would_be_installed_is_new_enough() {
        for tool in TOOLS {
            assert!(
                version_of(tool.install).unwrap() >= tool.oldest,
                "{}",
                tool.program
            );
        }
    }
}
