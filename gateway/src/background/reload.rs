//! Reloads settings while the gateway runs.
//!
//! - *In*: changed files, and HUP.
//! - *Out*: a new plan. Requests in flight keep the plan they started with. Discovered backends are
//!   added and removed in the same way.
//! - *Never*: a part of a file. The whole file takes effect or nothing does: a file that is still
//!   being written is not read, and an invalid one changes nothing; its problems are logged, and
//!   the failure is counted.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use config::{Found, MAX_DISCOVERED, Settings, Source};
use observatory::Gauges;
use pipeline::shared::{Reload, Shared};
use plan::{Plan, clock};
use process::notify::Notifier;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::discovery::Known;
use crate::tls::Certificate;

/// Interval between checks of the files, at one system call for each file.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// A file counts as complete when it has not changed for this long.
const SETTLE: Duration = Duration::from_secs(1);
/// The same for a file whose last line has no end: its writer may have paused inside the line.
const SETTLE_UNTERMINATED: Duration = Duration::from_secs(5);
/// A reload that takes longer has failed. The next one does not wait for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum reads that wait for a file at a time, such as one on a network disk that is away.
const MAX_READS: usize = 8;
/// The problem when there are that many.
const STUCK: &str = "earlier reads of the files have not ended";

/// Reload the settings when their files have changed, and when `requested`; never ends. `at_start`
/// are the stamps of the files that the start has read. The notifier reports each reload.
pub(crate) async fn watch(
    shared: Arc<Shared>,
    at_start: Stamps,
    certificates: Arc<[Arc<Certificate>]>,
    (requested, notifier): (Arc<Notify>, Arc<Notifier>),
) {
    if shared.file.is_none() {
        loop {
            requested.notified().await;
            notifier.reloading();
            tracing::info!("nothing to reload: the gateway was started with --upstream");
            notifier.ready();
        }
    }
    let mut applied = at_start;
    if !has_start_settings(&shared).await {
        applied.clear();
    }
    let mut pending: Option<(Stamps, Instant)> = None;
    let newest = Newest::default();
    loop {
        let is_requested = tokio::time::timeout(POLL_INTERVAL, requested.notified()).await.is_ok();
        let Some(stamps) = check_files(&shared, &certificates, &newest).await else { continue };
        if is_requested {
            reload_settings(&shared, stamps.clone(), &newest, &notifier).await;
            (applied, pending) = (stamps, None);
            continue;
        }
        if stamps.first().is_some_and(Option::is_none) {
            // When it is there again, it is read, even if it is the same file.
            applied.clear();
            warn_of_missing_file(&shared);
        }
        // The first stamp is that of the settings file: without the file, nothing is reloaded.
        if stamps == applied || !stamps.first().is_some_and(Option::is_some) {
            pending = None;
            continue;
        }
        match &pending {
            Some((seen, since)) if *seen == stamps => {
                if since.elapsed() >= settle_time(&shared).await {
                    reload_settings(&shared, stamps.clone(), &newest, &notifier).await;
                    (applied, pending) = (stamps, None);
                }
            }
            _ => pending = Some((stamps, Instant::now())),
        }
    }
}

/// A missing settings file leaves the settings as they are.
fn warn_of_missing_file(shared: &Shared) {
    if shared.observatory.gauges().settings_are_stale(clock::wall_us()) {
        tracing::warn!("settings file is missing, settings unchanged");
    }
}

/// Check all files on a blocking thread. Changed certificates take effect; the stamps of the other
/// files are returned. `None`: a file held up the check, which is a failed reload.
async fn check_files(
    shared: &Arc<Shared>,
    certificates: &Arc<[Arc<Certificate>]>,
    newest: &Newest,
) -> Option<Stamps> {
    let (looking, certificates, newest) = (shared.clone(), certificates.clone(), newest.clone());
    if newest.reads() > MAX_READS {
        tokio::time::sleep(PATIENCE).await;
        note_failure(shared, STUCK.to_owned());
        return None;
    }
    let looked = tokio::task::spawn_blocking(move || {
        // Each is read, also after one that is not current.
        let stale = certificates.iter().filter(|one| !one.reload_if_changed()).count();
        looking.observatory.gauges().set_certificates(stale == 0, clock::wall_us());
        let stamps = current_stamps(&looking);
        drop(newest);
        stamps
    });
    match tokio::time::timeout(PATIENCE, looked).await {
        Ok(looked) => Some(looked.unwrap_or_default()),
        Err(_) => {
            note_failure(shared, too_slow());
            None
        }
    }
}

/// The problem of files that are not read in time.
fn too_slow() -> String {
    format!(
        "the files of the settings cannot be read within {} s; the next change or HUP reads them again",
        PATIENCE.as_secs()
    )
}

/// Whether the settings file and the files of pools still have the settings of the start. They were
/// read before their stamps were taken.
async fn has_start_settings(shared: &Arc<Shared>) -> bool {
    let shared = shared.clone();
    let look = move || {
        let path = shared.file.as_deref()?;
        must_be_file(path).ok()?;
        config::load(path).ok().filter(|settings| *settings == *shared.started_with)
    };
    let looked = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(look)).await;
    looked.is_ok_and(|looked| looked.is_ok_and(|settings| settings.is_some()))
}

fn current_stamps(shared: &Shared) -> Stamps {
    stamps(shared.file.as_deref(), &shared.plan.load().settings)
}

/// The stamps of the settings, the keys and the files of pools.
pub(crate) fn stamps(file: Option<&Path>, settings: &Settings) -> Stamps {
    let keys = settings.auth.as_ref().and_then(|auth| auth.keys.as_ref().map(|(file, _)| file));
    // Recent changes of a database may be in its write-ahead log only.
    let log = keys.map(|keys| PathBuf::from(format!("{}-wal", keys.display())));
    let pools = settings.pools.iter().filter_map(|pool| pool.file.as_deref());
    file.into_iter()
        .chain(keys.map(PathBuf::as_path))
        .chain(log.as_deref())
        .chain(pools)
        .map(stamp)
        .collect()
}

/// How long the files must be unchanged to count as complete.
async fn settle_time(shared: &Arc<Shared>) -> Duration {
    let shared = shared.clone();
    let look = move || {
        let settings = &shared.plan.load().settings;
        let pools = settings.pools.iter().filter_map(|pool| pool.file.as_deref());
        shared.file.as_deref().into_iter().chain(pools).all(is_terminated)
    };
    match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(true)) => SETTLE,
        _ => SETTLE_UNTERMINATED,
    }
}

/// Whether the last line of a file has an end. Only regular files are opened.
fn is_terminated(path: &Path) -> bool {
    let last = || -> std::io::Result<u8> {
        must_be_file(path)?;
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    last().is_ok_and(|last| last == b'\n')
}

/// Opening a pipe would wait for its writer.
fn must_be_file(path: &Path) -> std::io::Result<()> {
    match std::fs::metadata(path)?.is_file() {
        true => Ok(()),
        false => Err(std::io::Error::other("it is not a regular file")),
    }
}

/// The number of the newest reload. One that a file has held up changes nothing afterwards.
#[derive(Clone, Default)]
struct Newest(Arc<AtomicU64>);

impl Newest {
    /// Reads that have not ended.
    fn reads(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// Reload the settings, and report to the service manager.
async fn reload_settings(
    shared: &Arc<Shared>,
    stamps: Stamps,
    newest: &Newest,
    notifier: &Notifier,
) {
    notifier.reloading();
    read_and_apply(shared, stamps, newest).await;
    let has_failed =
        shared.last_reload.lock().as_ref().is_some_and(|reload| reload.problems.is_some());
    if has_failed { notifier.reload_failed() } else { notifier.ready() }
}

/// Reload the settings. Files may be large and databases busy, so a blocking thread reads them.
/// `stamps` are those of the files: one that changes while it is read is not used.
async fn read_and_apply(shared: &Arc<Shared>, stamps: Stamps, newest: &Newest) {
    if newest.reads() >= MAX_READS {
        return note_failure(shared, STUCK.to_owned());
    }
    let number = newest.0.fetch_add(1, Ordering::Relaxed) + 1;
    let (reading, newest) = (shared.clone(), newest.clone());
    let read = tokio::task::spawn_blocking(move || {
        read(&reading, &stamps, || newest.0.load(Ordering::Relaxed) == number);
        drop(newest);
    });
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "reload panicked, settings unchanged"),
        Err(_) => note_failure(shared, too_slow()),
    }
}

/// Log and count a reload that changed nothing.
fn note_failure(shared: &Shared, problems: String) {
    let gauges = shared.observatory.gauges();
    Gauges::count(&gauges.reload_failures);
    gauges.settings_are_stale(clock::wall_us());
    let listed = problems.replace('\n', "; ");
    tracing::error!("reload failed, settings unchanged: {listed}");
    let mut last = shared.last_reload.lock();
    // What was removed stays listed while the settings are the same.
    let removed = last.take().map(|last| last.removed).unwrap_or_default();
    *last = Some(Reload { at_us: clock::wall_us(), problems: Some(problems), removed });
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
            shared.configure_statistics();
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

/// Read the files and apply them, unless they change meanwhile or `is_newest` is false at the end.
fn read(shared: &Shared, expected: &[Option<Stamp>], is_newest: impl Fn() -> bool) {
    let Some(path) = &shared.file else { return };
    let loaded = must_be_file(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
        .and_then(|()| config::load(path).map_err(|problems| problems.to_string()));
    if !is_newest() {
        return tracing::info!("a reload that took too long is not applied");
    }
    if current_stamps(shared) != expected {
        return tracing::info!("settings changed while they were read, reading them again");
    }
    let settings = match loaded {
        Ok(settings) => Arc::new(settings),
        Err(problems) => return note_failure(shared, problems),
    };
    for setting in changes::restart_only(&shared.started_with, &settings) {
        tracing::warn!(setting, "setting changed, it takes effect at the next start");
    }
    loop {
        // A new plan continues from the current one.
        let before = shared.plan.load_full();
        let still = still_found(&shared.found.lock(), &before.settings, &settings);
        // This reads files that the settings name, and may wait for them: nothing is locked.
        let built = Plan::build(settings.clone(), &still, &shared.tools, Some(&before));
        let mut found = shared.found.lock();
        if !is_newest() {
            return tracing::info!("a reload that took too long is not applied");
        }
        if !Arc::ptr_eq(&before, &shared.plan.load()) {
            // Discovered backends were applied meanwhile.
            continue;
        }
        return match built {
            Ok(plan) => {
                apply(shared, plan, &before);
                *found = still;
                tracing::info!(path = %path.display(), "settings reloaded");
            }
            Err(error) => note_failure(shared, error.to_string()),
        };
    }
}

/// Put a plan into force.
fn apply(shared: &Shared, plan: Plan, before: &Plan) {
    let removed = changes::removed(&before.settings, &plan.settings);
    for removed in &removed {
        tracing::warn!(removed, "the new settings protect less than the ones before");
    }
    let mut last = shared.last_reload.lock();
    let mut reload = Reload { at_us: clock::wall_us(), problems: None, removed };
    if plan.settings == before.settings {
        // What was removed stays listed while the settings are the same.
        reload.removed = last.take().map(|last| last.removed).unwrap_or_default();
    }
    *last = Some(reload);
    shared.plan.store(Arc::new(plan));
    shared.configure_statistics();
    let gauges = shared.observatory.gauges();
    Gauges::count(&gauges.reloads);
    gauges.settings_are_current();
}

type Stamp = (SystemTime, u64, u64);
/// Stamps of all watched files, that of the settings file first.
pub(crate) type Stamps = Vec<Option<Stamp>>;

/// Identifies the content of a file: time, size, and inode (for a link that is replaced).
fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}
