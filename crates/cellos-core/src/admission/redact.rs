//! URLs without their credentials, for logs and messages.

use url::Url;

/// What stands in place of credentials inside a longer text.
const REDACTED: &str = "<redacted>";

/// Query parameters whose value is a credential. Compared without case.
const SECRET_PARAMETERS: [&str; 14] = [
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "client_secret",
    "id_token",
    "key",
    "password",
    "refresh_token",
    "secret",
    "sig",
    "signature",
    "token",
    "x-amz-signature",
];

/// Cuts credentials out of every URL in a text: the whole user information, and the values of query
/// parameters that are known to carry secrets. Doing it twice changes nothing more.
///
/// A text that is one URL loses its user information; inside a longer text `<redacted>` takes its
/// place.
#[must_use]
pub fn redact_url_credentials_for_logs(text: &str) -> String {
    if !text.contains(char::is_whitespace)
        && text.matches("://").count() == 1
        && let Ok(mut url) = Url::parse(text)
        && (!url.username().is_empty() || url.password().is_some())
        && url.set_username("").is_ok()
        && url.set_password(None).is_ok()
    {
        return redact_each(url.as_str());
    }
    redact_each(text)
}

/// Replaces every occurrence of a URL in a text by its redacted form.
#[must_use]
pub fn redact_url_if_echoed_in_text(text: &str, url: &str) -> String {
    if url.is_empty() {
        return text.to_owned();
    }
    text.replace(url, &redact_url_credentials_for_logs(url))
}

fn redact_each(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = rest.find("://") {
        let (before, after) = rest.split_at(found + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#'))
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rfind('@') {
            Some(at) => {
                out.push_str(REDACTED);
                out.push_str(&authority[at..]);
            }
            None => out.push_str(authority),
        }
        let end = tail.find(char::is_whitespace).unwrap_or(tail.len());
        // A second address may stand inside the first one's query.
        let end = tail[..end].find("://").map_or(end, |inner| inner);
        let (tail, next) = tail.split_at(end);
        redact_parameters(tail, &mut out);
        rest = next;
    }
    out.push_str(rest);
    out
}

/// The part of a URL behind its authority, without the values of secret parameters.
fn redact_parameters(tail: &str, out: &mut String) {
    for part in tail.split_inclusive(['?', '&', '#', ';']) {
        let (pair, end) = match part.char_indices().next_back() {
            Some((index, '?' | '&' | '#' | ';')) => part.split_at(index),
            _ => (part, ""),
        };
        match pair.split_once('=') {
            Some((name, value))
                if !value.is_empty()
                    && SECRET_PARAMETERS
                        .iter()
                        .any(|secret| secret.eq_ignore_ascii_case(name)) =>
            {
                out.push_str(name);
                out.push('=');
                out.push_str(REDACTED);
            }
            _ => out.push_str(pair),
        }
        out.push_str(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credentials_are_cut() {
        for (text, expected) in [
            ("", ""),
            ("no address", "no address"),
            ("https://h/x", "https://h/x"),
            ("https://u:p@h/x", "https://h/x"),
            ("https://token@h", "https://h/"),
            ("see https://u:p@h/x now", "see https://<redacted>@h/x now"),
            ("a https://u:p@q@h/ b", "a https://<redacted>@h/ b"),
            (
                "a https://u:p@h/ and ftp://v:q@i/",
                "a https://<redacted>@h/ and ftp://<redacted>@i/",
            ),
            (
                "https://h/?token=abc&x=1",
                "https://h/?token=<redacted>&x=1",
            ),
            (
                "https://h/?x=1&X-Amz-Signature=abc#f",
                "https://h/?x=1&X-Amz-Signature=<redacted>#f",
            ),
            (
                "https://h/?to=https://u:p@i/",
                "https://h/?to=https://<redacted>@i/",
            ),
            ("mail a@b.c", "mail a@b.c"),
            ("://", "://"),
            ("é://ü:p@h", "é://<redacted>@h"),
        ] {
            assert_eq!(redact_url_credentials_for_logs(text), expected, "{text}");
        }
    }

    #[test]
    fn echoed_urls_are_redacted() {
        assert_eq!(
            redact_url_if_echoed_in_text("fatal: https://u:p@h/x not found", "https://u:p@h/x"),
            "fatal: https://h/x not found"
        );
        assert_eq!(redact_url_if_echoed_in_text("a", ""), "a");
    }

    proptest! {
        #[test]
        fn redaction_is_idempotent_and_never_panics(text in "\\PC{0,60}") {
            let once = redact_url_credentials_for_logs(&text);
            prop_assert_eq!(redact_url_credentials_for_logs(&once), once);
        }

        #[test]
        fn no_secret_survives(
            before in "[a-z :/@?&=]{0,12}",
            secret in "S[0-9A-Z@:!$%]{6,12}",
            after in "[a-z :/@?&=]{0,12}",
        ) {
            let text = format!("{before} https://u:{secret}@host/{after}");
            prop_assert!(!redact_url_credentials_for_logs(&text).contains(&secret), "{}", text);
        }
    }
}
