//! `cellos keys generate`, `rotate` and `revoke`.

use std::{io::Write as _, time::Duration};

use jiff::Timestamp;

use super::{FolderArgs, failure};
use crate::{
    exit::Exit,
    failure::Failure,
    keys::{self, NewKey},
    units,
};

/// Makes the first key, which signs from now on, and publishes it in a keyset
#[derive(Debug, clap::Args)]
pub(super) struct GenerateArgs {
    /// Name of the key [default: one that follows from the key]
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Take a key that lies in a token already, instead of making one
    #[arg(long, value_name = "URI")]
    pkcs11: Option<String>,
    /// Name of the keyset, which stays the same from one rotation to the next [default: one that follows from the key]
    #[arg(long, value_name = "ID")]
    keyset_id: Option<String>,
    #[command(flatten)]
    folder: FolderArgs,
}

/// Makes a key that signs from now on, and publishes both
///
/// The key before stays valid for the overlap, because runs that have begun sign with it to their end. The new
/// keyset is signed by both keys, so whoever trusts the old one can trust the new one.
#[derive(Debug, clap::Args)]
pub(super) struct RotateArgs {
    /// Name of the new key [default: one that follows from the key]
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Take a key that lies in a token already, instead of making one
    #[arg(long, value_name = "URI")]
    pkcs11: Option<String>,
    /// How long the key before stays valid: at least as long as the longest run
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = units::duration)]
    overlap: Duration,
    #[command(flatten)]
    folder: FolderArgs,
}

/// Revokes a key: nothing that it signed counts any more, whenever that was
///
/// A time cannot save what was signed before: whoever holds the key can date a signature as they like.
#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// Name of the key
    #[arg(value_name = "KID")]
    kid: String,
    /// Why, for those who read the keyset
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    folder: FolderArgs,
}

/// Generates.
pub(super) fn generate(args: &GenerateArgs) -> Result<Exit, Failure> {
    let folder = args.folder.folder()?;
    let new = NewKey {
        kid: args.kid.clone(),
        token: args.pkcs11.clone(),
    };
    let kid = keys::generate(&folder, &new, args.keyset_id.as_deref(), Timestamp::now())
        .map_err(failure)?;
    writeln!(
        std::io::stdout().lock(),
        "made key {kid}, which signs from now on\npublished in {}",
        folder.keyset_path().display()
    )?;
    Ok(Exit::Success)
}

/// Rotates.
pub(super) fn rotate(args: &RotateArgs) -> Result<Exit, Failure> {
    let folder = args.folder.folder()?;
    let new = NewKey {
        kid: args.kid.clone(),
        token: args.pkcs11.clone(),
    };
    let rotated = keys::rotate(&folder, &new, args.overlap, Timestamp::now()).map_err(failure)?;
    writeln!(
        std::io::stdout().lock(),
        "made key {}, which signs from now on\nkey {} is valid until {}\npublished in {}",
        rotated.kid,
        rotated.before,
        rotated.until,
        folder.keyset_path().display()
    )?;
    Ok(Exit::Success)
}

/// Revokes.
pub(super) fn revoke(args: &RevokeArgs) -> Result<Exit, Failure> {
    let folder = args.folder.folder()?;
    keys::revoke(&folder, &args.kid, &args.reason, Timestamp::now()).map_err(failure)?;
    writeln!(
        std::io::stdout().lock(),
        "revoked key {}: nothing that it signed counts any more\npublished in {}",
        args.kid,
        folder.keyset_path().display()
    )?;
    Ok(Exit::Success)
}
