//! The sink of traces: it selects records before they are queued.
//!
//! - *In*: all finished records, with their keys.
//! - *Out*: the records whose traces are exported, for the delivery.
//! - *Never*: an unsampled record in the queue or the spill.

use std::sync::Arc;

use lens::Record;
use observatory::{DeliverySink, NumberedRecord, RecordKey, Sink, SinkCounts, SinkError};

use super::Shared;
use crate::settings::Sampler;
use crate::traces;

/// Delivers the sampled records.
pub(super) struct SampledSink {
    shared: Arc<Shared>,
    sampler: Sampler,
    delivery: DeliverySink,
}

impl SampledSink {
    pub(super) fn new(shared: Arc<Shared>, sampler: Sampler, delivery: DeliverySink) -> Self {
        SampledSink { shared, sampler, delivery }
    }

    /// Records without ids have no spans.
    fn is_kept(&self, record: &Record) -> bool {
        if record.trace.is_none() {
            return false;
        }
        let is_kept = traces::is_kept(record, &self.sampler);
        if !is_kept {
            self.shared.counts.unsampled();
        }
        is_kept
    }
}

impl Sink for SampledSink {
    fn name(&self) -> &'static str {
        self.delivery.name()
    }

    fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<(), SinkError> {
        self.deliver_numbered(&RecordKey::first(), batch)
    }

    fn deliver_numbered(
        &mut self,
        first: &RecordKey,
        batch: &[Arc<Record>],
    ) -> Result<(), SinkError> {
        let kept: Vec<NumberedRecord> = batch
            .iter()
            .enumerate()
            .filter(|(_, record)| self.is_kept(record))
            .map(|(index, record)| NumberedRecord {
                key: first.plus(index as u64),
                record: record.clone(),
            })
            .collect();
        self.delivery.push(kept.into_iter());
        Ok(())
    }

    fn stop(&mut self) {
        self.delivery.stop();
    }

    fn flush(&mut self) {
        self.delivery.flush();
    }

    fn own_counts(&self) -> Option<Arc<SinkCounts>> {
        self.delivery.own_counts()
    }
}
