//! Groups: the closed set of label sets under which requests are counted.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use lens::Tick;
use lens::record::Outcome;

use crate::gauges::GroupGauges;

/// The labels of a route with a backend and an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// The route.
    pub route: Arc<str>,
    /// The backend; empty without one.
    pub backend: Arc<str>,
    /// `gen_ai.provider.name`.
    pub provider: Arc<str>,
    /// `gen_ai.operation.name`; empty for requests other than inference.
    pub operation: &'static str,
    /// Models with their own label value. A model's number is its position here plus one; 0 is the
    /// label value `other`.
    pub models: Arc<[String]>,
    /// Constant labels of the route.
    pub labels: Arc<[(String, String)]>,
    /// Host and port of the backend.
    pub server: Arc<str>,
}

impl Group {
    /// The number of a model; 0 if it has no label value of its own.
    pub fn model_number(&self, model: Option<&str>) -> u16 {
        let at = model.and_then(|m| self.models.iter().position(|known| known == m));
        at.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or(0)
    }

    /// The label of a model number.
    pub(crate) fn model_label(&self, number: u16) -> &str {
        usize::from(number)
            .checked_sub(1)
            .and_then(|at| self.models.get(at))
            .map_or("other", String::as_str)
    }
}

/// The number of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u32);

/// Key of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// The group.
    pub group: GroupId,
    /// The model's number in the group.
    pub model: u16,
    /// How requests ended.
    pub outcome: Outcome,
}

/// Groups in use, or used recently. They come from settings and from discovered backends.
#[derive(Debug, Default)]
pub(crate) struct Groups(RwLock<GroupTable>);

#[derive(Debug, Default)]
struct GroupTable {
    /// By number. `None`: expired, and free for reuse.
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    numbers: HashMap<Arc<Group>, u32>,
}

#[derive(Debug)]
struct Slot {
    group: Arc<Group>,
    /// Shared with the users of the group.
    in_flight: Arc<GroupGauges>,
    unused_since: Option<Tick>,
}

impl Groups {
    pub(crate) fn intern(&self, group: Group) -> (GroupId, Arc<GroupGauges>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let GroupTable { slots, free, numbers } = &mut *known;
        let group = Arc::new(group);
        let number = *numbers.entry(group.clone()).or_insert_with(|| {
            free.pop().unwrap_or_else(|| {
                slots.push(None);
                u32::try_from(slots.len() - 1).unwrap_or(u32::MAX)
            })
        });
        let slot = slots
            .get_mut(number as usize)
            .expect("invariant: a number has a slot while it is in use");
        let slot = slot.get_or_insert_with(|| Slot {
            group,
            in_flight: Arc::default(),
            unused_since: None,
        });
        (GroupId(number), slot.in_flight.clone())
    }

    /// `None`: the group has expired.
    pub(crate) fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.slots.get(id.0 as usize)?.as_ref().map(|slot| slot.group.clone())
    }

    pub(crate) fn all(&self) -> Vec<(Arc<Group>, Arc<GroupGauges>)> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known
            .slots
            .iter()
            .flatten()
            .map(|slot| (slot.group.clone(), slot.in_flight.clone()))
            .collect()
    }

    /// Removes groups of backends that have been unused for `after`. Calls `gone` with their ids
    /// before these are reused.
    pub(crate) fn expire(&self, now: Tick, after: Duration, gone: impl FnOnce(&HashSet<GroupId>)) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let GroupTable { slots, free, numbers } = &mut *known;
        // All groups of a backend expire together: Prometheus would take the drop of a counter that
        // sums over them for a reset.
        let place = |slot: &Slot| (slot.group.route.clone(), slot.group.backend.clone());
        let mut kept = HashSet::new();
        for slot in slots.iter_mut().flatten() {
            let is_used = Arc::strong_count(&slot.in_flight) > 1;
            slot.unused_since = (!is_used).then(|| slot.unused_since.unwrap_or(now));
            if slot
                .unused_since
                .is_none_or(|since| u128::from(now.nanos_since(since)) < after.as_nanos())
            {
                kept.insert(place(slot));
            }
        }
        let is_old = |slot: &Slot| !kept.contains(&place(slot));
        let old: HashSet<GroupId> = slots
            .iter()
            .zip(0..)
            .filter(|(slot, _)| slot.as_ref().is_some_and(is_old))
            .map(|(_, number)| GroupId(number))
            .collect();
        if old.is_empty() {
            return;
        }
        gone(&old);
        numbers.retain(|_, number| !old.contains(&GroupId(*number)));
        slots
            .iter_mut()
            .filter(|slot| slot.as_ref().is_some_and(is_old))
            .for_each(|slot| *slot = None);
        free.extend(old.iter().map(|id| id.0));
    }
}
