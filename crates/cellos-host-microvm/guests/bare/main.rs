//! A machine that runs nothing but the exit frame: it boots, finds its vsock device, tells the host
//! one exit code, waits for the acknowledgement and resets itself. See README.md beside this file.

#![no_std]
#![no_main]

mod arguments;
mod boot;
mod exit_frame;
mod machine;
mod patience;
mod queue;
#[cfg(relay)]
mod relay;
mod sha256;
mod virtio_mmio;
mod vsock;

use arguments::Arguments;
use vsock::Connection;

/// What the host answers a frame that it believes.
const ACKNOWLEDGED: u8 = 0;

/// Why the machine gave up. Each is one letter on the serial port.
#[derive(Clone, Copy)]
enum Failure {
    /// What the monitor handed over at the start is not what its protocol says.
    BootInformation,
    /// A word of the command line is missing, there twice or malformed.
    Arguments,
    /// No named device is a modern virtio socket.
    NoDevice,
    /// The device refused the features or the queues.
    Negotiation,
    /// The host refused the connection or ended it too early.
    Refused,
    /// The device said something that is not its protocol.
    Protocol,
    /// Nothing happened for too long.
    TimedOut,
    /// The host answered, but not with an acknowledgement.
    NotAcknowledged,
}

impl Failure {
    fn letter(self) -> u8 {
        match self {
            Self::BootInformation => b'B',
            Self::Arguments => b'A',
            Self::NoDevice => b'D',
            Self::Negotiation => b'N',
            Self::Refused => b'R',
            Self::Protocol => b'P',
            Self::TimedOut => b'T',
            Self::NotAcknowledged => b'K',
        }
    }
}

/// Where both entries of [`boot`] end up, on a stack of our own and with the first 4 GiB mapped.
#[unsafe(no_mangle)]
extern "C" fn bare_guest(information: u64, protocol: boot::Protocol) -> ! {
    if let Err(failure) = run(information, protocol) {
        machine::serial(failure.letter());
    }
    machine::reset()
}

fn run(information: u64, protocol: boot::Protocol) -> Result<(), Failure> {
    let command_line = boot::command_line(information, protocol).ok_or(Failure::BootInformation)?;
    #[cfg(relay)]
    relay::to_linux_entry(command_line, protocol)?;
    let arguments = Arguments::parse(command_line).ok_or(Failure::Arguments)?;
    let device = arguments::devices(command_line)
        .find_map(virtio_mmio::Device::at)
        .ok_or(Failure::NoDevice)?;
    let frame = exit_frame::encode(arguments.exit_code, &arguments.key, arguments.cell_id);

    let mut connection = Connection::open(device, arguments.vsock_port)?;
    connection.send(&frame)?;
    match connection.receive_byte()? {
        ACKNOWLEDGED => Ok(()),
        _ => Err(Failure::NotAcknowledged),
    }
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    machine::serial(b'!');
    machine::reset()
}
