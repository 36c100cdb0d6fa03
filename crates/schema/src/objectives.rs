//! Objectives of routes.

use super::{Kind, Section, field};

/// `objectives[]`
pub static OBJECTIVE: Section = Section {
    doc: "Objectives of a route. They give error budgets, burn rates and goodput.",
    fields: &[
        field("route", Kind::RequiredText, "", "Route that the objectives are for, by its name."),
        field(
            "ttft",
            Kind::Section(&PERCENTILES),
            "",
            "Time from the request's head to the first token written to the client.",
        ),
        field(
            "tpot",
            Kind::Section(&PERCENTILES),
            "",
            "Time per output token after the first, counted by the engine or estimated.",
        ),
        field(
            "availability",
            Kind::Number,
            "",
            "Percentage of requests that the gateway and the engines do not fail, such as 99.9.",
        ),
        field(
            "window",
            Kind::Duration,
            "28d",
            "Time that an error budget is for, 1h to 90d. The default is four weeks, so that each has the same days of the week.",
        ),
    ],
};

/// `objectives[].ttft` and `objectives[].tpot`
pub static PERCENTILES: Section = Section {
    doc: "One percentile and its maximum.",
    fields: &[
        field("p50", Kind::Duration, "", "Maximum time of half of the requests."),
        field("p90", Kind::Duration, "", "Maximum time of 90 % of the requests."),
        field("p95", Kind::Duration, "", "Maximum time of 95 % of the requests."),
        field("p99", Kind::Duration, "", "Maximum time of 99 % of the requests."),
    ],
};
