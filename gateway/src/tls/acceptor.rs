//! TLS handshakes with clients.
//!
//! - *In*: an accepted TCP connection; certificate, protocol versions and client authorities of the
//!   listener.
//! - *Out*: a TLS stream; a failed handshake ends with an alert that names the cause.
//! - *Never*: a time limit or a count: the listener has both, for all that happens before the first
//!   request.

use std::sync::Arc;

use config::settings::ListenerTls;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as TcpStream;
use pingora::protocols::tls::server::handshake_with_callback;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use transport::BuildError;

use super::certificate::{Certificate, pem, provider, verifier};
use super::client_certificate::ReadCertificates;

/// Protocols of a TLS listener for ALPN, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Makes TLS streams of the connections of one listener.
pub(crate) struct Acceptor {
    certificate: Arc<Certificate>,
    tls: pingora::listeners::tls::Acceptor,
}

impl Acceptor {
    /// Load the files that the settings name.
    pub(crate) fn load(files: &ListenerTls) -> Result<Self, BuildError> {
        let certificate = Certificate::load(files)?;
        let config = server_config(files, certificate.clone(), verifier(files)?)?;
        let tls = pingora::listeners::tls::Acceptor::from_server_config(Arc::new(config));
        Ok(Acceptor { certificate, tls })
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> &Arc<Certificate> {
        &self.certificate
    }

    /// Shake hands with a client.
    pub(crate) async fn handshake(&self, io: TcpStream) -> pingora::Result<Stream> {
        let io = handshake_with_callback(&self.tls, io, &ReadCertificates).await?;
        Ok(Box::new(io))
    }
}

fn server_config(
    files: &ListenerTls,
    certificate: Arc<Certificate>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, BuildError> {
    let versions: &[_] = if files.allow_tls12 {
        &[&rustls::version::TLS12, &rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS13]
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| pem("certificate and key", &files.cert, error.to_string()))?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = PROTOCOLS.map(Vec::from).to_vec();
    Ok(config)
}
