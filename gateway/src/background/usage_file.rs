//! The file that keeps who used what over a restart.
//!
//! - *In*: the sums, now and then.
//! - *Out*: a file of JSON lines, replaced whole.
//! - *Never*: half a file; a gateway that does not start because of it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pipeline::shared::Shared;
use serde::{Deserialize, Serialize};
use traffic::{Apart, Line, Spend, Totals};

/// Between two looks: so much of what was used is forgotten by a crash.
const EVERY: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    line: Line,
    #[serde(flatten)]
    totals: Totals,
}

/// Read what was written down before, as far as it can be read.
pub(crate) fn load(path: Option<&Path>) -> Arc<Spend> {
    let spend = Arc::new(Spend::default());
    let Some(path) = path else { return spend };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let lines: Vec<Option<Written>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
            let broken = lines.iter().filter(|line| line.is_none()).count();
            let left_out = spend.restore(lines.into_iter().flatten().map(|written| (written.line, written.totals)));
            if broken + left_out > 0 {
                tracing::error!(path = %path.display(), lines = broken + left_out, "usage file: malformed lines skipped");
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(path = %path.display(), %error, "usage file cannot be read, usage starts at zero"),
    }
    spend
}

/// Write the sums when they have changed, on a thread that may wait for a disk. Never ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut written = Vec::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let shared = shared.clone();
        let saved = tokio::task::spawn_blocking(move || {
            save(&shared, &mut written);
            written
        });
        written = saved.await.unwrap_or_default();
    }
}

/// Write the sums, if they are others than those that were written.
pub(crate) fn save(shared: &Shared, written: &mut Vec<(Line, Totals)>) {
    let Some(path) = shared.plan.load().settings.usage_file.clone() else { return };
    let now = shared.spend.lines(Apart::EVERYTHING, None);
    if now == *written {
        return;
    }
    match replace(&path, &now) {
        Ok(()) => *written = now,
        Err(error) => tracing::error!(path = %path.display(), %error, "usage file cannot be written, retrying"),
    }
}

fn replace(path: &Path, lines: &[(Line, Totals)]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Readable as the umask allows: other programs read the sums.
    let readable = std::fs::Permissions::from_mode(0o666);
    let fresh = tempfile::Builder::new().prefix(".usage-").permissions(readable).tempfile_in(folder)?;
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
