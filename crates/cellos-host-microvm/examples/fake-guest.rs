//! For tests: the guest of the stand-in for Firecracker. Dials the port in its first argument, says
//! in one line what it found, and ends when it is sent a byte; when the connection ends without
//! one, it stays.

use std::{
    env,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use cellos_fake_vmm::guest::{BOOT_VARIABLE, COMMAND_LINE_VARIABLE, DRIVES_VARIABLE, Device};

fn main() -> io::Result<()> {
    let port = env::args().nth(1).and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| io::Error::other("the argument is no port"))?;
    println!("the guest's console");
    let device = Device::from_inherited().map_err(io::Error::other)?;
    let mut stream = UnixStream::from(device.dial(port).map_err(io::Error::other)?);
    let variable = |name| env::var(name).unwrap_or_default();
    let found = serde_json::json!({
        "boot": variable(BOOT_VARIABLE),
        "command_line": variable(COMMAND_LINE_VARIABLE),
        "drives": variable(DRIVES_VARIABLE),
    });
    writeln!(stream, "{found}")?;
    if stream.read(&mut [0])? == 0 {
        loop {
            thread::sleep(Duration::from_secs(3600));
        }
    }
    Ok(())
}
