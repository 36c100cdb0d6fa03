//! Groups: the closed set of label values that a request can count under.

use std::sync::{Arc, PoisonError, RwLock};

use lens::record::Outcome;

use crate::gauges::InFlight;

/// The labels of a route with a backend and an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The route.
    pub route: Arc<str>,
    /// The backend; empty when none was asked.
    pub backend: Arc<str>,
    /// `gen_ai.provider.name`.
    pub provider: Arc<str>,
    /// `gen_ai.operation.name`; empty for requests that are no inference.
    pub operation: &'static str,
    /// Models with a label of their own. A request's model number is its position here plus one; 0 means other or none.
    pub models: Arc<[String]>,
    /// Constant labels of the route.
    pub labels: Arc<[(String, String)]>,
    /// Host and port of the backend.
    pub server: Arc<str>,
}

impl Group {
    /// The number of a model.
    pub fn model_number(&self, model: Option<&str>) -> u16 {
        let at = model.and_then(|m| self.models.iter().position(|known| known == m));
        at.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or(0)
    }

    /// The label of a model number.
    pub(crate) fn model_label(&self, number: u16) -> &str {
        usize::from(number).checked_sub(1).and_then(|at| self.models.get(at)).map_or("other", String::as_str)
    }
}

/// The number of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u32);

/// What a series is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// The group.
    pub group: GroupId,
    /// The model's number in the group.
    pub model: u16,
    /// How requests ended.
    pub outcome: Outcome,
}

/// All groups that were ever made. They are made from settings, so their number is bounded by how often those change.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    all: RwLock<Vec<(Arc<Group>, Arc<InFlight>)>>,
}

impl Groups {
    pub(crate) fn intern(&self, group: Group) -> GroupId {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(known, _)| **known == group).unwrap_or_else(|| {
            all.push((Arc::new(group), Arc::default()));
            all.len() - 1
        });
        GroupId(u32::try_from(at).unwrap_or(u32::MAX))
    }

    pub(crate) fn group(&self, id: GroupId) -> Arc<Group> {
        self.read(id, |(group, _)| group.clone())
    }

    pub(crate) fn in_flight(&self, id: GroupId) -> Arc<InFlight> {
        self.read(id, |(_, in_flight)| in_flight.clone())
    }

    pub(crate) fn all(&self) -> Vec<(Arc<Group>, Arc<InFlight>)> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read<T>(&self, id: GroupId, look: impl FnOnce(&(Arc<Group>, Arc<InFlight>)) -> T) -> T {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        look(all.get(id.0 as usize).expect("invariant: ids come from intern and groups are never removed"))
    }
}
