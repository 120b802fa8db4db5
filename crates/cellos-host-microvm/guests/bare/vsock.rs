//! One stream connection to the host (virtio 1.2, 5.10).

use crate::{
    Failure,
    exit_frame::FRAME_BYTES,
    patience::Patience,
    queue::{HEADER_BYTES, MESSAGES, Memory, PAYLOAD_BYTES, Queue, Writer},
    virtio_mmio::Device,
};

/// The host's context id.
const HOST_CID: u64 = 2;
/// Our port: any above the privileged ones.
const LOCAL_PORT: u32 = 50_000;
/// A stream, of the kinds of socket.
const STREAM: u16 = 1;
/// What we say we can hold: all that the receive queue can.
const RECEIVE_BYTES: u32 = PAYLOAD_BYTES * MESSAGES as u32;

/// Queues of the device.
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const EVENT: u32 = 2;

/// Operations.
mod operation {
    pub(super) const REQUEST: u16 = 1;
    pub(super) const RESPONSE: u16 = 2;
    pub(super) const RESET: u16 = 3;
    pub(super) const SHUTDOWN: u16 = 4;
    pub(super) const DATA: u16 = 5;
    pub(super) const CREDIT_UPDATE: u16 = 6;
    pub(super) const CREDIT_REQUEST: u16 = 7;
}

static RECEIVE_MEMORY: Memory = Memory::new();
static TRANSMIT_MEMORY: Memory = Memory::new();
static EVENT_MEMORY: Memory = Memory::new();

/// `struct virtio_vsock_hdr`, the parts that matter here.
#[derive(Clone, Copy)]
struct Header {
    source: (u64, u32),
    destination: (u64, u32),
    length: u32,
    kind: u16,
    operation: u16,
    /// Bytes that the sender can hold, and how many it has consumed.
    credit: (u32, u32),
}

/// A connection, open or about to be.
pub(crate) struct Connection {
    device: Device,
    receive: Queue,
    transmit: Queue,
    local: (u64, u32),
    host: (u64, u32),
    /// Bytes received and consumed.
    consumed: u32,
}

impl Connection {
    /// Starts the device and connects to a port of the host.
    pub(crate) fn open(device: Device, port: u32) -> Result<Self, Failure> {
        device.negotiate()?;
        let mut receive = Queue::new(&RECEIVE_MEMORY, Writer::Device);
        let transmit = Queue::new(&TRANSMIT_MEMORY, Writer::Driver);
        let event = Queue::new(&EVENT_MEMORY, Writer::Device);
        device.set_up(RECEIVE, receive.places())?;
        device.set_up(TRANSMIT, transmit.places())?;
        // Nothing is ever offered in it: the only event is a migration, which no one does here.
        device.set_up(EVENT, event.places())?;
        device.start();
        for message in 0..MESSAGES {
            receive.offer(message, PAYLOAD_BYTES);
        }
        device.notify(RECEIVE);

        let cid = joined([device.configuration(0), device.configuration(4)]);
        let mut connection = Self {
            device,
            receive,
            transmit,
            local: (cid, LOCAL_PORT),
            host: (HOST_CID, port),
            consumed: 0,
        };
        connection.say(operation::REQUEST, &[])?;
        let (answer, _) = connection.next()?;
        match answer.operation {
            // A window for the one frame that is sent is all that is needed of the credit.
            operation::RESPONSE if answer.credit.0 >= FRAME_BYTES as u32 => Ok(connection),
            operation::RESET | operation::SHUTDOWN => Err(Failure::Refused),
            _ => Err(Failure::Protocol),
        }
    }

    /// Sends the frame.
    pub(crate) fn send(&mut self, frame: &[u8; FRAME_BYTES]) -> Result<(), Failure> {
        self.say(operation::DATA, frame)
    }

    /// Waits for one byte and refuses more.
    pub(crate) fn receive_byte(&mut self) -> Result<u8, Failure> {
        match self.next()? {
            (header, byte) if header.operation == operation::DATA && header.length == 1 => Ok(byte),
            (header, _) if matches!(header.operation, operation::RESET | operation::SHUTDOWN) => {
                Err(Failure::Refused)
            }
            _ => Err(Failure::Protocol),
        }
    }

    /// The next packet of this connection that is not about credit, and its first byte.
    fn next(&mut self) -> Result<(Header, u8), Failure> {
        let mut patience = Patience::for_answer();
        while patience.lasts() {
            let Some((message, written)) = self.receive.returned()? else {
                if patience.reminds() {
                    self.device.notify(RECEIVE);
                }
                continue;
            };
            let header = Header::read(self.receive.header(message));
            let byte = self.receive.first_byte(message);
            self.receive.offer(message, PAYLOAD_BYTES);
            self.device.notify(RECEIVE);

            let whole = written.checked_sub(HEADER_BYTES);
            if whole.is_none_or(|payload| payload < header.length) {
                return Err(Failure::Protocol);
            }
            // The host may dial us too; nobody answers it.
            let ours = header.source == self.host && header.destination == self.local;
            if !ours || header.kind != STREAM {
                continue;
            }
            match header.operation {
                operation::CREDIT_UPDATE => {}
                operation::CREDIT_REQUEST => self.say(operation::CREDIT_UPDATE, &[])?,
                _ => {
                    self.consumed = self.consumed.wrapping_add(header.length);
                    return Ok((header, byte));
                }
            }
        }
        Err(Failure::TimedOut)
    }

    /// Sends one packet and waits until the device has taken it.
    fn say(&mut self, operation: u16, payload: &[u8]) -> Result<(), Failure> {
        let length = u32::try_from(payload.len()).map_err(|_| Failure::Protocol)?;
        let header = Header {
            source: self.local,
            destination: self.host,
            length,
            kind: STREAM,
            operation,
            credit: (RECEIVE_BYTES, self.consumed),
        };
        self.transmit.set_header(0, header.words());
        self.transmit.set_payload(0, payload);
        self.transmit.offer(0, length);
        self.device.notify(TRANSMIT);
        let mut patience = Patience::for_answer();
        while self.transmit.returned()?.is_none() {
            if !patience.lasts() {
                return Err(Failure::TimedOut);
            }
            if patience.reminds() {
                self.device.notify(TRANSMIT);
            }
        }
        Ok(())
    }
}

impl Header {
    fn words(self) -> [u32; 11] {
        let [source_low, source_high] = halves(self.source.0);
        let [destination_low, destination_high] = halves(self.destination.0);
        [
            source_low,
            source_high,
            destination_low,
            destination_high,
            self.source.1,
            self.destination.1,
            self.length,
            u32::from(self.operation) << 16 | u32::from(self.kind),
            0,
            self.credit.0,
            self.credit.1,
        ]
    }

    fn read(words: [u32; 11]) -> Self {
        Self {
            source: (joined([words[0], words[1]]), words[4]),
            destination: (joined([words[2], words[3]]), words[5]),
            length: words[6],
            kind: words[7] as u16,
            operation: (words[7] >> 16) as u16,
            credit: (words[9], words[10]),
        }
    }
}

/// A number's lower and upper half.
pub(crate) fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

fn joined([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
