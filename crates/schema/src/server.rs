//! Sections of the process itself: listeners, logs, timeouts, limits, shutdown.

use super::{Kind, Section, field};

/// `audit`
pub static AUDIT: Section = Section {
    doc: "The audit log of guardrails: caller, rule, position and a keyed hash of each match, never the text.",
    fields: &[
        field(
            "file",
            Kind::Text,
            "",
            "Path of the log file. Default: none, no log. Only the user of the process can read the file.",
        ),
        field(
            "key",
            Kind::Secret,
            "",
            "Key of the hashes. Without it, each start generates a new key, so hashes of two runs cannot be compared.",
        ),
        field(
            "chain_key",
            Kind::Secret,
            "",
            "Key of the log's hash chain, at least 16 characters. Without it, any program that can write the file can replace the chain by another that is valid.",
        ),
        field(
            "max_size",
            Kind::Size,
            "64MiB",
            "Maximum size of the file before it is renamed to `.1`, an older one to `.2`, and so on.",
        ),
        field("keep", Kind::Count(0, 100), "4", "Number of renamed files to keep."),
    ],
};

/// `access_log`
pub static ACCESS_LOG: Section = Section {
    doc: "The access log: time, route, backend, outcome and durations of each request, never a prompt, an answer or a credential.",
    fields: &[
        field(
            "file",
            Kind::Text,
            "",
            "Path of the log file. Default: none, no log. Only the user of the process can read the file.",
        ),
        field(
            "max_size",
            Kind::Size,
            "64MiB",
            "Maximum size of the file before it is renamed to `.1`, an older one to `.2`, and so on.",
        ),
        field("keep", Kind::Count(0, 100), "4", "Number of renamed files to keep."),
    ],
};

/// `listeners[]`
pub static LISTENER: Section = Section {
    doc: "An address that clients connect to.",
    fields: &[
        field(
            "address",
            Kind::RequiredText,
            "127.0.0.1:8080",
            "IP address and port. Port 0 takes a free one.",
        ),
        field(
            "h2c",
            Kind::Flag,
            "true",
            "Accept HTTP/2 without TLS (prior knowledge) in addition to HTTP/1.1.",
        ),
        field(
            "tls",
            Kind::Section(&LISTENER_TLS),
            "",
            "Serve TLS, with ALPN for HTTP/2 and HTTP/1.1.",
        ),
        field(
            "proxy_protocol",
            Kind::Flag,
            "false",
            "Connections begin with a PROXY header, version 1 or 2, which has the client's address. Connections from other addresses than `trusted_proxies` are closed.",
        ),
        field(
            "allow",
            Kind::Texts,
            "",
            "Networks of the clients that may connect. Default: all. Applies to the address of the connection, or of its PROXY header.",
        ),
        field(
            "deny",
            Kind::Texts,
            "",
            "Networks of clients that may not connect, even if `allow` has them.",
        ),
    ],
};

/// `listeners[].tls`
pub static LISTENER_TLS: Section = Section {
    doc: "Certificate and key of a listener, in PEM files.",
    fields: &[
        field(
            "cert",
            Kind::RequiredText,
            "",
            "File with the certificate chain. A changed file takes effect within a second, without a restart.",
        ),
        field("key", Kind::RequiredText, "", "File with the private key."),
        field(
            "min_version",
            Kind::Word(&["1.2", "1.3"]),
            "1.3",
            "Minimum TLS version. Clients with an older one are refused.",
        ),
        field(
            "client_ca",
            Kind::Text,
            "",
            "PEM file with the certificate authorities for client certificates. Without it, the listener requests no certificate.",
        ),
        field(
            "client_certificates",
            Kind::Word(&["required", "optional"]),
            "required",
            "With `client_ca`: whether a client must present a certificate. Entries of the key file map certificates to owners.",
        ),
    ],
};

/// `admin`
pub static ADMIN: Section = Section {
    doc: "The admin listener, for metrics, health, records, usage and releases. Without `auth` it has no login: keep it off public networks.",
    fields: &[
        field(
            "address",
            Kind::Text,
            "127.0.0.1:9090",
            "IP address and port. Port 0 takes a free one.",
        ),
        field(
            "hosts",
            Kind::Texts,
            "",
            "Names in `Host`, without ports, that the listener serves besides IP addresses and localhost. `*.example.com` matches all names below it. Add the name that a scraper uses.",
        ),
        field(
            "allow",
            Kind::Texts,
            "",
            "Networks that may connect, by the address of the connection. Default: all. Connections from others are closed.",
        ),
        field("deny", Kind::Texts, "", "Networks that may not connect, even if `allow` has them."),
        field(
            "auth",
            Kind::Section(&ADMIN_AUTH),
            "",
            "Tokens that the listener requires. Default: none, and it has no login.",
        ),
    ],
};

/// `admin.auth`
pub static ADMIN_AUTH: Section = Section {
    doc: "Authentication of the admin listener. With this section, all but health checks and the files of the dashboard requires a token, as `Authorization: Bearer TOKEN` or by signing in to the dashboard.",
    fields: &[
        field(
            "tokens",
            Kind::List(&ADMIN_TOKEN),
            "",
            "Tokens, at least one. A removed token, and its sessions, are refused from the reload on.",
        ),
        field(
            "session",
            Kind::Duration,
            "12h",
            "Maximum time for which a browser stays signed in, from 1m to 168h.",
        ),
    ],
};

/// `admin.auth.tokens[]`
pub static ADMIN_TOKEN: Section = Section {
    doc: "A token of the admin listener.",
    fields: &[
        field("name", Kind::RequiredText, "", "Name, for the log and the audit log."),
        field(
            "token",
            Kind::Secret,
            "",
            "The token, at least 16 characters. Make one with `openssl rand -hex 32`.",
        ),
        field(
            "role",
            Kind::Word(&["viewer", "operator"]),
            "viewer",
            "`viewer` reads all pages. `operator` can make changes as well, and use the playground.",
        ),
    ],
};

/// `timeouts`
pub static TIMEOUTS: Section = Section {
    doc: "Timeouts. 0s disables one.",
    fields: &[
        field(
            "request_head",
            Kind::Duration,
            "10s",
            "Maximum time from a request's first byte to the end of its head. Bounds slow-header attacks.",
        ),
        field(
            "request_body",
            Kind::Duration,
            "60s",
            "Maximum time from the end of the head to the end of the body.",
        ),
        field(
            "idle",
            Kind::Duration,
            "60s",
            "Maximum time between two requests on a client connection.",
        ),
        field(
            "connect",
            Kind::Duration,
            "5s",
            "Maximum time to connect to a backend, including TLS.",
        ),
        field(
            "first_byte",
            Kind::Duration,
            "10m",
            "Maximum time from the request sent to the first byte of the answer. The default is long, because a prefill can wait in the engine's queue.",
        ),
        field(
            "between_events",
            Kind::Duration,
            "2m",
            "Maximum time between two reads of an answer. For requests that are not inference, `first_byte` applies to each read instead.",
        ),
        field(
            "first_token",
            Kind::DurationOrAuto,
            "10m",
            "Maximum time from the request sent to the first token of a stream. Keep-alive comments and other events without generated text do not extend it. Before the answer has started, another backend is tried. `auto` is four times the 95th percentile of the backend's recent times to first token, from 1s to 10m; until that is known, 10m.",
        ),
        field(
            "between_tokens",
            Kind::Duration,
            "10m",
            "Maximum time between two tokens of a stream. Keep-alive comments and other events without generated text do not extend it.",
        ),
        field(
            "total",
            Kind::Duration,
            "1h",
            "Maximum time from the request's head to the end of the answer.",
        ),
        field(
            "client_write",
            Kind::Duration,
            "60s",
            "Maximum time that a client reads nothing while bytes are ready for it.",
        ),
    ],
};

/// `limits`
pub static LIMITS: Section = Section {
    doc: "Bounds on sizes, connections and memory.",
    fields: &[
        field(
            "request_head",
            Kind::Size,
            "64KiB",
            "Maximum size of a request's head, and of an answer's.",
        ),
        field(
            "header_fields",
            Kind::Count(1, 256),
            "100",
            "Maximum header fields of a request, and of an answer.",
        ),
        field(
            "request_body",
            Kind::Size,
            "32MiB",
            "Maximum size of an inference request's body, which is held in memory once. Prompts with images need megabytes.",
        ),
        field(
            "event",
            Kind::Size,
            "1MiB",
            "Maximum size of one event, or of one JSON answer, that is parsed. Larger ones are forwarded unparsed (`not_parsed` in the record), or refused if a guardrail has actions.",
        ),
        field(
            "stream_buffer",
            Kind::Size,
            "256KiB",
            "Maximum bytes read from a backend ahead of a slow client, for each stream.",
        )
        .was("ring"),
        field(
            "records",
            Kind::Count(0, 1_000_000),
            "1000",
            "Number of records kept for `/api/requests`.",
        ),
        field(
            "connections",
            Kind::Count(0, 10_000_000),
            "0",
            "Maximum client connections, over all listeners. Further ones are closed. 0 means as many as the limit of open files permits: about half of it, because a request needs a connection to its backend as well.",
        ),
        field(
            "connections_per_address",
            Kind::Count(0, 1_000_000),
            "0",
            "Maximum client connections per address (for IPv6, per /64). 0 means no limit.",
        ),
        field(
            "requests_per_address",
            Kind::Count(0, 1_000_000),
            "0",
            "Maximum requests per second and address, checked before authentication. 0 means no limit.",
        ),
        field(
            "h2_streams",
            Kind::Count(1, 10_000),
            "100",
            "Maximum concurrent streams of one HTTP/2 client connection.",
        ),
        field(
            "connection_age",
            Kind::Duration,
            "0s",
            "Maximum age of a client connection, within 10 %. An older one ends after its next answer, or with GOAWAY, so that clients spread over new gateways. 0s means no limit.",
        ),
        field(
            "buffered_bytes",
            Kind::Size,
            "0",
            "Maximum bytes of request bodies and of queued answers in memory, over all clients. Beyond it, requests get 503. 0 means half of the memory of the machine or container.",
        ),
        field(
            "kernel_timestamps",
            Kind::Flag,
            "false",
            "Record how long bytes waited in the kernel before they were read (`read_lag_us`). Costs a larger system call for each read.",
        ),
    ],
};

/// `shutdown`
pub static SHUTDOWN: Section = Section {
    doc: "Draining at shutdown and upgrade.",
    fields: &[
        field(
            "delay",
            Kind::Duration,
            "0s",
            "How long the gateway still accepts connections after SIGTERM, while `/readyz` says 503. Set it to the time that load balancers take to notice.",
        ),
        field(
            "grace",
            Kind::Duration,
            "30s",
            "Maximum time that running streams continue after SIGTERM, or after a successor has taken the listeners.",
        ),
        field(
            "upgrade_socket",
            Kind::Text,
            "",
            "Unix socket over which listeners pass to a successor started with `--upgrade`. No other user may be able to write to its folder. Default: `llm-lens-upgrade.sock` in `$RUNTIME_DIRECTORY`, else in `$XDG_RUNTIME_DIR`.",
        ),
    ],
};
