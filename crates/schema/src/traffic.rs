//! Sections about authentication, rate limits and admission.

use super::{Kind, Section, field};

/// `auth`
pub static AUTH: Section = Section {
    doc: "Authentication. With this section, every route requires a credential unless its `auth` is set, and credentials of clients never reach a backend.",
    fields: &[
        field(
            "keys",
            Kind::Text,
            "",
            "API keys: a YAML file, or an SQLite database (`.db`, `.sqlite`, `.sqlite3`). `llm-lens key create` writes either. Changes take effect within two seconds.",
        ),
        field(
            "secret",
            Kind::Secret,
            "",
            "HMAC secret under which keys are stored, at least 16 characters. A stolen key file is useless without it. Required with `keys`.",
        ),
        field("jwt", Kind::List(&JWT), "", "Identity providers whose JWTs are accepted."),
    ],
};

/// `auth.jwt[]`
pub static JWT: Section = Section {
    doc: "An identity provider. Its JWTs must have `exp`, `iss`, `aud` and `sub`, and be signed with an asymmetric key of its key set.",
    fields: &[
        field("issuer", Kind::RequiredText, "", "Required value of `iss`."),
        field("audience", Kind::RequiredText, "", "Required value of `aud`."),
        field(
            "jwks",
            Kind::RequiredText,
            "",
            "Key set: an http or https URL, or a file. It is fetched every ten minutes, and when a JWT has an unknown key id.",
        ),
        field(
            "owner_claim",
            Kind::Text,
            "sub",
            "Claim with the owner. The request counts towards the owner's usage and limits.",
        ),
        field(
            "routes_claim",
            Kind::Text,
            "",
            "Claim with the permitted routes: an array, or words separated by spaces. Default: all routes are permitted.",
        ),
        field(
            "models_claim",
            Kind::Text,
            "",
            "Claim with the permitted models. Default: all models are permitted.",
        ),
        field("priority_claim", Kind::Text, "", "Claim with the priority in queues, 0 to 9."),
        field(
            "limits_claim",
            Kind::Text,
            "",
            "Claim with an object of amounts by limit name. They replace the amounts of limits that are `per: key`.",
        ),
    ],
};

/// `rate_limits[]`
pub static RATE_LIMIT: Section = Section {
    doc: "A limit on requests, tokens, cost or concurrent streams. All limits that match a request apply to it.",
    fields: &[
        field("name", Kind::RequiredText, "", "Name in error messages, headers, metrics and keys."),
        field(
            "unit",
            Kind::Word(&["requests", "input_tokens", "output_tokens", "total_tokens", "cost", "streams"]),
            "requests",
            "What is limited. `cost` is in dollars, by `prices`. `streams` are concurrent requests.",
        )
        .was("of"),
        field("amount", Kind::Number, "", "Maximum amount per window, in `unit`; for `streams`, at a time."),
        field("window", Kind::Text, "1m", "A duration, over which the amount refills evenly; or `day` or `month`, which reset by the UTC calendar.")
            .was("every"),
        field("burst", Kind::Number, "", "Maximum amount at once, for windows that are durations. Default: `amount`."),
        field(
            "per",
            Kind::Word(&["all", "key", "owner", "route", "model", "address"]),
            "key",
            "Requests that share an amount: those of one key, owner, route, model or client address, or all. Models that no backend declares share one amount.",
        ),
        field("routes", Kind::Texts, "", "Apply to these routes only. A `*` at the end matches any rest."),
        field("models", Kind::Texts, "", "Apply to these models only."),
        field("owners", Kind::Texts, "", "Apply to these owners only."),
        field("warn_at", Kind::Share, "0", "Used share of the amount from which answers have the header `x-llm-lens-limit-warning`. 0 disables it."),
        field("shared", Kind::Flag, "false", "Share the limit with all gateways that use the same `store`."),
        field(
            "on_exhausted",
            Kind::Word(&["length", "error", "finish"]),
            "length",
            "What happens to a stream that uses up the amount. length: it ends as if `max_tokens` were reached. error: it ends with an error. finish: it continues, and later requests pay for it.",
        )
        .was("at_end"),
    ],
};

/// `store`
pub static STORE: Section = Section {
    doc: "Redis or Valkey, for rate limits that several gateways share.",
    fields: &[
        field(
            "url",
            Kind::Secret,
            "",
            "`redis://[user:password@]host:port/database`. Can be `${NAME}` or `file:PATH`.",
        ),
        field(
            "prefix",
            Kind::Text,
            "llm-lens",
            "Prefix of all keys in the store. Gateways that share limits need the same prefix.",
        ),
        field("timeout", Kind::Duration, "100ms", "Maximum wait for a reply of the store."),
        field(
            "on_failure",
            Kind::Word(&["local", "open", "closed"]),
            "local",
            "Behavior while the store is unreachable. local: each gateway applies its part of each limit. open: requests pass and are charged later. closed: requests get 429.",
        ),
        field(
            "replicas",
            Kind::Count(1, 10_000),
            "2",
            "Number of gateways that share the store. With `on_failure: local`, each applies the amount divided by this number.",
        ),
    ],
};

/// `prices[]`
pub static PRICE: Section = Section {
    doc: "Prices of a model's tokens, in dollars per million tokens.",
    fields: &[
        field(
            "models",
            Kind::Texts,
            "",
            "Models with these prices. A `*` at the end matches any rest. Default: all. The first entry that matches is used.",
        ),
        field("input", Kind::Number, "0", "Dollars per million prompt tokens."),
        field(
            "cached_input",
            Kind::Number,
            "",
            "Dollars per million prompt tokens that the engine had cached. Default: `input`.",
        ),
        field("output", Kind::Number, "0", "Dollars per million output tokens."),
        field(
            "reasoning",
            Kind::Number,
            "",
            "Dollars per million reasoning tokens. Default: `output`.",
        ),
    ],
};

/// `backends[].admission`
pub static ADMISSION: Section = Section {
    doc: "Limits concurrent requests to the backend and queues the rest. Without it, there is no limit.",
    fields: &[
        field(
            "max_requests",
            Kind::Count(0, 1_000_000),
            "0",
            "Maximum requests in flight. 0 means no limit.",
        ),
        field(
            "max_tokens",
            Kind::Count(0, 1_000_000_000),
            "0",
            "Maximum tokens in flight, estimated from prompts and requested output. 0 means no limit.",
        ),
        field(
            "adaptive",
            Kind::Flag,
            "false",
            "Adapt the limit to the engine: it grows while the time to first token stays near its minimum, and shrinks when the time rises. `max_requests` is the upper bound.",
        ),
        field("min_requests", Kind::Count(1, 1_000_000), "2", "Lower bound of an adaptive limit."),
        field(
            "queue",
            Kind::Count(0, 100_000),
            "256",
            "Maximum requests in the queue. When it is full, the request with the lowest priority gets 503.",
        ),
        field(
            "max_wait",
            Kind::Duration,
            "10s",
            "Maximum wait in the queue. A request that would wait longer at the current rate gets 503 immediately.",
        ),
        field(
            "tenant",
            Kind::Text,
            "owner",
            "Requests that share a turn in the queue: those of an `owner`, of a `key`, or with the same value of a request header (`header:NAME`; without it, of an owner). Clients can write any header.",
        ),
    ],
};

/// The key file.
pub static KEYS: Section = Section {
    doc: "API keys of `llm-lens gateway`. `llm-lens key create` adds entries.",
    fields: &[field("keys", Kind::List(&KEY), "", "One entry for each key.")],
};

/// `keys[]` of the key file.
pub static KEY: Section = Section {
    doc: "An API key or a client certificate, with its owner and permissions.",
    fields: &[
        field(
            "id",
            Kind::RequiredText,
            "",
            "Public name of the key, in records and for `llm-lens key revoke`.",
        ),
        field(
            "hash",
            Kind::Text,
            "",
            "HMAC-SHA-256 of the key under `auth.secret` of the settings, in hexadecimal.",
        ),
        field(
            "certificate",
            Kind::Text,
            "",
            "Instead of `hash`: SHA-256 fingerprint of a client certificate, in hexadecimal, with or without colons.",
        ),
        field(
            "subject",
            Kind::Text,
            "",
            "Instead of `hash`: subject of a client certificate in RFC 4514 form (`CN=search,O=Acme`), or one of its alternative names (`URI:spiffe://acme/search`, `DNS:search.acme.example`, `email:search@acme.example`).",
        ),
        field(
            "owner",
            Kind::RequiredText,
            "",
            "Owner of the key. Its requests count towards the owner's usage and limits.",
        ),
        field("created", Kind::Text, "", "Time of creation. Informational only."),
        field(
            "expires",
            Kind::Text,
            "",
            "Expiry time: a date, or a date with a time and an offset.",
        ),
        field("revoked", Kind::Flag, "false", "Whether the key is revoked."),
        field("routes", Kind::Texts, "", "Permitted routes. Default: all."),
        field("models", Kind::Texts, "", "Permitted models. Default: all."),
        field(
            "priority",
            Kind::Count(0, 9),
            "5",
            "Priority in admission queues. The highest is admitted first.",
        ),
        field(
            "limits",
            Kind::TextMap,
            "",
            "Amounts by limit name. They replace the amounts of limits that are `per: key`.",
        ),
    ],
};
