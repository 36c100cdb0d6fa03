//! Calls of a bucket, each of which blocks its thread.
//!
//! - *In*: names of objects; files to create objects from.
//! - *Out*: what the store acknowledged.
//! - *Never*: an object that is overwritten; a body whose hash the store could not check; a call
//!   that goes on without progress for longer than the timeout.

mod answer;
mod client;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::body::{PART, Progress};
use crate::error::ObjectError;
use crate::options::{BucketOptions, OptionsError};
use crate::sign::Hasher;
use client::Client;

/// Interval at which a call is checked for progress, and for the end of the process.
const TICK: Duration = Duration::from_millis(50);

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The object was created. Its bytes.
    Now(u64),
    /// There is an object of this name with the same content: an earlier attempt has created it.
    Before,
    /// There is an object of this name with another content.
    Other,
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: String,
    /// Its bytes.
    pub size: u64,
}

/// A bucket.
pub struct Bucket {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    client: Client,
    timeout: Duration,
}

impl Bucket {
    /// A bucket. It connects with the first call.
    ///
    /// # Errors
    /// The certificate authorities or the host are invalid, or there is no runtime.
    pub fn new(options: BucketOptions) -> Result<Self, OptionsError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| OptionsError(error.to_string()))?;
        let timeout = options.timeout;
        Ok(Bucket { runtime: Some(runtime), client: Client::new(options)?, timeout })
    }

    /// Creates an object from a file, unless there is one of this name. `must_stop` ends the call.
    ///
    /// # Errors
    /// [`ObjectError`]; the object may have been created.
    pub fn put_new(
        &mut self,
        key: &str,
        file: File,
        must_stop: &dyn Fn() -> bool,
    ) -> Result<Stored, ObjectError> {
        let (size, hash) = hash(&file, must_stop)?;
        let file = Arc::new(file);
        self.block(must_stop, async |client| client.put_new(key, &file, size, &hash).await)
    }

    /// Copies an object to `out`. Returns its bytes.
    ///
    /// # Errors
    /// [`ObjectError`]: `http_404` if it does not exist, `damaged` if its hash is not the one with
    /// which it was created.
    pub fn get(&mut self, key: &str, out: &mut dyn Write) -> Result<u64, ObjectError> {
        self.block(&|| false, async |client| client.get(key, out).await)
    }

    /// Up to 1,000 objects whose names begin with `prefix`, in the order of their names, and from
    /// where to continue.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn list(
        &mut self,
        prefix: &str,
        from: Option<&str>,
    ) -> Result<(Vec<Listed>, Option<String>), ObjectError> {
        self.block(&|| false, async |client| client.list(prefix, from).await)
    }

    /// Runs a call until it ends, makes no progress, or must stop.
    fn block<T>(
        &mut self,
        must_stop: &dyn Fn() -> bool,
        call: impl AsyncFnOnce(&mut Client) -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        let Some(runtime) = &self.runtime else { return Err(ObjectError::stopped()) };
        let (progress, timeout) = (self.client.progress.clone(), self.timeout);
        runtime.block_on(watch(call(&mut self.client), progress, timeout, must_stop))
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // A name that is being resolved does not delay the end of the process.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn watch<T>(
    call: impl Future<Output = Result<T, ObjectError>>,
    progress: Progress,
    timeout: Duration,
    must_stop: &dyn Fn() -> bool,
) -> Result<T, ObjectError> {
    let mut call = std::pin::pin!(call);
    let (mut seen, mut since) = (progress.get(), Instant::now());
    loop {
        tokio::select! {
            biased;
            done = &mut call => return done,
            () = tokio::time::sleep(TICK) => {}
        }
        if must_stop() {
            return Err(ObjectError::stopped());
        }
        if progress.get() != seen {
            (seen, since) = (progress.get(), Instant::now());
        } else if since.elapsed() >= timeout {
            return Err(ObjectError::store("timeout", format!("no progress for {timeout:?}")));
        }
    }
}

/// The size of a file, and the hash of its content.
fn hash(file: &File, must_stop: &dyn Fn() -> bool) -> Result<(u64, String), ObjectError> {
    use std::os::unix::fs::FileExt as _;
    let (mut at, mut hasher) = (0, Hasher::new());
    let mut part = vec![0; PART];
    loop {
        let read = file.read_at(&mut part, at);
        match read.map_err(|error| ObjectError::object("file", error.to_string()))? {
            0 => return Ok((at, hasher.finish())),
            read => {
                hasher.add(part.get(..read).unwrap_or_default());
                at += read as u64;
            }
        }
        if must_stop() {
            return Err(ObjectError::stopped());
        }
    }
}

/// The first digits of a file's hash, to make a name of its own for it.
pub(crate) fn short_hash(file: &File, must_stop: &dyn Fn() -> bool) -> Result<String, ObjectError> {
    let (_, mut digits) = hash(file, must_stop)?;
    digits.truncate(16);
    Ok(digits)
}
