//! `fake-firecracker`: behaves like Firecracker, runs the guest as a process. For tests only.

use std::process::ExitCode;

fn main() -> ExitCode {
    cellos_fake_vmm::vmm::run(std::env::args_os().skip(1))
}
