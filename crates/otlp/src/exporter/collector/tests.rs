//! A scripted client below the destination.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::*;
use crate::exporter::Io;
use crate::exporter::counts::Counts;
use crate::exporter::tests::{record, settings};

/// Answers in order, then accepts; and the requests.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Result<Accepted, ExportError>>>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Export for Script {
    async fn export(&mut self, request: &Request) -> Result<Accepted, ExportError> {
        self.requests.lock().push(request.clone());
        self.answers.lock().pop_front().unwrap_or_else(|| Ok(Accepted::default()))
    }
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Result<Accepted, ExportError>>) -> Self {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        Script { answers, ..Script::default() }
    }

    /// Items of each request, by resource.
    fn sizes(&self) -> Vec<Vec<usize>> {
        let sizes = |request: &Request| match request {
            Request::Traces(message) => {
                let parts = message.resource_spans.iter();
                parts.map(|part| part.scope_spans[0].spans.len()).collect()
            }
            Request::Logs(message) => {
                let parts = message.resource_logs.iter();
                parts.map(|part| part.scope_logs[0].log_records.len()).collect()
            }
            Request::Metrics(_) => panic!("records are no metrics"),
        };
        self.requests.lock().iter().map(sizes).collect()
    }
}

fn collector(script: &Script, signal: Signal, max_batch: usize) -> Collector<Script> {
    let settings = settings(&[]);
    let resources = Resources::new(&settings.resource);
    let io = Io::start().expect("a thread");
    let shared = Arc::new(Shared { settings, resources, counts: Counts::default(), io });
    Collector::new(shared, signal, script.clone(), max_batch)
}

fn batch(count: u64) -> Vec<NumberedRecord> {
    let numbered = |number| NumberedRecord {
        key: RecordKey::first().plus(number),
        record: record(number + 1),
    };
    (0..count).map(numbered).collect()
}

const LIMIT: Duration = Duration::from_secs(60);

fn unavailable() -> Result<Accepted, ExportError> {
    Err(ExportError::retryable("http_503", "busy"))
}

#[test]
fn batches_are_split_by_items_and_not_within_a_record() {
    for signal in [Signal::Traces, Signal::Logs] {
        let script = Script::default();
        assert_eq!(collector(&script, signal, 2).deliver(&batch(5), LIMIT), Ok(()));
        assert_eq!(script.sizes(), [[2], [2], [1]], "{signal:?}");
    }
    let script = Script::default();
    assert_eq!(collector(&script, Signal::Logs, 100).deliver(&[], LIMIT), Ok(()));
    assert!(script.sizes().is_empty());
}

/// What a collector has accepted is not sent again, unless the batch begins elsewhere.
#[test]
fn a_batch_that_comes_again_continues_where_it_failed() {
    let after = Some(Duration::from_secs(7));
    let busy = || Err(ExportError { retry_after: after, ..ExportError::retryable("http_429", "") });
    let script = Script::new([Ok(Accepted::default()), busy(), unavailable()]);
    let mut collector = collector(&script, Signal::Logs, 2);
    let retryable = collector.deliver(&batch(4), LIMIT).unwrap_err();
    assert!(matches!(retryable, DeliveryError::Retryable { after: got, .. } if got == after));
    assert!(collector.deliver(&batch(4), LIMIT).is_err());
    // More records were read from the spill.
    assert_eq!(collector.deliver(&batch(5), LIMIT), Ok(()));
    assert_eq!(script.sizes(), [[2], [2], [2], [2], [1]]);
    // A batch that begins with another record is another one.
    *script.answers.lock() = VecDeque::from([Ok(Accepted::default()), unavailable()]);
    assert!(collector.deliver(&batch(4), LIMIT).is_err());
    assert_eq!(collector.deliver(&batch(4)[1..], LIMIT), Ok(()));
    assert_eq!(script.sizes()[5..], [[2], [2], [2], [1]]);
}

#[test]
fn refused_parts_are_counted_and_the_rest_is_delivered() {
    let partial = Accepted { rejected: 1, message: "too long".into() };
    let refused = ExportError { permanent: true, ..ExportError::retryable("http_404", "") };
    let script = Script::new([Ok(partial), Err(refused)]);
    let mut collector = collector(&script, Signal::Logs, 2);
    let Err(DeliveryError::Permanent { lost, why }) = collector.deliver(&batch(6), LIMIT) else {
        panic!("a part was refused");
    };
    assert_eq!((lost, script.sizes().len()), (3, 3));
    assert!(why.contains("otlp.logs: false"), "{why}");
}

#[test]
fn records_of_an_earlier_process_keep_its_resource() {
    let mut records = batch(4);
    for record in &mut records[..3] {
        record.key.epoch -= 1;
    }
    for signal in [Signal::Traces, Signal::Logs] {
        let script = Script::default();
        assert_eq!(collector(&script, signal, 100).deliver(&records, LIMIT), Ok(()));
        assert_eq!(script.sizes(), [[3, 1]], "{signal:?}");
    }
}

#[test]
fn a_batch_ends_with_its_time() {
    /// Never answers.
    struct Hanging;
    impl Export for Hanging {
        async fn export(&mut self, _: &Request) -> Result<Accepted, ExportError> {
            std::future::pending().await
        }
    }
    let Collector { shared, .. } = collector(&Script::default(), Signal::Logs, 1);
    let mut collector = Collector::new(shared, Signal::Logs, Hanging, 1);
    let late = collector.deliver(&batch(1), Duration::from_millis(1));
    assert!(matches!(late, Err(DeliveryError::Retryable { why, .. }) if why.contains("timeout")));
}
