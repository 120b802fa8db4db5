//! Keys and tokens of NATS, made independently of the code under test.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cellos_core::signing::{Signer, SoftwareSigner};
use serde_json::{Value, json};

/// What a key is for: the first byte of its public text.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Operator = 14 << 3,
    Account = 0,
    User = 20 << 3,
}

pub(crate) struct Key {
    kind: u8,
    seed: [u8; 32],
    signer: SoftwareSigner,
}

impl Key {
    pub(crate) fn new(kind: Kind, seed: u8) -> Self {
        let seed = [seed; 32];
        Self {
            kind: kind as u8,
            seed,
            signer: SoftwareSigner::from_seed("k", seed),
        }
    }

    pub(crate) fn public(&self) -> String {
        let key = self.signer.verifying_key();
        base32(&[&[self.kind], key.as_bytes().as_slice()].concat())
    }

    pub(crate) fn seed(&self) -> String {
        let prefix = [18 << 3 | self.kind >> 5, self.kind << 3];
        base32(&[&prefix, self.seed.as_slice()].concat())
    }

    pub(crate) fn sign(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.signer.sign(text.as_bytes()).unwrap())
    }

    /// A token of this key about another.
    pub(crate) fn token(&self, about: &Self, name: &str, nats: Value) -> String {
        let head = json!({"typ": "JWT", "alg": "ed25519-nkey"});
        let claims = json!({
            "jti": name, "iat": 1_700_000_000, "iss": self.public(), "sub": about.public(),
            "name": name, "nats": nats,
        });
        let text = format!("{}.{}", part(&head), part(&claims));
        format!("{text}.{}", self.sign(&text))
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn base32(bytes: &[u8]) -> String {
    let mut crc = 0_u16;
    for byte in bytes {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            };
        }
    }
    let bits: String = bytes
        .iter()
        .chain(&crc.to_le_bytes())
        .map(|byte| format!("{byte:08b}"))
        .collect();
    bits.as_bytes()
        .chunks(5)
        .map(|five| {
            let digits = format!("{:0<5}", String::from_utf8_lossy(five));
            let index = usize::from_str_radix(&digits, 2).unwrap();
            char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[index])
        })
        .collect()
}
