//! What the first bytes of a connection look like.

/// What a connection seems to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Too early to say.
    NeedMore,
    /// TLS, or what pretends to be.
    Tls,
    /// HTTP/1, or what a server might take for it.
    Http,
    /// HTTP/2 without TLS.
    Http2Preface,
    /// Something else.
    Unknown,
}

/// Most bytes that are looked at before something is unknown.
pub(crate) const MAX_GUESS: usize = 1024;
/// Longest method of HTTP that is recognised; the longest registered one has 16 letters.
const MAX_METHOD: usize = 64;
/// How the first line of HTTP/2 begins, RFC 9113, 3.4. No other request has this method.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// What these first bytes look like. With more of the same bytes the answer stays, once it is not
/// [`Kind::NeedMore`]; at [`MAX_GUESS`] bytes there always is one. Says nothing about whether they
/// may pass: [`Kind::Http`] is what any server might read as HTTP, however it is written.
pub(crate) fn kind(bytes: &[u8]) -> Kind {
    match bytes {
        [] | [0x16] => Kind::NeedMore,
        [0x16, 3, ..] => Kind::Tls,
        [0x16, ..] => Kind::Unknown,
        // A hello of SSL 2: a length with its high bit set, and message type 1.
        [0x80..=0xff] | [0x80..=0xff, _] => Kind::NeedMore,
        [0x80..=0xff, _, 1, ..] => Kind::Tls,
        [0x80..=0xff, ..] => Kind::Unknown,
        _ => text(&bytes[..bytes.len().min(MAX_GUESS)]),
    }
}

fn text(bytes: &[u8]) -> Kind {
    let undecided = match bytes.len() < MAX_GUESS {
        true => Kind::NeedMore,
        false => Kind::Unknown,
    };
    // Servers skip empty lines before a request, and some skip blanks.
    let line = bytes.trim_ascii_start();
    let method_length = line.iter().take_while(|byte| is_token(**byte)).count();
    let (method, rest) = line.split_at(method_length);
    if method.len() > MAX_METHOD || (method.is_empty() && !rest.is_empty()) {
        return Kind::Unknown;
    }
    let (first, rest) = match rest {
        [] => return undecided,
        [first, rest @ ..] => (first, rest),
    };
    if !matches!(first, b' ' | b'\t' | 0x0b | 0x0c) {
        return Kind::Unknown;
    }
    if line.len() < PREFACE.len() && PREFACE.starts_with(line) {
        return undecided;
    }
    if line.starts_with(PREFACE) {
        return Kind::Http2Preface;
    }
    let known = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT",
    ];
    if known
        .iter()
        .any(|known| method.eq_ignore_ascii_case(known.as_bytes()))
    {
        return Kind::Http;
    }
    // Of other methods, the target or the end of the line tells.
    let target = rest.trim_ascii_start();
    match target {
        [] => return undecided,
        [b'/' | b'*', ..] => return Kind::Http,
        _ => {}
    }
    let scheme = target.len().min(4);
    if b"http"[..scheme].eq_ignore_ascii_case(&target[..scheme]) {
        return match scheme {
            4 => Kind::Http,
            _ => undecided,
        };
    }
    match target.iter().position(|byte| *byte == b'\n') {
        None => undecided,
        Some(end) => {
            let line = target[..end].to_ascii_uppercase();
            match line.windows(5).any(|part| part == b"HTTP/") {
                true => Kind::Http,
                false => Kind::Unknown,
            }
        }
    }
}

/// A character of a token, RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tells_what_speaks() {
        for (bytes, expected) in [
            (&b""[..], Kind::NeedMore),
            (b"\x16", Kind::NeedMore),
            (b"\x16\x03", Kind::Tls),
            (b"\x16\x02\x01", Kind::Unknown),
            (b"\x80\x2e\x01\x03\x01", Kind::Tls),
            (b"\x80\x2e\x02", Kind::Unknown),
            (b"G", Kind::NeedMore),
            (b"GET ", Kind::Http),
            (b"get /", Kind::Http),
            (b"\r\n\n \r\nGET\t/", Kind::Http),
            (b"GET x\r\n", Kind::Http),
            (b"PURGE /x", Kind::Http),
            (b"BREW coffee HTCPCP/1.0\r\n", Kind::Unknown),
            (b"BREW pot http/1.1\n", Kind::Http),
            (b"X HTTP://a/", Kind::Http),
            (b"X ht", Kind::NeedMore),
            (b"CONNECT a:443", Kind::Http),
            (b"PRI", Kind::NeedMore),
            (b"PRI * H", Kind::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Kind::Http2Preface),
            (b"PRI /x HTTP/1.1\r\n", Kind::Http),
            (b"SSH-2.0-OpenSSH_10.0\r\n", Kind::Unknown),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Kind::Unknown),
            (b"*1\r\n$4\r\nPING\r\n", Kind::Unknown),
            (b"EHLO there\r\n", Kind::Unknown),
            (&[b'A'; MAX_METHOD + 1], Kind::Unknown),
            (&[b'\n'; MAX_GUESS], Kind::Unknown),
        ] {
            assert_eq!(
                kind(bytes),
                expected,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    proptest! {
        #[test]
        fn an_answer_stays(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            "[\r\n \t]{0,3}(GET|PRI|X|pri)?[ \t]{0,2}(\\*|/|h|http:)?[ a-zA-Z/.0-9\r\n]{0,40}"
                .prop_map(String::into_bytes),
        ]) {
            let last = kind(&bytes);
            for length in 0..bytes.len() {
                let early = kind(&bytes[..length]);
                prop_assert!(early == Kind::NeedMore || early == last, "{early:?} {last:?}");
            }
        }

        #[test]
        fn there_is_an_answer_in_time(bytes in proptest::collection::vec(
            prop_oneof![Just(b' '), Just(b'\n'), Just(b'A'), Just(b'h')], MAX_GUESS)) {
            prop_assert_ne!(kind(&bytes), Kind::NeedMore);
        }
    }
}
