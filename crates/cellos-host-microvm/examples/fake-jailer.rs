//! For tests: the stand-in for Firecracker's program `jailer`, which Cargo builds beside the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    cellos_fake_vmm::jailer::run(std::env::args_os().skip(1))
}
