//! For tests: the real guest program behind the stand-in for Firecracker, as an ordinary process. Its
//! cells are built from the namespaces of the host that the tests run on.

use std::{io, process::ExitCode};

use cellos_fake_vmm::guest::Device;

/// The vsock port on which the backend listens for PID 1.
const BRIDGE_PORT: u32 = 9010;

fn main() -> io::Result<ExitCode> {
    println!("the guest's console");
    let device = Device::from_inherited().map_err(io::Error::other)?;
    let stream = device.dial(BRIDGE_PORT).map_err(io::Error::other)?;
    match cellos_guest::run::on_stream(stream) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            println!("the guest ends: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}
