//! What is trusted: certificates for resolvers over TLS, and keys that DNSSEC begins with.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use hickory_proto::dnssec::TrustAnchors;
use rustix::fs::{Mode, OFlags};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Longest file of trust anchors, in bytes; the contract's number.
const ANCHORS_MAX: u64 = 32 * 1024;
/// Longest file of certificates, in bytes: the public roots take a quarter of a mebibyte.
const CERTIFICATES_MAX: u64 = 4 * 1024 * 1024;
/// The variable that names a file with more certificates.
pub(super) const CA_BUNDLE: &str = "CELLOS_CA_BUNDLE";

/// Why there is nothing to trust.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustProblem {
    /// The file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file has no certificate.
    #[error("{CA_BUNDLE} names {0}, which has no certificate in PEM form")]
    NoCertificate(String),
    /// Neither the host nor the file has one.
    #[error("this host has no root certificates; name a file of them in {CA_BUNDLE}")]
    NoRoots,
    /// What TLS says.
    #[error("set up TLS: {0}")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// The anchors are none.
    #[error("{path} is no file of DNSKEY records: {problem}")]
    Anchors {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// TLS that trusts the host's roots, and those of a file in addition.
pub(super) fn tls(bundle: Option<&OsStr>) -> Result<ClientConfig, TrustProblem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = bundle.filter(|path| !path.is_empty()) {
        let path = Path::new(path);
        let name = path.display().to_string();
        let pem = read(path, CERTIFICATES_MAX, OFlags::empty())?;
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|_| TrustProblem::NoCertificate(name.clone()))?;
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(TrustProblem::NoCertificate(name));
        }
    }
    if roots.is_empty() {
        return Err(TrustProblem::NoRoots);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The anchors of a file, and what events call them.
pub(super) fn anchors(path: Option<&str>) -> Result<(TrustAnchors, String), TrustProblem> {
    let Some(path) = path else {
        return Ok((TrustAnchors::default(), "iana-default".to_owned()));
    };
    let wrong = |problem: String| TrustProblem::Anchors {
        path: path.to_owned(),
        problem,
    };
    let bytes = read(Path::new(path), ANCHORS_MAX, OFlags::NOFOLLOW)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is no text".into()))?;
    if !text.contains("DNSKEY") {
        return Err(wrong("there is no record".into()));
    }
    let anchors = text
        .parse::<TrustAnchors>()
        .map_err(|error| wrong(error.to_string()))?;
    let name = Path::new(path).file_name().unwrap_or_default();
    Ok((anchors, name.to_string_lossy().into_owned()))
}

/// A regular file that is not longer than it may be.
fn read(path: &Path, max: u64, flags: OFlags) -> Result<Vec<u8>, TrustProblem> {
    let wrong = |source| TrustProblem::Read {
        path: path.display().to_string(),
        source,
    };
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| wrong(error.into()))?;
    let file = File::from(file);
    if !file.metadata().map_err(wrong)?.is_file() {
        return Err(wrong(io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(wrong)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= max => Ok(bytes),
        _ => Err(wrong(io::Error::other(format!(
            "it is longer than {max} bytes"
        )))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_read_from_plain_short_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("long"), vec![b'\n'; 32 * 1024 + 1]).unwrap();
        std::fs::write(path("empty"), "").unwrap();
        std::os::unix::fs::symlink(path("empty"), path("link")).unwrap();
        for (name, says) in [
            ("long", "longer than 32768 bytes"),
            ("empty", "no file of DNSKEY"),
            ("link", "read "),
            ("none", "read "),
            ("", "read "),
        ] {
            let problem = anchors(Some(&path(name))).err().unwrap().to_string();
            assert!(problem.contains(says), "{name}: {problem}");
        }
        assert_eq!(anchors(None).unwrap().1, "iana-default");
    }

    #[test]
    fn a_bundle_without_certificates_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.pem");
        std::fs::write(&path, "nothing").unwrap();
        let problem = tls(Some(path.as_os_str())).err().unwrap().to_string();
        assert!(problem.contains("has no certificate"), "{problem}");
    }
}
