//! The guest's own SHA-256, HMAC, base64 and command line, compiled for the host.

#[allow(dead_code)]
#[path = "../../../guests/bare/arguments.rs"]
mod arguments;
#[allow(dead_code)]
#[path = "../../../guests/bare/exit_frame.rs"]
mod exit_frame;
#[allow(dead_code, clippy::cast_possible_truncation)]
#[path = "../../../guests/bare/sha256.rs"]
mod sha256;

use sha2::Digest;

use self::{arguments::Arguments, sha256::Sha256};
use super::{WORDS, hex};

pub(super) const FRAME_BYTES: usize = exit_frame::FRAME_BYTES;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn key() -> [u8; 32] {
    std::array::from_fn(|at| u8::try_from(at).unwrap())
}

#[test]
fn digests_of_every_length_around_a_block_are_those_of_another_implementation() {
    let bytes: Vec<u8> = (0..=200_u8).collect();
    for length in 0..bytes.len() {
        // In two parts, so that a part that ends within a block is seen too.
        let (first, second) = bytes[..length].split_at(length / 3);
        let mut digest = Sha256::new();
        digest.update(first);
        digest.update(second);
        assert_eq!(
            hex(&digest.finish()),
            hex(&sha2::Sha256::digest(&bytes[..length])),
            "{length} bytes"
        );
    }
}

#[test]
fn frames_are_the_published_ones() {
    for (id, code, frame) in [
        (
            "cell-vec-1",
            0,
            "000000003dbf16b1b615dc7dc97a4a4260499f1ce9e585cf476b13519c77230976fc8dd7",
        ),
        ("cell-vec-1", 42, super::FRAME),
        (
            "cell-vec-1",
            -1,
            "ffffffff6a51799e89c84a1386dae39707cf6098de98a716717d0db8545c718b19dc0a7b",
        ),
        (
            "cell-vec-1",
            137,
            "890000008d22bdf46383e14903e994a6b4b84fafb4834d8be2d90aa18c871c57629e5b53",
        ),
        (
            "other",
            42,
            "2a0000002820e29d7909eed507ca0fdb357dc77656ffa7c331571bffa37a02c5e28bec9f",
        ),
    ] {
        let encoded = exit_frame::encode(code, &key(), id.as_bytes());
        assert_eq!(hex(&encoded), frame, "{id} {code}");
    }
}

#[test]
fn a_key_is_exactly_32_bytes_in_padded_base64() {
    assert_eq!(exit_frame::key(KEY.as_bytes()), Some(key()));
    assert_eq!(
        exit_frame::key(b"//////////////////////////////////////////8="),
        Some([0xff; 32])
    );
    for wrong in [
        "",
        "=",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8==",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==",
        // The last two bits belong to no byte.
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh-=",
    ] {
        assert_eq!(exit_frame::key(wrong.as_bytes()), None, "{wrong:?}");
    }
}

#[test]
fn arguments_are_found_among_the_words_of_a_monitor() {
    let line = format!("console=ttyS0 reboot=k  {WORDS} root=/dev/vda ro");
    let arguments = Arguments::parse(line.as_bytes()).unwrap();
    assert_eq!(arguments.vsock_port, 9000);
    assert_eq!(arguments.key, key());
    assert_eq!(arguments.cell_id, b"cell-vec-1");
    assert_eq!(arguments.exit_code, 42);
}

#[test]
fn an_exit_code_is_any_signed_number_of_32_bits_and_0_if_unsaid() {
    let line = WORDS.replace("bare.exit=42", "");
    let parse = |more: &str| {
        Arguments::parse(format!("{line} {more}").as_bytes()).map(|arguments| arguments.exit_code)
    };
    for (word, code) in [
        ("", Some(0)),
        ("bare.exit=137", Some(137)),
        ("bare.exit=-2147483648", Some(i32::MIN)),
        ("bare.exit=2147483647", Some(i32::MAX)),
        ("bare.exit=2147483648", None),
        ("bare.exit=", None),
        ("bare.exit=-", None),
        ("bare.exit=+1", None),
        ("bare.exit=1 bare.exit=1", None),
    ] {
        assert_eq!(parse(word), code, "{word:?}");
    }
}

#[test]
fn arguments_that_are_missing_doubled_or_malformed_are_refused() {
    let id = "x".repeat(129);
    for line in [
        String::new(),
        WORDS.replace("cellos.cell_id=cell-vec-1", ""),
        WORDS.replace("cell-vec-1", ""),
        WORDS.replace("cell-vec-1", &id),
        WORDS.replace("9000", "4294967296"),
        WORDS.replace("9000", "0x2328"),
        WORDS.replace(KEY, "AAEC"),
        format!("{WORDS} cellos.cell_id=other"),
        format!("{WORDS} cellos.vsock_port=9000"),
    ] {
        assert!(Arguments::parse(line.as_bytes()).is_none(), "{line:?}");
    }
}

#[test]
fn devices_are_read_as_the_kernel_reads_them() {
    let line = b"a virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=512@0xfeb00e00:12:3 \
        virtio_mmio.device=512@4096:1 virtio_mmio.device=512@0x:1 virtio_mmio.device=0x1000 \
        virtio_mmio.device=512@0x10000000000000000:1 xvirtio_mmio.device=4K@0x1:1";
    let found: Vec<u64> = arguments::devices(line).collect();
    assert_eq!(found, [0xc000_1000, 0xfeb0_0e00, 4096]);
}
