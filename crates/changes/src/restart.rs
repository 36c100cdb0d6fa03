//! Settings that take effect at the next start only.

use config::Settings;

/// Their paths.
pub const RESTART_ONLY: [&str; 13] = [
    "listeners",
    "admin.address",
    "workers",
    "audit",
    "access_log",
    "otlp",
    "record_store",
    "record_files",
    "contents",
    "usage_file",
    "guardrail_threads",
    "limits.records",
    "limits.h2_streams",
];

/// Those of [`RESTART_ONLY`] that differ from the settings of the start. Secrets are compared, so
/// this is for the log and not for a client.
pub fn restart_only(start: &Settings, after: &Settings) -> Vec<&'static str> {
    let differ = [
        start.listeners != after.listeners,
        start.admin.address != after.admin.address,
        start.workers != after.workers,
        start.audit != after.audit,
        start.access_log != after.access_log,
        start.otlp != after.otlp,
        start.record_store != after.record_store,
        start.record_files != after.record_files,
        start.contents != after.contents,
        start.usage_file != after.usage_file,
        start.guardrail_threads != after.guardrail_threads,
        start.limits.records != after.limits.records,
        start.limits.h2_streams != after.limits.h2_streams,
    ];
    RESTART_ONLY
        .into_iter()
        .zip(differ)
        .filter_map(|(path, differ)| differ.then_some(path))
        .collect()
}

/// Whether a path is one of [`RESTART_ONLY`], or below it.
pub(crate) fn needs_restart(path: &str) -> bool {
    RESTART_ONLY.iter().any(|setting| {
        path.strip_prefix(setting)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}
