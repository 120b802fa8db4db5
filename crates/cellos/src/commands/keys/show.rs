//! `cellos keys show`: the public halves.

use std::{collections::BTreeMap, io::Write as _};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cellos_core::canonical::sha256_ref;
use cellos_evidence::keyset::{KeyFault, Keyset, KeysetKey, Trust};
use jiff::Timestamp;

use super::{FolderArgs, failure};
use crate::{
    exit::Exit,
    failure::Failure,
    keys::{KeyFolder, KeysError, PrivateHalf},
    say::{harmless, harmless_json},
};

/// Lists the keys: public halves, validity, and which one signs
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// As JSON
    #[arg(long, group = "form")]
    json: bool,
    /// The signed keyset as it is published, which others check logs with
    #[arg(long, group = "form")]
    keyset: bool,
    /// A plain keyring of all keys that were not revoked, which says nothing of their validity
    #[arg(long, group = "form")]
    keyring: bool,
    #[command(flatten)]
    folder: FolderArgs,
}

/// What a key is good for now.
enum State {
    /// It signs.
    Signs,
    /// Its signatures count.
    Valid,
    /// They do not.
    Faulty(KeyFault),
}

impl State {
    fn of(kid: &str, key: &KeysetKey, current: Option<&str>, now: Timestamp) -> Self {
        match key.judge(now) {
            Err(fault) => Self::Faulty(fault),
            Ok(()) if current == Some(kid) => Self::Signs,
            Ok(()) => Self::Valid,
        }
    }

    fn as_str(&self) -> &'static str {
        match self {
            Self::Signs => "signs",
            Self::Valid => "valid",
            Self::Faulty(KeyFault::Revoked(_)) => "revoked",
            Self::Faulty(KeyFault::Expired { .. }) => "expired",
            Self::Faulty(KeyFault::NotYetValid { .. }) => "notYetValid",
        }
    }
}

/// Shows.
pub(super) fn run(args: &ShowArgs) -> Result<Exit, Failure> {
    let folder = args.folder.folder()?;
    let now = Timestamp::now();
    let published = folder
        .exists()
        .and_then(|_| folder.published())
        .map_err(|error| failure(error.into()))?
        .ok_or_else(|| {
            failure(KeysError::NothingYet {
                folder: folder.path().display().to_string(),
            })
        })?;
    let keyset = Keyset::parse(&published, &Trust::SelfContained, now)
        .map_err(|error| failure(error.into()))?;
    let current = folder.current().map_err(|error| failure(error.into()))?;
    let mut out = std::io::stdout().lock();
    if args.keyset {
        out.write_all(&published)?;
    } else if args.keyring {
        let ring: BTreeMap<String, String> = keyset
            .unrevoked()
            .iter()
            .map(|(kid, key)| (kid.to_owned(), URL_SAFE_NO_PAD.encode(key.as_bytes())))
            .collect();
        writeln!(out, "{:#}", serde_json::json!(ring))?;
    } else if args.json {
        let report = as_json(&folder, &keyset, current.as_deref(), now);
        writeln!(out, "{}", harmless_json(&report.to_string()))?;
    } else {
        print(&mut out, &folder, &keyset, current.as_deref(), now)?;
    }
    Ok(Exit::Success)
}

fn fingerprint(key: &KeysetKey) -> String {
    sha256_ref(key.public.as_bytes())
}

fn print(
    out: &mut impl std::io::Write,
    folder: &KeyFolder,
    keyset: &Keyset,
    current: Option<&str>,
    now: Timestamp,
) -> std::io::Result<()> {
    if let Some(published) = keyset.published() {
        writeln!(
            out,
            "keyset {}, {}",
            harmless(&published.keyset_id),
            published.digest
        )?;
    }
    for (kid, key) in keyset.iter() {
        let state = match State::of(kid, key, current, now) {
            State::Signs => "signs".to_owned(),
            State::Valid => "valid".to_owned(),
            State::Faulty(fault) => fault.to_string(),
        };
        writeln!(out, "{}: {}", harmless(kid), harmless(&state))?;
        writeln!(out, "  fingerprint  {}", fingerprint(key))?;
        match (key.not_before, key.not_after) {
            (None, None) => writeln!(out, "  validity     without limit")?,
            (start, end) => writeln!(
                out,
                "  validity     {} to {}",
                start.map_or("any time".to_owned(), |moment| moment.to_string()),
                end.map_or("any time".to_owned(), |moment| moment.to_string())
            )?,
        }
        let private = match folder.private_half(kid, key.public.as_bytes()) {
            PrivateHalf::File(path) => path.display().to_string(),
            PrivateHalf::Token(path) => format!("in the token that {} names", path.display()),
            PrivateHalf::Absent => "not here".to_owned(),
        };
        writeln!(out, "  private half {private}")?;
    }
    Ok(())
}

fn as_json(
    folder: &KeyFolder,
    keyset: &Keyset,
    current: Option<&str>,
    now: Timestamp,
) -> serde_json::Value {
    let keys: Vec<_> = keyset
        .iter()
        .map(|(kid, key)| {
            serde_json::json!({
                "kid": kid,
                "state": State::of(kid, key, current, now).as_str(),
                "publicKey": URL_SAFE_NO_PAD.encode(key.public.as_bytes()),
                "fingerprint": fingerprint(key),
                "notBefore": key.not_before,
                "notAfter": key.not_after,
                "revokedAt": key.revoked.as_ref().map(|it| it.at),
                "revocationReason": key.revoked.as_ref().map(|it| it.reason.clone()),
                "privateHalf": match folder.private_half(kid, key.public.as_bytes()) {
                    PrivateHalf::File(_) => "file",
                    PrivateHalf::Token(_) => "token",
                    PrivateHalf::Absent => "absent",
                },
            })
        })
        .collect();
    serde_json::json!({
        "format": "cellos.keys/1",
        "folder": folder.path(),
        "keysetId": keyset.published().map(|it| it.keyset_id.clone()),
        "digest": keyset.published().map(|it| it.digest.clone()),
        "envelopes": keyset.published().map(|it| it.envelopes),
        "keys": keys,
    })
}
