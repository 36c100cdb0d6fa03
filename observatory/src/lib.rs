//! Observatory: series, metrics and sinks of records.
//!
//! - *In*: finished [`lens::Record`]s, batches of gaps, changes of gauges.
//! - *Out*: the recent records, the series of each route and backend, the Prometheus exposition.
//! - *Never*: a label from a client. Labels are interned when settings are built
//!   ([`Observatory::group`]), and a request carries their number.

mod access_log;
pub use access_log::AccessLog;

mod audit;
pub mod catalog;
pub use audit::AuditLine;

mod delivery;
pub use delivery::{DeliveryError, DeliverySettings, DeliverySink, Destination, SpillSettings};
pub use spill::WhenFull;

mod exemplars;
pub use exemplars::{Exemplar, Exemplars, TraceFilter};

mod export;
pub use export::{Format, MetricWriter};
pub use lens::observe::Sample;

mod gauges;
pub use gauges::{DROPPED_LOG_LINES, Gauges, GroupGauges};

mod group;
pub use group::{Group, GroupId, SeriesKey};

mod overview;
pub use overview::{Overview, TimingOverview};

mod rate;
mod recent;
pub use recent::{Recent, RecentRecord, Since};

mod record_key;
pub use record_key::{NumberedRecord, RecordKey};

mod rotating_file;
pub use rotating_file::{FileStamp, RotatingFile};

mod sink;
pub use sink::{Sink, SinkError};

mod sink_counts;
pub use sink_counts::{Circuit, DeliveryCounts, DropReason, SinkCounts};

mod statistics_sink;
pub use statistics_sink::StatisticsSink;

mod guardrails;
pub use guardrails::{FilterOverview, GuardrailOverview};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use lens::record::Outcome;
use lens::{Record, Series, Sharded, Tick, Timing};

use exemplars::TracedRecords;
use group::Groups;
use rate::Rate;
use recent::RecentSink;
use sink::Pump;

/// How long the series of a removed backend are kept: several scrapes, so that its last counts are
/// exported.
pub const REMOVED_BACKEND_TTL: Duration = Duration::from_secs(600);

/// Maximum wait for a line of the audit log.
pub const AUDIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A map that each request looks up. Its keys come from settings.
pub(crate) type SeriesMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Series and rates, of one worker or of all.
#[derive(Debug, Default)]
struct Shard {
    series: SeriesMap<SeriesKey, Series>,
    rates: SeriesMap<GroupId, Rate>,
}

/// Records, series and gauges of one process.
#[derive(Debug)]
pub struct Observatory {
    groups: Groups,
    /// Counts of each worker since the last drain.
    shards: Sharded<Shard>,
    /// Counts drained from all workers.
    total: Mutex<Shard>,
    recent: Arc<Recent>,
    pump: Pump,
    gauges: Gauges,
    audit: Option<Pump<AuditLine>>,
    traces: TraceFilter,
}

impl Observatory {
    /// An observatory for `workers` workers that keeps the last `records` records and delivers each
    /// finished record to `sinks`.
    pub fn new(workers: usize, records: usize, sinks: Vec<Box<dyn Sink>>) -> Self {
        let recent = Arc::new(Recent::new(records));
        let own: Box<dyn Sink> = Box::new(RecentSink(recent.clone()));
        Observatory {
            pump: Pump::start("llm-lens-sinks", workers, [own].into_iter().chain(sinks).collect()),
            groups: Groups::default(),
            shards: Sharded::new(workers),
            total: Mutex::default(),
            recent,
            gauges: Gauges::default(),
            audit: None,
            traces: TraceFilter::default(),
        }
    }

    /// Adds an audit log that receives findings from `workers` workers.
    #[must_use]
    pub fn with_audit_log(self, workers: usize, log: Box<dyn Sink<AuditLine>>) -> Self {
        Observatory { audit: Some(Pump::start("llm-lens-audit", workers, vec![log])), ..self }
    }

    /// Replaces the filter of traces that exemplars lead to.
    #[must_use]
    pub fn with_traces(self, traces: TraceFilter) -> Self {
        Observatory { traces, ..self }
    }

    /// Interns a group of labels; returns its id and its gauges. Equal labels get the same id, so
    /// counters continue across reloads. The id stays reserved while the gauges are held and for
    /// [`REMOVED_BACKEND_TTL`] after that.
    pub fn group(&self, group: Group) -> (GroupId, Arc<GroupGauges>) {
        self.groups.intern(group)
    }

    /// Expires the series of backends that have been unused for [`REMOVED_BACKEND_TTL`], so that
    /// removed backends do not grow memory and scrapes. Call it periodically. Returns false and
    /// does nothing while a scrape holds the lock: the calling thread does not wait.
    pub fn expire(&self, now: Tick) -> bool {
        // The order of locks is that of a scrape: the total, then the groups.
        let mut total = match self.total.try_lock() {
            Ok(total) => total,
            Err(TryLockError::Poisoned(total)) => total.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        self.drain_into(&mut total);
        self.groups.expire(now, REMOVED_BACKEND_TTL, |gone| {
            total.series.retain(|key, _| !gone.contains(&key.group));
            total.rates.retain(|group, _| !gone.contains(group));
        });
        true
    }

    /// The gauges of the process.
    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// Write a finding to the audit log, if there is one.
    pub fn found(&self, worker: usize, line: AuditLine) {
        if let Some(audit) = &self.audit {
            audit.push(worker, line);
        }
    }

    /// Write a line to the audit log, and wait until it is there, at most [`AUDIT_TIMEOUT`]. For
    /// pages of the admin listener. Returns false if there is no log, or the line is not in it.
    #[must_use]
    pub fn audit(&self, at: u64, text: String) -> bool {
        let Some(audit) = &self.audit else { return false };
        let (line, receipt) = AuditLine::with_receipt(at, text);
        audit.push(0, line);
        receipt.recv_timeout(AUDIT_TIMEOUT).is_ok()
    }

    /// Records gaps between events of a stream, in microseconds. The stream is running or has just
    /// ended.
    pub fn gaps(
        &self,
        worker: usize,
        key: SeriesKey,
        itl: impl Iterator<Item = u64>,
        client_itl: impl Iterator<Item = u64>,
    ) {
        let mut shard = self.shards.shard(worker);
        let series = shard.series.entry(key).or_default();
        itl.for_each(|gap| series.record(Timing::Itl, gap));
        client_itl.for_each(|gap| series.record(Timing::ClientItl, gap));
    }

    /// Records how long the guardrail held events, in microseconds.
    pub fn holds(&self, worker: usize, key: SeriesKey, micros: impl Iterator<Item = u64>) {
        let mut shard = self.shards.shard(worker);
        let series = shard.series.entry(key).or_default();
        micros.for_each(|held| series.record(Timing::EventHold, held));
    }

    /// Records a request that finished at `now`.
    pub fn finished(&self, worker: usize, key: SeriesKey, record: Record, now: Tick) {
        let mut shard = self.shards.shard(worker);
        shard.series.entry(key).or_default().observe(&record);
        shard.rates.entry(key.group).or_default().add(now, stated_tokens(&record));
        drop(shard);
        self.pump.push(worker, record);
    }

    /// The last records, newest first.
    pub fn recent(&self, limit: usize) -> Vec<Arc<Record>> {
        let mut newest: Vec<Arc<Record>> = self.pump.waiting().into_iter().rev().collect();
        // A record that was delivered in between is in both lists.
        let listed = self.recent.newest(limit);
        newest.retain(|record| !listed.iter().any(|known| Arc::ptr_eq(known, record)));
        newest.extend(listed);
        newest.truncate(limit.min(self.recent.keep()));
        newest
    }

    /// The list of the last records, for readers that follow it.
    pub fn recent_list(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// Deliver the queued records and lines, and flush all sinks, because the process is about to
    /// end. It does not wait for other owners of the observatory to drop it.
    pub fn close(&self) {
        self.pump.close();
        self.audit.iter().for_each(Pump::close);
    }

    /// Delivery counts of each sink.
    pub fn sinks(&self) -> impl Iterator<Item = &Arc<SinkCounts>> {
        self.pump.counts().iter().chain(self.audit.iter().flat_map(Pump::counts))
    }

    /// What is wrong with each sink that does not deliver at the moment, in a line.
    pub fn sink_problems(&self) -> Vec<String> {
        self.sinks().filter_map(|counts| counts.problem()).collect()
    }

    /// Counts, rates of the last minute, percentiles and ledger shares of each route and backend.
    /// `up` is how long the process has run.
    pub fn overview(&self, now: Tick, up: Duration) -> Vec<Overview> {
        let rates = self.drained().rates.clone();
        let per_second = |group: GroupId| {
            rates.get(&group).map(|rate| rate.per_second(now, up)).unwrap_or_default()
        };
        overview::overviews(
            &self.merged(|key| (key.group, 0, Outcome::Ok)),
            &self.groups,
            per_second,
        )
    }

    /// Guardrail cost of each route, or only of `route`.
    pub fn guardrails(&self, route: Option<&str>) -> Vec<GuardrailOverview> {
        guardrails::overviews(&self.merged(|key| (key.group, 0, Outcome::Ok)), &self.groups, route)
    }

    /// The Prometheus exposition in `format`, in parts to send in order. `more` are samples of
    /// other components.
    pub fn prometheus(&self, format: Format, more: Vec<Sample>) -> Vec<Vec<u8>> {
        let since = format.has_exemplars().then_some(0);
        let traced = self.traced(since);
        let total = self.drained();
        export::prometheus(format, &self.sources(&total, traced), more)
    }

    /// Write all metrics to `out`. `more` are samples of other components.
    pub fn export<W: MetricWriter>(&self, out: &mut W, more: Vec<Sample>) {
        let traced = self.traced(out.exemplars_since());
        let total = self.drained();
        export::write(out, &self.sources(&total, traced), more);
    }

    /// Requests with traces that ended after `since`, in Unix microseconds; `None`: none.
    fn traced(&self, since: Option<u64>) -> TracedRecords {
        let Some(since) = since else { return TracedRecords::default() };
        let latest = self.recent.newest(exemplars::MAX_RECORDS).into_iter();
        TracedRecords::new(latest.filter(|record| {
            record.started_at.saturating_add(record.total_us) > since && self.traces.has(record)
        }))
    }

    fn sources<'a>(&'a self, total: &'a Shard, traced: TracedRecords) -> export::Sources<'a> {
        export::Sources {
            traced,
            series: &total.series,
            groups: &self.groups,
            gauges: &self.gauges,
            recent: &self.recent,
            audit: self.audit.as_ref(),
            pump: &self.pump,
        }
    }

    /// Counts of all workers. A worker is blocked only while its counts are taken, not while they
    /// are merged.
    fn drained(&self) -> MutexGuard<'_, Shard> {
        let mut total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        self.drain_into(&mut total);
        total
    }

    fn drain_into(&self, total: &mut Shard) {
        self.shards.for_each(|shard| {
            let Shard { series, rates } = std::mem::take(shard);
            series.iter().for_each(|(key, one)| total.series.entry(*key).or_default().merge(one));
            rates
                .iter()
                .for_each(|(group, rate)| total.rates.entry(*group).or_default().merge(rate));
        });
    }

    /// All series, merged by the key that `by` returns.
    fn merged(
        &self,
        by: impl Fn(&SeriesKey) -> (GroupId, u16, Outcome),
    ) -> HashMap<(GroupId, u16, Outcome), Series> {
        let mut all: HashMap<_, Series> = HashMap::new();
        self.drained()
            .series
            .iter()
            .for_each(|(key, series)| all.entry(by(key)).or_default().merge(series));
        all
    }
}

/// Generated tokens reported by the engine; 0 if they were estimated.
fn stated_tokens(record: &Record) -> u64 {
    let stated = record.usage.as_ref().filter(|usage| !usage.estimated);
    stated.and_then(|usage| usage.completion_tokens).unwrap_or(0)
}

#[cfg(test)]
mod tests;
