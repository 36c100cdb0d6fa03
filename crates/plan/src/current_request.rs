//! The id of the request that a task serves, for log lines.
//!
//! A `tracing` span would be entered and exited for each event of a stream; this only swaps a
//! pointer.

use std::sync::Arc;

tokio::task_local! {
    static ID: Arc<str>;
}

/// The id of the current request, if there is one.
pub fn id() -> Option<Arc<str>> {
    ID.try_with(Arc::clone).ok()
}

/// Run `work` for the request with this id.
pub fn scope<F: Future>(id: Arc<str>, work: F) -> impl Future<Output = F::Output> {
    ID.scope(id, work)
}

/// Wrap a job for another thread, so that it runs for the current request.
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
    async fn id_is_set_only_in_the_task_and_its_jobs() {
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
