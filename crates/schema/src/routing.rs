//! Sections about pools and routing.

use super::{Kind, Section, field};

/// `pools[]`
pub static POOL: Section = Section {
    doc: "Backends that serve the same models.",
    fields: &[
        field("name", Kind::RequiredText, "", "Name in routes, records and metrics."),
        field("backends", Kind::Texts, "", "Names of its backends."),
        field(
            "backends_file",
            Kind::Text,
            "",
            "File with more backends, one URL per line. Any program can write it; changes take effect within two seconds. Empty lines and lines that start with # are ignored.",
        ),
        field("discover", Kind::Section(&DISCOVER), "", "More backends, discovered while the gateway runs."),
        field(
            "template",
            Kind::Text,
            "",
            "Backend whose settings apply to backends from the file and from discovery, including `Host` and TLS name, but not address and port.",
        )
        .was("like"),
        field("tier", Kind::Text, "", "Label in records and metrics, such as `edge` or `cloud`."),
        field("model", Kind::Text, "", "Model name at these backends. It replaces the client's model name in requests."),
        field(
            "balance",
            Kind::Word(&["peak_ewma", "prefix", "least_tokens", "least_requests", "round_robin", "weighted", "session", "hash"]),
            "peak_ewma",
            "How a backend is selected. peak_ewma: the better of two random ones, by time to first token and tokens in flight. prefix: the one that received the longest prefix of the prompt before, unless it is busy. session: always the same for a key. hash: the same for a key, unless it is busy. docs/routing.md describes all of them.",
        ),
        field(
            "key",
            Kind::Text,
            "caller",
            "Key of `session` and `hash`: `header:NAME`, `cookie:NAME` or `caller`. A request without the key is balanced by peak_ewma. The caller is the API key or token; without one, it is the client's address (of IPv6, its /64 network), so that all clients behind one address get one backend.",
        ),
        field(
            "slow_start",
            Kind::Duration,
            "0s",
            "Time in which the share of a new or recovered backend grows from a tenth to the full share. 0s gives it the full share immediately.",
        ),
        field("decay", Kind::Duration, "10s", "For `peak_ewma`: time constant with which the average time to first token of a backend falls after a peak. Shorter forgets a slow phase sooner.").was("forget"),
        field("ejection", Kind::Section(&EJECTION), "", "When failing backends are taken out of rotation."),
    ],
};

/// `pools[].discover`
pub static DISCOVER: Section = Section {
    doc: "Discovery of a pool's backends by one of `dns`, `srv` and `kubernetes`. Running streams are not affected by changes.",
    fields: &[
        field(
            "dns",
            Kind::Text,
            "",
            "Name whose addresses (A, AAAA) are the backends. It is resolved again when its time to live expires.",
        ),
        field(
            "srv",
            Kind::Text,
            "",
            "SRV name, `_service._tcp.domain`. The targets with the best priority are the backends, with their ports and weights.",
        ),
        field(
            "kubernetes",
            Kind::Text,
            "",
            "Kubernetes service whose ready endpoints are the backends (feature `kubernetes`).",
        ),
        field(
            "port",
            Kind::Text,
            "",
            "For `dns`, a number; default: the port of `template`. For `kubernetes`, the port's name in the service or its number at the pods; default: the only port.",
        ),
        field("namespace", Kind::Text, "", "Namespace of the service. Default: the gateway's own."),
        field(
            "servers",
            Kind::Texts,
            "",
            "Name servers, `address` or `address:port`. Default: those of /etc/resolv.conf.",
        ),
        field(
            "hold",
            Kind::Duration,
            "",
            "For `dns` and `srv`: how long the previous backends stay when the name has no records. A name may be without records for a moment while it is replaced. Default: 30s.",
        ),
    ],
};

/// `pools[].ejection`
pub static EJECTION: Section = Section {
    doc: "When backends are ejected. Mistakes and disconnects of clients do not count as failures.",
    fields: &[
        field("consecutive", Kind::Count(0, 1000), "5", "Consecutive failures that eject a backend. 0 disables this rule."),
        field("failure_rate", Kind::Share, "0.5", "Share of failures within ten seconds that ejects a backend. 0 disables this rule."),
        field("min_requests", Kind::Count(1, 100_000), "20", "Minimum requests within ten seconds before `failure_rate` applies."),
        field(
            "max_ttft_ratio",
            Kind::Number,
            "5",
            "Ejects a backend whose time to first token exceeds the pool's median by this factor. Needs three backends. 0 disables this rule.",
        )
        .was("slower_than"),
        field("base", Kind::Duration, "5s", "Duration of the first ejection. It doubles with each further one, until the backend stays healthy for `max`."),
        field("max", Kind::Duration, "5m", "Maximum duration of an ejection, and how long a backend must stay healthy to start from `base` again."),
        field(
            "max_ejected",
            Kind::Share,
            "0.5",
            "Maximum share of the pool that is ejected at a time. At least one backend can be ejected, but never the last one. With a fallback pool, or `offload`, all failing backends can be.",
        )
        .was("most"),
    ],
};

/// `backends[].health`
pub static HEALTH: Section = Section {
    doc: "Active health checks of a backend.",
    fields: &[
        field("path", Kind::Text, "/health", "Path to GET. Status 200 means healthy."),
        field(
            "model",
            Kind::Text,
            "",
            "Model that generates one token, instead of the GET. This checks the whole engine.",
        ),
        field("interval", Kind::Duration, "5s", "Time between two checks, with 10 % jitter."),
        field("timeout", Kind::Duration, "2s", "Maximum duration of a check."),
        field(
            "healthy",
            Kind::Count(1, 100),
            "2",
            "Consecutive successes that make a backend healthy.",
        ),
        field(
            "unhealthy",
            Kind::Count(1, 100),
            "3",
            "Consecutive failures that make a backend unhealthy.",
        ),
    ],
};

/// `backends[].engine_metrics`
pub static ENGINE_METRICS: Section = Section {
    doc: "Scraping of the engine's own metrics: running and waiting requests, and use of the key-value cache (vLLM, SGLang, TGI, llama.cpp).",
    fields: &[
        field("path", Kind::Text, "/metrics", "Path of the engine's Prometheus metrics."),
        field(
            "interval",
            Kind::Duration,
            "2s",
            "Time between two scrapes, with 10 % jitter. Values older than three intervals are dropped.",
        ),
    ],
};

/// `routes[].mirror`
pub static MIRROR: Section = Section {
    doc: "A pool that gets copies of requests. Its answers are measured and dropped.",
    fields: &[
        field("pool", Kind::RequiredText, "", "Pool that gets the copies."),
        field(
            "share",
            Kind::Share,
            "0.01",
            "Share of the route's inference requests that is copied, at most 64 at a time.",
        ),
    ],
};

/// `routes[].resume`
pub(super) const RESUME: &[&str] = &["off", "on", "marked"];

/// `routes[].retries`
pub static RETRIES: Section = Section {
    doc: "Retries on another backend, for requests that fail before their first token.",
    fields: &[
        field(
            "max",
            Kind::Count(0, 10),
            "2",
            "Maximum retries of a request, before its first token.",
        )
        .was("most"),
        field(
            "budget",
            Kind::Share,
            "0.2",
            "Maximum retries as a share of requests, over ten seconds. Prevents retry storms.",
        ),
        field(
            "min_per_second",
            Kind::Count(0, 1000),
            "3",
            "Retries per second that are allowed even if the budget is used up.",
        )
        .was("always"),
    ],
};

/// `routes[].hedge`
pub static HEDGE: Section = Section {
    doc: "A second request to another backend when the first token is late. The first backend to produce a token is used; the other request is canceled.",
    fields: &[
        field(
            "after",
            Kind::Duration,
            "0s",
            "Wait before the second request. 0s uses the 95th percentile of the backend's time to first token.",
        ),
        field(
            "budget",
            Kind::Share,
            "0.05",
            "Maximum hedges as a share of requests, over ten seconds.",
        ),
    ],
};

/// `routes[].offload`
pub static OFFLOAD: Section = Section {
    doc: "When a request goes to the first fallback pool (the cloud) although the first pool (the edge) is available. One condition is enough.",
    fields: &[
        field(
            "ttft",
            Kind::Duration,
            "0s",
            "Objective for the time to first token. The edge is used while it is predicted to meet the objective. Without objectives, the weights decide.",
        ),
        field(
            "completion",
            Kind::Duration,
            "0s",
            "Objective for the time to the last token. 0s disables it.",
        ),
        field(
            "prompt_tokens",
            Kind::Count(0, 1_000_000_000),
            "0",
            "Prompts with more tokens go to the cloud. 0 disables this condition.",
        ),
        field(
            "output_tokens",
            Kind::Count(0, 1_000_000_000),
            "0",
            "Requests for more output tokens go to the cloud. 0 disables this condition.",
        ),
        field("tools", Kind::Flag, "false", "Requests that offer tools go to the cloud."),
        field(
            "header",
            Kind::Text,
            "",
            "Requests with this header go to the cloud: `NAME`, or `NAME: VALUE`. A classifier in front of the gateway can set it.",
        ),
        field(
            "findings",
            Kind::Texts,
            "",
            "Requests whose prompt has one of these guardrail findings go to the cloud: rules such as `judge.NAME` or `topic.NAME`. A `*` at the end matches any rest.",
        ),
        field(
            "probe",
            Kind::Duration,
            "10s",
            "Interval at which the round trip to each backend is measured by connecting, unless a request has connected. 0s disables it.",
        ),
        field(
            "ttft_weight",
            Kind::Number,
            "1",
            "Weight of a second to the first token, used without objectives.",
        )
        .was("weigh_ttft"),
        field(
            "tpot_weight",
            Kind::Number,
            "0",
            "Weight of a second per hundred output tokens, used without objectives.",
        )
        .was("weigh_tpot"),
        field(
            "cost_weight",
            Kind::Number,
            "0",
            "Weight of a cent of `backends[].cost`, used without objectives.",
        )
        .was("weigh_cost"),
    ],
};

/// `routes[].canary`
pub static CANARY: Section = Section {
    doc: "A new version that gets a share of requests. `POST /api/routes/release?route=NAME&share=S` on the admin listener changes the share at once: 1 switches over, 0 rolls back.",
    fields: &[
        field("pool", Kind::RequiredText, "", "Pool of the new version."),
        field("share", Kind::Share, "0.05", "Share of requests that the canary gets. A change in the file takes effect within two seconds."),
        field("key", Kind::Text, "", "Key that keeps a client on one version: `header:NAME`, `cookie:NAME` or `caller`. Default: none, and each request is drawn. A request without the key, or of an anonymous caller, is drawn as well."),
        field(
            "max_failure_increase",
            Kind::Share,
            "0.05",
            "Rolls back when the canary's share of failed requests exceeds the stable version's by this much. Without requests of the stable version, the route's past is the reference.",
        )
        .was("failures"),
        field(
            "max_ttft_ratio",
            Kind::Number,
            "1.5",
            "Rolls back when the 95th percentile of the canary's time to first token exceeds the stable version's by this factor, or that of the route's past. 0 disables this rule.",
        )
        .was("slower"),
        field("min_requests", Kind::Count(1, 1_000_000), "50", "Minimum requests of the canary, and of the stable version or the route's past, before they are compared."),
    ],
};
