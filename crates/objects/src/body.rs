//! Bodies of requests: none, or a file that is read while it is sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Bytes that are read at a time.
pub(crate) const PART: usize = 64 << 10;

/// Grows while a call makes progress.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body.
pub(crate) struct RequestBody {
    file: Option<Arc<File>>,
    at: u64,
    left: u64,
    progress: Progress,
}

impl RequestBody {
    pub(crate) fn empty() -> Self {
        RequestBody { file: None, at: 0, left: 0, progress: Progress::default() }
    }

    /// The first `size` bytes of a file.
    pub(crate) fn file(file: Arc<File>, size: u64, progress: Progress) -> Self {
        RequestBody { file: Some(file), at: 0, left: size, progress }
    }

    /// Reads on the thread of the runtime, which has no other work.
    fn read(&mut self) -> io::Result<Bytes> {
        let Some(file) = &self.file else { return Ok(Bytes::new()) };
        let wanted = usize::try_from(self.left).unwrap_or(PART).min(PART);
        let mut part = vec![0; wanted];
        let read = file.read_at(&mut part, self.at)?;
        if read == 0 {
            let problem = "the file is shorter than before";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
        }
        part.truncate(read);
        self.at += read as u64;
        self.left -= read as u64;
        Ok(part.into())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.progress.add();
        Poll::Ready(Some(self.read().map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
