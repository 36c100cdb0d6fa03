//! What a client's certificate proves.
//!
//! - *In*: a certificate that the handshake has verified.
//! - *Out*: its fingerprint and its names, as proofs that an entry of the key file can require.
//! - *Never*: a name of a certificate that was not verified.

use sha2::{Digest, Sha256};
use traffic::settings::Proof;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// Maximum alternative names read from a certificate.
const MAX_NAMES: usize = 64;

/// Short names of subject attributes, as OpenSSL prints them. Other attributes are written as OIDs.
const KINDS: [(&str, &str); 14] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// What the certificate of a connection proves.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The fingerprint, the subject, the alternative names.
    pub proves: Vec<Proof>,
}

impl ClientCertificate {
    /// Read a DER certificate. One that cannot be parsed yields its fingerprint only.
    pub fn read(der: &[u8]) -> Self {
        let mut proves = vec![Proof::Certificate(Sha256::digest(der).into())];
        if let Ok((_, certificate)) = X509Certificate::from_der(der) {
            proves.extend(subject(certificate.subject()).map(|name| Proof::subject(&name)));
            let names = certificate.subject_alternative_name().ok().flatten();
            let names =
                names.iter().flat_map(|names| &names.value.general_names).filter_map(alternative);
            proves.extend(names.take(MAX_NAMES).map(|name| Proof::subject(&name)));
        }
        ClientCertificate { proves }
    }
}

/// Unix time at which a DER certificate expires, in seconds; `None` if it cannot be parsed.
pub fn certificate_expiry(der: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn alternative(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::URI(name) => Some(format!("URI:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        _ => None,
    }
}

/// The subject in RFC 4514 form: last part first, separated by commas. `None`: it is empty, or has
/// a value that is not text.
fn subject(name: &X509Name<'_>) -> Option<String> {
    let mut out = String::new();
    for part in name.iter_rdn().collect::<Vec<_>>().into_iter().rev() {
        for (at, attribute) in part.iter().collect::<Vec<_>>().into_iter().rev().enumerate() {
            if !out.is_empty() {
                out.push(if at > 0 { '+' } else { ',' });
            }
            let kind = attribute.attr_type().to_id_string();
            out.push_str(
                KINDS.iter().find(|(known, _)| *known == kind).map_or(&kind, |(_, name)| name),
            );
            out.push('=');
            escape(attribute.as_str().ok()?, &mut out);
        }
    }
    (!out.is_empty()).then_some(out)
}

/// A value (RFC 4514, section 2.4).
fn escape(value: &str, out: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        let edge = character == ' ' && (at == 0 || at == last) || character == '#' && at == 0;
        match character {
            '\0' => out.push_str("\\00"),
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', character]),
            _ if edge => out.extend(['\\', character]),
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_as_the_standard_says() {
        for (value, want) in [
            ("James \"Jim\" Smith, III", "James \\\"Jim\\\" Smith\\, III"),
            (" a ", "\\ a\\ "),
            ("#1", "\\#1"),
            ("a#", "a#"),
            ("", ""),
        ] {
            let mut out = String::new();
            escape(value, &mut out);
            assert_eq!(out, want);
        }
    }

    #[test]
    fn unparseable_certificate_has_only_a_fingerprint() {
        assert_eq!(ClientCertificate::read(b"no certificate").proves.len(), 1);
    }
}
