//! The file that keeps usage sums over a restart.
//!
//! - *In*: the sums, periodically.
//! - *Out*: a file of JSON lines, replaced whole.
//! - *Never*: a partly written file; a start that fails because of it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pipeline::shared::Shared;
use serde::{Deserialize, Serialize};
use traffic::{GroupBy, Totals, UsageRow, UsageSums};

/// Interval between saves; a crash loses the usage since the last one.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// Age from which a temporary file counts as left over.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

static SAVING: Mutex<()> = Mutex::new(());

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    line: UsageRow,
    #[serde(flatten)]
    totals: Totals,
}

/// Read the saved sums. Malformed lines are skipped.
pub(crate) fn load(path: Option<&Path>) -> Arc<UsageSums> {
    let sums = Arc::new(UsageSums::default());
    let Some(path) = path else { return sums };
    remove_leftovers(path);
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let lines: Vec<Option<Written>> =
                text.lines().map(|line| serde_json::from_str(line).ok()).collect();
            let broken = lines.iter().filter(|line| line.is_none()).count();
            let left_out = sums
                .restore(lines.into_iter().flatten().map(|written| (written.line, written.totals)));
            if broken + left_out > 0 {
                tracing::error!(path = %path.display(), lines = broken + left_out, "usage file: malformed lines skipped");
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "usage file cannot be read, usage starts at zero")
        }
    }
    sums
}

/// Save the sums when they have changed, on a blocking thread. Never ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut written = Vec::new();
    loop {
        tokio::time::sleep(SAVE_INTERVAL).await;
        let shared = shared.clone();
        let saved = tokio::task::spawn_blocking(move || {
            save(&shared, &mut written);
            written
        });
        written = saved.await.unwrap_or_default();
    }
}

/// Save the sums, if they differ from `written`.
pub(crate) fn save(shared: &Shared, written: &mut Vec<(UsageRow, Totals)>) {
    let Some(path) = shared.plan.load().settings.usage_file.clone() else { return };
    // An earlier save that is still running must not overwrite the last one at shutdown.
    let _saving = SAVING.lock();
    let now = shared.usage_sums.rows(GroupBy::EVERYTHING, None);
    if now == *written {
        return;
    }
    match replace(&path, &now) {
        Ok(()) => *written = now,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "usage file cannot be written, retrying")
        }
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Prefix of the names of temporary files.
fn prefix(path: &Path) -> String {
    format!(".{}-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Remove temporary files of gateways that were killed while saving. A running gateway renames its
/// file within a second.
fn remove_leftovers(path: &Path) {
    let is_old = |entry: &std::fs::DirEntry| {
        let age = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age > LEFTOVER_AGE)
            && entry.file_name().to_string_lossy().starts_with(&prefix(path))
    };
    let entries = std::fs::read_dir(folder(path)).into_iter().flatten().flatten();
    entries.filter(is_old).for_each(|entry| drop(std::fs::remove_file(entry.path())));
}

fn replace(path: &Path, lines: &[(UsageRow, Totals)]) -> std::io::Result<()> {
    // Readable as the umask allows: other programs read the sums.
    let readable = std::fs::Permissions::from_mode(0o666);
    let fresh = tempfile::Builder::new()
        .prefix(&prefix(path))
        .permissions(readable)
        .tempfile_in(folder(path))?;
    let mut file = std::io::BufWriter::new(fresh);
    for (line, totals) in lines {
        serde_json::to_writer(&mut file, &Written { line: line.clone(), totals: *totals })?;
        file.write_all(b"\n")?;
    }
    let fresh = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    fresh.as_file().sync_all()?;
    fresh.persist(path)?;
    Ok(())
}
