//! `/api/settings`: the settings in force, and what others would do.
//!
//! - *In*: the text of a settings file.
//! - *Out*: its problems, and what it would change.
//! - *Never*: a change. What this machine has and the caller does not: a text of a client is
//!   checked by [`config::examine_remote`], which reads no secret, no file that the settings file
//!   does not name, and no other variable.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use config::{MAX_REMOTE, Problem, References};
use pipeline::shared::Shared;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::page::{json_response, off_thread};
use crate::params::{ApiError, Params};

/// Checks at a time.
static CHECKS: Semaphore = Semaphore::const_new(1);
/// Maximum time that a client waits for a check.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The text in problems.
const NAME: &str = "settings";
/// Maximum problems, and changes, of an answer.
const MAX_LISTED: usize = 200;

/// The settings in force, and where they are written.
///
/// # Errors
/// None.
pub fn settings(shared: &Shared, _: &Params) -> Result<Value, ApiError> {
    let last_reload = shared.last_reload.lock().clone();
    let plan = shared.plan.load();
    let source = shared.file.as_ref().map(|file| {
        let name = file.display().to_string();
        let text = settings_text(shared);
        // The lines of other settings would be wrong.
        let is_current = |text: &String| {
            config::parse(&name, text).is_ok_and(|settings| settings == *plan.written)
        };
        json!({"file": name, "lines": text.filter(is_current).map(|text| config::lines(&text))})
    });
    Ok(json!({"settings": plan.settings, "last_reload": last_reload, "source": source}))
}

/// What a settings file with the text of the body would do.
///
/// # Errors
/// The text is too large or not UTF-8, or another one is being checked.
pub async fn check(
    State(shared): State<Arc<Shared>>,
    params: Params,
    body: Body,
) -> Result<Response, ApiError> {
    params.check(&[])?;
    let bytes = axum::body::to_bytes(body, MAX_REMOTE).await.map_err(|_| {
        ApiError::too_large(format!("the body cannot be read, or is over {MAX_REMOTE} bytes"))
    })?;
    let text = String::from_utf8(bytes.into())
        .map_err(|_| ApiError::bad("", "the body must be a settings file, in UTF-8".into()))?;
    if CHECKS.available_permits() == 0 {
        return Err(ApiError::too_many("other settings are being checked; try again in a moment"));
    }
    let checked = off_thread(&CHECKS, move || Ok(examine(&shared, &text)));
    match tokio::time::timeout(TIMEOUT, checked).await {
        Ok(checked) => Ok(json_response(&checked?)),
        Err(_) => Err(ApiError::unavailable(format!(
            "the check takes longer than {} s; use `llm-lens check` on the gateway's machine",
            TIMEOUT.as_secs()
        ))),
    }
}

fn examine(shared: &Shared, text: &str) -> Value {
    let mut checked = config::examine_remote(NAME, text, references(shared));
    let mut found: Vec<Problem> = checked.problems.iter().cloned().collect();
    let mut notes = Vec::new();
    if let Some(settings) = &checked.settings {
        let (problems, unchecked) = plan::check_without_files(settings, &shared.tools.filters);
        let placed = |(path, problem): &(String, plan::BuildError)| {
            checked.problem_at(text, path, &problem.to_string())
        };
        found.extend(problems.iter().map(placed));
        notes = settings.warnings();
        checked.unread.extend(unchecked);
    }
    let valid = checked.settings.filter(|_| found.is_empty());
    let (count, listed) = (found.len(), found.into_iter().take(MAX_LISTED));
    let listed: Vec<Value> = listed
        .map(|one| json!({"line": one.line, "column": one.column, "path": one.path, "message": one.message}))
        .collect();
    let plan = shared.plan.load();
    let changes = valid
        .as_ref()
        .map(|settings| changes::differences(&shared.started_with, &plan.written, settings));
    json!({
        "valid": valid.is_some(),
        "problems": listed,
        "problems_total": count,
        "notes": notes,
        "unread": checked.unread,
        "changes_total": changes.as_ref().map(Vec::len),
        "changes": changes.map(|changes| changes.into_iter().take(MAX_LISTED).collect::<Vec<_>>()),
        "loosened": valid.map(|settings| changes::removed(&plan.written, &settings)),
    })
}

/// The text of the settings file, if there is one that can be read.
fn settings_text(shared: &Shared) -> Option<String> {
    let file = shared.file.as_deref().filter(|file| file.is_file())?;
    config::read_settings(file).ok()
}

/// What the settings file refers to. Without a file that can be read, nothing.
fn references(shared: &Shared) -> References {
    settings_text(shared).map_or_else(References::default, |text| References::in_text(&text))
}
