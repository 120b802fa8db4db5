//! `cellos vm verify`.

use std::{io::Write as _, path::PathBuf};

use cellos_core::{
    signing::RevokedKids,
    vm_manifest::{ManifestTrust, Unsigned},
};
use cellos_vm_image::open_bundle;

use crate::{
    exit::Exit,
    failure::Failure,
    machines::{
        Places,
        keyring::{self, KeyringError},
    },
};

/// Checks the manifest's signature and every file against it.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Where it is [default: vm in the state folder, or CELLOS_VM_DIR]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The keys that may have signed it [default: vm-keys/trusted.json in the state folder, or
    /// CELLOS_VM_TRUST_KEYS]
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// A list of revoked keys [default: CELLOS_VM_REVOKED_KEYS, or none]
    #[arg(long, value_name = "FILE")]
    revoked: Option<PathBuf>,
}

/// Keys that cannot be used; the cause says whether the file or what is in it is wrong.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("the trusted keys cannot be read: {}", path.display())]
    Trusted { path: PathBuf, source: KeyringError },
    #[error("the revoked keys cannot be read: {}", path.display())]
    Revoked { path: PathBuf, source: KeyringError },
}

pub(super) fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    let places = Places::of_this_process().map_err(Failure::call)?;
    let path = args.keys.as_ref().unwrap_or(&places.trusted_keys);
    let keys = keyring::trusted(path).map_err(|source| {
        Failure::call(KeysError::Trusted {
            path: path.clone(),
            source,
        })
    })?;
    let trust = ManifestTrust {
        keys: &keys,
        revoked: &revoked(args, &places)?,
        unsigned: Unsigned::Refuse,
    };
    let folder = args.dir.as_ref().unwrap_or(&places.bundle);
    let bundle = open_bundle(folder, &trust).map_err(Failure::call)?;
    let mut out = std::io::stdout().lock();
    for file in &bundle.files {
        writeln!(
            out,
            "{:8} {} {}",
            file.role.to_string(),
            file.digest,
            file.path.display()
        )?;
    }
    if let Some(kid) = &bundle.signer_kid {
        writeln!(out, "signed by {kid}")?;
    }
    Ok(Exit::Success)
}

fn revoked(args: &VerifyArgs, places: &Places) -> Result<RevokedKids, Failure> {
    let Some(path) = args.revoked.as_ref().or(places.revoked_keys.as_ref()) else {
        return Ok(RevokedKids::default());
    };
    keyring::revoked(path).map_err(|source| {
        Failure::call(KeysError::Revoked {
            path: path.clone(),
            source,
        })
    })
}
