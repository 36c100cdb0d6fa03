//! The certificate of a client, read once for each connection.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::listeners::TlsAccept;
use pingora::protocols::tls::{SslDigest, TlsRef};
use plan::client_certificate::ClientCertificate;

/// Reads the client certificate after the handshake has verified it.
pub(super) struct ReadCertificates;

#[async_trait]
impl TlsAccept for ReadCertificates {
    async fn handshake_complete_callback(
        &self,
        tls: &TlsRef,
    ) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(ClientCertificate::read(tls.peer_certificate_der()?)))
    }
}

/// The certificate of a connection, if the client presented one.
pub(crate) fn client_certificate(tls: Option<&SslDigest>) -> Option<&ClientCertificate> {
    tls?.extension.get()
}
