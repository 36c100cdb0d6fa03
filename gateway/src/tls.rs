//! TLS with clients: handshakes, certificates of listeners and of clients.

mod acceptor;
mod certificate;
mod client_certificate;

pub(crate) use acceptor::Acceptor;
pub(crate) use certificate::{Certificate, certificates, verifier};
pub(crate) use client_certificate::client_certificate;
