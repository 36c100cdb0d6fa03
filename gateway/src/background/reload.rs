//! Reloads settings while the gateway runs.
//!
//! The whole file takes effect or nothing does. Requests in flight keep the plan they started with.
//! An invalid file changes nothing: all its problems are logged, and the failure is counted.
//! Discovered backends are added and removed in the same way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::{Found, MAX_DISCOVERED, Settings, Source};
use observatory::Gauges;
use pipeline::shared::Shared;
use plan::Plan;

use super::discovery::Known;

use crate::tls::Certificate;

/// Interval between checks of the files, at one system call for each file.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Watch the settings file; never ends.
pub(crate) async fn watch(shared: Arc<Shared>, certificates: Arc<[Arc<Certificate>]>) {
    if shared.file.is_none() {
        return std::future::pending().await;
    }
    let mut seen = check_files(&shared, &certificates).await;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let stamps = check_files(&shared, &certificates).await;
        // The first stamp is that of the settings file: without the file, nothing is reloaded.
        if stamps.first().is_some_and(Option::is_some) && stamps != seen {
            seen = stamps;
            reload_settings(&shared).await;
        }
    }
}

/// Check all files on a blocking thread. Changed certificates take effect; the stamps of the other
/// files are returned.
async fn check_files(
    shared: &Arc<Shared>,
    certificates: &Arc<[Arc<Certificate>]>,
) -> Vec<Option<Stamp>> {
    let (shared, certificates) = (shared.clone(), certificates.clone());
    let looked = tokio::task::spawn_blocking(move || {
        certificates.iter().for_each(|certificate| certificate.reload_if_changed());
        stamps(&shared)
    });
    looked.await.unwrap_or_default()
}

/// The stamps of the settings, the keys and the files of pools.
fn stamps(shared: &Shared) -> Vec<Option<Stamp>> {
    let settings = &shared.plan.load().settings;
    let keys = settings.auth.as_ref().and_then(|auth| auth.keys.as_ref().map(|(file, _)| file));
    // Recent changes of a database may be in its write-ahead log only.
    let log = keys.map(|keys| PathBuf::from(format!("{}-wal", keys.display())));
    let pools = settings.pools.iter().filter_map(|pool| pool.file.as_deref());
    shared
        .file
        .as_deref()
        .into_iter()
        .chain(keys.map(PathBuf::as_path))
        .chain(log.as_deref())
        .chain(pools)
        .map(stamp)
        .collect()
}

/// Reload the settings. Files may be large and databases busy, so a blocking thread reads them.
pub(crate) async fn reload_settings(shared: &Arc<Shared>) {
    let shared = shared.clone();
    let read = tokio::task::spawn_blocking(move || read(&shared)).await;
    if let Err(error) = read {
        tracing::error!(%error, "reload panicked, settings unchanged");
    }
}

/// Apply discovered backends that are not in force yet. During a reload this does nothing: the next
/// call applies them.
pub(crate) async fn apply_discovered(shared: &Arc<Shared>, known: &Known) {
    let is_new = |found: &Found| {
        known.iter().any(|(pool, (_, endpoints))| found.get(pool) != Some(endpoints))
    };
    if known.is_empty() || !shared.found.try_lock().is_some_and(|found| is_new(&found)) {
        return;
    }
    let (shared, known) = (shared.clone(), known.clone());
    if let Err(error) = tokio::task::spawn_blocking(move || store_discovered(&shared, known)).await
    {
        tracing::error!(%error, "applying discovered endpoints panicked, backends unchanged");
    }
}

fn store_discovered(shared: &Shared, known: Known) {
    let mut found = shared.found.lock();
    let plan = shared.plan.load();
    // Settings may have changed meanwhile: endpoints of another source are not for their pools.
    let is_wanted = |pool: &Arc<str>, source: &Source| {
        let mut pools = plan.settings.pools.iter().filter(|known| known.settings.name == *pool);
        pools.any(|pool| {
            pool.discovery.as_ref().is_some_and(|discovery| discovery.source == *source)
        })
    };
    let mut next = found.clone();
    for (pool, (source, endpoints)) in known {
        if !is_wanted(&pool, &source) || next.get(&pool) == Some(&endpoints) {
            continue;
        }
        let places: Vec<String> = endpoints
            .iter()
            .map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port))
            .collect();
        tracing::info!(%pool, count = endpoints.len(), endpoints = places.join(","), "endpoints discovered");
        if endpoints.len() > MAX_DISCOVERED {
            tracing::warn!(%pool, limit = MAX_DISCOVERED, "too many endpoints discovered, the rest is ignored");
        }
        next.insert(pool, endpoints);
    }
    match plan.with_discovered(&next, &shared.tools) {
        Ok(plan) => {
            shared.plan.store(Arc::new(plan));
            *found = next;
        }
        Err(error) => tracing::error!(%error, "discovered endpoints cannot be applied"),
    }
}

/// Discovered backends that the new settings may use: those of the same pool and source. An api_key
/// is never sent to endpoints of another source.
fn still_found(found: &Found, before: &Settings, after: &Settings) -> Found {
    let looks = |settings: &Settings, pool: &Arc<str>| {
        settings
            .pools
            .iter()
            .find(|known| known.settings.name == *pool)
            .and_then(|known| known.discovery.clone())
    };
    let keeps = |pool: &Arc<str>| match (looks(before, pool), looks(after, pool)) {
        (Some(one), Some(other)) => {
            one.source == other.source
                || one.template.api_key == other.template.api_key
                    && one.template.authority == other.template.authority
        }
        _ => false,
    };
    found
        .iter()
        .filter(|(pool, _)| keeps(pool))
        .map(|(pool, endpoints)| (pool.clone(), endpoints.clone()))
        .collect()
}

fn read(shared: &Shared) {
    let gauges = shared.observatory.gauges();
    let Some(path) = &shared.file else {
        return tracing::info!("nothing to reload: the gateway was started with --upstream");
    };
    // A new plan continues from the current one.
    let mut found = shared.found.lock();
    let before = shared.plan.load_full();
    let built = config::load(path).map_err(|e| e.to_string()).and_then(|settings| {
        restart_only(&before.settings, &settings);
        let still = still_found(&found, &before.settings, &settings);
        let plan = Plan::build(Arc::new(settings), &still, &shared.tools, Some(&before))
            .map_err(|e| e.to_string())?;
        Ok((plan, still))
    });
    match built {
        Ok((plan, still)) => {
            shared.plan.store(Arc::new(plan));
            *found = still;
            Gauges::count(&gauges.reloads);
            tracing::info!(path = %path.display(), "settings reloaded");
        }
        Err(problems) => {
            Gauges::count(&gauges.reload_failures);
            tracing::error!("reload failed, settings unchanged:\n{problems}");
        }
    }
}

/// Warn about changed settings that take effect only after a restart.
fn restart_only(before: &Settings, after: &Settings) {
    let changed = [
        ("listeners", before.listeners != after.listeners),
        ("admin", before.admin != after.admin),
        ("workers", before.workers != after.workers),
        ("audit", before.audit != after.audit),
        ("access_log", before.access_log != after.access_log),
        ("guardrail_threads", before.guardrail_threads != after.guardrail_threads),
        ("limits.records", before.limits.records != after.limits.records),
        ("limits.h2_streams", before.limits.h2_streams != after.limits.h2_streams),
    ];
    for (name, _) in changed.iter().filter(|(_, changed)| *changed) {
        tracing::warn!(setting = name, "setting changed, it takes effect at the next start");
    }
}

type Stamp = (SystemTime, u64, u64);

/// Identifies the content of a file: time, size, and inode (for a link that is replaced).
fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}
