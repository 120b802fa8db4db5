//! `fake-jailer`: behaves like Firecracker's jailer. For tests only.

use std::process::ExitCode;

fn main() -> ExitCode {
    cellos_fake_vmm::jailer::run(std::env::args_os().skip(1))
}
