//! The detached signature of a manifest, and who is believed.

use serde::{Deserialize, Serialize};

use super::{Manifest, ManifestError};
use crate::{
    CellosError,
    signing::{RevokedKids, Signer, TrustVerifyKeys, base64url_decode, base64url_encode},
    strict_json::{self, StrictJsonError},
};

/// What is signed before the manifest's bytes, so that a signature made for anything else never
/// verifies as one over a manifest.
pub const MANIFEST_SIGNATURE_DOMAIN: &[u8] = b"cellos-vm-manifest-v1\0";

/// The only `schemaVersion` of signature files there is.
pub const SIGNATURE_SCHEMA_VERSION: &str = "1.0.0";

/// The only `algorithm` of signature files there is.
pub const SIGNATURE_ALGORITHM: &str = "ed25519";

/// Largest signature file, in bytes: one signature, with room for a long key id.
pub const MAX_SIGNATURE_BYTES: usize = 4096;

/// The content of a signature file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestSignature {
    /// Exactly [`SIGNATURE_SCHEMA_VERSION`].
    pub schema_version: String,
    /// Id of the key.
    pub signer_kid: String,
    /// Exactly [`SIGNATURE_ALGORITHM`].
    pub algorithm: String,
    /// 64 bytes in base64url, over [`MANIFEST_SIGNATURE_DOMAIN`] and the manifest's exact bytes.
    pub signature: String,
}

/// What becomes of a manifest that nobody known vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unsigned {
    /// It is an error.
    #[default]
    Refuse,
    /// It is taken: a manifest without a signature, or with one by a key that is not known.
    Allow,
}

/// Who is believed.
#[derive(Debug, Clone, Copy)]
pub struct ManifestTrust<'a> {
    /// The trusted keys.
    pub keys: &'a TrustVerifyKeys,
    /// Keys that do not count any more.
    pub revoked: &'a RevokedKids,
    /// What becomes of a manifest that no trusted key signed.
    pub unsigned: Unsigned,
}

/// A manifest that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedManifest {
    /// The manifest.
    pub manifest: Manifest,
    /// Id of the trusted key that signed it; `None` only where unsigned manifests are allowed.
    pub signer_kid: Option<String>,
}

/// Why a manifest could not be signed, or is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("manifest is unsigned")]
    Unsigned,
    /// The signature file is too long.
    #[error("manifest signature has {found} bytes, more than {MAX_SIGNATURE_BYTES}")]
    TooLarge {
        /// Its size in bytes.
        found: usize,
    },
    /// The signature file cannot be read.
    #[error("manifest signature is unreadable: {0}")]
    Unreadable(#[from] StrictJsonError),
    /// A version that is not known.
    #[error(
        "manifest signature: schemaVersion must be {SIGNATURE_SCHEMA_VERSION}, found {found:?}"
    )]
    SchemaVersion {
        /// The version found.
        found: String,
    },
    /// An algorithm that is not known.
    #[error("manifest signature: algorithm must be {SIGNATURE_ALGORITHM}, found {found:?}")]
    Algorithm {
        /// The algorithm found.
        found: String,
    },
    /// The signature is no base64url.
    #[error("manifest signature is not base64url: {0}")]
    Encoding(#[from] base64::DecodeError),
    /// The signature has the wrong size.
    #[error("manifest signature must be 64 bytes, found {found}")]
    Length {
        /// Its size in bytes.
        found: usize,
    },
    /// The key is not a trusted one.
    #[error("manifest is signed by {kid:?}, which is not a trusted key")]
    UnknownKey {
        /// Id of the key.
        kid: String,
    },
    /// The key was revoked.
    #[error("manifest is signed by {kid:?}, which is revoked")]
    RevokedKey {
        /// Id of the key.
        kid: String,
    },
    /// The manifest or the signature was changed.
    #[error("manifest signature by {kid:?} does not match the manifest")]
    Mismatch {
        /// Id of the key.
        kid: String,
    },
    /// The manifest itself is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The signer failed.
    #[error("manifest cannot be signed: {0}")]
    Signer(#[source] CellosError),
    /// The signature file cannot be written as JSON.
    #[error("manifest signature cannot be written: {0}")]
    Write(#[source] serde_json::Error),
}

/// Signs the exact bytes of a manifest, and returns the content of the signature file.
///
/// # Errors
/// [`SignatureError::Manifest`] for a manifest that nobody could use, [`SignatureError::Signer`],
/// and [`SignatureError::TooLarge`] for a key id that no signature file can carry.
pub fn sign(manifest: &[u8], signer: &dyn Signer) -> Result<Vec<u8>, SignatureError> {
    Manifest::parse(manifest)?;
    let signature = signer
        .sign(&signed_message(manifest))
        .map_err(SignatureError::Signer)?;
    let file = ManifestSignature {
        schema_version: SIGNATURE_SCHEMA_VERSION.to_owned(),
        signer_kid: signer.kid().to_owned(),
        algorithm: SIGNATURE_ALGORITHM.to_owned(),
        signature: base64url_encode(&signature),
    };
    let mut text = serde_json::to_vec_pretty(&file).map_err(SignatureError::Write)?;
    text.push(b'\n');
    if text.len() > MAX_SIGNATURE_BYTES {
        return Err(SignatureError::TooLarge { found: text.len() });
    }
    Ok(text)
}

/// Verifies a manifest, given the exact bytes of both files.
///
/// A signature that cannot be read, by a revoked key, or by a trusted key over other bytes is an
/// error whatever [`ManifestTrust::unsigned`] says: somebody vouched for something else.
///
/// # Errors
/// [`SignatureError`].
pub fn verify(
    manifest: &[u8],
    signature: Option<&[u8]>,
    trust: &ManifestTrust<'_>,
) -> Result<VerifiedManifest, SignatureError> {
    let signer_kid = match (believed(manifest, signature, trust), trust.unsigned) {
        (Ok(kid), _) => Some(kid),
        (Err(SignatureError::Unsigned | SignatureError::UnknownKey { .. }), Unsigned::Allow) => {
            None
        }
        (Err(error), _) => return Err(error),
    };
    Ok(VerifiedManifest {
        manifest: Manifest::parse(manifest)?,
        signer_kid,
    })
}

/// The id of the trusted key that signed the manifest.
fn believed(
    manifest: &[u8],
    signature: Option<&[u8]>,
    trust: &ManifestTrust<'_>,
) -> Result<String, SignatureError> {
    let text = signature.ok_or(SignatureError::Unsigned)?;
    if text.len() > MAX_SIGNATURE_BYTES {
        return Err(SignatureError::TooLarge { found: text.len() });
    }
    let file: ManifestSignature = strict_json::from_slice(text)?;
    if file.schema_version != SIGNATURE_SCHEMA_VERSION {
        return Err(SignatureError::SchemaVersion {
            found: file.schema_version,
        });
    }
    if file.algorithm != SIGNATURE_ALGORITHM {
        return Err(SignatureError::Algorithm {
            found: file.algorithm,
        });
    }
    let bytes = base64url_decode(&file.signature)?;
    let bytes: &[u8; 64] = bytes
        .as_slice()
        .try_into()
        .map_err(|_| SignatureError::Length { found: bytes.len() })?;
    let kid = file.signer_kid;
    if trust.revoked.contains(&kid) {
        return Err(SignatureError::RevokedKey { kid });
    }
    match trust.keys.get(&kid) {
        None => Err(SignatureError::UnknownKey { kid }),
        Some(key) if key.verifies(&signed_message(manifest), bytes) => Ok(kid),
        Some(_) => Err(SignatureError::Mismatch { kid }),
    }
}

fn signed_message(manifest: &[u8]) -> Vec<u8> {
    [MANIFEST_SIGNATURE_DOMAIN, manifest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::{RevocationEntry, RevocationListV1, SoftwareSigner};

    fn manifest() -> Vec<u8> {
        let digest = format!("sha256:{}", "0f".repeat(32));
        format!("{digest} kernel kernel\n{digest} rootfs base\n").into_bytes()
    }

    fn signer() -> SoftwareSigner {
        SoftwareSigner::from_seed("builder", [7; 32])
    }

    fn keys() -> TrustVerifyKeys {
        [("builder".to_owned(), signer().verifying_key())]
            .into_iter()
            .collect()
    }

    fn revoked(kids: &[&str]) -> RevokedKids {
        RevocationListV1 {
            schema_version: "1.0.0".to_owned(),
            revocation_epoch: 1,
            revocations: kids
                .iter()
                .map(|kid| RevocationEntry {
                    kid: (*kid).to_owned(),
                    revoked_at: String::new(),
                    reason: String::new(),
                })
                .collect(),
        }
        .kids()
    }

    fn check(
        manifest: &[u8],
        signature: Option<&[u8]>,
        unsigned: Unsigned,
    ) -> Result<Option<String>, SignatureError> {
        let trust = ManifestTrust {
            keys: &keys(),
            revoked: &RevokedKids::default(),
            unsigned,
        };
        verify(manifest, signature, &trust).map(|verified| verified.signer_kid)
    }

    fn altered(change: impl Fn(&mut ManifestSignature)) -> Vec<u8> {
        let text = sign(&manifest(), &signer()).unwrap();
        let mut file: ManifestSignature = serde_json::from_slice(&text).unwrap();
        change(&mut file);
        serde_json::to_vec(&file).unwrap()
    }

    #[test]
    fn a_signed_manifest_is_believed() {
        let signature = sign(&manifest(), &signer()).unwrap();
        for unsigned in [Unsigned::Refuse, Unsigned::Allow] {
            assert_eq!(
                check(&manifest(), Some(&signature), unsigned).unwrap(),
                Some("builder".to_owned())
            );
        }
    }

    #[test]
    fn a_manifest_that_nobody_known_signed_is_taken_only_where_that_is_allowed() {
        let stranger = sign(&manifest(), &SoftwareSigner::from_seed("other", [8; 32])).unwrap();
        assert!(matches!(
            check(&manifest(), None, Unsigned::Refuse),
            Err(SignatureError::Unsigned)
        ));
        assert!(matches!(
            check(&manifest(), Some(&stranger), Unsigned::Refuse),
            Err(SignatureError::UnknownKey { kid }) if kid == "other"
        ));
        for signature in [None, Some(stranger.as_slice())] {
            assert_eq!(
                check(&manifest(), signature, Unsigned::Allow).unwrap(),
                None
            );
        }
    }

    #[test]
    fn a_wrong_signature_is_an_error_even_where_none_is_needed() {
        let signature = sign(&manifest(), &signer()).unwrap();
        let impostor = sign(&manifest(), &SoftwareSigner::from_seed("builder", [8; 32])).unwrap();
        let mut comment = manifest();
        comment.extend_from_slice(b"# one comment more\n");
        for unsigned in [Unsigned::Refuse, Unsigned::Allow] {
            for (text, signature) in [(&comment, &signature), (&manifest(), &impostor)] {
                assert!(matches!(
                    check(text, Some(signature), unsigned),
                    Err(SignatureError::Mismatch { .. })
                ));
            }
            assert!(matches!(
                check(&manifest(), Some(b"{}"), unsigned),
                Err(SignatureError::Unreadable(_))
            ));
        }
    }

    #[test]
    fn a_revoked_key_is_not_believed() {
        let signature = sign(&manifest(), &signer()).unwrap();
        for unsigned in [Unsigned::Refuse, Unsigned::Allow] {
            let trust = ManifestTrust {
                keys: &keys(),
                revoked: &revoked(&["builder"]),
                unsigned,
            };
            assert!(matches!(
                verify(&manifest(), Some(&signature), &trust),
                Err(SignatureError::RevokedKey { .. })
            ));
        }
    }

    #[test]
    fn a_signature_over_the_bare_manifest_does_not_count() {
        let bare = signer().sign(&manifest()).unwrap();
        let file = altered(|file| file.signature = base64url_encode(&bare));
        assert!(matches!(
            check(&manifest(), Some(&file), Unsigned::Refuse),
            Err(SignatureError::Mismatch { .. })
        ));
    }

    #[test]
    fn other_forms_of_the_signature_file_are_refused() {
        type Expected = fn(&SignatureError) -> bool;
        let cases: [(Vec<u8>, Expected); 6] = [
            (altered(|file| file.schema_version = "2".into()), |error| {
                matches!(error, SignatureError::SchemaVersion { .. })
            }),
            (altered(|file| file.algorithm = "none".into()), |error| {
                matches!(error, SignatureError::Algorithm { .. })
            }),
            (altered(|file| file.signature = "+".into()), |error| {
                matches!(error, SignatureError::Encoding(_))
            }),
            (altered(|file| file.signature = "AAAA".into()), |error| {
                matches!(error, SignatureError::Length { found: 3 })
            }),
            (vec![b' '; MAX_SIGNATURE_BYTES + 1], |error| {
                matches!(error, SignatureError::TooLarge { .. })
            }),
            (
                String::from_utf8(altered(|_| ()))
                    .unwrap()
                    .replacen('{', r#"{"extra":1,"#, 1)
                    .into_bytes(),
                |error| matches!(error, SignatureError::Unreadable(_)),
            ),
        ];
        for (file, expected) in cases {
            let error = check(&manifest(), Some(&file), Unsigned::Refuse).unwrap_err();
            assert!(expected(&error), "{error}");
        }
    }

    #[test]
    fn what_no_reader_takes_is_not_signed() {
        assert!(matches!(
            sign(b"nonsense", &signer()),
            Err(SignatureError::Manifest(_))
        ));
        let long = SoftwareSigner::from_seed("k".repeat(MAX_SIGNATURE_BYTES), [7; 32]);
        assert!(matches!(
            sign(&manifest(), &long),
            Err(SignatureError::TooLarge { .. })
        ));
    }
}
