//! Uploads what waits in a folder.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::backoff::Backoff;
use super::counters::{UploadCounters, add, set};
use super::disk::{Disk, Entry};
use super::{Shared, UploadOptions};
use crate::bucket::{Bucket, Stored, short_hash};
use crate::error::{ObjectError, Scope};

pub(super) struct Worker<D> {
    disk: D,
    bucket: Bucket,
    options: UploadOptions,
    counters: Arc<UploadCounters>,
    backoff: Backoff,
    /// The wall clock and the monotonic one at the start: a step of the wall clock makes no file of
    /// a running gateway old.
    started: (Duration, Instant),
}

impl<D: Disk> Worker<D> {
    pub(super) fn new(
        disk: D,
        bucket: Bucket,
        options: UploadOptions,
        counters: Arc<UploadCounters>,
    ) -> Self {
        let backoff = Backoff::new(options.backoff);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Worker { disk, bucket, options, counters, backoff, started: (wall, Instant::now()) }
    }

    /// Uploads until the end.
    pub(super) fn work(&mut self, shared: &Shared) {
        loop {
            let is_last = shared.ends();
            let must_stop = || shared.must_stop();
            let pass = catch_unwind(AssertUnwindSafe(|| self.pass(&must_stop)));
            let pass =
                pass.unwrap_or_else(|_| Err(ObjectError::store("panic", "the upload panicked")));
            let wait = match pass {
                Ok(()) => {
                    self.backoff.reset();
                    self.options.interval
                }
                Err(error) => self.backoff.after_failure(error.retry_after),
            };
            if is_last {
                return;
            }
            shared.wait(wait);
        }
    }

    /// Uploads what waits. The first failure of the store ends the pass; files with a fault of
    /// their own stay, and the others go on.
    pub(super) fn pass(&mut self, must_stop: &dyn Fn() -> bool) -> Result<(), ObjectError> {
        let uploaded = self.upload_all(must_stop);
        match &uploaded {
            Ok(()) => self.succeeded(),
            Err(error) if error.scope == Scope::Stopped => {}
            Err(error) => self.failed(error),
        }
        uploaded
    }

    fn upload_all(&mut self, must_stop: &dyn Fn() -> bool) -> Result<(), ObjectError> {
        let is_ours = self.disk.lock().map_err(|error| local("upload.lock", &error))?;
        let waiting = self.waiting()?;
        // Another process uploads, as during an upgrade.
        if !is_ours {
            return Ok(());
        }
        let mut waiting = self.within_limit(waiting)?;
        self.remove_old();
        let mut failed = None;
        while !waiting.is_empty() {
            let (entry, object) = waiting.remove(0);
            match self.upload(&entry, &object, must_stop) {
                Ok(()) => {
                    let bytes: u64 = waiting.iter().map(|(entry, _)| entry.size).sum();
                    set(&self.counters.waiting, waiting.len() as u64);
                    set(&self.counters.waiting_bytes, bytes);
                }
                Err(error) if error.scope == Scope::Object => {
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) => {
                self.waiting()?;
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Files to upload, with the names of their objects, oldest first.
    fn waiting(&mut self) -> Result<Vec<(Entry, String)>, ObjectError> {
        let entries = self.disk.list().map_err(|error| local("the folder", &error))?;
        let named = |entry: Entry| Some(((self.options.object_name)(&entry.name)?, entry));
        let all: Vec<_> =
            entries.into_iter().filter_map(named).map(|(name, entry)| (entry, name)).collect();
        set(&self.counters.waiting, all.len() as u64);
        set(&self.counters.waiting_bytes, all.iter().map(|(entry, _)| entry.size).sum());
        Ok(all)
    }

    /// Removes the oldest files beyond the limit.
    fn within_limit(
        &mut self,
        mut waiting: Vec<(Entry, String)>,
    ) -> Result<Vec<(Entry, String)>, ObjectError> {
        let mut bytes: u64 = waiting.iter().map(|(entry, _)| entry.size).sum();
        while bytes > self.options.max_waiting && waiting.len() > 1 {
            let (entry, _) = waiting.remove(0);
            self.disk.remove(&entry.name).map_err(|error| local(&entry.name, &error))?;
            bytes -= entry.size;
            add(&self.counters.dropped, 1);
            let (file, limit) = (&*entry.name, self.options.max_waiting);
            tracing::error!(
                file,
                limit,
                "file of records removed before its upload: too many wait"
            );
        }
        set(&self.counters.waiting, waiting.len() as u64);
        set(&self.counters.waiting_bytes, bytes);
        Ok(waiting)
    }

    fn upload(
        &mut self,
        entry: &Entry,
        object: &str,
        must_stop: &dyn Fn() -> bool,
    ) -> Result<(), ObjectError> {
        let name = &*entry.name;
        let open = |disk: &mut D| disk.open(name).map_err(|error| local(name, &error));
        let file = open(&mut self.disk)?;
        let mut stored = self.bucket.put_new(object, file, must_stop);
        if matches!(stored, Ok(Stored::Other)) {
            // Another gateway has used the name. The hash makes one that only this content has.
            let other = with_hash(object, &short_hash(&open(&mut self.disk)?, must_stop)?);
            tracing::warn!(object, other, "another object has the name of a file, using another");
            stored = self.bucket.put_new(&other, open(&mut self.disk)?, must_stop);
        }
        match stored.map_err(|error| of_file(name, error))? {
            Stored::Now(bytes) => {
                add(&self.counters.stored, 1);
                add(&self.counters.bytes, bytes);
            }
            Stored::Before => add(&self.counters.stored_before, 1),
            Stored::Other => {
                let why = format!("{name}: an object with another content has its name");
                return Err(ObjectError::object("other_object", why));
            }
        }
        let done = match self.options.keep {
            None => self.disk.remove(name),
            Some(_) => self.disk.keep(name),
        };
        done.map_err(|error| local(name, &error))
    }

    /// Removes files that were uploaded long ago.
    fn remove_old(&mut self) {
        let Some(keep) = self.options.keep else { return };
        let now = self.started.0 + self.started.1.elapsed();
        for entry in self.disk.kept().unwrap_or_default() {
            let is_ours = (self.options.object_name)(&entry.name).is_some();
            if !is_ours || now.saturating_sub(entry.changed) < keep {
                continue;
            }
            match self.disk.remove_kept(&entry.name) {
                Ok(()) => add(&self.counters.removed, 1),
                Err(error) => {
                    let file = &*entry.name;
                    tracing::warn!(file, %error, "uploaded file of records cannot be removed");
                }
            }
        }
    }

    fn succeeded(&self) {
        if !self.counters.set_problem(String::new()).is_empty() {
            tracing::info!("uploads of files of records succeed again");
        }
    }

    fn failed(&self, error: &ObjectError) {
        add(&self.counters.failures, 1);
        let before = self.counters.set_problem(error.to_string());
        // Once for each kind of failure.
        if !before.starts_with(&format!("{}:", error.code)) {
            let waiting = self.counters.waiting();
            tracing::error!(%error, waiting, "upload of files of records failed, retrying");
        }
    }
}

/// A failure of the disk.
fn local(name: &str, error: &std::io::Error) -> ObjectError {
    ObjectError::object("file", format!("{name}: {error}"))
}

fn of_file(name: &str, error: ObjectError) -> ObjectError {
    match error.scope {
        Scope::Object => ObjectError { why: format!("{name}: {}", error.why), ..error },
        _ => error,
    }
}

/// The name of an object with a hash before its end.
fn with_hash(object: &str, hash: &str) -> String {
    let name = object.rfind('/').map_or(0, |slash| slash + 1);
    let end = object[name..].find('.').map_or(object.len(), |dot| name + dot);
    format!("{}-{hash}{}", &object[..end], &object[end..])
}
