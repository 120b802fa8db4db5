//! For tests: the stand-in for Firecracker's jailer.

use std::process::ExitCode;

fn main() -> ExitCode {
    cellos_fake_vmm::jailer::run(std::env::args_os().skip(1))
}
