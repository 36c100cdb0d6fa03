//! Builds settings from a checked tree, with checks across fields.

mod contents;
mod discovery;
mod guardrails;
mod listeners;
mod names;
mod objectives;
mod records;
mod routing;
mod server;
pub(crate) mod traffic;
mod url;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use wire::Dialect;

use crate::remote::Reading;
use crate::settings::{
    Backend, BackendTls, GuardrailSettings, Pattern, Pool, Route, Settings, Timeouts,
};
use crate::tree::{self, Table};
use schema::ROOT;
use yaml::Problem;

/// Settings, and what was found while they were built.
pub(crate) struct Built {
    /// Those with problems lack what has one.
    pub(crate) settings: Settings,
    pub(crate) problems: Vec<Problem>,
    /// Settings whose files were not read.
    pub(crate) unread: Vec<String>,
}

/// Build settings from the root of a checked tree.
pub(crate) fn settings(root: Table, problems: Vec<Problem>, reading: Reading) -> Built {
    let fallback = defaults();
    let mut b =
        Builder { problems, fallback, faulty: BTreeSet::new(), reading, unread: Vec::new() };
    let timeouts = b.timeouts(root.table("timeouts"));
    let mut backends = b.backends(&root);
    let pools = b.pools(&root, &mut backends);
    let auth = b.auth(&root);
    let guardrails = b.guardrails(&root, &backends);
    let contents = b.contents(&root);
    let routes = b.routes(
        &root,
        &Known {
            backends: &backends,
            pools: &pools,
            guardrails: &guardrails,
            timeouts,
            has_auth: auth.is_some() || root.is_explained("auth"),
            has_contents: contents.path.is_some() || root.is_explained("contents"),
        },
    );
    let objectives = b.objectives(&root);
    let admin = b.admin(&root);
    let trusted_proxies = b.networks(&root, "trusted_proxies");
    let listeners = b.listeners(&root, admin.address, trusted_proxies.is_empty());
    let settings = Settings {
        admin,
        workers: root.size("workers"),
        limits: b.limits(&root),
        shutdown: b.shutdown(&root),
        guardrail_threads: root.size("guardrail_threads"),
        audit: b.audit(&root),
        access_log: b.access_log(&root),
        otlp: b.otlp(&root),
        record_store: b.record_store(&root),
        record_files: b.record_files(&root),
        contents,
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
        objectives,
        timeouts,
    };
    Built { settings, problems: b.problems, unread: b.unread }
}

/// The optional sections with their defaults.
fn defaults() -> Table {
    let root = tree::read_as(
        "{timeouts: {}, limits: {}, shutdown: {}, admin: {}, audit: {}, access_log: {}, otlp: {}, record_store: {}, record_files: {}, contents: {}, listeners: [{address: \"127.0.0.1:8080\"}], guardrails: [{name: x, risk: {}, sizes: {}, toxicity: {}, injection: {}, pii: {}}], pools: [{name: x, ejection: {}}]}",
        &ROOT,
    )
    .expect("invariant: the schema's defaults are valid");
    let first = |list| root.list(list).first().cloned().unwrap_or_default();
    let (guardrail, pool) = (first("guardrails"), first("pools"));
    root.with_sections_of(&guardrail).with_sections_of(&pool)
}

/// Entries that routes refer to by name.
struct Known<'k> {
    backends: &'k [Arc<Backend>],
    pools: &'k [Arc<Pool>],
    guardrails: &'k [Arc<GuardrailSettings>],
    timeouts: Timeouts,
    has_auth: bool,
    /// There is a folder for prompts and answers.
    has_contents: bool,
}

struct Builder {
    problems: Vec<Problem>,
    fallback: Table,
    /// Lists, and names of their entries, that have a problem: a reference to such an entry is not
    /// another one. `(list, "")` stands for an entry whose name is not known.
    faulty: BTreeSet<(&'static str, String)>,
    /// The files that may be read.
    reading: Reading,
    /// Settings whose files were not read.
    unread: Vec<String>,
}

impl Builder {
    /// Report a problem, unless another one explains it.
    fn wrong(&mut self, table: &Table, field: &str, message: impl Into<String>) {
        if !table.is_explained(field) {
            self.problems.push(table.place(field).problem(message));
        }
    }

    fn section(&self, root: &Table, name: &str) -> Table {
        root.table(name).or_else(|| self.fallback.table(name)).cloned().unwrap_or_default()
    }

    fn backends(&mut self, root: &Table) -> Vec<Arc<Backend>> {
        let tables = root.list("backends");
        if tables.is_empty() && !root.is_explained("backends") {
            self.problems.push(root.place.problem("no backend is configured; add one under \"backends\", or start with --upstream URL"));
        }
        self.unique_names(tables);
        self.note_unnamed(root, "backends");
        let mut backends = Vec::new();
        for (index, table) in tables.iter().enumerate() {
            match self.backend(index, table) {
                Some(backend) => backends.push(Arc::new(backend)),
                None => {
                    let name = table.text("name").unwrap_or_default().to_owned();
                    self.faulty.insert(("backends", name));
                }
            }
        }
        backends
    }

    fn backend(&mut self, index: usize, table: &Table) -> Option<Backend> {
        let parts = table
            .text("url")
            .and_then(|url| url::engine_url(url).map_err(|why| self.wrong(table, "url", why)).ok());
        let tls_table = table.table("tls");
        if tls_table.is_some() && parts.as_ref().is_some_and(|parts| !parts.tls) {
            self.wrong(table, "tls", "needs an https:// url; change the url or remove tls");
        }
        let ca = tls_table.and_then(|t| t.text("ca")).map(PathBuf::from);
        if let Some(at) = tls_table {
            self.openable(at, "ca");
        }
        let (admission, health) = (self.admission(table), self.health(table));
        let (engine_metrics, unsupported) = (self.engine_metrics(table), self.unsupported(table));
        // Everything is checked before a backend without a valid url is given up.
        let parts = parts?;
        let is_tls = parts.tls;
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
            admission,
            context_length: table.count("context_length"),
            models: table.texts("models").to_vec(),
            weight: u32::try_from(table.count("weight")).unwrap_or(1),
            health,
            engine_metrics,
            unsupported,
            zone: table.text("zone").map(str::to_owned),
            cost: table.number("cost").unwrap_or(0.0),
            forwarded_headers: table.given_flag("forwarded_headers").unwrap_or(!is_tls),
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

    fn routes(&mut self, root: &Table, known: &Known<'_>) -> Vec<Arc<Route>> {
        let tables = root.list("routes");
        if tables.is_empty() && !root.is_explained("routes") {
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
        let pools = self.route_pools(table, known.backends, known.pools);
        let conditions = table.table("match").cloned().unwrap_or_default();
        let (path, headers) = (self.path(&conditions), self.header_conditions(&conditions));
        let labels = self.labels(table);
        let (mirror, retries) = (self.mirror(table, known.pools), self.retries(table));
        let resume = self.resume(table, &retries);
        let (auth, cors) = (self.route_auth(table, known.has_auth), self.origins(table));
        let count = pools.as_ref().map_or(0, Vec::len);
        let canary = self.canary(table, count);
        let store_contents =
            self.store_contents(table, known.has_contents, guardrail.map(|guardrail| &**guardrail));
        let hedges = self.hedges(table, pools.as_deref().unwrap_or_default().first());
        let offload = self.offload(table);
        self.openable(table, "tokenizer");
        // Everything is checked before a route without valid pools is given up.
        let pools = pools?;
        Some(Route {
            name: table.text("name").unwrap_or_default().into(),
            index,
            path,
            headers,
            models: conditions.texts("models").iter().map(|m| Pattern::new(m)).collect(),
            backend: pools.first()?.representative()?.clone(),
            canary,
            mirror,
            resume,
            retries,
            hedges,
            offload,
            pools,
            inject_usage: table.text("include_usage") == Some("inject"),
            forward_compression: table.text("compression") == Some("forward"),
            guardrail: guardrail.cloned(),
            store_contents,
            server_timing: table.flag("server_timing"),
            security_headers: table.flag("security_headers"),
            stall: table.duration("stall"),
            timeouts: table
                .table("timeouts")
                .map_or(known.timeouts, |given| route_timeouts(given, known.timeouts)),
            auth,
            default_output_tokens: table.count("default_output_tokens"),
            reserved_output_tokens: table.count("reserved_output_tokens"),
            tokenizer: table.text("tokenizer").map(PathBuf::from),
            passthrough: traffic::patterns(table, "passthrough"),
            hosts: self.hosts(table),
            cors,
            strict: table.text("validation") == Some("strict"),
            labels,
        })
    }

    /// A file that cannot be opened is a problem of its setting.
    pub(super) fn openable(&mut self, table: &Table, setting: &'static str) {
        let Some(path) = table.text(setting) else { return };
        if !self.may_read(table, setting) {
            return;
        }
        // A folder can be opened, and a pipe without a writer blocks.
        let opened = std::fs::metadata(path).and_then(|file| {
            if file.is_dir() {
                return Err(std::io::ErrorKind::IsADirectory.into());
            }
            if file.is_file() { std::fs::File::open(path).map(drop) } else { Ok(()) }
        });
        if let Err(e) = opened {
            self.wrong(table, setting, format!("cannot open {path}: {e}"));
        }
    }

    /// Whether the file of a setting may be read; notes the setting if not.
    pub(super) fn may_read(&mut self, table: &Table, setting: &'static str) -> bool {
        let place = table.place(setting);
        let may = self.reading.permits(place.path(), table.text(setting).unwrap_or_default());
        if !may {
            self.unread.push(place.path().to_owned());
        }
        may
    }

    fn path(&mut self, conditions: &Table) -> Option<Pattern> {
        let path = conditions.text("path").map(Pattern::new);
        if let Some(Pattern::Exact(p) | Pattern::Prefix(p)) = &path
            && !p.starts_with('/')
        {
            self.wrong(conditions, "path", format!("{p:?} must begin with a slash"));
        }
        path
    }

    fn labels(&mut self, table: &Table) -> BTreeMap<String, String> {
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
        labels
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
}

fn route_timeouts(given: &Table, general: Timeouts) -> Timeouts {
    let or = |name, general| given.given_duration(name).unwrap_or(general);
    Timeouts {
        connect: or("connect", general.connect),
        first_byte: or("first_byte", general.first_byte),
        first_token: server::first_token(given).unwrap_or(general.first_token),
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
