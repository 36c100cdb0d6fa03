//! A listener's certificate, which can change while the gateway runs.
//!
//! - *In*: PEM files, read again when they change.
//! - *Out*: the certificate for a handshake.
//! - *Never*: a certificate without its key: new files take effect together or not at all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use config::settings::ListenerTls;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use plan::client_certificate::certificate_expiry;
use transport::BuildError;

/// Modification times and sizes of the files when they were read.
type Stamps = [Option<(SystemTime, u64)>; 2];

/// A certificate with its key.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: ListenerTls,
    current: ArcSwap<CertifiedKey>,
    stamps: Mutex<Stamps>,
    /// Whether the files had a valid certificate when they were last read.
    is_current: AtomicBool,
}

impl Certificate {
    pub(crate) fn load(files: &ListenerTls) -> Result<Arc<Self>, BuildError> {
        let stamps = Mutex::new(stamps(files));
        Ok(Arc::new(Certificate {
            current: ArcSwap::new(read(files)?),
            stamps,
            is_current: AtomicBool::new(true),
            files: files.clone(),
        }))
    }

    /// Unix time at which the first certificate of the chain expires, in seconds.
    pub(crate) fn expiry(&self) -> Option<i64> {
        let current = self.current.load();
        current.cert.iter().filter_map(|der| certificate_expiry(der)).min()
    }

    /// Reload the files if they have changed, and use them if they are valid. Returns whether the
    /// certificate in force is that of the files.
    pub(crate) fn reload_if_changed(&self) -> bool {
        let now = stamps(&self.files);
        let mut known = self.stamps.lock();
        if *known == now {
            return self.is_current.load(Ordering::Relaxed);
        }
        *known = now;
        let fresh = self.reload();
        self.is_current.store(fresh, Ordering::Relaxed);
        fresh
    }

    fn reload(&self) -> bool {
        match read(&self.files) {
            Ok(fresh) => {
                self.current.store(fresh);
                tracing::info!(path = %self.files.cert.display(), "certificate reloaded");
                true
            }
            Err(error) => {
                tracing::error!(%error, "new certificate is invalid, keeping the previous one");
                false
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// Verifier of client certificates, if the listener has authorities.
pub(crate) fn verifier(
    files: &ListenerTls,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, BuildError> {
    let Some(path) = &files.client_ca else { return Ok(None) };
    let wrong = |why: String| pem("client authorities", path, why);
    let mut roots = RootCertStore::empty();
    for authority in certificates(path).map_err(&wrong)? {
        roots.add(authority).map_err(|e| wrong(e.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    if !files.client_required {
        builder = builder.allow_unauthenticated();
    }
    builder
        .build()
        .map(|verifier| Some(verifier as Arc<dyn ClientCertVerifier>))
        .map_err(|e| wrong(e.to_string()))
}

/// Read the chain and its key, and check that they match: pingora would panic later.
fn read(files: &ListenerTls) -> Result<Arc<CertifiedKey>, BuildError> {
    let chain = certificates(&files.cert).map_err(|why| pem("certificate", &files.cert, why))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|e| pem("private key", &files.key, e.to_string()))?;
    let both = CertifiedKey::from_der(chain, key, &provider())
        .map_err(|e| pem("certificate and key", &files.cert, e.to_string()))?;
    Ok(Arc::new(both))
}

/// The certificates of a PEM file, of which it must have one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| e.to_string())?;
    if all.is_empty() { Err("contains no certificate".into()) } else { Ok(all) }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn pem(what: &'static str, path: &Path, why: String) -> BuildError {
    BuildError::Pem { what, path: path.display().to_string(), why }
}

fn stamps(files: &ListenerTls) -> Stamps {
    [&files.cert, &files.key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}
