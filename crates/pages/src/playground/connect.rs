//! Connects to a listener of this gateway, with TLS where the listener serves it.
//!
//! - *In*: a listener.
//! - *Out*: a connection.
//! - *Never*: TLS with another certificate than the one in the listener's `tls.cert`. Its names are
//!   those of the gateway for its clients, and not the loopback address, so they are not verified:
//!   the certificate itself is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Listening;

/// Maximum time to connect.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, with or without TLS.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// Connect to a listener.
///
/// # Errors
/// Why that is not possible.
pub(super) async fn connect(listening: &Listening) -> Result<Box<dyn Socket>, String> {
    let connected = tokio::time::timeout(TIMEOUT, open(listening)).await;
    connected.unwrap_or_else(|_| Err(format!("no connection in {TIMEOUT:?}")))
}

async fn open(listening: &Listening) -> Result<Box<dyn Socket>, String> {
    let target = listening.target();
    let socket = TcpStream::connect(target).await.map_err(|error| error.to_string())?;
    let Some(tls) = &listening.listener.tls else { return Ok(Box::new(socket)) };
    let file = tls.cert.clone();
    let read = tokio::task::spawn_blocking(move || Pinned::read(&file)).await;
    let config = client(read.map_err(|error| error.to_string())??)?;
    let name = ServerName::IpAddress(target.ip().into());
    let tls = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    Ok(Box::new(tls.map_err(|error| format!("TLS: {error}"))?))
}

fn client(pinned: Pinned) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(pinned.provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let verifier = builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned));
    let mut config = verifier.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts one certificate.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    /// The first certificate of a file, which is the listener's own.
    fn read(file: &Path) -> Result<Self, String> {
        let certificate = CertificateDer::from_pem_file(file)
            .map_err(|error| format!("the certificate {}: {error}", file.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Pinned { certificate, provider })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        presented: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *presented == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
