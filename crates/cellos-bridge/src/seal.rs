//! Authentication of the exit.
//!
//! HMAC-SHA256 under the session key over
//!
//! ```text
//! "cellos-bridge exit" 0x00 || protocol version (1 byte)
//! || length of the run's id (u32 LE) || run's id || length of the cell's id (u32 LE) || cell's id
//! || boot nonce (32) || host nonce (32) || transcript (32)
//! || body of the exit without its code
//! ```
//!
//! The transcript is `SHA-256(SHA-256(every frame of the guest before, headers included) ||
//! SHA-256(body of the Config))`. Two hashes, because frames of the two directions cross on the way
//! and each end would see them in another order.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize as _;

use crate::{BridgeError, Nonce, PROTOCOL_VERSION, SessionKey};

/// Size of the authentication code in bytes.
pub(crate) const MAC_BYTES: usize = 32;

/// Keeps this use of the key apart from any other.
const DOMAIN: &[u8] = b"cellos-bridge exit\0";

/// What both ends saw, hashed.
#[derive(Default)]
pub(crate) struct Transcript {
    guest_frames: Sha256,
}

impl Transcript {
    /// Counts a frame of the guest, or a part of it.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.guest_frames.update(bytes);
    }

    fn finish(&self, config: &[u8; 32]) -> [u8; 32] {
        let mut both = Sha256::new();
        both.update(self.guest_frames.clone().finalize());
        both.update(config);
        both.finalize().into()
    }
}

/// What an exit is bound to, known once the guest is configured.
pub(crate) struct Seal {
    key: SessionKey,
    run_id: String,
    cell_id: String,
    boot_nonce: Nonce,
    host_nonce: Nonce,
    config: [u8; 32],
}

impl Seal {
    pub(crate) fn new(config: &crate::Config, body: &[u8], boot_nonce: Nonce) -> Self {
        Self {
            key: config.session_key.clone(),
            run_id: config.run_id.clone(),
            cell_id: config.cell_id.clone(),
            boot_nonce,
            host_nonce: config.host_nonce,
            config: Sha256::digest(body).into(),
        }
    }

    /// The code of an exit.
    pub(crate) fn mac(&self, transcript: &Transcript, exit: &[u8]) -> [u8; MAC_BYTES] {
        self.hmac(transcript, exit).finalize().into_bytes().into()
    }

    /// Compares the code of an exit in constant time.
    pub(crate) fn verify(
        &self,
        transcript: &Transcript,
        exit: &[u8],
        mac: &[u8],
    ) -> Result<(), BridgeError> {
        self.hmac(transcript, exit)
            .verify_slice(mac)
            .map_err(|_| BridgeError::ForgedExit)
    }

    fn hmac(&self, transcript: &Transcript, exit: &[u8]) -> Hmac<Sha256> {
        let mut hmac = keyed(&self.key);
        hmac.update(DOMAIN);
        hmac.update(&[PROTOCOL_VERSION]);
        for id in [&self.run_id, &self.cell_id] {
            // Ids are bounded far below u32 by the frame they came in.
            hmac.update(&u32::try_from(id.len()).unwrap_or(u32::MAX).to_le_bytes());
            hmac.update(id.as_bytes());
        }
        hmac.update(&self.boot_nonce.0);
        hmac.update(&self.host_nonce.0);
        hmac.update(&transcript.finish(&self.config));
        hmac.update(exit);
        hmac
    }
}

/// HMAC-SHA256 under a session key. The block is built by hand, because the constructor for slices
/// returns a `Result` although RFC 2104 has no length that HMAC could refuse.
pub(crate) fn keyed(key: &SessionKey) -> Hmac<Sha256> {
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    block[..key.as_bytes().len()].copy_from_slice(key.as_bytes());
    let hmac = Hmac::<Sha256>::new(&block);
    block.as_mut_slice().zeroize();
    hmac
}
