//! TLS handshakes with clients.
//!
//! - *In*: an accepted TCP connection; certificate, protocol versions and client authorities of the
//!   listener.
//! - *Out*: a TLS stream; a failed handshake ends with an alert that names the cause.
//! - *Never*: a time limit or a count: the listener has both, for all that happens before the first
//!   request.

use std::sync::Arc;

use config::settings::ListenerTls;
use pingora::protocols::l4::stream::Stream as TcpStream;
use pingora::protocols::tls::server::handshake_with_callback;
use pingora::protocols::{Peek, Stream};
use pingora::{Error, ErrorType};
use rustls::server::danger::ClientCertVerifier;
use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::BuildError;

use super::certificate::{Certificate, pem, provider, verifier};
use super::client_certificate::ReadCertificates;

/// Protocols of a TLS listener for ALPN, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Type of a record with a handshake message.
const HANDSHAKE: u8 = 22;
/// The fatal alert `protocol_version` (70), in a record of TLS 1.0.
const PROTOCOL_VERSION_ALERT: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];
/// Bytes of a refused hello that are read.
const MAX_HELLO: usize = 16 << 10;

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
    pub(crate) async fn handshake(&self, mut io: TcpStream) -> pingora::Result<Stream> {
        if offers_old_version(&mut io).await {
            refuse_version(&mut io).await;
            let why = "the client offers TLS 1.1 or older only";
            return Error::e_explain(ErrorType::TLSHandshakeFailure, why);
        }
        let io = handshake_with_callback(&self.tls, io, &ReadCertificates).await?;
        Ok(Box::new(io))
    }
}

/// Whether a connection begins with a hello of TLS 1.1 or older. Nothing is consumed. rustls would
/// answer it with an alert about an extension that these versions do not have.
async fn offers_old_version(io: &mut TcpStream) -> bool {
    let mut kind = [0];
    if io.try_peek(&mut kind).await.is_err() || kind != [HANDSHAKE] {
        return false;
    }
    // Type, version and length of the record; type and length of the message; its version.
    let mut begins = [0; 11];
    let is_read = io.try_peek(&mut begins).await.is_ok();
    let [.., major, minor] = begins;
    is_read && u16::from_be_bytes([major, minor]) < u16::from(ProtocolVersion::TLSv1_2)
}

/// Send the alert `protocol_version`, and read the rest of the hello, so that closing does not
/// reset the connection before the client has the alert.
async fn refuse_version(io: &mut TcpStream) {
    let sent = async {
        io.write_all(&PROTOCOL_VERSION_ALERT).await?;
        io.flush().await?;
        AsyncWriteExt::shutdown(io).await
    };
    let mut rest = [0; 1024];
    let mut is_open = sent.await.is_ok();
    for _ in 0..MAX_HELLO / rest.len() {
        is_open = is_open && io.read(&mut rest).await.is_ok_and(|len| len > 0);
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
