//! TLS for NATS: whom to trust, and what to show of oneself.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
    },
};

use super::config::{ClientCertificate, TlsConfig};
use crate::remote::{credential::open_regular, http::MAX_CA_FILE_BYTES};

/// Why certificates cannot be used. Nothing of a key appears in the message.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there or holds no such thing.
    #[error("{path}: no {what} in PEM form: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// A certificate or a key.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// A file without certificates.
    #[error("{path}: no certificate in it")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate cannot be an authority.
    #[error("{path}: {source}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The certificate and the key do not belong together.
    #[error("client certificate {path}: {source}")]
    Client {
        /// The file of the certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Nobody is trusted.
    #[error("no authority to trust: the system has none, and `caFile` is not set")]
    NoAuthority,
    /// The algorithms cannot be used.
    #[error("TLS: {0}")]
    Algorithms(rustls::Error),
}

/// What makes TLS connections as configured. Files are read anew, so that renewed ones are used.
///
/// # Errors
/// [`TlsError`].
pub(super) fn connector(config: Option<&TlsConfig>) -> Result<TlsConnector, TlsError> {
    let ca_file = config.and_then(|config| config.ca_file.as_deref());
    let client = config.and_then(|config| config.client.as_ref());
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Algorithms)?
        .with_root_certificates(authorities(ca_file)?);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate {
            cert_file,
            key_file,
        }) => {
            let key = open(key_file)
                .and_then(PrivateKeyDer::from_pem_reader)
                .map_err(pem_error(key_file, "private key"))?;
            builder
                .with_client_auth_cert(certificates(cert_file)?, key)
                .map_err(|source| TlsError::Client {
                    path: cert_file.clone(),
                    source,
                })?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The system's authorities and those of the file. A system that has a bad one among them does not
/// hinder; its good ones count.
fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|source| TlsError::Authority {
                    path: path.to_owned(),
                    source,
                })?;
        }
    }
    match roots.is_empty() {
        false => Ok(roots),
        true => Err(TlsError::NoAuthority),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = open(path)
        .and_then(|file| CertificateDer::pem_reader_iter(file).collect())
        .map_err(pem_error(path, "certificate"))?;
    match certificates.is_empty() {
        false => Ok(certificates),
        true => Err(TlsError::Empty {
            path: path.to_owned(),
        }),
    }
}

fn open(path: &Path) -> Result<impl io::Read, pem::Error> {
    let file = open_regular(path).map_err(pem::Error::Io)?;
    Ok(file.take(MAX_CA_FILE_BYTES))
}

fn pem_error(path: &Path, what: &'static str) -> impl Fn(pem::Error) -> TlsError {
    move |source| {
        // Its `Debug` and `Display` may show the line that is wrong, which may be one of a key.
        let source = match source {
            pem::Error::Io(source) => pem::Error::Io(source),
            pem::Error::NoItemsFound => pem::Error::NoItemsFound,
            _ => pem::Error::Io(io::Error::from(io::ErrorKind::InvalidData)),
        };
        TlsError::Pem {
            path: path.to_owned(),
            what,
            source,
        }
    }
}
