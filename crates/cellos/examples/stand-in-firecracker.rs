//! For tests: the stand-in for Firecracker, whose machines have their guests outside, beside the test.

use std::process::ExitCode;

use cellos_fake_vmm::settings::{Placement, Settings};

fn main() -> ExitCode {
    let settings = Settings {
        placement: Placement::Outside,
        ..Settings::default()
    };
    cellos_fake_vmm::vmm::run_with(settings, std::env::args_os().skip(1))
}
