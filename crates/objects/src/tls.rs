//! TLS to an object store: TLS 1.2 or newer, always verified.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::options::OptionsError;

/// The configuration with the authorities of a file, or else of the system.
pub(crate) fn config(ca: Option<&Path>) -> Result<ClientConfig, OptionsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("invariant: the provider supports the default versions")
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, OptionsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let native = rustls_native_certs::load_native_certs().certs;
        if roots.add_parsable_certificates(native).0 == 0 {
            let problem = "the system has no certificate authorities; name a file in `ca`";
            return Err(OptionsError(problem.into()));
        }
        return Ok(roots);
    };
    let wrong =
        |why: String| OptionsError(format!("certificate authorities {}: {why}", path.display()));
    let found = CertificateDer::pem_file_iter(path).map_err(|why| wrong(why.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|why| wrong(why.to_string()))?;
        roots.add(certificate).map_err(|why| wrong(why.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("contains no certificate".into()));
    }
    Ok(roots)
}
