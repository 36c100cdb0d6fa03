//! Certificates: those that listeners show, and those that clients show.

mod certificate;
mod client_certificate;

pub(crate) use certificate::{Certificate, verifier};
pub(crate) use client_certificate::{ReadCertificates, client_certificate};
