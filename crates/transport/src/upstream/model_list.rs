//! The models that a backend lists at `/v1/models`.

use std::sync::Arc;
use std::time::Duration;

use lens::Tick;
use parking_lot::Mutex;

/// A model that a backend lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedModel {
    /// Its name.
    pub id: String,
    /// When it was made, in Unix seconds; 0: unknown.
    pub created: u64,
    /// Its owner; empty: unknown.
    pub owned_by: String,
    /// Maximum tokens of prompt and answer together; `None`: not listed.
    pub context_length: Option<u64>,
}

/// The list of a backend, as last fetched. It survives failures to fetch it again.
#[derive(Debug, Default)]
pub struct ModelList {
    fetched: Mutex<Fetched>,
    /// Held while the list is fetched, so that requests share one call.
    pub fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Fetched {
    models: Arc<[ListedModel]>,
    /// When to fetch the list again; `None`: it was never fetched.
    due: Option<Tick>,
}

impl ModelList {
    /// The models of the last fetch that succeeded.
    pub fn models(&self) -> Arc<[ListedModel]> {
        self.fetched.lock().models.clone()
    }

    /// Whether the list must be fetched.
    pub fn is_due(&self, now: Tick) -> bool {
        self.fetched.lock().due.is_none_or(|due| due <= now)
    }

    /// Store the result of a fetch, `None` if it failed, and when the list is due again.
    pub fn store(&self, models: Option<Vec<ListedModel>>, now: Tick, due_in: Duration) {
        let nanos = u64::try_from(due_in.as_nanos()).unwrap_or(u64::MAX);
        let mut fetched = self.fetched.lock();
        fetched.due = Some(Tick(now.0.saturating_add(nanos)));
        if let Some(models) = models {
            fetched.models = models.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fetch_keeps_the_list() {
        let list = ModelList::default();
        assert!(list.is_due(Tick(0)) && list.models().is_empty());
        let model = ListedModel { id: "m".into(), ..ListedModel::default() };
        list.store(Some(vec![model.clone()]), Tick(0), Duration::from_nanos(10));
        assert!(!list.is_due(Tick(9)) && list.is_due(Tick(10)));
        list.store(None, Tick(10), Duration::from_nanos(5));
        assert_eq!(&*list.models(), [model]);
        assert!(!list.is_due(Tick(14)) && list.is_due(Tick(15)));
    }
}
