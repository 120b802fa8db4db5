//! For tests: the stand-in for Firecracker's program `firecracker`, which Cargo builds beside the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    cellos_fake_vmm::vmm::run(std::env::args_os().skip(1))
}
