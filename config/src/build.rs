//! Builds settings from a checked tree, with checks across fields.

mod discovery;
mod guardrails;
mod listeners;
mod routing;
pub(crate) mod traffic;
mod url;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use wire::Dialect;

use crate::problem::{Problem, nearest};
use crate::settings::{
    AccessLog, AdminListener, Audit, Backend, BackendTls, FirstToken, GuardrailSettings, Limits,
    Pattern, Pool, Route, Settings, Shutdown, Timeouts,
};
use crate::tree::{self, Table};

/// Build settings from the root of a checked tree.
pub(crate) fn settings(root: Table) -> Result<Settings, Vec<Problem>> {
    let mut b = Builder { problems: Vec::new(), fallback: defaults()? };
    let timeouts = b.timeouts(root.table("timeouts"));
    let mut backends = b.backends(&root);
    let pools = b.pools(&root, &mut backends);
    let auth = b.auth(&root);
    let guardrails = b.guardrails(&root, &backends);
    let routes = b.routes(
        &root,
        &Known {
            backends: &backends,
            pools: &pools,
            guardrails: &guardrails,
            timeouts,
            has_auth: auth.is_some(),
        },
    );
    let trusted_proxies = b.networks(&root, "trusted_proxies");
    let listeners = b.listeners(&root, trusted_proxies.is_empty());
    let admin = b.section(&root, "admin");
    let settings = Settings {
        admin: AdminListener { address: b.address(&admin), hosts: b.admin_hosts(&admin) },
        workers: root.size("workers"),
        limits: b.limits(&root),
        shutdown: b.shutdown(&root),
        guardrail_threads: root.size("guardrail_threads"),
        audit: b.audit(&root),
        access_log: b.access_log(&root),
        auth,
        rate_limits: b.rate_limits(&root),
        store: b.store(&root),
        usage_file: root.text("usage_file").map(PathBuf::from),
        prices: b.prices(&root),
        listeners,
        trusted_proxies,
        backends,
        pools,
        zone: root.text("zone").map(str::to_owned),
        guardrails,
        routes,
        timeouts,
    };
    if b.problems.is_empty() { Ok(settings) } else { Err(b.problems) }
}

/// The optional sections with their defaults.
fn defaults() -> Result<Table, Vec<Problem>> {
    let root = tree::read(
        "{timeouts: {}, limits: {}, shutdown: {}, admin: {}, audit: {}, access_log: {}, listeners: [{address: \"127.0.0.1:8080\"}], guardrails: [{name: x, risk: {}, sizes: {}, toxicity: {}}], pools: [{name: x, ejection: {}}]}",
    )?;
    let first = |list| root.list(list).first().cloned().unwrap_or_default();
    let (guardrail, pool) = (first("guardrails"), first("pools"));
    Ok(root.with_sections_of(&guardrail).with_sections_of(&pool))
}

/// Entries that routes refer to by name.
struct Known<'k> {
    backends: &'k [Arc<Backend>],
    pools: &'k [Arc<Pool>],
    guardrails: &'k [Arc<GuardrailSettings>],
    timeouts: Timeouts,
    has_auth: bool,
}

struct Builder {
    problems: Vec<Problem>,
    fallback: Table,
}

impl Builder {
    fn wrong(&mut self, table: &Table, field: &str, message: impl Into<String>) {
        self.problems.push(table.place(field).problem(message));
    }

    fn section(&self, root: &Table, name: &str) -> Table {
        root.table(name).or_else(|| self.fallback.table(name)).cloned().unwrap_or_default()
    }

    fn admin_hosts(&mut self, table: &Table) -> Vec<String> {
        let hosts = table.texts("hosts");
        let is_name = |host: &str| !host.is_empty() && !host.contains(['/', ':', '@', ' ', '*']);
        for host in hosts.iter().filter(|host| !is_name(host.strip_prefix("*.").unwrap_or(host))) {
            let problem =
                format!("{host:?} is not a host name; write for example \"lens.internal\"");
            self.wrong(table, "hosts", problem);
        }
        hosts.iter().map(|host| host.to_ascii_lowercase()).collect()
    }

    fn backends(&mut self, root: &Table) -> Vec<Arc<Backend>> {
        let tables = root.list("backends");
        if tables.is_empty() {
            self.problems.push(root.place.problem("no backend is configured; add one under \"backends\", or start with --upstream URL"));
        }
        self.unique_names(tables);
        tables
            .iter()
            .enumerate()
            .filter_map(|(index, table)| self.backend(index, table).map(Arc::new))
            .collect()
    }

    fn backend(&mut self, index: usize, table: &Table) -> Option<Backend> {
        let url = table.text("url")?;
        let parts = match url::engine_url(url) {
            Ok(parts) => parts,
            Err(why) => {
                self.wrong(table, "url", why);
                return None;
            }
        };
        let tls_table = table.table("tls");
        if tls_table.is_some() && !parts.tls {
            self.wrong(table, "tls", "needs an https:// url; change the url or remove tls");
        }
        let ca = tls_table.and_then(|t| t.text("ca")).map(PathBuf::from);
        if let (Some(path), Some(at)) = (&ca, tls_table)
            && let Err(e) = std::fs::File::open(path)
        {
            self.wrong(at, "ca", format!("cannot open {}: {e}", path.display()));
        }
        let server_name =
            tls_table.and_then(|t| t.text("server_name")).unwrap_or(&parts.host).to_owned();
        Some(Backend {
            name: table.text("name").unwrap_or_default().into(),
            index,
            tls: parts.tls.then_some(BackendTls { ca, server_name }),
            host: parts.host,
            port: parts.port,
            authority: parts.authority,
            prefix: parts.prefix,
            dialect: table.text("dialect").and_then(Dialect::from_name),
            provider: table.text("provider").unwrap_or("openai").to_owned(),
            api_key: table.secret("api_key").cloned(),
            http2: table.flag("http2"),
            max_connections: table.size("max_connections"),
            idle_connections: table.size("idle_connections"),
            admission: self.admission(table),
            context_length: table.count("context_length"),
            models: table.texts("models").to_vec(),
            weight: u32::try_from(table.count("weight")).unwrap_or(1),
            health: self.health(table),
            engine_metrics: self.engine_metrics(table),
            unsupported: self.unsupported(table),
            zone: table.text("zone").map(str::to_owned),
            cost: table.number("cost").unwrap_or(0.0),
            forwarded_headers: table.flag("forwarded_headers"),
        })
    }

    /// A backend that is given by its URL alone.
    pub(super) fn backend_at(&mut self, table: &Table, field: &'static str) -> Option<Backend> {
        let url = table.text(field)?;
        let parts = url::split_url(url).map_err(|why| self.wrong(table, field, why)).ok()?;
        Some(Backend {
            name: url.into(),
            index: 0,
            tls: parts.tls.then(|| BackendTls { ca: None, server_name: parts.host.clone() }),
            host: parts.host,
            port: parts.port,
            authority: parts.authority,
            prefix: parts.prefix,
            dialect: None,
            provider: String::new(),
            api_key: None,
            http2: false,
            max_connections: 4,
            idle_connections: 0,
            admission: None,
            context_length: 0,
            models: Vec::new(),
            weight: 1,
            health: None,
            engine_metrics: None,
            unsupported: Vec::new(),
            zone: None,
            cost: 0.0,
            forwarded_headers: false,
        })
    }

    /// The list entry that a field names; an unknown name is a problem.
    fn named<'l, T>(
        &mut self,
        table: &Table,
        field: &str,
        known: &'l [Arc<T>],
        name: impl Fn(&T) -> &str,
    ) -> Option<&'l Arc<T>> {
        let wanted = table.text(field)?;
        let found = known.iter().find(|one| name(one) == wanted);
        if found.is_none() {
            let names: Vec<&str> = known.iter().map(|one| name(one)).collect();
            let hint = nearest(wanted, names.iter().copied()).map_or_else(
                || format!("known: {}", names.join(", ")),
                |near| format!("did you mean {near:?}?"),
            );
            self.wrong(table, field, format!("{field} {wanted:?} does not exist; {hint}"));
        }
        found
    }

    fn routes(&mut self, root: &Table, known: &Known<'_>) -> Vec<Arc<Route>> {
        let tables = root.list("routes");
        if tables.is_empty() {
            self.problems.push(root.place.problem(
                "no route is configured; add one under \"routes\" with a name and a backend",
            ));
        }
        self.unique_names(tables);
        tables
            .iter()
            .enumerate()
            .filter_map(|(index, table)| self.route(index, table, known).map(Arc::new))
            .collect()
    }

    fn route(&mut self, index: usize, table: &Table, known: &Known<'_>) -> Option<Route> {
        let guardrail =
            self.named(table, "guardrail", known.guardrails, |guardrail| &guardrail.name);
        let pools = self.route_pools(table, known.backends, known.pools)?;
        let conditions = table.table("match").cloned().unwrap_or_default();
        let path = conditions.text("path").map(Pattern::new);
        if let Some(Pattern::Exact(p) | Pattern::Prefix(p)) = &path
            && !p.starts_with('/')
        {
            self.wrong(&conditions, "path", format!("{p:?} must begin with a slash"));
        }
        let headers = self.header_conditions(&conditions);
        let labels = table.map("labels");
        for name in labels.keys() {
            if !is_label(name) || matches!(name.as_str(), "route" | "backend" | "server_address") {
                self.wrong(
                    table,
                    "labels",
                    format!(
                        "{name:?} cannot be a label; use letters, digits and underscores, not \"route\", \"backend\" or \"server_address\""
                    ),
                );
            }
        }
        let retries = self.retries(table);
        Some(Route {
            name: table.text("name").unwrap_or_default().into(),
            index,
            path,
            headers,
            models: conditions.texts("models").iter().map(|m| Pattern::new(m)).collect(),
            backend: pools.first()?.representative()?.clone(),
            canary: self.canary(table, &pools),
            mirror: self.mirror(table, known.pools),
            resume: self.resume(table, &retries),
            retries,
            hedges: self.hedges(table, &pools),
            offload: self.offload(table, &pools),
            pools,
            inject_usage: table.text("include_usage") == Some("inject"),
            forward_compression: table.text("compression") == Some("forward"),
            guardrail: guardrail.cloned(),
            server_timing: table.flag("server_timing"),
            security_headers: table.flag("security_headers"),
            stall: table.duration("stall"),
            timeouts: table
                .table("timeouts")
                .map_or(known.timeouts, |given| route_timeouts(given, known.timeouts)),
            auth: self.route_auth(table, known.has_auth),
            default_output_tokens: table.count("default_output_tokens"),
            reserved_output_tokens: table.count("reserved_output_tokens"),
            tokenizer: table.text("tokenizer").map(PathBuf::from),
            passthrough: traffic::patterns(table, "passthrough"),
            hosts: table.texts("hosts").iter().map(|host| host.to_ascii_lowercase()).collect(),
            cors: self.origins(table),
            strict: table.text("validation") == Some("strict"),
            labels,
        })
    }

    fn origins(&mut self, table: &Table) -> Vec<String> {
        let origins = table.texts("cors");
        for origin in origins.iter().filter(|origin| *origin != "*") {
            let is_one = origin.parse::<http::Uri>().is_ok_and(|uri| {
                uri.scheme().is_some() && uri.path() == "/" && !origin.ends_with('/')
            });
            if !is_one {
                self.wrong(
                    table,
                    "cors",
                    format!(
                        "{origin:?} is not an origin; write for example \"https://app.example.com\""
                    ),
                );
            }
        }
        origins.to_vec()
    }

    fn header_conditions(&mut self, conditions: &Table) -> Vec<(String, Option<String>)> {
        let mut out = Vec::new();
        for (name, value) in conditions.map("headers") {
            match http::HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => out.push((name.as_str().to_owned(), (value != "*").then_some(value))),
                Err(_) => {
                    self.wrong(conditions, "headers", format!("{name:?} is not a header name"))
                }
            }
        }
        out
    }

    fn unique_names(&mut self, tables: &[Table]) {
        let mut seen = HashSet::new();
        for table in tables {
            if let Some(name) = table.text("name") {
                if !seen.insert(name) {
                    self.wrong(table, "name", format!("the name {name:?} is used twice"));
                }
                if name.is_empty()
                    || name.len() > 64
                    || !name.bytes().all(|b| {
                        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/')
                    })
                {
                    self.wrong(
                        table,
                        "name",
                        format!("{name:?} is not a name; use up to 64 letters, digits, \"-\", \"_\", \".\" and \"/\""),
                    );
                }
            }
        }
    }

    fn timeouts(&self, table: Option<&Table>) -> Timeouts {
        let table = table.or_else(|| self.fallback.table("timeouts")).cloned().unwrap_or_default();
        Timeouts {
            request_head: table.duration("request_head"),
            request_body: table.duration("request_body"),
            idle: table.duration("idle"),
            connect: table.duration("connect"),
            first_byte: table.duration("first_byte"),
            between_events: table.duration("between_events"),
            first_token: first_token(&table).unwrap_or(FirstToken::After(FirstToken::LONGEST)),
            between_tokens: table.duration("between_tokens"),
            total: table.duration("total"),
            client_write: table.duration("client_write"),
        }
    }

    fn limits(&mut self, root: &Table) -> Limits {
        let table = self.section(root, "limits");
        for (field, min) in [
            ("request_head", 1024),
            ("event", 1024),
            ("stream_buffer", 16 << 10),
            ("request_body", 1024),
        ] {
            if table.size(field) < min {
                self.wrong(&table, field, format!("must be at least {min} bytes"));
            }
        }
        let buffered = table.size("buffered_bytes");
        if buffered > 0 && buffered < table.size("request_body") {
            self.wrong(&table, "buffered_bytes", "must be at least limits.request_body");
        }
        // A held event is written as one chunk, whose size line has eight digits.
        if table.size("event") > 1 << 30 {
            self.wrong(&table, "event", "must be at most 1GiB");
        }
        Limits {
            request_head: table.size("request_head"),
            header_fields: table.size("header_fields"),
            request_body: table.size("request_body"),
            event: table.size("event"),
            stream_buffer: table.size("stream_buffer"),
            records: table.size("records"),
            connections: table.size("connections"),
            connections_per_address: table.size("connections_per_address"),
            requests_per_address: u32::try_from(table.count("requests_per_address"))
                .unwrap_or(u32::MAX),
            h2_streams: u32::try_from(table.count("h2_streams")).unwrap_or(u32::MAX),
            buffered_bytes: table.size("buffered_bytes"),
            connection_age: table.duration("connection_age"),
            kernel_timestamps: table.flag("kernel_timestamps"),
        }
    }

    fn audit(&self, root: &Table) -> Audit {
        let table = self.section(root, "audit");
        Audit {
            file: table.text("file").filter(|file| !file.is_empty()).map(PathBuf::from),
            key: table.secret("key").cloned(),
            max_size: table.count("max_size"),
            keep: table.size("keep"),
        }
    }

    fn access_log(&self, root: &Table) -> AccessLog {
        let table = self.section(root, "access_log");
        let file = table.text("file").filter(|file| !file.is_empty()).map(PathBuf::from);
        AccessLog { file, max_size: table.count("max_size"), keep: table.size("keep") }
    }

    fn shutdown(&self, root: &Table) -> Shutdown {
        let table = self.section(root, "shutdown");
        Shutdown {
            delay: table.duration("delay"),
            grace: table.duration("grace"),
            upgrade_socket: table.text("upgrade_socket").map(PathBuf::from),
        }
    }
}

/// The first-token timeout of a section, if it is given or has a default.
fn first_token(table: &Table) -> Option<FirstToken> {
    match table.text("first_token") {
        Some(_) => Some(FirstToken::Auto),
        None => table.given_duration("first_token").map(FirstToken::After),
    }
}

fn route_timeouts(given: &Table, general: Timeouts) -> Timeouts {
    let or = |name, general| given.given_duration(name).unwrap_or(general);
    Timeouts {
        connect: or("connect", general.connect),
        first_byte: or("first_byte", general.first_byte),
        first_token: first_token(given).unwrap_or(general.first_token),
        between_events: or("between_events", general.between_events),
        between_tokens: or("between_tokens", general.between_tokens),
        total: or("total", general.total),
        client_write: or("client_write", general.client_write),
        ..general
    }
}

fn is_label(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with("__")
}
