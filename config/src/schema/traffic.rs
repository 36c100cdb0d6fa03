//! Sections about who may pass, and how much.

use super::{Kind, Section, field};

/// `auth`
pub static AUTH: Section = Section {
    doc: "Who may ask. With this section, every route wants a credential unless it says otherwise; clients' credentials then never reach a backend.",
    fields: &[
        field(
            "keys",
            Kind::Text,
            "",
            "API keys: a file, or an SQLite database (`.db`, `.sqlite`, `.sqlite3`); `llm-lens key create` writes either. What changes takes effect within a second.",
        ),
        field(
            "secret",
            Kind::Secret,
            "",
            "The secret under which keys are hashed, at least 16 characters. Whoever has the file alone can check no guess. Needed with `keys`.",
        ),
        field("jwt", Kind::List(&JWT), "", "Identity providers whose tokens are taken."),
    ],
};

/// `auth.jwt[]`
pub static JWT: Section = Section {
    doc: "An identity provider. Its tokens must have `exp`, `iss`, `aud` and `sub`, and be signed with a key of its set; secrets that two share are not taken.",
    fields: &[
        field("issuer", Kind::RequiredText, "", "What `iss` must say."),
        field("audience", Kind::RequiredText, "", "What `aud` must say."),
        field(
            "jwks",
            Kind::RequiredText,
            "",
            "Its keys: an http or https URL, or a file. Fetched every ten minutes, and when a token names one that is not known.",
        ),
        field("owner_claim", Kind::Text, "sub", "The claim that says whose account it is."),
        field("routes_claim", Kind::Text, "", "The claim with the routes that it may use: a list, or words. Without it: all."),
        field("models_claim", Kind::Text, "", "The same with models."),
        field("priority_claim", Kind::Text, "", "The claim with its place in queues, 0 to 9."),
        field("limits_claim", Kind::Text, "", "The claim with amounts of its own for limits by name, an object; these must be `per: key`."),
    ],
};

/// `rate_limits[]`
pub static RATE_LIMIT: Section = Section {
    doc: "A limit on what requests may take. Each request is under all limits that concern it.",
    fields: &[
        field("name", Kind::RequiredText, "", "The name in answers, metrics, and where a key has an amount of its own."),
        field(
            "of",
            Kind::Word(&["requests", "input_tokens", "output_tokens", "total_tokens", "cost", "streams"]),
            "requests",
            "What is counted. `cost` is in dollars, by `prices`; `streams` are requests at a time.",
        ),
        field("amount", Kind::Number, "", "How much of it."),
        field("every", Kind::Text, "1m", "Over which time: a duration, which rolls; or `day` or `month` of the calendar, by UTC."),
        field("burst", Kind::Number, "", "How much may go at once, of a rate. Default: the amount."),
        field(
            "per",
            Kind::Word(&["all", "key", "owner", "route", "model", "address"]),
            "key",
            "Who shares it. Models that no backend declares share one account.",
        ),
        field("routes", Kind::Texts, "", "Only requests of these routes; a `*` at an end matches any rest."),
        field("models", Kind::Texts, "", "Only requests for these models."),
        field("owners", Kind::Texts, "", "Only callers of these owners."),
        field("warn_at", Kind::Share, "0", "The part of it from which on answers carry `x-llm-lens-limit-warning`; 0 means none do."),
        field("shared", Kind::Flag, "false", "One limit for all gateways that share a `store`. Not for `streams`."),
        field(
            "at_end",
            Kind::Word(&["length", "error", "finish"]),
            "length",
            "A stream that has taken all there was: ends as if `max_tokens` were reached, ends with an error, or goes on while later requests pay.",
        ),
    ],
};

/// `store`
pub static STORE: Section = Section {
    doc: "Where gateways keep the limits that they share: Redis or Valkey.",
    fields: &[
        field("url", Kind::Secret, "", "`redis://[user:password@]host:port/database`. `${ENV}` or `file:PATH`."),
        field("prefix", Kind::Text, "llm-lens", "What all names in it begin with: the same for gateways that share."),
        field("timeout", Kind::Duration, "100ms", "How long it may take to answer."),
        field(
            "on_failure",
            Kind::Word(&["local", "open", "closed"]),
            "local",
            "When it is away: each gateway goes by its share of a limit, or lets pass and charges later, or refuses.",
        ),
        field("replicas", Kind::Count(1, 10_000), "2", "How many gateways there are: a share is the limit divided by it."),
    ],
};

/// `prices[]`
pub static PRICE: Section = Section {
    doc: "What tokens of a model cost, in dollars for a million.",
    fields: &[
        field(
            "models",
            Kind::Texts,
            "",
            "For these models; a `*` at an end matches any rest. Without it: for all. The first entry that matches counts.",
        ),
        field("input", Kind::Number, "0", "Tokens of prompts."),
        field("cached_input", Kind::Number, "", "Of these, those that the engine had in its cache. Default: as `input`."),
        field("output", Kind::Number, "0", "Generated tokens."),
        field("reasoning", Kind::Number, "", "Of these, reasoning. Default: as `output`."),
    ],
};

/// `backends[].admission`
pub static ADMISSION: Section = Section {
    doc: "How many requests the engine gets at a time, and who waits. Without it: as many as come.",
    fields: &[
        field("max_requests", Kind::Count(0, 1_000_000), "0", "Requests in flight; 0 means any number."),
        field(
            "max_tokens",
            Kind::Count(0, 1_000_000_000),
            "0",
            "Tokens in flight, prompts and what may be generated, as estimated; 0 means any number.",
        ),
        field(
            "adaptive",
            Kind::Flag,
            "false",
            "Let the cap on requests follow the engine: it grows while time to first token stays near its floor, and shrinks when that rises. `max_requests` is the most.",
        ),
        field("min_requests", Kind::Count(1, 1_000_000), "2", "The least that an adaptive cap shrinks to."),
        field(
            "queue",
            Kind::Count(0, 100_000),
            "256",
            "Requests that may wait; one beyond them is answered 503, the least important first.",
        ),
        field(
            "max_wait",
            Kind::Duration,
            "10s",
            "How long a request may wait. One that cannot be served by then, at the rate at which places become free, is answered 503 at once.",
        ),
    ],
};

/// The file of keys.
pub static KEYS: Section = Section {
    doc: "API keys of `llm-lens gateway`. `llm-lens key create` adds entries.",
    fields: &[field("keys", Kind::List(&KEY), "", "One entry for each key.")],
};

/// `keys[]` of the file of keys.
pub static KEY: Section = Section {
    doc: "A key.",
    fields: &[
        field("id", Kind::RequiredText, "", "Its public name, in records and in the commands that revoke it."),
        field("hash", Kind::Text, "", "HMAC-SHA-256 of the key under the settings' `auth.secret`, in hexadecimal."),
        field(
            "certificate",
            Kind::Text,
            "",
            "In its place: the SHA-256 fingerprint of a client's certificate, in hexadecimal, colons or not.",
        ),
        field(
            "subject",
            Kind::Text,
            "",
            "In its place: the subject of a client's certificate as RFC 4514 writes it (`CN=search,O=Acme`), or one of its alternative names (`URI:spiffe://acme/search`, `DNS:search.acme.example`, `email:search@acme.example`).",
        ),
        field("owner", Kind::RequiredText, "", "Whose it is."),
        field("created", Kind::Text, "", "When it was made; for people."),
        field("expires", Kind::Text, "", "From when on it is none: a date, or a date with a time and an offset."),
        field("revoked", Kind::Flag, "false", "It is none any more."),
        field("routes", Kind::Texts, "", "Routes it may use; without it, all."),
        field("models", Kind::Texts, "", "Models it may ask for; without it, all."),
        field("priority", Kind::Count(0, 9), "5", "Its place in queues; higher goes first."),
        field("limits", Kind::TextMap, "", "Amounts of its own for limits by name; these must be `per: key`."),
    ],
};
