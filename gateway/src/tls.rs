//! Certificates of listeners and of clients.

mod certificate;
mod client_certificate;

pub(crate) use certificate::{Certificate, verifier};
pub(crate) use client_certificate::{ReadCertificates, client_certificate};
