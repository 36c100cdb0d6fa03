//! Listeners, and the networks that may connect to them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Builder;
use crate::settings::{Listener, ListenerTls, Network};
use crate::tree::Table;

impl Builder {
    pub(super) fn listeners(&mut self, root: &Table, trusts_none: bool) -> Vec<Listener> {
        let written = root.list("listeners");
        let listeners: Vec<Table> = if written.is_empty() {
            self.fallback.list("listeners").to_vec()
        } else {
            written.to_vec()
        };
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for table in &listeners {
            let address = self.address(table);
            if address.port() != 0 && !seen.insert(address) {
                self.wrong(
                    table,
                    "address",
                    format!("{address} is already the address of another listener"),
                );
            }
            let tls = table.table("tls").map(|tls| ListenerTls {
                cert: PathBuf::from(tls.text("cert").unwrap_or_default()),
                key: PathBuf::from(tls.text("key").unwrap_or_default()),
                allow_tls12: tls.text("min_version") == Some("1.2"),
                client_ca: tls.text("client_ca").map(PathBuf::from),
                client_required: tls.text("client_certificates") != Some("optional"),
            });
            if let (Some(files), Some(at)) = (&tls, table.table("tls")) {
                for (field, path) in [("cert", &files.cert), ("key", &files.key)] {
                    if let Err(e) = std::fs::File::open(path) {
                        self.wrong(at, field, format!("cannot open {}: {e}", path.display()));
                    }
                }
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

    pub(super) fn address(&mut self, table: &Table) -> SocketAddr {
        let text = table.text("address").unwrap_or_default();
        text.parse().unwrap_or_else(|_| {
            self.wrong(
                table,
                "address",
                format!("{text:?} is not an IP address with a port; write for example \"127.0.0.1:8080\" or \"0.0.0.0:8080\""),
            );
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }
}
