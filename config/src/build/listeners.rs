//! Listeners, and the networks that may connect to them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Builder;
use crate::settings::{
    AdminAuth, AdminListener, AdminRole, AdminToken, Listener, ListenerTls, Network,
};
use crate::tree::Table;

/// Minimum characters of a token of the admin listener; a shorter one can be guessed.
const MIN_TOKEN: usize = 16;
/// Maximum tokens: each request compares all of them.
const MAX_TOKENS: usize = 64;
/// Limits of `admin.auth.session`.
const MIN_SESSION: Duration = Duration::from_secs(60);
/// See [`MIN_SESSION`].
const MAX_SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

impl Builder {
    pub(super) fn listeners(
        &mut self,
        root: &Table,
        admin: SocketAddr,
        trusts_none: bool,
    ) -> Vec<Listener> {
        let written = root.list("listeners");
        let listeners: Vec<Table> = if written.is_empty() {
            self.fallback.list("listeners").to_vec()
        } else {
            written.to_vec()
        };
        let mut out: Vec<Listener> = Vec::new();
        for table in &listeners {
            let address = self.address(table);
            if let Some(other) = out.iter().find(|other| overlap(other.address, address)) {
                self.wrong(
                    table,
                    "address",
                    format!("{address} is taken by another listener, {}", other.address),
                );
            }
            if overlap(admin, address) {
                self.wrong(
                    table,
                    "address",
                    format!(
                        "{address} is taken by the admin listener, {admin}; change one of them"
                    ),
                );
            }
            let tls = table.table("tls").map(|tls| ListenerTls {
                cert: PathBuf::from(tls.text("cert").unwrap_or_default()),
                key: PathBuf::from(tls.text("key").unwrap_or_default()),
                allow_tls12: tls.text("min_version") == Some("1.2"),
                client_ca: tls.text("client_ca").map(PathBuf::from),
                client_required: tls.text("client_certificates") != Some("optional"),
            });
            if let Some(at) = table.table("tls") {
                ["cert", "key", "client_ca"].iter().for_each(|file| self.openable(at, file));
            }
            let proxy_protocol = table.flag("proxy_protocol");
            if proxy_protocol && trusts_none {
                let message = "needs trusted_proxies: the networks that may send a PROXY header";
                self.wrong(table, "proxy_protocol", message);
            }
            let (allow, deny) = (self.networks(table, "allow"), self.networks(table, "deny"));
            let h2c = table.flag("h2c");
            out.push(Listener { address, h2c, tls, proxy_protocol, allow, deny });
        }
        out
    }

    pub(super) fn networks(&mut self, table: &Table, field: &str) -> Vec<Network> {
        let mut out = Vec::new();
        for text in table.texts(field) {
            match text.parse() {
                Ok(network) => out.push(network),
                Err(()) => self.wrong(
                    table,
                    field,
                    format!("{text:?} is not a network; write for example \"10.0.0.0/8\""),
                ),
            }
        }
        out
    }

    pub(super) fn admin(&mut self, root: &Table) -> AdminListener {
        let table = self.section(root, "admin");
        AdminListener {
            address: self.address(&table),
            hosts: self.hosts(&table),
            allow: self.networks(&table, "allow"),
            deny: self.networks(&table, "deny"),
            auth: table.table("auth").map(|auth| self.admin_auth(auth)),
        }
    }

    fn admin_auth(&mut self, table: &Table) -> AdminAuth {
        let session = table.duration("session");
        if !(MIN_SESSION..=MAX_SESSION).contains(&session) {
            self.wrong(table, "session", "must be from 1m to 168h");
        }
        let entries = table.list("tokens");
        if !(1..=MAX_TOKENS).contains(&entries.len()) {
            self.wrong(table, "tokens", format!("must have from 1 to {MAX_TOKENS} entries"));
        }
        self.unique_names(entries);
        let mut tokens: Vec<AdminToken> = Vec::new();
        for entry in entries {
            let Some(token) = entry.secret("token") else {
                self.wrong(entry, "token", "is missing; make one with `openssl rand -hex 32` and give it as \"${ENV}\" or \"file:PATH\"");
                continue;
            };
            if token.reveal().len() < MIN_TOKEN {
                self.wrong(entry, "token", format!("must have at least {MIN_TOKEN} characters"));
            }
            // Two names for one token would make the audit log ambiguous.
            if let Some(other) = tokens.iter().find(|other| other.token == *token) {
                self.wrong(entry, "token", format!("is that of {:?}, too", other.name));
            }
            let name = entry.text("name").unwrap_or_default().to_owned();
            let role = match entry.text("role") {
                Some("operator") => AdminRole::Operator,
                _ => AdminRole::Viewer,
            };
            tokens.push(AdminToken { name, token: token.clone(), role });
        }
        AdminAuth { tokens, session }
    }

    /// Names of `Host`, without ports. An IPv6 address is in brackets.
    pub(super) fn hosts(&mut self, table: &Table) -> Vec<String> {
        let hosts = table.texts("hosts");
        let is_address = |host: &str| {
            let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            inner.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
        };
        let is_name = |host: &str| {
            is_address(host) || !host.is_empty() && !host.contains(['/', ':', '@', ' ', '*'])
        };
        for host in hosts.iter().filter(|host| !is_name(host.strip_prefix("*.").unwrap_or(host))) {
            let problem = format!(
                "{host:?} is not a host name without a port; write for example \"lens.internal\""
            );
            self.wrong(table, "hosts", problem);
        }
        hosts.iter().map(|host| host.to_ascii_lowercase()).collect()
    }

    pub(super) fn address(&mut self, table: &Table) -> SocketAddr {
        let text = table.text("address").unwrap_or_default();
        text.parse().unwrap_or_else(|_| {
            let port = text.rsplit_once(':').map_or("", |(_, port)| port);
            let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            let why = if is_number && port.parse::<u16>().is_err() {
                format!("{text:?}: {port} is not a port; ports go up to 65535")
            } else {
                format!("{text:?} is not an IP address with a port; write for example \"127.0.0.1:8080\" or \"0.0.0.0:8080\"")
            };
            self.wrong(table, "address", why);
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }
}

/// Whether two listeners cannot be bound at the same time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // The unspecified IPv6 address accepts IPv4 connections, too.
    let covers = |a: SocketAddr, b: SocketAddr| {
        a.ip() == b.ip() || (a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4()))
    };
    a.port() != 0 && a.port() == b.port() && (covers(a, b) || covers(b, a))
}
