//! `/api/usage` and `/api/limits`: what was used and what it cost; accounts near a limit.
//!
//! - *In*: the usage sums, the grouping of a query; the accounts of rate limits.
//! - *Out*: rows with tokens and cost; used shares.
//! - *Never*: a key, only its id; the address of a client.

use pipeline::shared::Shared;
use plan::clock;
use serde_json::{Value, json};
use traffic::{GroupBy, LimitLevel, Totals, UsageRow};

use crate::params::{ApiError, Params};

/// Maximum accounts of [`limits`].
const NEAREST: usize = 50;

/// Parameters of [`usage`].
pub const PARAMS: &[&str] = &["by", "per", "from"];

/// Usage sums, grouped by the `by` and `per` of the query.
///
/// # Errors
/// A wrong parameter.
pub fn usage(shared: &Shared, params: &Params) -> Result<Value, ApiError> {
    let mut group_by = GroupBy::default();
    for word in params.get("by").unwrap_or("owner").split(',') {
        match word {
            "owner" => group_by.owner = true,
            "key" => group_by.key = true,
            "model" => group_by.model = true,
            _ => {
                return Err(ApiError::bad(
                    "by",
                    format!("by must name owner, key or model, not {word:?}"),
                ));
            }
        }
    }
    group_by.months = match params.get("per") {
        None | Some("day") => false,
        Some("month") => true,
        Some(other) => {
            return Err(ApiError::bad("per", format!("per must be day or month, not {other:?}")));
        }
    };
    let date = |text: &str| {
        text.parse().map_err(|_| {
            ApiError::bad("from", format!("from must be a date such as 2026-01-31, not {text:?}"))
        })
    };
    let from = params.get("from").map(date).transpose()?;
    let line = |(line, totals): (UsageRow, Totals)| {
        let mut row = json!({"requests": totals.requests, "input_tokens": totals.input_tokens, "cached_tokens": totals.cached_tokens,
            "output_tokens": totals.output_tokens, "reasoning_tokens": totals.reasoning_tokens, "cost": totals.cost()});
        if let (Some(row), Ok(Value::Object(names))) =
            (row.as_object_mut(), serde_json::to_value(line))
        {
            row.extend(names);
        }
        row
    };
    let rows: Vec<_> = shared.usage_sums.rows(group_by, from).into_iter().map(line).collect();
    Ok(json!({"currency": "USD", "usage": rows}))
}

/// Counts of all rate limits, and the accounts that have used most of one.
///
/// # Errors
/// None.
pub fn limits(shared: &Shared, _: &Params) -> Result<Value, ApiError> {
    let plan = shared.plan.load();
    let counts = plan.rate_limits.counts().map(|counts| {
        let limit = counts.limit;
        json!({"limit": limit.name, "unit": limit.unit.name(), "per": limit.per.name(),
            "shared": limit.shared.is_some(), "accounts": counts.accounts, "refused": counts.refused,
            "ended": counts.ended, "warned": counts.warned})
    });
    let level = |level: LimitLevel| {
        json!({"limit": level.limit, "unit": level.unit.name(), "per": level.per.name(),
            "subject": level.subject, "used_share": level.used, "reset_s": level.reset.as_secs_f64()})
    };
    let nearest = plan.rate_limits.nearest(NEAREST, clock::when());
    Ok(json!({
        "limits": counts.collect::<Vec<_>>(),
        "nearest": nearest.into_iter().map(level).collect::<Vec<_>>(),
    }))
}
