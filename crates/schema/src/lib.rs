//! The table of all sections and fields: names, types, defaults with their reasons.
//!
//! - *In*: nothing; it is data.
//! - *Out*: rows for the checker and the builder in `config`; the commented example, the JSON
//!   Schema and the reference.
//! - *Never*: a value of a settings file.

mod example;
pub use example::{STARTER, example};

mod json_schema;
pub use json_schema::json_schema;

mod reference;
pub use reference::reference;

mod contents;
mod guardrails;
mod objectives;
mod otlp;
mod records;
mod routing;
mod server;
mod traffic;
pub use contents::CONTENTS;
pub use guardrails::{
    FILTER, GUARDRAIL, INJECTION, JUDGE, KIND_ACTION, PII, RISK, RULE, SIZES, TOPIC, TOXICITY,
};
pub use objectives::{OBJECTIVE, PERCENTILES};
pub use otlp::{OTLP, OTLP_SPILL};
pub use records::{RECORD_FILES, RECORD_STORE, SPILL};
pub use routing::{
    CANARY, EJECTION, ENGINE_METRICS, HEALTH, HEDGE, MIRROR, OFFLOAD, POOL, RETRIES,
};
pub use server::{
    ACCESS_LOG, ADMIN, ADMIN_AUTH, ADMIN_TOKEN, AUDIT, LIMITS, LISTENER, LISTENER_TLS, SHUTDOWN,
    TIMEOUTS,
};
pub use traffic::{ADMISSION, AUTH, JWT, KEY, KEYS, PRICE, RATE_LIMIT, STORE};

/// A section: a mapping with known fields.
#[derive(Debug)]
pub struct Section {
    /// What it is for.
    pub doc: &'static str,
    /// Its fields, in the order a person reads them.
    pub fields: &'static [Field],
}

/// A field of a section.
#[derive(Debug)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default in YAML; empty if it has none.
    pub default: &'static str,
    /// What it does, and why the default is what it is.
    pub doc: &'static str,
    /// Its previous key, if it was renamed; else empty.
    pub was: &'static str,
}

impl Field {
    /// Set the previous key. A file that still uses it gets an error with the new key.
    const fn was(self, was: &'static str) -> Field {
        Field { was, ..self }
    }
}

/// The type of a field.
#[derive(Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// A text that must be given.
    RequiredText,
    /// `true` or `false`.
    Flag,
    /// A whole number in a range.
    Count(u64, u64),
    /// A number from 0 to 1.
    Share,
    /// A number of at least 0.
    Number,
    /// A duration with its unit.
    Duration,
    /// A duration with its unit, or `auto`.
    DurationOrAuto,
    /// A size with its unit.
    Size,
    /// A text that is never shown. It may contain `${ENV}` or be `file:PATH`.
    Secret,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of texts.
    Texts,
    /// A mapping of texts.
    TextMap,
    /// A section.
    Section(&'static Section),
    /// A list of sections.
    List(&'static Section),
}

const fn field(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Field {
    Field { name, kind, default, doc, was: "" }
}

/// The whole file.
pub static ROOT: Section = Section {
    doc: "Settings of `llm-lens gateway`.",
    fields: &[
        field("listeners", Kind::List(&LISTENER), "", "Addresses that clients connect to. Default: one, 127.0.0.1:8080."),
        field(
            "trusted_proxies",
            Kind::Texts,
            "",
            "Networks of the load balancers in front of the gateway, such as `10.0.0.0/8`. Only their `X-Forwarded-*`, `Forwarded` and PROXY headers are believed. Default: none; the peer of a connection is the client.",
        ),
        field("admin", Kind::Section(&ADMIN), "", "The listener for operators and scrapers."),
        field("workers", Kind::Count(0, 1024), "0", "Worker threads of the data path. 0 starts one for each core."),
        field("backends", Kind::List(&BACKEND), "", "Inference engines."),
        field("pools", Kind::List(&POOL), "", "Groups of backends that serve the same models."),
        field(
            "zone",
            Kind::Text,
            "",
            "Zone of this gateway. Pools prefer healthy backends of the same zone. `${NAME}` reads an environment variable.",
        ),
        field(
            "guardrails",
            Kind::List(&GUARDRAIL),
            "",
            "Guardrails: what to detect in prompts and answers, and the action for it. Routes refer to them by name.",
        )
        .was("shields"),
        field("auth", Kind::Section(&AUTH), "", "Authentication of clients."),
        field("rate_limits", Kind::List(&RATE_LIMIT), "", "Limits on requests, tokens, cost and concurrent streams."),
        field("store", Kind::Section(&STORE), "", "Redis or Valkey, for rate limits that several gateways share."),
        field("usage_file", Kind::Text, "", "File that keeps the usage sums across restarts. Without it, sums start at zero."),
        field("prices", Kind::List(&PRICE), "", "Prices of tokens, for rate limits by `cost` and for the usage report."),
        field("routes", Kind::List(&ROUTE), "", "Rules that send requests to backends. The first that matches is used."),
        field("objectives", Kind::List(&OBJECTIVE), "", "Objectives of routes, for error budgets, burn rates and goodput. Default: none."),
        field("audit", Kind::Section(&AUDIT), "", "A log of guardrail findings, one JSON line each."),
        field("access_log", Kind::Section(&ACCESS_LOG), "", "A log of finished requests, one JSON line each."),
        field("otlp", Kind::Section(&OTLP), "", "Export of metrics, traces and logs to an OpenTelemetry collector. Fields that are not set follow the `OTEL_*` variables."),
        field("record_store", Kind::Section(&RECORD_STORE), "", "A store of finished requests, to search and chart the last days."),
        field("record_files", Kind::Section(&RECORD_FILES), "", "Files of finished requests, for other programs."),
        field("contents", Kind::Section(&CONTENTS), "", "Encrypted files of the prompts and answers of routes with `store_contents`."),
        field("timeouts", Kind::Section(&TIMEOUTS), "", "Timeouts of all routes. A route can override some of them."),
        field("limits", Kind::Section(&LIMITS), "", "Bounds on sizes, connections and memory."),
        field(
            "guardrail_threads",
            Kind::Count(0, 256),
            "0",
            "Threads for long guardrail work, such as prompts over 16 KiB and local models. 0 starts one for every two cores, at least one.",
        )
        .was("shield_threads"),
        field("shutdown", Kind::Section(&SHUTDOWN), "", "Draining, and passing the listeners to a successor."),
    ],
};

/// `backends[]`
pub static BACKEND: Section = Section {
    doc: "An inference engine.",
    fields: &[
        field("name", Kind::RequiredText, "", "Name in routes, records and metrics."),
        field("url", Kind::RequiredText, "", "`http://host:port` or `https://host:port`, with a path prefix if the engine has one. `/v1` at the end is ignored: requests have it."),
        field(
            "dialect",
            Kind::Word(&[
                "auto",
                "openai-chat",
                "openai-completions",
                "openai-responses",
                "anthropic",
                "generate",
                "ollama",
                "llamacpp-completion",
                "embeddings",
            ]),
            "auto",
            "API format of inference answers. auto selects it by the path. The path alone determines which requests are inference.",
        ),
        field("provider", Kind::Text, "openai", "Value of the metric label `gen_ai_provider_name`. With `anthropic`, `api_key` is sent as `x-api-key`."),
        field(
            "api_key",
            Kind::Secret,
            "",
            "Credential that replaces the client's: `Authorization: Bearer`, or `x-api-key` if `provider` is `anthropic`. Can be `${NAME}` or `file:PATH`.",
        ),
        field(
            "zone",
            Kind::Text,
            "",
            "Zone of this backend. Backends in the gateway's own `zone` are preferred. Backends discovered in Kubernetes have the zone of their endpoint.",
        ),
        field(
            "http2",
            Kind::Flag,
            "false",
            "Use HTTP/2 to the backend. Set it if the backend is a proxy in front of engines; engines do not benefit from it.",
        ),
        field("tls", Kind::Section(&BACKEND_TLS), "", "Verification of the certificate, for `https` URLs."),
        field(
            "max_connections",
            Kind::Count(1, 1_000_000),
            "10000",
            "Maximum connections in use. Further requests get 503.",
        ),
        field("idle_connections", Kind::Count(0, 100_000), "128", "Idle connections that each worker keeps open."),
        field("admission", Kind::Section(&ADMISSION), "", "Limits concurrent requests to this backend and queues the rest."),
        field(
            "context_length",
            Kind::Count(0, 1_000_000_000),
            "0",
            "Maximum tokens of prompt and answer together, for routes with strict validation. 0 means unknown.",
        ),
        field("weight", Kind::Count(1, 1000), "1", "Weight of this backend in its pools, with every `balance`: its share of requests at low load, and of the load otherwise."),
        field("health", Kind::Section(&HEALTH), "", "Active health checks. Without them, only the results of requests determine health."),
        field("engine_metrics", Kind::Section(&ENGINE_METRICS), "", "Scraping of the engine's own metrics. Default: off.")
            .was("signals"),
        field(
            "unsupported",
            Kind::Texts,
            "",
            "Abilities that this backend lacks: `tools`, `vision`, `embeddings`. Pools send such requests to other backends.",
        )
        .was("lacks"),
        field(
            "cost",
            Kind::Number,
            "0",
            "Dollars per million tokens, for prompts and answers. `offload` compares the cost of edge and cloud with it.",
        ),
        field(
            "forwarded_headers",
            Kind::Flag,
            "",
            "Send `X-Forwarded-For`, `-Proto` and `-Host`, `Forwarded` and `Via`. Default: true for an http URL, false for https: a provider elsewhere does not learn the addresses of clients.",
        ),
        field(
            "models",
            Kind::Texts,
            "",
            "Models that the backend serves. Only these names are values of the metric label `gen_ai_request_model`; others become `other`.",
        ),
    ],
};

/// `backends[].tls`
pub static BACKEND_TLS: Section = Section {
    doc: "Verification of the engine's certificate, which cannot be turned off.",
    fields: &[
        field(
            "ca",
            Kind::Text,
            "",
            "PEM file with the certificate authorities to trust instead of the system's.",
        ),
        field(
            "server_name",
            Kind::Text,
            "",
            "Name in the certificate, if it is not the URL's host.",
        ),
    ],
};

/// `routes[]`
pub static ROUTE: Section = Section {
    doc: "A rule that sends requests to a backend or a pool.",
    fields: &[
        field("name", Kind::RequiredText, "", "Name in records and metrics."),
        field("match", Kind::Section(&MATCH), "", "Conditions, which must all hold. Without them, every request matches."),
        field("backend", Kind::Text, "", "Backend that serves the route. Name either `backend` or `pool`."),
        field("pool", Kind::Text, "", "Pool that serves the route."),
        field("fallback", Kind::Texts, "", "Pools to try, in this order, when no backend of the first pool can serve a request, and for retries."),
        field("canary", Kind::Section(&CANARY), "", "A new version that gets a share of the route's requests.").was("candidate"),
        field("mirror", Kind::Section(&MIRROR), "", "A pool that gets copies of some requests. Its answers are measured and dropped."),
        field("retries", Kind::Section(&RETRIES), "", "Retries on other backends. On by default if the route has `pool`, `fallback` or `canary`."),
        field(
            "resume",
            Kind::Word(routing::RESUME),
            "off",
            "on: if a backend fails mid-stream, another one resumes the answer. Chats need engines that continue a final message (vLLM, SGLang, llama.cpp). marked: as on, with a comment in the stream where it resumes.",
        )
        .was("continuation"),
        field("hedge", Kind::Section(&HEDGE), "", "A second request to another backend when the first token is late. Default: off."),
        field(
            "offload",
            Kind::Section(&OFFLOAD),
            "",
            "Conditions for sending requests to the first fallback pool (the cloud) instead of the first pool (the edge). Default: only if the edge cannot serve them.",
        ),
        field(
            "include_usage",
            Kind::Word(&["forward", "inject"]),
            "forward",
            "inject: request token usage from the engine if a streamed request does not, and remove the extra event from the answer. forward: do not change requests.",
        )
        .was("usage"),
        field(
            "compression",
            Kind::Word(&["identity", "forward"]),
            "identity",
            "identity: request uncompressed answers from the engine, so that they can be parsed. forward: forward Accept-Encoding; compressed answers are not measured.",
        ),
        field(
            "auth",
            Kind::Word(&["required", "optional", "off"]),
            "",
            "Whether a credential is required. optional: a client without one is `anonymous`. Default: required if there is an `auth` section, else off.",
        ),
        field(
            "passthrough",
            Kind::Texts,
            "",
            "Paths that are forwarded although the gateway does not parse them: unknown APIs, and model APIs even if limits count models or tokens. Compared with the decoded path, like `match.path`. A `*` at the end matches any rest.",
        )
        .was("pass"),
        field(
            "hosts",
            Kind::Texts,
            "",
            "Values of `Host`, without ports, that the route accepts. `*.example.com` matches all names below it. Default: any.",
        ),
        field(
            "cors",
            Kind::Texts,
            "",
            "Origins of web pages that may read answers, such as `https://app.example.com`. `*` allows any. Default: none.",
        ),
        field(
            "validation",
            Kind::Word(&["transparent", "strict"]),
            "transparent",
            "strict: refuse wrong types and values, models that the backend does not declare, and prompts that exceed its context length. transparent: leave these checks to the engine.",
        ),
        field(
            "default_output_tokens",
            Kind::Count(1, 1_000_000),
            "512",
            "Estimated output tokens of a request without `max_tokens`. Rate limits reserve this number, and charge further tokens as they are generated.",
        )
        .was("expected_output"),
        field(
            "reserved_output_tokens",
            Kind::Count(0, 1_000_000),
            "4096",
            "Maximum output tokens that rate limits reserve for a request, however large its `max_tokens` is. Further tokens are charged as they are generated.",
        ),
        field(
            "tokenizer",
            Kind::Text,
            "",
            "Path of the model's `tokenizer.json`, which counts prompts for rate limits, admission and the context length. Without it, four bytes count as one token.",
        ),
        field("guardrail", Kind::Text, "", "Guardrail of this route, by its name under `guardrails`. Without it, nothing is checked.").was("shield"),
        field(
            "store_contents",
            Kind::Word(&["off", "redacted"]),
            "off",
            "redacted: store the prompts and answers of this route in the files of `contents`, with every finding of the guardrail replaced by its kind, whatever the action on it. The guardrail must check personal data and credentials of prompts and answers.",
        ),
        field(
            "security_headers",
            Kind::Flag,
            "false",
            "Add `x-security-validated` (the guardrail's verdict on the prompt, also if it refuses it) and `x-latency-monitored` (how the answer is measured) to answers.",
        ),
        field("server_timing", Kind::Flag, "false", "Add a `Server-Timing` header with the durations known when the answer begins."),
        field("stall", Kind::Duration, "1s", "Minimum gap between two events with generated text that counts as a stall."),
        field("timeouts", Kind::Section(&ROUTE_TIMEOUTS), "", "Timeouts of this route. Default: those of the top-level `timeouts`."),
        field("labels", Kind::TextMap, "", "Constant labels of this route, exported in `llm_lens_route_info`."),
    ],
};

/// `routes[].match`
pub static MATCH: Section = Section {
    doc: "Conditions on a request.",
    fields: &[
        field("path", Kind::Text, "", "Path of the request. A `*` at the end matches any rest."),
        field(
            "headers",
            Kind::TextMap,
            "",
            "Headers and their exact values. `*` matches any value.",
        ),
        field(
            "models",
            Kind::Texts,
            "",
            "Values of `model` in the body of inference requests. A `*` at the end matches any rest.",
        ),
    ],
};

/// `routes[].timeouts`
pub static ROUTE_TIMEOUTS: Section = Section {
    doc: "Timeouts that apply after route matching. Default: those of the top-level `timeouts`. 0s disables one.",
    fields: &[
        field(
            "connect",
            Kind::Duration,
            "",
            "Maximum time to connect to the backend, including TLS.",
        ),
        field(
            "first_byte",
            Kind::Duration,
            "",
            "Maximum time from the request sent to the first byte of the answer.",
        ),
        field(
            "first_token",
            Kind::DurationOrAuto,
            "",
            "Maximum time from the request sent to the first token of a stream, or `auto`.",
        ),
        field("between_events", Kind::Duration, "", "Maximum time between two reads of an answer."),
        field("between_tokens", Kind::Duration, "", "Maximum time between two tokens of a stream."),
        field(
            "total",
            Kind::Duration,
            "",
            "Maximum time from the request's head to the end of the answer.",
        ),
        field(
            "client_write",
            Kind::Duration,
            "",
            "Maximum time that the client reads nothing while bytes are ready for it.",
        ),
    ],
};

#[cfg(test)]
mod tests;
