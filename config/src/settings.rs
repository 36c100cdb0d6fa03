//! Checked settings. Only parsing builds them.

mod contents;
mod listeners;
mod network;
mod otlp;
mod records;
mod routing;
mod timeouts;
mod warnings;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use wire::Dialect;

use yaml::Secret;

pub use self::contents::Contents;
pub use self::listeners::{AdminAuth, AdminListener, AdminRole, AdminToken, Listener, ListenerTls};
pub use self::network::Network;
pub use self::otlp::{Otlp, OtlpSpill};
pub use self::records::{Postgres, RecordFiles, RecordStore, RecordUpload, Spill, WhenFull};
pub use self::routing::{Ability, CanarySettings, MirrorSettings, OffloadSettings, Pool, Resume};
pub use self::timeouts::{FirstToken, Timeouts};
pub use ::routing::Rollback;
pub use ::routing::settings::{
    Balance, By, Checks, Complexity, Ejection, Hedges, Objective, PoolSettings, Probe, Retries,
};
pub use filters::settings::{Action, GuardrailSettings};
pub use stats::Objectives;
pub use traffic::Pattern;
pub use traffic::settings::{Admission, Auth, Issuer, Limit, Price};

/// All settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Settings {
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Proxies in front of the gateway, whose fields about the client are believed.
    pub trusted_proxies: Vec<Network>,
    /// The operator's listener.
    pub admin: AdminListener,
    /// Worker threads; 0 means one for each core.
    pub workers: usize,
    /// Backends; routes refer to them by position.
    pub backends: Vec<Arc<Backend>>,
    /// Pools that routes name.
    pub pools: Vec<Arc<Pool>>,
    /// Zone of this gateway.
    pub zone: Option<String>,
    /// Authentication; `None`: off.
    pub auth: Option<AuthSettings>,
    /// Rate limits.
    pub rate_limits: Vec<Limit>,
    /// Store of the rate limits that gateways share.
    pub store: Option<StoreSettings>,
    /// File with the usage sums.
    pub usage_file: Option<PathBuf>,
    /// Prices of tokens.
    pub prices: Vec<Price>,
    /// Guardrails; each route has a reference to its own.
    pub guardrails: Vec<Arc<GuardrailSettings>>,
    /// Routes in the order they are tried.
    pub routes: Vec<Arc<Route>>,
    /// Objectives of routes.
    pub objectives: Vec<Objectives>,
    /// General timeouts; routes can override some of them.
    pub timeouts: Timeouts,
    /// Bounds on sizes, connections and memory.
    pub limits: Limits,
    /// Threads for guardrail work that takes longer than microseconds; 0 means half of the cores.
    pub guardrail_threads: usize,
    /// The audit log of guardrails.
    pub audit: Audit,
    /// The access log.
    pub access_log: AccessLog,
    /// Export of metrics and traces over OTLP.
    pub otlp: Otlp,
    /// The store of records.
    pub record_store: RecordStore,
    /// Files of records.
    pub record_files: RecordFiles,
    /// Stored prompts and answers.
    pub contents: Contents,
    /// Draining and handing over.
    pub shutdown: Shutdown,
}

/// Authentication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AuthSettings {
    /// The key file, and the secret of its hashes.
    pub keys: Option<(PathBuf, Secret)>,
    /// Identity providers.
    pub jwt: Vec<JwtSettings>,
}

/// An identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JwtSettings {
    /// Required claims of its tokens, and names of other claims.
    #[serde(flatten)]
    pub issuer: Issuer,
    /// Source of its key set.
    pub jwks: JwksSource,
}

/// Source of an identity provider's key set.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JwksSource {
    /// In a file.
    File(PathBuf),
    /// At a server; the path is its prefix.
    #[serde(serialize_with = "backend_name")]
    Server(Arc<Backend>),
}

impl PartialEq for JwksSource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (JwksSource::File(one), JwksSource::File(other)) => one == other,
            (JwksSource::Server(one), JwksSource::Server(other)) => one.name == other.name,
            _ => false,
        }
    }
}

impl Eq for JwksSource {}

/// Store of the rate limits that gateways share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreSettings {
    /// Its address, which may hold a password.
    pub url: Secret,
    /// How long it may take to answer.
    #[serde(serialize_with = "seconds")]
    pub timeout: Duration,
    /// Fallback while it is unreachable.
    pub on_failure: OnStoreFailure,
}

/// What happens while the store is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreFailure {
    /// Each gateway applies its part of each limit.
    Local,
    /// Requests pass and are charged later.
    Open,
    /// Requests are refused.
    Closed,
}

/// The audit log of guardrails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Audit {
    /// The file; `None`: nothing is written.
    pub file: Option<PathBuf>,
    /// The key of the hashes.
    pub key: Option<Secret>,
    /// The key of the chain of lines.
    pub chain_key: Option<Secret>,
    /// Maximum bytes of the file before it is renamed.
    pub max_size: u64,
    /// Renamed files that are kept.
    pub keep: usize,
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AccessLog {
    /// The file; `None`: nothing is written.
    pub file: Option<PathBuf>,
    /// Maximum bytes of the file before it is renamed.
    pub max_size: u64,
    /// Renamed files that are kept.
    pub keep: usize,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Backend {
    /// Its name.
    pub name: Arc<str>,
    /// Its position in [`Settings::backends`].
    pub index: usize,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Value of `Host`: the authority of the URL.
    pub authority: String,
    /// Put before each request's path; empty or begins with a slash and does not end with one.
    pub prefix: String,
    /// Dialect of its answers; `None`: that of the path.
    #[serde(serialize_with = "dialect_name")]
    pub dialect: Option<Dialect>,
    /// `gen_ai.provider.name`.
    pub provider: String,
    /// Credential that replaces the client's.
    pub api_key: Option<Secret>,
    /// HTTP/2 to the backend.
    pub http2: bool,
    /// TLS; `None` for `http` URLs.
    pub tls: Option<BackendTls>,
    /// Maximum connections in use.
    pub max_connections: usize,
    /// Maximum idle connections for each worker.
    pub idle_connections: usize,
    /// Limits on concurrent requests, and the queue.
    pub admission: Option<Admission>,
    /// Maximum tokens of prompt and answer together; 0: unknown.
    pub context_length: u64,
    /// Models that it serves; they become metric labels.
    pub models: Vec<String>,
    /// Its weight in pools.
    pub weight: u32,
    /// Active health checks.
    pub health: Option<Checks>,
    /// Path of its own metrics, and the interval between two scrapes.
    pub engine_metrics: Option<(String, Duration)>,
    /// Abilities that it lacks.
    pub unsupported: Vec<Ability>,
    /// Its zone.
    pub zone: Option<String>,
    /// Dollars for a million tokens.
    pub cost: f64,
    /// Send `X-Forwarded-*`, `Forwarded` and `Via`.
    pub forwarded_headers: bool,
}

impl Backend {
    /// Whether another is equal, apart from its position.
    pub fn is_same(&self, other: &Backend) -> bool {
        *self == Backend { index: self.index, ..other.clone() }
    }

    /// The header field with the backend's own key: its name and its value. The value is a secret.
    pub fn credential(&self) -> Option<(&'static str, String)> {
        let key = self.api_key.as_ref()?.reveal();
        Some(if self.provider == "anthropic" {
            ("x-api-key", key.to_owned())
        } else {
            ("authorization", format!("Bearer {key}"))
        })
    }
}

/// TLS to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackendTls {
    /// Authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Name to verify.
    pub server_name: String,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// Its position in [`Settings::routes`].
    pub index: usize,
    /// The path condition.
    pub path: Option<Pattern>,
    /// Header conditions: lower-case name and value, `None` for any value.
    pub headers: Vec<(String, Option<String>)>,
    /// Model conditions.
    pub models: Vec<Pattern>,
    /// The first backend, which represents all of them.
    #[serde(skip)]
    pub backend: Arc<Backend>,
    /// The pools that serve it, in order.
    #[serde(serialize_with = "pool_names")]
    pub pools: Vec<Arc<Pool>>,
    /// A new version, and conditions of its rollback.
    pub canary: Option<CanarySettings>,
    /// The mirror.
    pub mirror: Option<MirrorSettings>,
    /// Retries.
    pub retries: Retries,
    /// Whether dead streams are resumed.
    pub resume: Resume,
    /// Hedging.
    pub hedges: Option<Hedges>,
    /// When requests go to the second pool although the first is available.
    pub offload: Option<OffloadSettings>,
    /// Inject `include_usage` into requests.
    pub inject_usage: bool,
    /// Forward `Accept-Encoding`.
    pub forward_compression: bool,
    /// Whether a credential is required.
    pub auth: Auth,
    /// Paths that are forwarded unparsed.
    pub passthrough: Vec<Pattern>,
    /// Values of `Host` that it accepts.
    pub hosts: Vec<String>,
    /// Origins that may read its answers.
    pub cors: Vec<String>,
    /// Strict validation.
    pub strict: bool,
    /// Estimated output tokens of a request without `max_tokens`.
    pub default_output_tokens: u64,
    /// Maximum output tokens that rate limits reserve for a request.
    pub reserved_output_tokens: u64,
    /// The `tokenizer.json` that counts prompts.
    pub tokenizer: Option<PathBuf>,
    /// The guardrail.
    #[serde(serialize_with = "guardrail_name")]
    pub guardrail: Option<Arc<GuardrailSettings>>,
    /// Store redacted prompts and answers.
    pub store_contents: bool,
    /// Add `Server-Timing`.
    pub server_timing: bool,
    /// Add `x-security-validated` and `x-latency-monitored`.
    pub security_headers: bool,
    /// A longer gap between two tokens counts as a stall.
    #[serde(serialize_with = "seconds")]
    pub stall: Duration,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Constant labels.
    pub labels: BTreeMap<String, String>,
}

impl Route {
    /// Whether permissions or validation depend on the body.
    pub fn reads_bodies(&self) -> bool {
        self.auth != Auth::Off || self.strict
    }
}

/// Bounds on sizes, connections and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum bytes of a head.
    pub request_head: usize,
    /// Maximum fields of a head.
    pub header_fields: usize,
    /// Maximum bytes of an inference request's body.
    pub request_body: usize,
    /// Maximum bytes of one event that is parsed.
    pub event: usize,
    /// Maximum bytes read ahead of a slow client.
    pub stream_buffer: usize,
    /// Records kept for `/api/requests`.
    pub records: usize,
    /// Maximum client connections; 0: no limit.
    pub connections: usize,
    /// Maximum connections of one address; 0: no limit.
    pub connections_per_address: usize,
    /// Maximum requests of one address in a second; 0: no limit.
    pub requests_per_address: u32,
    /// Maximum concurrent streams of an HTTP/2 connection.
    pub h2_streams: u32,
    /// Maximum bytes of request bodies and queued answers, over all clients; 0: half of the memory.
    pub buffered_bytes: usize,
    /// Maximum age of a client connection; zero: no limit.
    #[serde(serialize_with = "seconds")]
    pub connection_age: Duration,
    /// Record kernel receive timestamps.
    pub kernel_timestamps: bool,
}

/// Draining and handing over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Shutdown {
    /// How long new connections are accepted after the signal.
    #[serde(serialize_with = "seconds")]
    pub delay: Duration,
    /// How long streams may continue.
    #[serde(serialize_with = "seconds")]
    pub grace: Duration,
    /// Unix socket over which listeners are handed over; `None`: one in the folder for run-time
    /// files.
    pub upgrade_socket: Option<PathBuf>,
}

impl Settings {
    /// Whether an address is one of `trusted_proxies`.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }

    /// All declared models, sorted.
    pub fn declared_models(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.backends.iter().flat_map(|b| b.models.iter().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn seconds<S: Serializer>(d: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(d.as_secs_f64())
}

fn dialect_name<S: Serializer>(d: &Option<Dialect>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(d.map_or("auto", Dialect::name))
}

fn guardrail_name<S: Serializer>(
    guardrail: &Option<Arc<GuardrailSettings>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    guardrail.as_ref().map(|guardrail| &*guardrail.name).serialize(serializer)
}

fn pool_names<S: Serializer>(pools: &[Arc<Pool>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(pools.iter().map(|pool| &*pool.settings.name))
}

fn backend_name<S: Serializer>(b: &Arc<Backend>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&b.name)
}
