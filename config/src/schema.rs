//! The table of all sections and fields: names, types, defaults with their reasons.
//!
//! Everything that knows the settings file knows it from here.

mod routing;
mod shield;
mod traffic;
pub use routing::{CANDIDATE, EJECTION, HEALTH, HEDGE, MIRROR, OFFLOAD, POOL, RETRIES, SIGNALS};
pub use shield::{FILTER, JUDGE, RISK, RULE, SHIELD, SIZES, TOPIC, TOXICITY};
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
    /// Its default as it would be written; empty when there is none.
    pub default: &'static str,
    /// What it does, and why the default is what it is.
    pub doc: &'static str,
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
    /// A number from 0 on.
    Number,
    /// A duration with its unit.
    Duration,
    /// A size with its unit.
    Size,
    /// A text that may hold `${ENV}` or be `file:PATH`, and is never shown.
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
    Field { name, kind, default, doc }
}

/// The whole file.
pub static ROOT: Section = Section {
    doc: "Settings of `llm-lens gateway`.",
    fields: &[
        field("listeners", Kind::List(&LISTENER), "", "Where clients connect. Default: one on 127.0.0.1:8080."),
        field("admin", Kind::Section(&ADMIN), "", "The operator's own listener."),
        field("workers", Kind::Count(0, 1024), "0", "Worker threads of the data path; 0 means one for each core."),
        field("backends", Kind::List(&BACKEND), "", "Inference engines."),
        field("pools", Kind::List(&POOL), "", "Backends that routes name together."),
        field(
            "zone",
            Kind::Text,
            "",
            "Where this gateway runs. Of a pool those are asked first, while one of them is well, whose `zone` is the same; `${NAME}` is the environment's.",
        ),
        field(
            "shields",
            Kind::List(&SHIELD),
            "",
            "Guards that routes name: what is looked for in prompts and answers, and what is done about it.",
        ),
        field("auth", Kind::Section(&AUTH), "", "Who may ask."),
        field("rate_limits", Kind::List(&RATE_LIMIT), "", "How much may be asked, by whom."),
        field("store", Kind::Section(&STORE), "", "Where gateways keep the limits that they share."),
        field("usage_file", Kind::Text, "", "Where sums of what was used are kept over a restart. Without it they begin anew."),
        field("prices", Kind::List(&PRICE), "", "What tokens cost, for limits of `cost` and for accounts."),
        field("routes", Kind::List(&ROUTE), "", "Which request goes where; the first that matches wins."),
        field("audit", Kind::Section(&AUDIT), "", "Where findings of guards are written down, one JSON line each."),
        field("access_log", Kind::Section(&ACCESS_LOG), "", "A file with one JSON line for each request that ended."),
        field("timeouts", Kind::Section(&TIMEOUTS), "", "How long to wait for whom; a route may say otherwise."),
        field("limits", Kind::Section(&LIMITS), "", "Bounds on what is held for anybody."),
        field(
            "shield_threads",
            Kind::Count(0, 256),
            "0",
            "Threads for what guards cannot do in microseconds; 0 means half of the cores, at least one.",
        ),
        field("shutdown", Kind::Section(&SHUTDOWN), "", "How to end, and how to hand over."),
    ],
};

/// `audit`
pub static AUDIT: Section = Section {
    doc: "The audit log of guards: who, what, which rule, where, and a keyed hash of the match; never the text.",
    fields: &[
        field("file", Kind::Text, "", "The file; without it nothing is written. It is made for the owner alone."),
        field(
            "key",
            Kind::Secret,
            "",
            "The key of the hashes. Without it each start of the gateway has one of its own, and hashes of two runs differ.",
        ),
        field("max_size", Kind::Size, "64MiB", "A file that would grow beyond it is set aside as `.1`, the one before as `.2` ..."),
        field("keep", Kind::Count(0, 100), "4", "Files set aside that are kept."),
    ],
};

/// `access_log`
pub static ACCESS_LOG: Section = Section {
    doc: "The access log: when, what, where to, how it ended, how long it took; never a prompt, an answer or a credential.",
    fields: &[
        field("file", Kind::Text, "", "The file. Default: none, nothing is written. Only the owner of the process can read it."),
        field("max_size", Kind::Size, "64MiB", "Maximum size of the file before it is set aside as `.1`, the one before as `.2` ..."),
        field("keep", Kind::Count(0, 100), "4", "Files set aside that are kept."),
    ],
};

/// `listeners[]`
pub static LISTENER: Section = Section {
    doc: "An address that clients connect to.",
    fields: &[
        field("address", Kind::RequiredText, "127.0.0.1:8080", "IP and port; port 0 takes a free one."),
        field("h2c", Kind::Flag, "true", "Accept HTTP/2 without TLS, by prior knowledge, beside HTTP/1.1."),
        field("tls", Kind::Section(&LISTENER_TLS), "", "Serve TLS with ALPN for HTTP/2 and HTTP/1.1."),
    ],
};

/// `listeners[].tls`
pub static LISTENER_TLS: Section = Section {
    doc: "Certificate and key of a listener, PEM files.",
    fields: &[
        field(
            "cert",
            Kind::RequiredText,
            "",
            "File with the certificate chain. A changed file takes effect within a second, without a restart.",
        ),
        field("key", Kind::RequiredText, "", "File with the private key."),
        field("min_version", Kind::Word(&["1.2", "1.3"]), "1.3", "Clients that speak less are refused."),
        field("client_ca", Kind::Text, "", "PEM file with the authorities of clients' certificates. Without it none are asked for."),
        field(
            "client_certificates",
            Kind::Word(&["required", "optional"]),
            "required",
            "With `client_ca`: whether a client must have one. Whose it is, keys say that name its fingerprint.",
        ),
    ],
};

/// `admin`
pub static ADMIN: Section = Section {
    doc: "Metrics, health and the request log. It shows what clients asked for: keep it off public networks.",
    fields: &[field(
        "address",
        Kind::Text,
        "127.0.0.1:9090",
        "IP and port; port 0 takes a free one. Loopback by default because it has no login.",
    )],
};

/// `backends[]`
pub static BACKEND: Section = Section {
    doc: "An inference engine.",
    fields: &[
        field("name", Kind::RequiredText, "", "The name in routes, records and metrics."),
        field("url", Kind::RequiredText, "", "`http://host:port` or `https://host:port`, with a path prefix if the engine has one."),
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
            "How answers to inference requests are read; auto goes by the path. Which requests are inference goes by the path in any case.",
        ),
        field("provider", Kind::Text, "openai", "`gen_ai.provider.name` in metrics."),
        field(
            "api_key",
            Kind::Secret,
            "",
            "Sent in place of the client's, as `Authorization: Bearer`, or as `x-api-key` where `provider` is `anthropic`. `${ENV}` or `file:PATH`.",
        ),
        field(
            "zone",
            Kind::Text,
            "",
            "Where it is; backends in the gateway's own `zone` are asked first. What is found in Kubernetes says its own.",
        ),
        field("http2", Kind::Flag, "false", "Speak HTTP/2 to the engine. No engine we know gains from it; proxies in front of one may."),
        field("tls", Kind::Section(&BACKEND_TLS), "", "For `https` URLs."),
        field("max_connections", Kind::Count(1, 1_000_000), "10000", "Connections in use at a time; a request beyond it is answered 503."),
        field("idle_connections", Kind::Count(0, 100_000), "128", "Idle connections each worker keeps for later."),
        field("admission", Kind::Section(&ADMISSION), "", "How many requests it gets at a time, and who waits."),
        field(
            "context_length",
            Kind::Count(0, 1_000_000_000),
            "0",
            "Tokens that prompt and answer may have in all, for routes that are strict; 0 means not known.",
        ),
        field("weight", Kind::Count(1, 1000), "1", "Its share in pools."),
        field("health", Kind::Section(&HEALTH), "", "Ask it whether it is well. Without it only its answers tell."),
        field("signals", Kind::Section(&SIGNALS), "", "Read the engine\'s own metrics. Without it: none."),
        field("lacks", Kind::Texts, "", "What it cannot do, so that pools send such requests elsewhere: `tools`, `vision`, `embeddings`."),
        field(
            "cost",
            Kind::Number,
            "0",
            "Dollars for a million tokens, prompts and answers alike, where edge and cloud are weighed by cost.",
        ),
        field("models", Kind::Texts, "", "Models it serves. They may become metric labels; other names become `other`."),
    ],
};

/// `backends[].tls`
pub static BACKEND_TLS: Section = Section {
    doc: "How the engine's certificate is verified. It always is.",
    fields: &[
        field("ca", Kind::Text, "", "PEM file with the authorities to trust instead of the system's."),
        field("server_name", Kind::Text, "", "Name to verify, when it is not the URL's host."),
    ],
};

/// `routes[]`
pub static ROUTE: Section = Section {
    doc: "A rule for requests.",
    fields: &[
        field("name", Kind::RequiredText, "", "The name in records and metrics."),
        field("match", Kind::Section(&MATCH), "", "What it applies to; everything that is named must hold. Without it: all requests."),
        field("backend", Kind::Text, "", "The backend that serves it."),
        field("pool", Kind::Text, "", "In its place, the pool whose backends do."),
        field("fallback", Kind::Texts, "", "Pools that are asked, in this order, when nobody of the first can serve a request."),
        field("candidate", Kind::Section(&CANDIDATE), "", "A new version that some of its requests go to."),
        field("mirror", Kind::Section(&MIRROR), "", "Another pool that is asked as well, for its figures only."),
        field("retries", Kind::Section(&RETRIES), "", "When another backend is asked. With a pool there are some by default."),
        field(
            "continuation",
            Kind::Word(routing::CONTINUATION),
            "off",
            "on: when a backend dies in the middle of the stream of a chat or a completion, another one goes on with what was said, for plain text and, in chats, engines that continue a final message (vLLM, SGLang, llama.cpp). marked: with a comment in the stream where it does.",
        ),
        field("hedge", Kind::Section(&HEDGE), "", "When a second backend is asked at the same time. Without it: never."),
        field(
            "offload",
            Kind::Section(&OFFLOAD),
            "",
            "With a fallback: when the first pool is passed over for the second. Without it: when nobody there can.",
        ),
        field(
            "usage",
            Kind::Word(&["forward", "inject"]),
            "forward",
            "inject: ask for usage when a streamed request did not, and take the extra event out of the answer again.",
        ),
        field(
            "compression",
            Kind::Word(&["identity", "forward"]),
            "identity",
            "identity: ask the engine for plain text so that events can be read. forward: pass Accept-Encoding on; compressed answers are then not measured.",
        ),
        field(
            "auth",
            Kind::Word(&["required", "optional", "off"]),
            "",
            "Whether a credential is wanted. optional: without one, a client is `anonymous`. Default: required with an `auth` section, else off.",
        ),
        field(
            "pass",
            Kind::Texts,
            "",
            "Paths that may go to the backend although nothing of them is read, where models, tokens or places are counted; a `*` at an end matches any rest.",
        ),
        field(
            "hosts",
            Kind::Texts,
            "",
            "Names that it answers to in `Host`, ports left off; `*.example.com` means all below it. Without it: any.",
        ),
        field(
            "cors",
            Kind::Texts,
            "",
            "Origins of web pages that may read its answers, such as `https://app.example.com`; `*` means any. Without it: none.",
        ),
        field(
            "validation",
            Kind::Word(&["transparent", "strict"]),
            "transparent",
            "strict: refuse what has wrong types or values, a model that the backend does not declare, or more tokens than its context, before the engine hears of it.",
        ),
        field(
            "expected_output",
            Kind::Count(1, 1_000_000),
            "512",
            "Tokens that a request without `max_tokens` is thought to generate: so many are reserved of limits, the rest is taken while it runs.",
        ),
        field(
            "tokenizer",
            Kind::Text,
            "",
            "The model's `tokenizer.json`: prompts are counted by it, for limits, admission and the context. Without it a token is four bytes.",
        ),
        field("shield", Kind::Text, "", "The guard of this route, by its name under `shields`. Without it nothing is looked for."),
        field(
            "security_headers",
            Kind::Flag,
            "false",
            "Add `x-security-validated` (what the guard did about the prompt) and `x-latency-monitored` (how its answer is measured).",
        ),
        field("server_timing", Kind::Flag, "false", "Add a `Server-Timing` header with what the gateway knows when the answer begins."),
        field("stall", Kind::Duration, "1s", "A gap between two tokens over this is counted as a stall."),
        field("timeouts", Kind::Section(&ROUTE_TIMEOUTS), "", "Instead of the general ones; what is not named here stays as it is there."),
        field("labels", Kind::TextMap, "", "Constant labels of this route, exported in `llm_lens_route_info`."),
    ],
};

/// `routes[].match`
pub static MATCH: Section = Section {
    doc: "Conditions on a request.",
    fields: &[
        field("path", Kind::Text, "", "The path; a `*` at its end matches any rest."),
        field("headers", Kind::TextMap, "", "Headers with their exact values; `*` means present."),
        field(
            "models",
            Kind::Texts,
            "",
            "Names of the request's `model`; a `*` at an end matches any rest. Holds for inference paths only.",
        ),
    ],
};

/// `routes[].timeouts`
pub static ROUTE_TIMEOUTS: Section = Section {
    doc: "How long to wait once the route is known. 0s means forever.",
    fields: &[
        field("connect", Kind::Duration, "", "To the backend, TLS included."),
        field("first_byte", Kind::Duration, "", "From asking the backend to the first byte of its answer."),
        field("between_events", Kind::Duration, "", "Between two reads of an answer."),
        field("total", Kind::Duration, "", "From the request's head to the end of the answer."),
        field("client_write", Kind::Duration, "", "For a client that takes nothing while bytes are ready for it."),
    ],
};

/// `timeouts`
pub static TIMEOUTS: Section = Section {
    doc: "How long to wait. 0s means forever.",
    fields: &[
        field("request_head", Kind::Duration, "10s", "From a request's first byte to the end of its head. Slower clients are attacks."),
        field("request_body", Kind::Duration, "60s", "From the end of the head to the end of the body."),
        field("idle", Kind::Duration, "60s", "Between two requests on a client's connection."),
        field("connect", Kind::Duration, "5s", "To a backend, TLS included."),
        field(
            "first_byte",
            Kind::Duration,
            "10m",
            "From asking the backend to the first byte of its answer: a long prefill behind a queue is legitimate.",
        ),
        field(
            "between_events",
            Kind::Duration,
            "2m",
            "Between two reads of an answer. Of requests that are no inference, each read may take `first_byte`.",
        ),
        field("total", Kind::Duration, "1h", "From the request's head to the end of the answer."),
        field("client_write", Kind::Duration, "60s", "For a client that takes nothing while bytes are ready for it."),
    ],
};

/// `limits`
pub static LIMITS: Section = Section {
    doc: "Bounds.",
    fields: &[
        field("request_head", Kind::Size, "64KiB", "Start line and fields of a request, and of an answer."),
        field("header_fields", Kind::Count(1, 256), "100", "Fields of a request, and of an answer."),
        field("request_body", Kind::Size, "32MiB", "Body of an inference request, held in memory once. Images are real."),
        field(
            "event",
            Kind::Size,
            "1MiB",
            "One event of an answer, or one JSON answer, kept for reading. Larger ones are forwarded unread, and the record says so.",
        ),
        field("ring", Kind::Size, "256KiB", "Bytes taken from a backend ahead of a slow client, for each stream."),
        field("records", Kind::Count(0, 1_000_000), "1000", "Records kept for `/api/requests`."),
        field(
            "connections",
            Kind::Count(0, 10_000_000),
            "0",
            "Connections of clients at a time; 0 means as many as the system gives. One beyond is closed.",
        ),
        field("connections_per_address", Kind::Count(0, 1_000_000), "0", "The same for one address (of IPv6, a /64); 0 means any number."),
        field(
            "requests_per_address",
            Kind::Count(0, 1_000_000),
            "0",
            "Requests of one address in a second, before anybody asks who it is; 0 means any number.",
        ),
        field("h2_streams", Kind::Count(1, 10_000), "100", "Concurrent streams of one HTTP/2 client connection."),
        field(
            "kernel_timestamps",
            Kind::Flag,
            "false",
            "Ask the kernel when bytes arrived and record how much later we read them (`read_lag_us`). Costs a larger system call for each read.",
        ),
    ],
};

/// `shutdown`
pub static SHUTDOWN: Section = Section {
    doc: "The end of a process.",
    fields: &[
        field("grace", Kind::Duration, "30s", "How long streams may go on after SIGTERM, or after the successor took over."),
        field(
            "upgrade_socket",
            Kind::Text,
            "/tmp/llm-lens-upgrade.sock",
            "Unix socket over which listeners pass to a successor started with `--upgrade`.",
        ),
    ],
};
