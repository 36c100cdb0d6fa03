//! The usage file: a journal that keeps the usage sums over restarts and upgrades.
//!
//! - *In*: the usage of settled requests; additions of the other gateway during an upgrade.
//! - *Out*: a file to which lines are appended once a second. Additions of the other gateway count
//!   in the sums and limits of this one.
//! - *Never*: file access on another thread after the start; a start that fails because of damaged
//!   content: it fails if the file cannot be opened, or if another gateway uses it. ADR 0016.

mod journal_file;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use observatory::Gauges;
use pipeline::shared::Shared;
use plan::clock::when;
use traffic::UsageSums;

pub(crate) use journal_file::OpenError;
use journal_file::{JournalFile, Synced};

/// Interval between appends; a crash loses the usage since the last one.
const APPEND_INTERVAL: Duration = Duration::from_secs(1);
/// The same during an upgrade, when two gateways count the usage of the same limits.
const UPGRADE_INTERVAL: Duration = Duration::from_millis(100);
/// Commands that may wait; more are not sent, because the file does not respond.
const MAX_COMMANDS: usize = 4;
/// Maximum wait for the file before a hand-over and at shutdown.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The file before the gateway serves, if one is configured.
pub(crate) struct OpenUsageFile(Option<JournalFile>);

/// The file of a running gateway, if one is configured: the thread that writes it.
pub(crate) struct UsageFile(Option<SyncSender<Command>>);

/// A request to the thread, and where it reports that it is done.
enum Command {
    /// A successor takes the listeners.
    HandOver(SyncSender<()>),
    /// No successor took them.
    KeepOn,
    Close(SyncSender<()>),
}

impl OpenUsageFile {
    /// Open and read the file. A successor (`upgrade`) opens it while its predecessor uses it.
    ///
    /// # Errors
    /// [`OpenError`]
    pub(crate) fn open(path: Option<&Path>, upgrade: bool) -> Result<Self, OpenError> {
        path.map(|path| JournalFile::open(path, upgrade)).transpose().map(OpenUsageFile)
    }

    /// The sums of the file. A successor calls it when it has the listeners: its predecessor has
    /// appended its usage before it passes them on.
    pub(crate) fn sums(&mut self) -> Arc<UsageSums> {
        let Some(file) = &mut self.0 else { return Arc::default() };
        file.catch_up();
        let sums = UsageSums::journaled();
        sums.restore(file.rows());
        Arc::new(sums)
    }

    /// Start to append.
    pub(crate) fn start(self, shared: &Arc<Shared>) -> UsageFile {
        let Some(file) = self.0 else { return UsageFile(None) };
        let (commands, received) = sync_channel(MAX_COMMANDS);
        let writer =
            UsageThread { file, shared: shared.clone(), handing_over: false, failed: false };
        // Ends with `Close`, or with the process if the file does not respond.
        let thread = std::thread::Builder::new().name("llm-lens-usage".into());
        if let Err(error) = thread.spawn(move || writer.write_until_closed(&received)) {
            tracing::error!(%error, "usage file: cannot start its thread, usage is not saved");
        }
        UsageFile(Some(commands))
    }
}

impl UsageFile {
    /// Append the usage so far. From now on, the file is left to the successor, except for further
    /// additions. Blocks until it is done.
    pub(crate) fn hand_over(&self) {
        self.request(Command::HandOver);
    }

    /// No successor took the listeners.
    pub(crate) fn keep_on(&self) {
        if let Some(commands) = &self.0 {
            // It fails only if the file does not respond.
            let _ = commands.try_send(Command::KeepOn);
        }
    }

    /// Append the last usage and close the file. Blocks until it is done.
    pub(crate) fn close(&self) {
        self.request(Command::Close);
    }

    fn request(&self, command: impl FnOnce(SyncSender<()>) -> Command) {
        let Some(commands) = &self.0 else { return };
        let (done, is_done) = sync_channel(1);
        let responds = match commands.try_send(command(done)) {
            Ok(()) => is_done.recv_timeout(MAX_WAIT) != Err(RecvTimeoutError::Timeout),
            Err(TrySendError::Full(_)) => false,
            // The file is closed.
            Err(TrySendError::Disconnected(_)) => true,
        };
        if !responds {
            tracing::error!(wait = ?MAX_WAIT, "usage file does not respond, recent usage may be lost");
        }
    }
}

impl Drop for UsageFile {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that writes the file.
struct UsageThread {
    file: JournalFile,
    shared: Arc<Shared>,
    handing_over: bool,
    /// The last append failed.
    failed: bool,
}

impl UsageThread {
    fn write_until_closed(mut self, commands: &Receiver<Command>) {
        loop {
            let upgrading = self.handing_over || !self.file.is_owner();
            let interval = if upgrading { UPGRADE_INTERVAL } else { APPEND_INTERVAL };
            match commands.recv_timeout(interval) {
                Err(RecvTimeoutError::Timeout) => self.write(),
                Ok(Command::HandOver(done)) => {
                    self.handing_over = true;
                    self.write();
                    let _ = done.send(());
                }
                Ok(Command::KeepOn) => self.handing_over = false,
                Ok(Command::Close(done)) => {
                    self.write();
                    drop(self);
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return self.write(),
            }
        }
    }

    /// Append the usage since the last time, and count the additions of other gateways.
    fn write(&mut self) {
        let (shared, gauges) = (&self.shared, self.shared.observatory.gauges());
        // A gateway that ends leaves the care for the file to the other one.
        let ends = self.handing_over || shared.draining.load(Ordering::Relaxed);
        let unsaved = shared.usage_sums.take_unsaved();
        let Synced { others, appended } = self.file.synchronize(&unsaved, ends);
        gauges.usage_lines_damaged.fetch_add(self.file.take_damaged(), Ordering::Relaxed);
        if !others.is_empty() {
            let added = UsageSums::default();
            added.restore(others.iter().cloned());
            shared.usage_sums.restore(others.into_iter());
            shared.plan.load().rate_limits.restore_usage(&added, when());
        }
        let path = self.file.path().display();
        match &appended {
            Ok(()) if self.failed => tracing::info!(%path, "usage file is written again"),
            Ok(()) => {}
            Err(error) => {
                shared.usage_sums.return_unsaved(unsaved);
                Gauges::count(&gauges.usage_write_failures);
                // Logged once per failure: log lines must not make a full disk worse.
                if !self.failed {
                    tracing::error!(%path, %error, "usage file cannot be written, retrying");
                }
            }
        }
        self.failed = appended.is_err();
    }
}
