//! The helper that confines monitors, for programs that cannot re-execute themselves: the tests of
//! this crate. `cellos` is its own helper.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    // Does not return in a process that was executed as a helper.
    cellos_isolation::confined::take_over_if_asked();
    eprintln!("cellos-confined is started by a backend, not by hand");
    std::process::ExitCode::from(2)
}
