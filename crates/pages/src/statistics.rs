//! `/api/stats`, `/api/sketches` and `/api/objectives`: the last minutes, and error budgets.
//!
//! - *In*: the window, the labels to group by, and filters.
//! - *Out*: a group for each combination of labels; the sketches of all series.
//! - *Never*: a filter that is ignored; a percentile that was averaged.

use pipeline::shared::Shared;
use plan::clock;
use serde_json::{Value, json};
use stats::{BudgetReport, Dimension, Filter, OTHER, Rows, Sketches, Window};

use crate::params::{ApiError, Params};

/// Parameters of [`stats`].
pub const PARAMS: &[&str] = &["window", "by", "route", "backend", "operation", "model", "owner"];
/// Parameters of [`sketches`].
pub const SKETCHES_PARAMS: &[&str] = &["window", "route", "backend", "operation", "model", "owner"];

/// The statistics of all windows, or of one, grouped by labels. Default: by route.
///
/// # Errors
/// A wrong parameter.
pub fn stats(shared: &Shared, params: &Params) -> Result<Value, ApiError> {
    let windows = window(params)?.map_or(Window::ALL.to_vec(), |window| vec![window]);
    let by = Dimension::parse_list(params.get("by").unwrap_or("route"))
        .map_err(|why| ApiError::bad("by", format!("by {why}")))?;
    let (by, filter) = (::stats::distinct(by), label_filter(shared, params)?);
    let now = clock::now();
    let windows = windows.into_iter().map(|window| {
        let cells = shared.statistics.window(window, now);
        let mut rows = Rows::new();
        ::stats::group(&mut rows, &cells, &by, &filter);
        json!({
            "window": window.name(),
            "covered_s": cells.seconds,
            "groups": ::stats::rows_json(&rows, &by),
        })
    });
    Ok(json!({"windows": windows.collect::<Vec<_>>()}))
}

/// The sketches of a window, to be merged with those of other gateways. Default: 5m.
///
/// # Errors
/// A wrong parameter.
pub fn sketches(shared: &Shared, params: &Params) -> Result<Value, ApiError> {
    let window = window(params)?.unwrap_or(Window::FiveMinutes);
    let filter = label_filter(shared, params)?;
    let cells = shared.statistics.window(window, clock::now());
    serde_json::to_value(Sketches::new(window, &cells, &filter)).map_err(|_| ApiError::internal())
}

/// The objectives with their error budgets and burn rates.
///
/// # Errors
/// Never.
pub fn objectives(shared: &Shared, params: &Params) -> Result<Value, ApiError> {
    let route = params.get("route");
    let budgets = shared.statistics.budgets(clock::now());
    let wanted = budgets.iter().filter(|budget| route.is_none_or(|route| *budget.route == *route));
    Ok(json!({"objectives": wanted.map(BudgetReport::json).collect::<Vec<_>>()}))
}

fn window(params: &Params) -> Result<Option<Window>, ApiError> {
    let named = params.get("window").map(Window::from_name).transpose();
    named.map_err(|why| ApiError::bad("window", format!("window {why}")))
}

/// The labels that a query selects.
pub(crate) fn label_filter(shared: &Shared, params: &Params) -> Result<Filter, ApiError> {
    let wanted = |dimension: Dimension| Some((dimension, params.get(dimension.name())?.to_owned()));
    let labels: Vec<_> = Dimension::ALL.into_iter().filter_map(wanted).collect();
    let model = labels.iter().find(|(dimension, _)| *dimension == Dimension::Model);
    if let Some((_, model)) = model
        && model != OTHER
        && !model.is_empty()
        && !shared.statistics.models().contains(model.as_str())
    {
        return Err(ApiError::bad(
            "model",
            format!("no backend declares the model {model:?}; such models count as {OTHER:?}"),
        ));
    }
    Ok(Filter { labels, outcome: None })
}
