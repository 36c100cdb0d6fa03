//! Destinations that fail, hang and refuse; processes that end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use crate::sink_counts::{Circuit, DropReason};
use crate::tests::record;

use super::*;

/// A store, and how it answers.
#[derive(Default)]
struct Store {
    /// How often each key was accepted.
    accepted: Mutex<BTreeMap<RecordKey, u32>>,
    answers: Mutex<Vec<Result<(), DeliveryError>>>,
    is_down: std::sync::atomic::AtomicBool,
}

impl Store {
    fn set_down(&self, down: bool) {
        self.is_down.store(down, std::sync::atomic::Ordering::SeqCst);
    }

    fn sequences(&self) -> Vec<u64> {
        self.accepted.lock().unwrap().keys().map(|key| key.sequence).collect()
    }
}

struct ToStore(Arc<Store>);

fn unavailable() -> DeliveryError {
    DeliveryError::Retryable { why: "connection refused".into(), after: None }
}

impl Destination for ToStore {
    fn name(&self) -> &'static str {
        "store"
    }

    fn deliver(&mut self, batch: &[NumberedRecord], _: Duration) -> Result<(), DeliveryError> {
        let answer = self.0.answers.lock().unwrap().pop();
        answer.unwrap_or(Ok(()))?;
        if self.0.is_down.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(unavailable());
        }
        let mut accepted = self.0.accepted.lock().unwrap();
        batch.iter().for_each(|numbered| *accepted.entry(numbered.key.clone()).or_default() += 1);
        Ok(())
    }
}

/// Blocks in each attempt until it is released.
struct Hanging {
    begun: SyncSender<usize>,
    go: Receiver<()>,
}

impl Destination for Hanging {
    fn name(&self) -> &'static str {
        "hanging"
    }

    fn deliver(&mut self, batch: &[NumberedRecord], _: Duration) -> Result<(), DeliveryError> {
        let _ = self.begun.send(batch.len());
        let _ = self.go.recv();
        Ok(())
    }
}

fn settings(spill: Option<&Path>) -> DeliverySettings {
    DeliverySettings {
        batch: 10,
        queue: 100,
        linger: Duration::ZERO,
        timeout: Duration::from_secs(1),
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        spill: spill.map(|path| SpillSettings {
            path: path.to_owned(),
            max_size: 64 << 20,
            max_age: None,
            when_full: WhenFull::DropOldest,
        }),
    }
}

fn batch(count: usize) -> Vec<Arc<Record>> {
    (0..count).map(|_| Arc::new(record("m", "ok"))).collect()
}

fn key(sequence: u64) -> RecordKey {
    RecordKey::first().plus(sequence)
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn dropped(counts: &SinkCounts) -> Vec<(DropReason, u64)> {
    counts.dropped_by_reason().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn batches_are_sent_again_until_they_are_accepted() {
    let store = Arc::new(Store::default());
    let after = Some(Duration::from_millis(2));
    *store.answers.lock().unwrap() = vec![
        Err(unavailable()),
        Err(DeliveryError::Retryable { why: "503".into(), after }),
        Err(unavailable()),
        Err(unavailable()),
    ];
    let mut sink = DeliverySink::start(ToStore(store.clone()), settings(None)).unwrap();
    let counts = sink.own_counts().unwrap();
    sink.deliver_numbered(&key(0), &batch(25)).unwrap();
    until("all are delivered", || counts.delivered() == 25);
    let delivery = counts.delivery().unwrap();
    assert_eq!((delivery.retries(), delivery.circuit()), (4, Circuit::Closed));
    drop(sink);
    assert_eq!((counts.last_error(), counts.dropped(), delivery.queued()), (None, 0, 0));
    assert_eq!(store.sequences(), (0..25).collect::<Vec<_>>());
    assert!(store.accepted.lock().unwrap().values().all(|times| *times == 1));
}

#[test]
fn refused_records_are_counted_and_the_next_ones_are_sent() {
    let store = Arc::new(Store::default());
    let refused = DeliveryError::Permanent { lost: 3, why: "400".into() };
    *store.answers.lock().unwrap() = vec![Err(refused)];
    let mut sink = DeliverySink::start(ToStore(store.clone()), settings(None)).unwrap();
    let counts = sink.own_counts().unwrap();
    sink.deliver_numbered(&key(0), &batch(10)).unwrap();
    until("the first batch is settled", || counts.delivered() == 7);
    assert_eq!(counts.last_error().as_deref(), Some("400"));
    sink.deliver_numbered(&key(10), &batch(10)).unwrap();
    drop(sink);
    assert_eq!(counts.delivered(), 17);
    assert_eq!(dropped(&counts), [(DropReason::Rejected, 3)]);
    assert_eq!(store.sequences(), (10..20).collect::<Vec<_>>());
}

/// Without a spill, the queue bounds what waits, and the end waits for a limited time.
#[test]
fn hanging_destination_bounds_memory_and_does_not_delay_the_end() {
    let ((begun, batches), (go, wait)) = (sync_channel(100), sync_channel(100));
    let mut sink = DeliverySink::start(Hanging { begun, go: wait }, settings(None)).unwrap();
    let counts = sink.own_counts().unwrap();
    sink.deliver_numbered(&key(0), &batch(10)).unwrap();
    assert_eq!(batches.recv(), Ok(10));
    sink.deliver_numbered(&key(10), &batch(95)).unwrap();
    assert_eq!(dropped(&counts), [(DropReason::QueueFull, 5)]);
    assert_eq!(counts.delivery().unwrap().queued(), 100);
    drop(sink);
    assert_eq!(dropped(&counts), [(DropReason::QueueFull, 5), (DropReason::Shutdown, 100)]);
    drop(go);
}

#[test]
fn unavailable_destination_loses_nothing_with_a_spill() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::default());
    store.set_down(true);
    let mut sink = DeliverySink::start(ToStore(store.clone()), settings(Some(folder.path())));
    let mut first = sink.as_mut().unwrap().own_counts().unwrap();
    let mut sent = 0;
    for restart in 0..3 {
        let counts = first.clone();
        // More than the queue holds.
        for _ in 0..10 {
            sink.as_mut().unwrap().deliver_numbered(&key(sent), &batch(90)).unwrap();
            sent += 90;
            let delivery = counts.delivery().unwrap();
            until("the spiller has taken them", || delivery.queued() == 0);
        }
        until("the circuit opens", || {
            counts.delivery().unwrap().circuit() == Circuit::Open && counts.last_error().is_some()
        });
        let problem = counts.problem().unwrap_or_default();
        // The probe of a half-open circuit may be under way.
        assert!(problem.contains("connection refused") || problem.is_empty(), "{problem}");
        assert_eq!(counts.delivery().unwrap().spilled(), sent, "restart {restart}");
        assert!(counts.delivery().unwrap().spilled_bytes() > 100 * sent);
        sink = {
            drop(sink);
            DeliverySink::start(ToStore(store.clone()), settings(Some(folder.path())))
        };
        assert_eq!((counts.delivered(), counts.dropped()), (0, 0));
        first = sink.as_mut().unwrap().own_counts().unwrap();
    }
    store.set_down(false);
    until("all are delivered", || first.delivered() == sent);
    drop(sink);
    assert_eq!(store.sequences(), (0..sent).collect::<Vec<_>>());
    assert_eq!((first.dropped(), first.delivery().unwrap().spilled()), (0, 0));
}

/// The folder of the spill vanishes: records go from memory to the destination. It comes back.
#[test]
fn records_are_sent_from_memory_while_the_disk_fails() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("spill");
    let store = Arc::new(Store::default());
    let mut sink = DeliverySink::start(ToStore(store.clone()), settings(Some(&folder))).unwrap();
    let counts = sink.own_counts().unwrap();
    let delivery = counts.delivery().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    sink.deliver_numbered(&key(0), &batch(20)).unwrap();
    until("they are delivered without the spill", || counts.delivered() == 20);
    assert!(delivery.spill_failures() > 0 && delivery.spill_error().is_some());
    assert!(counts.problem().is_some_and(|problem| problem.contains("spill")));
    std::fs::create_dir(&folder).unwrap();
    sink.deliver_numbered(&key(20), &batch(20)).unwrap();
    until("the spill is used again", || {
        delivery.spill_error().is_none() && counts.delivered() == 40
    });
    drop(sink);
    assert_eq!(store.sequences(), (0..40).collect::<Vec<_>>());
    assert_eq!(counts.dropped(), 0);
}

/// During an upgrade, the predecessor still has the folder.
#[test]
fn spill_of_another_process_is_used_when_it_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::default());
    store.set_down(true);
    let start = || DeliverySink::start(ToStore(store.clone()), settings(Some(folder.path())));
    let mut predecessor = start().unwrap();
    let mut successor = start().unwrap();
    let counts = successor.own_counts().unwrap();
    let problem = counts.problem().unwrap_or_default();
    assert!(problem.contains("in use"), "{problem}");
    predecessor.deliver_numbered(&key(0), &batch(30)).unwrap();
    successor.deliver_numbered(&key(30), &batch(30)).unwrap();
    drop(predecessor);
    until("the spill is taken over", || counts.delivery().unwrap().spilled() == 60);
    store.set_down(false);
    until("all are delivered", || counts.delivered() == 60);
    drop(successor);
    assert_eq!(store.sequences(), (0..60).collect::<Vec<_>>());
    assert_eq!(counts.dropped(), 0);
}

#[test]
fn panicking_destination_loses_its_batch_only() {
    struct Panicking(u32);
    impl Destination for Panicking {
        fn name(&self) -> &'static str {
            "panicking"
        }
        fn deliver(&mut self, _: &[NumberedRecord], _: Duration) -> Result<(), DeliveryError> {
            self.0 += 1;
            assert!(self.0 > 1, "a test asked for a panic");
            Ok(())
        }
    }
    let mut sink = DeliverySink::start(Panicking(0), settings(None)).unwrap();
    let counts = sink.own_counts().unwrap();
    sink.deliver_numbered(&key(0), &batch(10)).unwrap();
    until("the first batch is settled", || counts.dropped() == 10);
    sink.deliver_numbered(&key(10), &batch(10)).unwrap();
    drop(sink);
    assert_eq!((counts.delivered(), dropped(&counts)), (10, vec![(DropReason::Rejected, 10)]));
}

/// Reports the size of each batch, and zero when it is idle.
struct Sizes(SyncSender<usize>);

impl Destination for Sizes {
    fn name(&self) -> &'static str {
        "sizes"
    }

    fn deliver(&mut self, batch: &[NumberedRecord], _: Duration) -> Result<(), DeliveryError> {
        let _ = self.0.send(batch.len());
        Ok(())
    }

    fn idle(&mut self) {
        let _ = self.0.send(0);
    }
}

#[test]
fn records_wait_for_a_full_batch_or_the_end() {
    let (sizes, batches) = sync_channel(100);
    let patient = DeliverySettings { linger: Duration::from_secs(3600), ..settings(None) };
    let mut sink = DeliverySink::start(Sizes(sizes), patient).unwrap();
    for from in [0, 4, 8, 12] {
        sink.deliver_numbered(&key(from), &batch(4)).unwrap();
    }
    assert_eq!(batches.recv(), Ok(10));
    assert!(batches.try_recv().is_err(), "the others wait");
    drop(sink);
    assert_eq!(batches.iter().collect::<Vec<_>>(), [6]);
}

#[test]
fn records_wait_no_longer_than_their_time() {
    let (sizes, batches) = sync_channel(100);
    let linger = Duration::from_millis(30);
    let mut sink = DeliverySink::start(Sizes(sizes), DeliverySettings { linger, ..settings(None) });
    let started = Instant::now();
    sink.as_mut().unwrap().deliver_numbered(&key(0), &batch(3)).unwrap();
    assert_eq!(batches.recv(), Ok(3));
    assert!(started.elapsed() >= linger);
    assert_eq!(batches.recv(), Ok(0), "then it is idle");
}

#[test]
fn metrics_name_the_state_of_each_sink() {
    let store = Arc::new(Store::default());
    store.set_down(true);
    let sink = DeliverySink::start(ToStore(store), settings(None)).unwrap();
    let counts = sink.own_counts().unwrap();
    let observatory = crate::Observatory::new(1, 1, vec![Box::new(sink)]);
    let (group, _) = observatory.group(crate::tests::group("r"));
    let outcome = lens::record::Outcome::Ok;
    let key = crate::SeriesKey { group, model: 1, outcome };
    observatory.finished(0, key, record("m1", "ok"), lens::Tick(1));
    until("it has failed three times", || counts.delivery().unwrap().retries() >= 3);
    let text = observatory.prometheus(crate::Format::Text, Vec::new()).concat();
    let text = String::from_utf8(text).unwrap();
    for line in [
        r#"llm_lens_sink_records_total{sink="store"} 0"#,
        r#"llm_lens_sink_queued_records{sink="store"} 1"#,
        r#"llm_lens_sink_state{sink="store",state="closed"} 0"#,
        r#"llm_lens_sink_dropped_records_total{sink="store",reason="queue_full"} 0"#,
        r#"llm_lens_sink_dropped_records_total{sink="recent",reason="failed"} 0"#,
    ] {
        assert!(text.contains(line), "missing {line} in\n{text}");
    }
    assert!(!text.contains(r#"llm_lens_sink_state{sink="recent""#));
    assert_eq!(observatory.sink_problems().len(), 1);
}
