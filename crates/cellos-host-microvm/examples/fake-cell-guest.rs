//! For tests: the real guest program behind the stand-in for Firecracker, as an ordinary process. Its
//! cells are built from the namespaces of the host that the tests run on.

use std::{io, os::fd::AsFd as _, process::ExitCode};

use cellos_fake_vmm::guest::{Device, DeviceError};

/// The vsock port on which the backend listens for PID 1.
const BRIDGE_PORT: u32 = 9010;

fn main() -> io::Result<ExitCode> {
    println!("the guest's console");
    let stream = match Device::from_inherited() {
        // A test is in between.
        Err(DeviceError::Absent) => io::stdin().as_fd().try_clone_to_owned()?,
        device => device
            .and_then(|device| device.dial(BRIDGE_PORT))
            .map_err(io::Error::other)?,
    };
    match cellos_guest::run::on_stream(stream) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            println!("the guest ends: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}
