//! Whom a TLS client trusts.

use std::{io::Read as _, path::Path, sync::Arc};

use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::remote::{SinkOpenError, credential::open_regular};

/// Largest file of certificates, in bytes. The system's own, with all public authorities, has a
/// quarter of it.
pub const MAX_CA_FILE_BYTES: u64 = 1024 * 1024;

/// A client that trusts the system's authorities, and those in a file.
///
/// # Errors
/// [`SinkOpenError`] where the file cannot be read, holds no certificate, or nobody is trusted.
pub(crate) fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, SinkOpenError> {
    let mut roots = RootCertStore::empty();
    // What the system has and cannot be read is not trusted, and that is all that follows.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|error| malformed(path, &error.to_string()))?;
        }
    }
    if roots.is_empty() {
        return Err(SinkOpenError::Value {
            field: "caFile",
            problem: "this system trusts no authority: name a file of certificates".to_owned(),
        });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| SinkOpenError::Value {
            field: "url",
            problem: error.to_string(),
        })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SinkOpenError> {
    let mut pem = Vec::new();
    open_regular(path)
        .and_then(|file| file.take(MAX_CA_FILE_BYTES + 1).read_to_end(&mut pem))
        .map_err(|source| SinkOpenError::File {
            field: "caFile",
            path: path.to_owned(),
            source,
        })?;
    if pem.len() as u64 > MAX_CA_FILE_BYTES {
        return Err(malformed(path, "it is too large"));
    }
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(path, &error.to_string()))?;
    match certificates.is_empty() {
        true => Err(malformed(path, "it holds no certificate in PEM")),
        false => Ok(certificates),
    }
}

fn malformed(path: &Path, problem: &str) -> SinkOpenError {
    SinkOpenError::Value {
        field: "caFile",
        problem: format!("file {path:?}: {problem}"),
    }
}
