//! The published exit frame and boot tokens, against the published vectors.

use cellos_bridge::{
    SessionKey,
    published::{
        ACKNOWLEDGEMENT, BootTokens, BootTokensError, EXIT_FRAME_BYTES, EXIT_PORT, ExitFrameError,
        ExitFrameReader, MAX_COMMAND_LINE_BYTES, exit_frame, verify_exit_frame,
    },
};

/// Key 00..1f of the published vectors.
fn key() -> SessionKey {
    SessionKey::new(std::array::from_fn(|index| u8::try_from(index).unwrap()))
}

const VECTORS: &[(&str, i32, &str)] = &[
    (
        "cell-vec-1",
        0,
        "000000003dbf16b1b615dc7dc97a4a4260499f1ce9e585cf476b13519c77230976fc8dd7",
    ),
    (
        "cell-vec-1",
        42,
        "2a0000005c94671d1d5a50b6d78338f6ef805a30a7aedd5133104835115871d322c57720",
    ),
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
];

const ARGV_42: &str = "WyIvYmluL3NoIiwiLWMiLCJleGl0IDQyIl0=";
const KEY_BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn unhex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn exit_frames_are_those_of_the_published_vectors() {
    for (cell_id, code, digits) in VECTORS {
        let frame = exit_frame(*code, cell_id, &key());
        assert_eq!(frame.as_slice(), unhex(digits), "{cell_id} {code}");
        assert_eq!(verify_exit_frame(&frame, cell_id, &key()), Ok(*code));
    }
    assert_eq!((ACKNOWLEDGEMENT, EXIT_PORT), (0, 9000));
}

#[test]
fn an_exit_frame_with_any_bit_flipped_is_forged() {
    let frame = exit_frame(42, "cell-vec-1", &key());
    for bit in 0..EXIT_FRAME_BYTES * 8 {
        let mut altered = frame;
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            verify_exit_frame(&altered, "cell-vec-1", &key()),
            Err(ExitFrameError::Forged),
            "bit {bit}"
        );
    }
    assert_eq!(
        verify_exit_frame(&frame, "cell-vec-2", &key()),
        Err(ExitFrameError::Forged)
    );
    assert_eq!(
        verify_exit_frame(&frame, "cell-vec-1", &SessionKey::new([1; 32])),
        Err(ExitFrameError::Forged)
    );
}

#[test]
fn an_exit_frame_of_another_size_is_refused() {
    let mut long = exit_frame(0, "c", &key()).to_vec();
    long.push(0);
    for found in (0..EXIT_FRAME_BYTES).chain([EXIT_FRAME_BYTES + 1]) {
        assert_eq!(
            verify_exit_frame(&long[..found], "c", &key()),
            Err(ExitFrameError::Length { found })
        );
    }
}

#[test]
fn an_exit_frame_is_collected_however_it_is_cut() {
    let mut stream = exit_frame(7, "c", &key()).to_vec();
    stream.push(9);
    for cut in 0..stream.len() {
        let (mut first, mut second) = stream.split_at(cut);
        let mut reader = ExitFrameReader::default();
        let whole = reader.receive(&mut first).is_some();
        assert_eq!(whole, cut >= EXIT_FRAME_BYTES);
        if !whole {
            assert_eq!(reader.closed(), Err(ExitFrameError::Length { found: cut }));
        }
        let frame = *reader.receive(&mut second).unwrap();
        assert_eq!(verify_exit_frame(&frame, "c", &key()), Ok(7));
        assert_eq!(reader.closed(), Ok(()));
        assert_eq!([first, second].concat(), [9], "cut at {cut}");
    }
}

fn tokens() -> BootTokens {
    BootTokens {
        cell_id: "cell-vec-1".into(),
        vsock_port: 9000,
        argv: ["/bin/sh", "-c", "exit 42"].map(String::from).to_vec(),
        exit_hmac_key: key(),
    }
}

#[test]
fn boot_tokens_are_those_of_the_published_vectors_both_ways() {
    let line = tokens().to_command_line().unwrap();
    assert_eq!(
        *line,
        format!(
            "cellos.cell_id=cell-vec-1 cellos.vsock_port=9000 cellos.argv={ARGV_42} \
             cellos.exit_hmac_key={KEY_BASE64}"
        )
    );
    let full = format!("console=ttyS0 reboot=k panic=1 pci=off {} ro\n", *line);
    assert_eq!(BootTokens::parse(&full), Ok(tokens()));
}

#[test]
fn boot_tokens_without_a_command_have_no_argv_token() {
    let mut tokens = tokens();
    tokens.argv.clear();
    let line = tokens.to_command_line().unwrap();
    assert!(!line.contains("argv"), "{}", *line);
    assert_eq!(BootTokens::parse(&line), Ok(tokens));
}

#[test]
fn boot_tokens_that_mean_nothing_or_two_things_are_refused() {
    let id = "cellos.cell_id=a";
    let port = "cellos.vsock_port=9000";
    let key = &format!("cellos.exit_hmac_key={KEY_BASE64}");
    let cases = [
        (
            format!("{port} {key}"),
            "the command line has no cellos.cell_id",
        ),
        (
            format!("{id} {key}"),
            "the command line has no cellos.vsock_port",
        ),
        (
            format!("{id} {port}"),
            "the command line has no cellos.exit_hmac_key",
        ),
        (
            format!("{id} {id} {port} {key}"),
            "the command line has cellos.cell_id twice",
        ),
        (
            format!("{id} {port} {key} cellos.debug=1"),
            "the command line has an unknown token \"cellos.debug\"",
        ),
        (
            format!("cellos.cell_id=../a {port} {key}"),
            "cellos.cell_id of the command line is not a portable id",
        ),
        (
            format!("{id} cellos.vsock_port=+9 {key}"),
            "cellos.vsock_port of the command line is not a port number",
        ),
        (
            format!("{id} {port} cellos.exit_hmac_key=AAEC"),
            "cellos.exit_hmac_key of the command line is not the padded base64 of 32 bytes",
        ),
        (
            format!("{id} {port} {key} cellos.argv=W10="),
            "cellos.argv of the command line is not the padded base64 of a JSON array of strings",
        ),
    ];
    for (line, message) in cases {
        let error = BootTokens::parse(&line).unwrap_err();
        assert_eq!(error.to_string(), message, "{line}");
    }
}

#[test]
fn a_command_line_that_is_too_long_is_refused_both_ways() {
    let mut tokens = tokens();
    tokens.argv = vec!["x".repeat(MAX_COMMAND_LINE_BYTES)];
    assert!(matches!(
        tokens.to_command_line(),
        Err(BootTokensError::TooLong { .. })
    ));
    assert_eq!(
        BootTokens::parse(&" ".repeat(MAX_COMMAND_LINE_BYTES + 1)),
        Err(BootTokensError::TooLong {
            found: MAX_COMMAND_LINE_BYTES + 1
        })
    );
}

#[test]
fn an_id_that_would_be_two_tokens_is_not_written() {
    let mut tokens = tokens();
    tokens.cell_id = "a init=/bin/sh".into();
    assert!(tokens.to_command_line().is_err());
}
