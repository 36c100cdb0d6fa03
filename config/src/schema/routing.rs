//! Sections about where requests go.

use super::{Kind, Section, field};

/// `pools[]`
pub static POOL: Section = Section {
    doc: "Backends that can stand in for each other.",
    fields: &[
        field("name", Kind::RequiredText, "", "The name in routes, records and metrics."),
        field("backends", Kind::Texts, "", "Their names."),
        field(
            "backends_file",
            Kind::Text,
            "",
            "A file with more of them, one URL on each line; who writes it may be any program. What changes in it is in force within a second. Empty lines and lines that begin with # are passed over.",
        ),
        field("discover", Kind::Section(&DISCOVER), "", "More of them, that are found while the gateway runs."),
        field(
            "like",
            Kind::Text,
            "",
            "The backend whose settings those of the file have, but for the URL, and those that are found, but for address and port: they are asked by its `Host` and its TLS name.",
        ),
        field("tier", Kind::Text, "", "Where they are: `edge`, `cloud`, or what you call it; for records and metrics."),
        field("model", Kind::Text, "", "What these backends call the model: requests are sent on with this name in place of the client's."),
        field(
            "balance",
            Kind::Word(&["peak_ewma", "prefix", "least_tokens", "least_requests", "round_robin", "weighted", "session", "hash"]),
            "peak_ewma",
            "How one is chosen. peak_ewma: the better of two at random, by time to first token and tokens in flight. prefix: who has seen the beginning of the prompt, unless he is busy. session: always the same for a key. hash: the same for a key, unless it is busy.",
        ),
        field(
            "key",
            Kind::Text,
            "caller",
            "For `session` and `hash`, what requests have in common: `header:NAME`, `cookie:NAME`, or `caller`, who asks. Without one a request goes as under peak_ewma.",
        ),
        field(
            "slow_start",
            Kind::Duration,
            "0s",
            "How long the share of a backend that is new, or well again, grows from a tenth to the whole.",
        ),
        field("forget", Kind::Duration, "10s", "How fast a time to first token below those before it is believed."),
        field("ejection", Kind::Section(&EJECTION), "", "When a backend is left alone for a while, by what its answers were."),
    ],
};

/// `pools[].discover`
pub static DISCOVER: Section = Section {
    doc: "Where a pool's backends are found: one of dns, srv and kubernetes. Who comes and goes is known as soon as it is told, and streams that run stay where they are.",
    fields: &[
        field("dns", Kind::Text, "", "All addresses of this name (A, AAAA); it is looked up again when its time to live is over."),
        field(
            "srv",
            Kind::Text,
            "",
            "The servers of this service (SRV), `_service._tcp.domain`, with its ports and weights; those of the best priority.",
        ),
        field("kubernetes", Kind::Text, "", "What is ready of this service, by its EndpointSlices (feature `kubernetes`)."),
        field(
            "port",
            Kind::Text,
            "",
            "For dns a number; default: that of `like`. For kubernetes its name in the service, or its number at the pods; default: the only one.",
        ),
        field("namespace", Kind::Text, "", "The service's namespace; default: the gateway's own."),
        field("servers", Kind::Texts, "", "Name servers, `address` or `address:port`. Default: those of /etc/resolv.conf."),
    ],
};

/// `pools[].ejection`
pub static EJECTION: Section = Section {
    doc: "When a backend is left alone. What clients do wrong, and when they leave, is no failure.",
    fields: &[
        field("consecutive", Kind::Count(0, 1000), "5", "Failures in a row; 0 means they do not count."),
        field("failure_rate", Kind::Share, "0.5", "Share of failures among the requests of ten seconds; 0 means it does not count."),
        field("min_requests", Kind::Count(1, 100_000), "20", "Fewer requests in ten seconds say nothing about a share."),
        field(
            "slower_than",
            Kind::Number,
            "5",
            "A time to first token so many times the median of the pool, of three backends or more; 0 means it does not count.",
        ),
        field("base", Kind::Duration, "5s", "How long the first time; each time soon after is twice as long."),
        field("max", Kind::Duration, "5m", "The longest time, and for how long it must be well to begin with the first again."),
        field(
            "most",
            Kind::Share,
            "0.5",
            "Share of the pool that is left alone at a time at most; one backend may be in any pool, the last one never is.",
        ),
    ],
};

/// `backends[].health`
pub static HEALTH: Section = Section {
    doc: "How the gateway asks a backend whether it is well.",
    fields: &[
        field("path", Kind::Text, "/health", "A GET of it is answered 200."),
        field("model", Kind::Text, "", "In its place: one token of this model, which is the engine's whole way."),
        field("interval", Kind::Duration, "5s", "Between two checks, a tenth more or less."),
        field("timeout", Kind::Duration, "2s", "How long an answer may take."),
        field("healthy", Kind::Count(1, 100), "2", "Good answers in a row after which it is up again."),
        field("unhealthy", Kind::Count(1, 100), "3", "Bad ones after which it is down."),
    ],
};

/// `backends[].signals`
pub static SIGNALS: Section = Section {
    doc: "Read what the engine says of itself: requests that run and wait there, and how full its cache is (vLLM, SGLang, TGI, llama.cpp).",
    fields: &[
        field("path", Kind::Text, "/metrics", "Where its Prometheus metrics are."),
        field("interval", Kind::Duration, "2s", "Between two reads, a tenth more or less. What is older than three is not shown."),
    ],
};

/// `routes[].mirror`
pub static MIRROR: Section = Section {
    doc: "Another pool that is asked the same as well; its answers are read, counted and forgotten.",
    fields: &[
        field("pool", Kind::RequiredText, "", "The pool."),
        field("share", Kind::Share, "0.01", "Of the route's inference requests; at most 64 at a time."),
    ],
};

/// `routes[].continuation`
pub(super) const CONTINUATION: &[&str] = &["off", "on", "marked"];

/// `routes[].retries`
pub static RETRIES: Section = Section {
    doc: "When a request that failed before its first token is asked of another backend.",
    fields: &[
        field("most", Kind::Count(0, 10), "2", "Backends that it is asked of after the first."),
        field("budget", Kind::Share, "0.2", "Retries for each request, over ten seconds."),
        field("always", Kind::Count(0, 1000), "3", "Retries in a second that the budget does not bound."),
    ],
};

/// `routes[].hedge`
pub static HEDGE: Section = Section {
    doc: "A second backend, asked when the first is late; who has the first token is heard, the other is cut off.",
    fields: &[
        field("after", Kind::Duration, "0s", "How late; 0s means the 95th percentile of the backend's time to first token."),
        field("budget", Kind::Share, "0.05", "Hedges for each request, over ten seconds."),
    ],
};

/// `routes[].offload`
pub static OFFLOAD: Section = Section {
    doc: "When a request goes to the second pool, a cloud, although the first, an edge, is there. What is named here and holds is enough.",
    fields: &[
        field(
            "ttft",
            Kind::Duration,
            "0s",
            "The edge is good enough when it is predicted to give the first token within this; 0s means whoever is better.",
        ),
        field("completion", Kind::Duration, "0s", "The same for the last token; 0s means it does not matter."),
        field("prompt_tokens", Kind::Count(0, 1_000_000_000), "0", "Longer prompts are for the cloud; 0 means any length."),
        field("output_tokens", Kind::Count(0, 1_000_000_000), "0", "Requests that ask for more are for the cloud; 0 means any number."),
        field("tools", Kind::Flag, "false", "Requests that offer tools are for the cloud."),
        field(
            "header",
            Kind::Text,
            "",
            "Requests that have this header are for the cloud: `NAME`, or `NAME: VALUE`. A classifier in front may set it.",
        ),
        field(
            "findings",
            Kind::Texts,
            "",
            "Requests in whose prompt the route's guard finds one of these are for the cloud: names of rules, such as `judge.NAME` or `topic.NAME`; a `*` at an end matches any rest. A judge that only flags is a classifier.",
        ),
        field(
            "probe",
            Kind::Duration,
            "10s",
            "How often the way to each backend is measured, by connecting, where no request has connected meanwhile; 0s means never.",
        ),
        field("weigh_ttft", Kind::Number, "1", "Where nothing is said of what is good enough: what a second to the first token weighs."),
        field("weigh_tpot", Kind::Number, "0", "What a second for each hundred tokens weighs."),
        field("weigh_cost", Kind::Number, "0", "What a cent weighs, by `backends[].cost`."),
    ],
};

/// `routes[].candidate`
pub static CANDIDATE: Section = Section {
    doc: "A new version that some requests go to. `POST /api/routes/release?route=NAME&share=S` on the admin listener changes its share at once: 1 switches, 0 goes back.",
    fields: &[
        field("pool", Kind::RequiredText, "", "The pool that has it."),
        field("share", Kind::Share, "0.05", "Of requests; a change of it here is in force within a second, too."),
        field("key", Kind::Text, "caller", "What stays with one version: `header:NAME`, `cookie:NAME`, or `caller`."),
        field("failures", Kind::Share, "0.05", "It loses its share when so much more of its requests end badly than of the old version's."),
        field(
            "slower",
            Kind::Number,
            "1.5",
            "It loses its share when the 95th percentile of its time to first token is so many times the old version's; 0 means that does not matter.",
        ),
        field("min_requests", Kind::Count(1, 1_000_000), "50", "Requests of either before they are compared."),
    ],
};
