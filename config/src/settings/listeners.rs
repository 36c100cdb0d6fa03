//! Listeners: for clients, and for operators.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use std::time::Duration;

use serde::Serialize;
use yaml::Secret;

use super::network::{self, Network};
use super::seconds;

/// The operator's listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdminListener {
    /// Its address.
    pub address: SocketAddr,
    /// Names that it serves, besides IP addresses and loopback names; in lower case. A name that
    /// begins with `*.` matches all names below it.
    pub hosts: Vec<String>,
    /// Networks that may connect; empty: all.
    pub allow: Vec<Network>,
    /// Networks that may not connect.
    pub deny: Vec<Network>,
    /// Tokens that it requires; `None`: it has no login.
    pub auth: Option<AdminAuth>,
}

/// Authentication of the operator's listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdminAuth {
    /// Tokens, at least one.
    pub tokens: Vec<AdminToken>,
    /// Maximum time for which a browser stays signed in.
    #[serde(serialize_with = "seconds")]
    pub session: Duration,
}

/// A token of the operator's listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdminToken {
    /// Its name in logs.
    pub name: String,
    /// The token.
    pub token: Secret,
    /// What it permits.
    pub role: AdminRole,
}

/// What a token of the operator's listener permits; a higher role includes the lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminRole {
    /// All pages.
    Viewer,
    /// Changes as well.
    Operator,
}

impl AdminRole {
    /// Its name in settings, answers and the audit log.
    pub fn name(self) -> &'static str {
        match self {
            AdminRole::Viewer => "viewer",
            AdminRole::Operator => "operator",
        }
    }
}

impl AdminListener {
    /// Whether the address lets other machines connect.
    pub fn is_exposed(&self) -> bool {
        !self.address.ip().to_canonical().is_loopback()
    }

    /// Whether a client with that address may connect.
    pub fn admits(&self, address: IpAddr) -> bool {
        network::admits(&self.allow, &self.deny, address)
    }
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Listener {
    /// IP and port.
    pub address: SocketAddr,
    /// HTTP/2 without TLS.
    pub h2c: bool,
    /// TLS.
    pub tls: Option<ListenerTls>,
    /// Connections of trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Networks of the clients that may connect; empty: all.
    pub allow: Vec<Network>,
    /// Networks of clients that may not connect.
    pub deny: Vec<Network>,
}

impl Listener {
    /// A listener for HTTP/1.1 without TLS, open to all.
    pub fn plain(address: SocketAddr) -> Self {
        Listener {
            address,
            h2c: false,
            tls: None,
            proxy_protocol: false,
            allow: Vec::new(),
            deny: Vec::new(),
        }
    }

    /// Whether a client with that address may connect.
    pub fn admits(&self, address: IpAddr) -> bool {
        network::admits(&self.allow, &self.deny, address)
    }
}

/// Certificate and key files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ListenerTls {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Clients may speak TLS 1.2.
    pub allow_tls12: bool,
    /// Authorities of clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// Require a client certificate.
    pub client_required: bool,
}
