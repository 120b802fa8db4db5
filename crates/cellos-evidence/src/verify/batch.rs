//! Checking many Ed25519 signatures at once.
//!
//! For signatures `(R, s)` of keys `A` with `k = SHA-512(R || A || message)`, the sum
//! `-(Σ z·s)·B + Σ z·R + Σ (z·k)·A` with unpredictable 128-bit numbers `z` is the neutral element
//! when all are good. Equal keys share one term, which halves the work for a log, whose lines are
//! signed by few keys. `z` comes from a hash of everything that is checked.
//!
//! The strict rule (as `ed25519-dalek` has it) demands besides that `R` is of large order and in
//! canonical form, and `s` below the group's order; so does this. What remains is torsion: where
//! `R` or `A` holds a part of small order, the strict rule refuses and a batch may accept. Only
//! whoever holds the private key can make such a signature, who could as well make a good one;
//! nobody can make one for a message that the holder did not sign.

use curve25519_dalek::{
    constants::ED25519_BASEPOINT_POINT,
    edwards::{CompressedEdwardsY, EdwardsPoint},
    scalar::Scalar,
    traits::{IsIdentity as _, VartimeMultiscalarMul as _},
};
use sha2::{Digest as _, Sha512};

/// What the seed of the factors begins with.
const FACTOR_DOMAIN: &[u8] = b"cellos.log.batch.v1\n";
/// Size of a factor, in bytes: 2^-128 is the chance to accept what is not good.
const FACTOR_BYTES: usize = 16;

/// A public key, ready for use.
#[derive(Debug, Clone, Copy)]
pub struct BatchKey {
    bytes: [u8; 32],
    point: EdwardsPoint,
}

impl BatchKey {
    /// Takes a raw key; `None` for bytes that are no point of the curve, or one of small order.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Option<Self> {
        let point = CompressedEdwardsY(*bytes).decompress()?;
        (!point.is_small_order()).then_some(Self {
            bytes: *bytes,
            point,
        })
    }
}

/// One signature to check; its message has been hashed already.
#[derive(Debug, Clone, Copy)]
pub struct BatchItem {
    /// Index of the key.
    pub key: usize,
    signature: [u8; 64],
    challenge: Scalar,
    /// The 64 bytes that `challenge` was made from.
    digest: [u8; 64],
}

impl BatchItem {
    /// A signature over the concatenation of the parts of a message.
    #[must_use]
    pub fn new(index: usize, key: &BatchKey, signature: [u8; 64], message: [&[u8]; 2]) -> Self {
        let mut hash = Sha512::new();
        hash.update(&signature[..32]);
        hash.update(key.bytes);
        hash.update(message[0]);
        hash.update(message[1]);
        let digest: [u8; 64] = hash.finalize().into();
        Self {
            key: index,
            signature,
            challenge: Scalar::from_bytes_mod_order_wide(&digest),
            digest,
        }
    }

    /// Its point `R`, where it is in canonical form and not of small order.
    fn point(&self) -> Option<EdwardsPoint> {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&self.signature[..32]);
        is_reduced(&bytes).then_some(())?;
        let point = CompressedEdwardsY(bytes).decompress()?;
        (!point.is_small_order()).then_some(point)
    }

    /// Its number `s`, where it is below the group's order.
    fn scalar(&self) -> Option<Scalar> {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&self.signature[32..]);
        Scalar::from_canonical_bytes(bytes).into()
    }

    /// The strict rule for this signature alone.
    #[must_use]
    pub fn is_good(&self, keys: &[BatchKey]) -> bool {
        let (Some(key), Some(s), Some(_)) = (keys.get(self.key), self.scalar(), self.point())
        else {
            return false;
        };
        let expected =
            EdwardsPoint::vartime_double_scalar_mul_basepoint(&self.challenge, &-key.point, &s);
        expected.compress().as_bytes() == &self.signature[..32]
    }
}

/// Whether the y of a compressed point is below the field's prime, 2^255 - 19.
fn is_reduced(bytes: &[u8; 32]) -> bool {
    bytes[31] & 0x7f != 0x7f || bytes[1..31].iter().any(|byte| *byte != 0xff) || bytes[0] < 0xed
}

/// Whether all of them are good. `false` says that one is not, or should be looked at alone.
#[must_use]
pub fn all_good(items: &[BatchItem], keys: &[BatchKey]) -> bool {
    let mut factors = Factors::new(items);
    let mut base = Scalar::ZERO;
    let mut of_keys = vec![Scalar::ZERO; keys.len()];
    let mut scalars = Vec::with_capacity(items.len() + keys.len() + 1);
    let mut points = Vec::with_capacity(items.len() + keys.len() + 1);
    for item in items {
        let (Some(point), Some(s), Some(of_key)) =
            (item.point(), item.scalar(), of_keys.get_mut(item.key))
        else {
            return false;
        };
        let factor = factors.next();
        base -= factor * s;
        *of_key += factor * item.challenge;
        scalars.push(factor);
        points.push(point);
    }
    scalars.push(base);
    points.push(ED25519_BASEPOINT_POINT);
    for (key, of_key) in keys.iter().zip(of_keys) {
        scalars.push(of_key);
        points.push(key.point);
    }
    EdwardsPoint::vartime_multiscalar_mul(&scalars, &points).is_identity()
}

/// The factors of a batch.
struct Factors {
    seed: [u8; 64],
    block: [u8; 64],
    next: u64,
}

impl Factors {
    fn new(items: &[BatchItem]) -> Self {
        let mut hash = Sha512::new_with_prefix(FACTOR_DOMAIN);
        for item in items {
            // The digest speaks for R, the key and the message.
            hash.update(item.digest);
            hash.update(&item.signature[32..]);
        }
        Self {
            seed: hash.finalize().into(),
            block: [0; 64],
            next: 0,
        }
    }

    fn next(&mut self) -> Scalar {
        const PER_BLOCK: u64 = 64 / FACTOR_BYTES as u64;
        let (block, part) = (self.next / PER_BLOCK, self.next % PER_BLOCK);
        if part == 0 {
            let mut hash = Sha512::new_with_prefix(self.seed);
            hash.update(block.to_le_bytes());
            self.block = hash.finalize().into();
        }
        self.next += 1;
        let mut bytes = [0; FACTOR_BYTES];
        let start = usize::try_from(part).unwrap_or_default() * FACTOR_BYTES;
        bytes.copy_from_slice(&self.block[start..start + FACTOR_BYTES]);
        Scalar::from(u128::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

    use super::*;

    struct Case {
        key: VerifyingKey,
        message: Vec<u8>,
        signature: [u8; 64],
    }

    fn cases(count: u8) -> Vec<Case> {
        (0..count)
            .map(|index| {
                let key = SigningKey::from_bytes(&[index % 3 + 1; 32]);
                let message = vec![index; usize::from(index) * 7];
                let signature = key.sign(&message).to_bytes();
                Case {
                    key: key.verifying_key(),
                    message,
                    signature,
                }
            })
            .collect()
    }

    /// The keys and items of cases, one key entry per distinct key.
    fn batch(cases: &[Case]) -> (Vec<BatchKey>, Vec<BatchItem>) {
        let mut keys: Vec<BatchKey> = Vec::new();
        let items = cases
            .iter()
            .map(|case| {
                let bytes = case.key.to_bytes();
                let index = keys
                    .iter()
                    .position(|key| key.bytes == bytes)
                    .unwrap_or_else(|| {
                        keys.push(BatchKey::new(&bytes).unwrap());
                        keys.len() - 1
                    });
                BatchItem::new(index, &keys[index], case.signature, [&case.message, b""])
            })
            .collect();
        (keys, items)
    }

    fn strict(case: &Case) -> bool {
        case.key
            .verify_strict(&case.message, &Signature::from_bytes(&case.signature))
            .is_ok()
    }

    #[test]
    fn good_signatures_of_several_keys_pass_in_batches_of_any_size() {
        for count in [0, 1, 2, 3, 17, 200] {
            let cases = cases(count);
            let (keys, items) = batch(&cases);
            assert!(all_good(&items, &keys), "{count}");
            assert!(items.iter().all(|item| item.is_good(&keys)));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_signature_is_found_as_the_strict_rule_finds_it() {
        for bit in 0..512 {
            let mut cases = cases(4);
            cases[2].signature[bit / 8] ^= 1 << (bit % 8);
            let (keys, items) = batch(&cases);
            assert!(!strict(&cases[2]));
            assert!(!all_good(&items, &keys), "bit {bit}");
            let good: Vec<_> = items.iter().map(|item| item.is_good(&keys)).collect();
            assert_eq!(good, [true, true, false, true], "bit {bit}");
        }
    }

    #[test]
    fn swapped_signatures_and_other_messages_are_found() {
        let mut swapped = cases(7);
        let first = swapped[0].signature;
        swapped[0].signature = swapped[3].signature;
        swapped[3].signature = first;
        let (keys, items) = batch(&swapped);
        assert!(!all_good(&items, &keys));
        let mut other = cases(7);
        other[5].message.push(1);
        let (keys, items) = batch(&other);
        assert!(!all_good(&items, &keys));
    }

    #[test]
    fn errors_that_cancel_without_factors_do_not_with_them() {
        // s + 1 in one signature and s - 1 in another of the same key leave the plain sum as it is.
        let mut cases = cases(4);
        let shift = |signature: &mut [u8; 64], by: Scalar| {
            let mut s = [0; 32];
            s.copy_from_slice(&signature[32..]);
            let moved = Scalar::from_canonical_bytes(s).unwrap() + by;
            signature[32..].copy_from_slice(moved.as_bytes());
        };
        shift(&mut cases[0].signature, Scalar::ONE);
        shift(&mut cases[3].signature, -Scalar::ONE);
        let (keys, items) = batch(&cases);
        assert!(!all_good(&items, &keys));
    }

    #[test]
    fn a_number_above_the_order_and_points_of_small_order_are_refused() {
        // s + ℓ: the same signature in a form that is not canonical (RFC 8032, 5.1.7).
        let mut cases = cases(2);
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut carry = 0;
        for (byte, add) in cases[1].signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        let (keys, items) = batch(&cases);
        assert!(!strict(&cases[1]));
        assert!(!items[1].is_good(&keys) && !all_good(&items, &keys));
        // R = the neutral element, and R = a y beyond the prime.
        for r0 in [1, 0xee] {
            let mut cases = self::cases(2);
            cases[1].signature[..32].fill(if r0 == 1 { 0 } else { 0xff });
            cases[1].signature[0] = r0;
            cases[1].signature[31] &= 0x7f;
            let (keys, items) = batch(&cases);
            assert!(!strict(&cases[1]));
            assert!(!items[1].is_good(&keys) && !all_good(&items, &keys));
        }
        assert!(BatchKey::new(&[0; 32]).is_none());
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(BatchKey::new(&neutral).is_none());
    }

    #[test]
    fn torsion_is_refused_by_the_strict_rule_here_as_there() {
        use curve25519_dalek::constants::EIGHT_TORSION;
        // A signer who adds a point of small order to R: the strict rules agree; see the head of
        // this file for the batch.
        let secret = SigningKey::from_bytes(&[9; 32]);
        let key = secret.verifying_key();
        let a = secret.to_scalar();
        let r = Scalar::from(123_456_789_u64);
        let point = ED25519_BASEPOINT_POINT * r + EIGHT_TORSION[1];
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(point.compress().as_bytes());
        let batch_key = BatchKey::new(key.as_bytes()).unwrap();
        let challenge = BatchItem::new(0, &batch_key, signature, [b"m", b""]).challenge;
        signature[32..].copy_from_slice((r + challenge * a).as_bytes());
        let case = Case {
            key,
            message: b"m".to_vec(),
            signature,
        };
        let (keys, items) = batch(std::slice::from_ref(&case));
        assert!(!strict(&case));
        assert!(!items[0].is_good(&keys));
    }
}
