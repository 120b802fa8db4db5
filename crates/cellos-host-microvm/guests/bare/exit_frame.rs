//! The published exit frame: the code as a little-endian i32, then HMAC-SHA256 over the code and the
//! cell's id. Also compiled on the host, by the tests.

use super::sha256;

/// Length of the key, in bytes.
pub(crate) const KEY_BYTES: usize = 32;

/// Length of a frame, in bytes.
pub(crate) const FRAME_BYTES: usize = CODE_BYTES + sha256::DIGEST_BYTES;

const CODE_BYTES: usize = 4;

/// Length of a key in base64, without its one character of padding.
const KEY_SYMBOLS: usize = 43;

/// The frame that reports `code`.
pub(crate) fn encode(code: i32, key: &[u8; KEY_BYTES], cell_id: &[u8]) -> [u8; FRAME_BYTES] {
    let code = code.to_le_bytes();
    let tag = sha256::hmac(key, &[&code, cell_id]);
    let mut frame = [0; FRAME_BYTES];
    for (to, from) in frame.iter_mut().zip(code.iter().chain(&tag)) {
        *to = *from;
    }
    frame
}

/// The key that standard, padded base64 stands for; `None` for anything else, also for bits that no
/// key has.
pub(crate) fn key(base64: &[u8]) -> Option<[u8; KEY_BYTES]> {
    let symbols = base64.strip_suffix(b"=")?;
    if symbols.len() != KEY_SYMBOLS {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    let mut to = key.iter_mut();
    let (mut bits, mut held) = (0_u32, 0_u32);
    for symbol in symbols {
        bits = bits << 6 | sextet(*symbol)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            *to.next()? = bits.wrapping_shr(held).to_le_bytes()[0];
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(key)
}

fn sextet(symbol: u8) -> Option<u32> {
    let value = match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}
