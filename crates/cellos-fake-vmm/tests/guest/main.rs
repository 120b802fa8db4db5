//! The guest of this crate's tests: carries out its arguments one after the other, then ends, which
//! is the reset of its machine.

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use cellos_fake_vmm::guest::{
    BOOT_VARIABLE, COMMAND_LINE_VARIABLE, DRIVES_VARIABLE, Device, DeviceError,
};

fn main() -> Result<(), Box<dyn Error>> {
    let device = match Device::from_inherited() {
        Ok(device) => Some(device),
        Err(DeviceError::Absent) => None,
        Err(error) => return Err(error.into()),
    };
    let found = || device.as_ref().ok_or("there is no vsock device");
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut port = || words.next().unwrap_or_default().parse::<u32>();
        match word.as_str() {
            // Prints a line to the serial console.
            "print" => println!("{}", words.next().unwrap_or_default()),
            // Says whether there is a device.
            "device" => println!("device: {}", device.is_some()),
            // Dials, tells what it found, and waits for one byte.
            "report" => {
                let mut stream = UnixStream::from(found()?.dial(port()?)?);
                writeln!(stream, "{}", report())?;
                stream.read_exact(&mut [0])?;
            }
            // Dials and says how it went.
            "try" => {
                let port = port()?;
                match found()?.dial(port) {
                    Ok(_) => println!("connected"),
                    Err(DeviceError::Refused { .. }) => println!("refused {port}"),
                    Err(error) => return Err(error.into()),
                }
            }
            // Dials and keeps the stream open until the host ends it.
            "hold" => {
                let mut stream = UnixStream::from(found()?.dial(port()?)?);
                stream.write_all(b"held\n")?;
                io::copy(&mut stream, &mut io::sink())?;
                println!("released");
            }
            // Listens, and sends every connection's bytes back until it was sent `end`.
            "echo" => echo(found()?, port()?)?,
            "sleep" => thread::sleep(Duration::from_millis(port()?.into())),
            other => return Err(format!("unknown word {other:?}").into()),
        }
    }
    Ok(())
}

fn report() -> serde_json::Value {
    let variable = |name| env::var(name).unwrap_or_default();
    serde_json::json!({
        "pid": std::process::id(),
        "boot": variable(BOOT_VARIABLE),
        "command_line": variable(COMMAND_LINE_VARIABLE),
        "drives": variable(DRIVES_VARIABLE),
        "environment": env::vars().map(|(name, _)| name).collect::<Vec<_>>(),
    })
}

fn echo(device: &Device, port: u32) -> Result<(), Box<dyn Error>> {
    let listener = device.listen(port)?;
    if device.listen(port).is_ok() {
        return Err("a port was given twice".into());
    }
    println!("listening");
    loop {
        let mut stream = UnixStream::from(listener.accept()?);
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        stream.write_all(&text)?;
        stream.shutdown(Shutdown::Write)?;
        if text == b"end" {
            // What was sent back must have left the machine before it resets.
            stream.read_to_end(&mut text)?;
            thread::sleep(Duration::from_millis(100));
            return Ok(());
        }
    }
}
