//! Builds the sources of a pool's backends: `discover` and `backends_file`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Builder;
use crate::discovery::{Discovery, Source};
use crate::settings::{Backend, BackendTls};
use crate::tree::Table;

/// Largest file of backends, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// How long backends stay when their name has no records.
const HOLD: Duration = Duration::from_secs(30);
/// The port of name servers.
const DNS: u16 = 53;

impl Builder {
    /// The discovery of a pool's backends.
    pub(super) fn discovery(&mut self, pool: &Table, known: &[Arc<Backend>]) -> Option<Discovery> {
        let table = pool.table("discover")?;
        if pool.text("template").is_none() {
            self.wrong(pool, "template", "is required with discover: name the backend whose settings apply to discovered ones");
        }
        let template = self.named(pool, "template", known, |backend| &backend.name).cloned();
        let source = self.source(table, template.as_deref().map_or(0, |template| template.port));
        Some(Discovery { template: template?, source: source? })
    }

    fn source(&mut self, table: &Table, port: u16) -> Option<Source> {
        let kinds = ["dns", "srv", "kubernetes"];
        let mut named = kinds.iter().filter_map(|kind| Some((*kind, table.text(kind)?)));
        let (Some((kind, name)), None) = (named.next(), named.next()) else {
            self.problems.push(table.place.problem("needs exactly one of dns, srv and kubernetes"));
            return None;
        };
        self.only_for(
            table,
            kind,
            &[
                ("servers", &["dns", "srv"]),
                ("hold", &["dns", "srv"]),
                ("port", &["dns", "kubernetes"]),
                ("namespace", &["kubernetes"]),
            ],
        );
        if !is_host_name(name) || name.parse::<IpAddr>().is_ok() {
            self.wrong(
                table,
                kind,
                format!(
                    "{name:?} is not a host name; write an address as the url of a backend instead"
                ),
            );
            return None;
        }
        let (name, servers) = (name.to_owned(), self.dns_servers(table));
        let hold = table.given_duration("hold").unwrap_or(HOLD);
        Some(match kind {
            "dns" => Source::Dns { name, port: self.port(table).unwrap_or(port), servers, hold },
            "srv" => Source::Srv { name, servers, hold },
            _ => Source::Kubernetes {
                namespace: table.text("namespace").map(str::to_owned),
                service: name,
                port: table.text("port").map(str::to_owned),
            },
        })
    }

    /// Report fields that do not apply to this kind of source.
    fn only_for(&mut self, table: &Table, kind: &str, fields: &[(&str, &[&str])]) {
        for (field, kinds) in
            fields.iter().filter(|(field, kinds)| table.has(field) && !kinds.contains(&kind))
        {
            self.wrong(
                table,
                field,
                format!("applies to {} only, not to {kind}", kinds.join(" and ")),
            );
        }
    }

    fn port(&mut self, table: &Table) -> Option<u16> {
        let text = table.text("port")?;
        let port = base_url::parse_port(text);
        if port.is_none() {
            self.wrong(
                table,
                "port",
                format!("{text:?} is not a port; write a number from 1 to 65535"),
            );
        }
        port
    }

    /// Name servers, each an address that may have a port.
    fn dns_servers(&mut self, table: &Table) -> Vec<SocketAddr> {
        let mut servers = Vec::new();
        for text in table.texts("servers") {
            let with_port = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS));
            match text.parse().or_else(|_| with_port()) {
                Ok(server) => servers.push(server),
                Err(_) => self.wrong(
                    table,
                    "servers",
                    format!("{text:?} is not an IP address; write for example \"10.96.0.10:53\""),
                ),
            }
        }
        servers
    }

    /// The backends of a pool's file.
    pub(super) fn filed(
        &mut self,
        table: &Table,
        known: &mut Vec<Arc<Backend>>,
    ) -> Vec<Arc<Backend>> {
        let Some(file) = table.text("backends_file") else {
            if table.text("template").is_some() && table.table("discover").is_none() {
                self.wrong(
                    table,
                    "template",
                    "has no effect without backends_file or discover; remove it or add one",
                );
            }
            return Vec::new();
        };
        if table.text("template").is_none() {
            self.wrong(table, "template", "is required with backends_file: name the backend whose settings apply to those of the file");
        }
        let Some(template) = self.named(table, "template", known, |backend| &backend.name).cloned()
        else {
            return Vec::new();
        };
        if !self.may_read(table, "backends_file") {
            return Vec::new();
        }
        let text = match crate::read(Path::new(file), MAX_FILE) {
            Ok(text) => text,
            Err(error) => {
                self.wrong(table, "backends_file", format!("cannot read {file}: {error}"));
                return Vec::new();
            }
        };
        let pool = table.text("name").unwrap_or_default();
        let mut backends: Vec<Arc<Backend>> = Vec::new();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match filed_backend(line, pool, &template, known) {
                Ok(backend) => {
                    known.push(backend.clone());
                    backends.push(backend);
                }
                Err(why) => {
                    let problem = format!("{file}:{}: {why}", number + 1);
                    self.wrong(table, "backends_file", problem);
                }
            }
        }
        backends
    }
}

/// The backend that a line of a pool's file describes.
fn filed_backend(
    url: &str,
    pool: &str,
    template: &Backend,
    known: &[Arc<Backend>],
) -> Result<Arc<Backend>, String> {
    let parts = super::url::engine_url(url)?;
    let name: Arc<str> = format!("{pool}/{}-{}", parts.host, parts.port).into();
    if known.iter().any(|there| there.name == name) {
        return Err(format!("{} is listed twice", base_url::redact(url)));
    }
    let tls = parts.tls.then(|| BackendTls {
        ca: template.tls.as_ref().and_then(|tls| tls.ca.clone()),
        server_name: parts.host.clone(),
    });
    Ok(Arc::new(Backend {
        name,
        index: known.len(),
        tls,
        host: parts.host,
        port: parts.port,
        authority: parts.authority,
        prefix: parts.prefix,
        ..template.clone()
    }))
}

/// Whether it is a valid host name: labels of letters, digits, hyphens and underscores, at most 253
/// bytes.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.trim_end_matches('.').split('.').all(is_label)
}
