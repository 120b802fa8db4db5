//! The stream to the host: bytes out, bytes in, and its end.

use std::time::Instant;

use cellos_bridge::{HostMessage, Phase};
use rustix::io::Errno;
use zeroize::Zeroize as _;

use super::{
    Session, SessionEnd, SessionError, cell::Stage, launcher_client::LauncherClient, stream_error,
};

impl Session {
    pub(super) fn write_stream(&mut self) -> Result<(), SessionError> {
        while let Some(bytes) = self.end.outgoing() {
            match rustix::io::write(&self.stream, bytes) {
                Ok(written) => self.end.sent(written),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Reading finds the stream's end, and what the host said before it.
                Err(Errno::PIPE | Errno::CONNRESET) => break,
                Err(error) => return Err(stream_error("write to", error)),
            }
        }
        Ok(())
    }

    /// Reads once, and does what the host wants.
    pub(super) fn read_stream(
        &mut self,
        launcher: &mut LauncherClient,
    ) -> Result<Option<SessionEnd>, SessionError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = rustix::io::read(&self.stream, buffer.as_mut_slice());
        let taken = match read {
            Ok(0) | Err(Errno::CONNRESET | Errno::PIPE) => self.host_left(),
            Ok(length) => self.take(buffer.get(..length).unwrap_or_default(), launcher),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(stream_error("read from", error)),
        };
        // A configuration was in it, with a key.
        buffer.as_mut_slice().zeroize();
        self.buffer = buffer;
        taken
    }

    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        launcher: &mut LauncherClient,
    ) -> Result<Option<SessionEnd>, SessionError> {
        while let Some(message) = self.end.receive(&mut bytes, Instant::now())? {
            if matches!(message, HostMessage::Acknowledge) {
                return Ok(Some(SessionEnd::Acknowledged));
            }
            self.obey(message, launcher)?;
        }
        Ok(None)
    }

    pub(super) fn host_left(&mut self) -> Result<Option<SessionEnd>, SessionError> {
        match self.end.closed() {
            Ok(()) => Ok(Some(SessionEnd::Acknowledged)),
            // Also within a frame: a snapshot is taken at any moment.
            Err(_) if self.end.phase() == Phase::Parked => Ok(Some(SessionEnd::LeftWhileParked)),
            Err(_) if matches!(self.stage, Stage::Failed { .. }) => {
                Ok(Some(SessionEnd::NeverAcknowledged))
            }
            Err(error) => Err(error.into()),
        }
    }
}
