//! Private keys of this host: files that nobody else can read, the folder they lie in, and the
//! keyset that their public halves are published in.

mod configured;
mod folder;
mod pkcs11;
pub(crate) mod private;
mod publish;

pub(crate) use configured::{
    Signing, SigningOptions, configured, private_places, published_with, signed, signing,
};
pub(crate) use folder::{FolderError, KeyFolder, PrivateHalf};
pub(crate) use publish::{KeysError, NewKey, generate, revoke, rotate};
