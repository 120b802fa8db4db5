//! Leaves out of the release program what is there for unwinding alone: a tenth of it.
//!
//! A panic ends that program at once (`panic = "abort"` of the workspace), so nothing ever walks
//! its stack by these tables. The compiler makes them anyway, and the ready-made standard library
//! comes with them. Programs of other profiles unwind and keep them.

use std::env;

/// The linker's script that does it, beside this file.
const SCRIPT: &str = "without-unwinding.ld";

fn main() {
    println!("cargo::rerun-if-changed={SCRIPT}");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    // Other C libraries register the tables at the start, and have to find them.
    let is_known = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if is("PROFILE", "release") && is_known {
        let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        let script = format!("{folder}/{SCRIPT}");
        for argument in ["-Wl,--no-eh-frame-hdr", "-T", &script] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
