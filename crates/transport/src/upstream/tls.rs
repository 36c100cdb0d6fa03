//! TLS to backends: TLS 1.2 or newer, always verified, with the certificate authorities from the
//! settings or of the system.

use std::io;
use std::path::Path;
use std::sync::Arc;

use config::settings::BackendTls;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why TLS to a backend cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A certificate, key or authority file is invalid.
    #[error("{what} {path}: {why}")]
    Pem {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server name is not valid for TLS.
    #[error("backend {backend}: {name:?} is not a valid TLS server name")]
    ServerName {
        /// The backend.
        backend: String,
        /// The name.
        name: String,
    },
}

/// The client side of TLS to one backend.
#[derive(Clone)]
pub(super) struct TlsClient {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsClient").field(&self.name).finish()
    }
}

impl TlsClient {
    pub(super) fn build(backend: &str, tls: &BackendTls) -> Result<Self, BuildError> {
        let name = ServerName::try_from(tls.server_name.clone()).map_err(|_| {
            BuildError::ServerName { backend: backend.to_owned(), name: tls.server_name.clone() }
        })?;
        let roots = match &tls.ca {
            Some(path) => roots_from(path)?,
            None => system_roots(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("invariant: the provider supports the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsClient { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub(super) async fn handshake(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), socket).await
    }
}

fn roots_from(path: &Path) -> Result<RootCertStore, BuildError> {
    let pem = |why: String| BuildError::Pem {
        what: "certificate authorities",
        path: path.display().to_string(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| pem(e.to_string()))? {
        let certificate = certificate.map_err(|e| pem(e.to_string()))?;
        roots.add(certificate).map_err(|e| pem(e.to_string()))?;
    }
    if roots.is_empty() { Err(pem("contains no certificate".into())) } else { Ok(roots) }
}

/// The certificate authorities of the system. Invalid ones are skipped; without any, every
/// handshake fails.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!("tls: the system has no certificate authorities; set backends[].tls.ca");
    }
    roots
}
