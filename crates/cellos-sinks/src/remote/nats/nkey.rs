//! NATS keys: Ed25519 seeds and public keys as text.
//!
//! The text is base32 (RFC 4648, without padding) of a prefix that tells what the key is for, the
//! key, and a CRC-16 (XMODEM, low byte first) of both. A seed has two bytes of prefix: the mark
//! of a seed, and the kind of its key, spread over both.

use cellos_core::signing::{Signer, SoftwareSigner};
use zeroize::Zeroizing;

/// Characters of a seed's text: 2 bytes of prefix, 32 of the seed, 2 of the checksum.
pub(super) const SEED_CHARS: usize = 58;
/// Bytes of a decoded seed.
const SEED_BYTES: usize = 36;
/// First five bits of a seed: the letter S.
const SEED_MARK: u8 = 18 << 3;
/// First byte of a user's public key: the letter U.
const USER: u8 = 20 << 3;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Why a text is no user's seed. The text itself never appears in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NkeyError {
    /// Another length.
    #[error("a seed has {SEED_CHARS} characters, this has {found}")]
    Length {
        /// Its characters.
        found: usize,
    },
    /// A character that base32 has not.
    #[error("a seed is base32: A to Z and 2 to 7")]
    Alphabet,
    /// The checksum is another.
    #[error("the checksum of the seed is wrong; a character was changed or left out")]
    Checksum,
    /// A key, but no seed.
    #[error("this is no seed; a user's seed begins with SU")]
    NoSeed,
    /// The seed of an account, an operator or a server.
    #[error("this is no user's seed; that begins with SU")]
    NotAUser,
}

/// The key of a user. Never printed; its seed is wiped when it is dropped.
#[derive(Debug)]
pub(super) struct UserKey {
    signer: SoftwareSigner,
}

impl UserKey {
    /// Reads the text of a seed, without anything around it.
    ///
    /// # Errors
    /// [`NkeyError`].
    pub(super) fn from_seed(text: &str) -> Result<Self, NkeyError> {
        let raw = decode_seed(text)?;
        let kind = (raw[0] & 0b111) << 5 | raw[1] >> 3;
        match (raw[0] & 0b1111_1000, kind) {
            (SEED_MARK, USER) => {}
            (SEED_MARK, _) => return Err(NkeyError::NotAUser),
            _ => return Err(NkeyError::NoSeed),
        }
        let mut seed = [0; 32];
        seed.copy_from_slice(&raw[2..34]);
        let signer = SoftwareSigner::from_seed("nkey", seed);
        zeroize::Zeroize::zeroize(&mut seed);
        Ok(Self { signer })
    }

    /// The public key as text; begins with U.
    #[must_use]
    pub(super) fn public(&self) -> String {
        encode_public(USER, self.signer.verifying_key().as_bytes())
    }

    /// Signs what a server sent to be signed. `None` when the signer refuses, which one in memory
    /// never does.
    #[must_use]
    pub(super) fn sign(&self, nonce: &[u8]) -> Option<[u8; 64]> {
        self.signer.sign(nonce).ok()
    }
}

fn decode_seed(text: &str) -> Result<Zeroizing<[u8; SEED_BYTES]>, NkeyError> {
    if text.len() != SEED_CHARS {
        let found = text.chars().count();
        return Err(NkeyError::Length { found });
    }
    let mut raw = Zeroizing::new([0; SEED_BYTES]);
    let mut bits = 0_u32;
    let mut held = 0_u32;
    let mut bytes = raw.iter_mut();
    for digit in text.bytes() {
        bits = (bits << 5 | u32::from(value_of(digit)?)) & 0xFFF;
        held += 5;
        if held >= 8 {
            held -= 8;
            if let Some(byte) = bytes.next() {
                *byte = (bits >> held & 0xFF) as u8;
            }
        }
    }
    // 58 digits are 290 bits, two more than 36 bytes; another text with the same bytes is none.
    if bits & 0b11 != 0 {
        return Err(NkeyError::Alphabet);
    }
    let stated = u16::from_le_bytes([raw[34], raw[35]]);
    match crc16(&raw[..34]) == stated {
        true => Ok(raw),
        false => Err(NkeyError::Checksum),
    }
}

fn value_of(digit: u8) -> Result<u8, NkeyError> {
    match digit {
        b'A'..=b'Z' => Ok(digit - b'A'),
        b'2'..=b'7' => Ok(digit - b'2' + 26),
        _ => Err(NkeyError::Alphabet),
    }
}

fn encode_public(prefix: u8, key: &[u8; 32]) -> String {
    let mut raw = vec![prefix];
    raw.extend_from_slice(key);
    encode(raw)
}

/// Adds the checksum and writes base32.
fn encode(mut raw: Vec<u8>) -> String {
    raw.extend_from_slice(&crc16(&raw).to_le_bytes());
    let mut text = String::with_capacity(raw.len() * 8 / 5 + 1);
    let mut bits = 0_u32;
    let mut held = 0_u32;
    for byte in raw {
        bits = (bits << 8 | u32::from(byte)) & 0xFFFF;
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
        }
    }
    if held > 0 {
        text.push(char::from(ALPHABET[(bits << (5 - held) & 31) as usize]));
    }
    text
}

/// CRC-16 with the polynomial 0x1021, from 0, as XMODEM has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            match crc & 0x8000 == 0 {
                true => crc << 1,
                false => crc << 1 ^ 0x1021,
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use cellos_core::signing::TrustAnchorPublicKey;
    use proptest::prelude::*;

    use super::*;

    /// A published example pair of the NATS documentation of key-based logins.
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    fn seed_text(prefix: [u8; 2], seed: [u8; 32]) -> String {
        let mut raw = prefix.to_vec();
        raw.extend_from_slice(&seed);
        encode(raw)
    }

    fn user_prefix() -> [u8; 2] {
        [SEED_MARK | USER >> 5, USER << 3]
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn a_published_seed_gives_its_public_key() {
        assert_eq!(UserKey::from_seed(SEED).unwrap().public(), PUBLIC);
    }

    #[test]
    fn what_is_signed_verifies_with_the_public_key() {
        let key = UserKey::from_seed(&seed_text(user_prefix(), [7; 32])).unwrap();
        let public: TrustAnchorPublicKey = key.signer.verifying_key();
        assert!(public.verifies(b"nonce", &key.sign(b"nonce").unwrap()));
        assert!(!public.verifies(b"other", &key.sign(b"nonce").unwrap()));
    }

    #[test]
    fn other_texts_are_refused_without_showing_them() {
        let account = seed_text([SEED_MARK, 0], [7; 32]);
        assert!(account.starts_with("SA"), "{account}");
        let private = seed_text([15 << 3, 0], [7; 32]);
        let lower = SEED.to_lowercase();
        let changed = SEED.replace("UAC", "UAD");
        for (text, expected) in [
            ("", NkeyError::Length { found: 0 }),
            (PUBLIC, NkeyError::Length { found: 56 }),
            (&lower, NkeyError::Alphabet),
            (&changed, NkeyError::Checksum),
            (&account, NkeyError::NotAUser),
            (&private, NkeyError::NoSeed),
        ] {
            let error = UserKey::from_seed(text).unwrap_err();
            assert_eq!(error, expected);
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
        let shown = format!("{:?}", UserKey::from_seed(SEED).unwrap());
        assert!(!shown.contains("SUAC"), "{shown}");
    }

    proptest! {
        #[test]
        fn every_seed_is_read_back(seed: [u8; 32]) {
            let text = seed_text(user_prefix(), seed);
            prop_assert_eq!(text.len(), SEED_CHARS);
            prop_assert!(text.starts_with("SU"));
            let expected = SoftwareSigner::from_seed("k", seed).verifying_key();
            let key = UserKey::from_seed(&text).unwrap();
            prop_assert_eq!(key.public(), encode_public(USER, expected.as_bytes()));
        }

        #[test]
        fn one_changed_character_is_noticed(seed: [u8; 32], at in 0..SEED_CHARS, to in 0..32_usize) {
            let text = seed_text(user_prefix(), seed);
            let mut other = text.clone().into_bytes();
            other[at] = ALPHABET[to];
            let other = String::from_utf8(other).unwrap();
            prop_assert_eq!(UserKey::from_seed(&other).is_ok(), other == text);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            let _ = UserKey::from_seed(&text);
        }

        #[test]
        fn no_text_of_the_right_length_makes_it_panic(text in "[A-Z2-7]{58}") {
            prop_assert!(UserKey::from_seed(&text).is_err());
        }
    }
}
