//! TLS to a collector: TLS 1.2 or newer, always verified.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::settings::TlsFiles;

/// A TLS file is invalid.
#[derive(Debug, thiserror::Error)]
#[error("OTLP: {what} {path}: {why}")]
pub struct TlsError {
    what: &'static str,
    path: String,
    why: String,
}

impl TlsError {
    pub(super) fn new(what: &'static str, path: &Path, why: impl ToString) -> Self {
        TlsError { what, path: path.display().to_string(), why: why.to_string() }
    }
}

/// The configuration of TLS with these files.
pub(super) fn config(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("invariant: the provider supports the default versions")
        .with_root_certificates(roots(files)?);
    let (Some(chain), Some(key)) = (&files.client_certificate, &files.client_key) else {
        return Ok(config.with_no_client_auth());
    };
    let certificates = certificates("client certificate", chain)?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|why| TlsError::new("client key", key, why))?;
    config
        .with_client_auth_cert(certificates, private)
        .map_err(|why| TlsError::new("client certificate", chain, why))
}

/// The certificate authorities of the file, or else of the system.
pub(super) fn roots(files: &TlsFiles) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &files.ca else {
        let (added, _) =
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            tracing::warn!("otlp: the system has no certificate authorities; set otlp.ca");
        }
        return Ok(roots);
    };
    for certificate in certificates("certificate authorities", path)? {
        roots
            .add(certificate)
            .map_err(|why| TlsError::new("certificate authorities", path, why))?;
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|why| TlsError::new(what, path, why))?
        .collect();
    let found = found.map_err(|why| TlsError::new(what, path, why))?;
    if found.is_empty() {
        return Err(TlsError::new(what, path, "contains no certificate"));
    }
    Ok(found)
}
