//! The id of the request that a task works on, for log lines.
//!
//! A span of `tracing` would do the same, and be entered and left for each event of a stream. This
//! is a swap of a pointer.

use std::sync::Arc;

tokio::task_local! {
    static ID: Arc<str>;
}

/// The id of the request that is worked on here, if one is.
pub fn id() -> Option<Arc<str>> {
    ID.try_with(Arc::clone).ok()
}

/// Work on a request.
pub fn scope<F: Future>(id: Arc<str>, work: F) -> impl Future<Output = F::Output> {
    ID.scope(id, work)
}

/// A job that another thread does for the request that is worked on here.
pub(crate) fn carry(job: filters::Job) -> filters::Job {
    match id() {
        Some(id) => Box::new(move || ID.sync_scope(id, job)),
        None => job,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_id_is_known_in_the_task_and_in_its_jobs_only() {
        assert_eq!(id(), None);
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let known = scope("a".into(), async move {
            let job = carry(Box::new(move || drop(send.send(id()))));
            std::thread::spawn(job).join().expect("the job ends");
            tokio::task::yield_now().await;
            id()
        });
        assert_eq!(known.await.as_deref(), Some("a"));
        assert_eq!(receive.recv().expect("the job ran").as_deref(), Some("a"));
        assert_eq!(id(), None);
    }
}
