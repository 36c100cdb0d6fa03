//! The place of one watcher in the stream of records, and the events that it gets next.
//!
//! - *In*: the list of recent records, closed seconds, the time.
//! - *Out*: a block of events, as server-sent events or as lines of JSON.
//! - *Never*: a record twice, or a missing one without a `gap`.

use std::fmt::Write as _;

use lens::Tick;
use observatory::{Recent, RecentRecord};
use serde_json::{Value, json};
use stats::{Cell, Filter, Labels, Statistics, cell_json};

/// A watcher without events for this long gets a comment, so that proxies keep the connection.
const KEEP_ALIVE: u64 = 15_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// The kinds of events that a watcher gets. Gaps come with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Events {
    records: bool,
    seconds: bool,
}

impl Events {
    /// The kinds of a list such as `record,second`. Default: both.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, String> {
        let Some(text) = text else { return Ok(Events { records: true, seconds: true }) };
        let mut events = Events { records: false, seconds: false };
        for word in text.split(',') {
            match word.trim() {
                "record" => events.records = true,
                "second" => events.seconds = true,
                other => return Err(format!("must be a list of record, second, not {other:?}")),
            }
        }
        Ok(events)
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Server-sent events.
    Sse,
    /// JSON objects, one in each line: the messages of a WebSocket.
    Lines,
}

/// The id of an event: the start of the process, and the number of the last record before or in the
/// event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    epoch: u64,
    sequence: u64,
}

impl Place {
    /// Reads an id, such as `1790000000000000-42`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (epoch, sequence) = text.split_once('-')?;
        Some(Place { epoch: epoch.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

/// A watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    filter: Filter,
    events: Events,
    form: Form,
    epoch: u64,
    /// The number of the next record to look at.
    next: u64,
    /// Whether the client saw events of an earlier process.
    was_restarted: bool,
    /// The next second to send.
    second: u64,
    sent_at: Option<Tick>,
}

impl Watcher {
    /// A watcher that continues after `place`, or begins with the next record. `second` is the one
    /// that is being counted.
    pub(super) fn new(
        filter: Filter,
        (events, form): (Events, Form),
        place: Option<Place>,
        recent: &Recent,
        second: u64,
    ) -> Self {
        let (epoch, newest) = (recent.epoch(), recent.next());
        let (next, was_restarted) = match place {
            None => (newest, false),
            Some(place) if place.epoch == epoch => {
                (place.sequence.saturating_add(1).min(newest), false)
            }
            Some(_) => (0, true),
        };
        Watcher { filter, events, form, epoch, next, was_restarted, second, sent_at: None }
    }

    /// The events since the last block, with at most `max` records. `now` is monotonic and in Unix
    /// microseconds.
    pub(super) fn block(
        &mut self,
        recent: &Recent,
        statistics: &Statistics,
        (now, wall_us): (Tick, u64),
        max: usize,
    ) -> String {
        let mut out = String::new();
        if self.events.records {
            self.records(recent, statistics, max, &mut out);
        } else {
            self.next = recent.next();
        }
        if self.events.seconds {
            self.seconds(statistics, now, wall_us, &mut out);
        }
        let sent_at = *self.sent_at.get_or_insert(now);
        let is_quiet = out.is_empty() && now.nanos_since(sent_at) >= KEEP_ALIVE;
        if is_quiet && self.form == Form::Sse {
            out.push_str(": keep-alive\n\n");
        }
        if !out.is_empty() {
            self.sent_at = Some(now);
        }
        out
    }

    fn records(&mut self, recent: &Recent, statistics: &Statistics, max: usize, out: &mut String) {
        let since = recent.since(self.next);
        if std::mem::take(&mut self.was_restarted) {
            self.gap("restart", None, None, out);
        }
        if since.lost > 0 {
            let last = (self.next + since.lost).saturating_sub(1);
            self.gap("overrun", Some(since.lost), Some(last), out);
        }
        let models = statistics.models();
        let is_selected = |one: &&std::sync::Arc<RecentRecord>| {
            let labels = Labels::of_record(&one.record, &models);
            self.filter.selects_requests(&labels, one.record.outcome)
        };
        let selected: Vec<_> = since.records.iter().filter(is_selected).collect();
        // The newest ones are of more use than the oldest.
        let skipped = selected.len().saturating_sub(max);
        if let Some(last) = skipped.checked_sub(1).and_then(|last| selected.get(last)) {
            self.gap("limit", Some(skipped as u64), Some(last.sequence), out);
        }
        for one in selected.iter().skip(skipped) {
            self.event("record", Some(one.sequence), one.json(), out);
        }
        self.next = since.next;
    }

    /// `skipped` records are missing, `last` is the last one of them.
    fn gap(&self, reason: &str, skipped: Option<u64>, last: Option<u64>, out: &mut String) {
        let data = json!({"skipped": skipped, "reason": reason});
        self.event("gap", last, &data.to_string(), out);
    }

    fn seconds(&mut self, statistics: &Statistics, now: Tick, wall_us: u64, out: &mut String) {
        for (number, cells) in statistics.seconds_from(self.second, now) {
            let mut cell = Cell::default();
            let selected = cells
                .iter()
                .filter(|((labels, outcome), _)| self.filter.selects_requests(labels, *outcome));
            selected.for_each(|(_, one)| cell.merge(one));
            let ago_us = now.0.saturating_sub(number * SECOND) / 1000;
            let mut data = cell_json(&cell);
            data.insert("unix_s".into(), (wall_us.saturating_sub(ago_us) as f64 / 1e6).into());
            let id = self.next.checked_sub(1);
            self.event("second", id, &Value::Object(data).to_string(), out);
            self.second = number + 1;
        }
    }

    fn event(&self, kind: &str, sequence: Option<u64>, data: &str, out: &mut String) {
        let id = sequence.map(|sequence| format!("{}-{sequence}", self.epoch));
        // Writing to a string does not fail.
        let _ = match (self.form, id) {
            (Form::Sse, Some(id)) => write!(out, "id: {id}\nevent: {kind}\ndata: {data}\n\n"),
            (Form::Sse, None) => write!(out, "event: {kind}\ndata: {data}\n\n"),
            (Form::Lines, Some(id)) => {
                writeln!(out, r#"{{"event":"{kind}","id":"{id}","data":{data}}}"#)
            }
            (Form::Lines, None) => writeln!(out, r#"{{"event":"{kind}","data":{data}}}"#),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lens::Record;

    use super::*;

    fn record(route: &str, outcome: &str) -> Arc<Record> {
        let value = json!({
            "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": route,
            "endpoint": "/v1/chat/completions", "stream": true, "outcome": outcome,
            "bytes_from_client": 1, "bytes_to_client": 2, "client_ttft_us": 20_500,
            "ledger_us": {"gateway": 20_000}, "total_us": 100_000
        });
        Arc::new(serde_json::from_value(value).expect("a record"))
    }

    fn at(seconds: f64) -> Tick {
        Tick((seconds * 1e9) as u64)
    }

    /// A gateway with a list of four records.
    struct Scene {
        recent: Recent,
        statistics: Statistics,
        next: u64,
    }

    impl Scene {
        fn new() -> Self {
            Scene { recent: Recent::new(4), statistics: Statistics::new(Tick(0)), next: 0 }
        }

        fn finish(&mut self, seconds: f64, records: &[Arc<Record>]) {
            self.recent.push(self.next, records);
            self.next += records.len() as u64;
            self.statistics.add(at(seconds), records);
        }

        fn watch(&self, filter: Filter, place: Option<Place>) -> Watcher {
            let events = Events::parse(None).expect("both");
            Watcher::new(filter, (events, Form::Sse), place, &self.recent, 0)
        }

        /// The events of a block: kind, sequence of the id, data.
        fn read(
            &self,
            watcher: &mut Watcher,
            seconds: f64,
            max: usize,
        ) -> Vec<(String, Option<u64>, Value)> {
            let clocks = (at(seconds), 1_000_000_000);
            let block = watcher.block(&self.recent, &self.statistics, clocks, max);
            let field = |event: &str, name: &str| {
                let mut lines = event.lines();
                lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
            };
            let events = block.split_terminator("\n\n").map(|event| {
                let place = field(event, "id: ").and_then(|id| Place::parse(&id));
                let data = field(event, "data: ").expect("data");
                (
                    field(event, "event: ").expect("a kind"),
                    place.map(|place| place.sequence),
                    serde_json::from_str(&data).expect("JSON"),
                )
            });
            events.collect()
        }
    }

    fn kinds(events: &[(String, Option<u64>, Value)]) -> Vec<(&str, Option<u64>)> {
        events.iter().map(|(kind, sequence, _)| (kind.as_str(), *sequence)).collect()
    }

    #[test]
    fn a_watcher_gets_each_record_once_and_each_second() {
        let mut scene = Scene::new();
        scene.finish(0.1, &[record("r", "ok")]);
        let mut watcher = scene.watch(Filter::default(), None);
        assert_eq!(scene.read(&mut watcher, 0.2, 9), []);
        scene.finish(0.3, &[record("r", "ok"), record("r", "timeout")]);
        let events = scene.read(&mut watcher, 0.4, 9);
        assert_eq!(kinds(&events), [("record", Some(1)), ("record", Some(2))]);
        assert_eq!(events[1].2["outcome"], "timeout");
        let events = scene.read(&mut watcher, 2.1, 9);
        assert_eq!(kinds(&events), [("second", Some(2)); 2]);
        assert_eq!(events[0].2["requests"], 3, "the second in which it connected");
        assert_eq!(
            (&events[1].2["requests"], &events[1].2["outcomes"]["ok"]),
            (&json!(0), &Value::Null)
        );
    }

    #[test]
    fn seconds_have_all_requests_of_the_filter() {
        let mut scene = Scene::new();
        let filter = Filter {
            labels: vec![(stats::Dimension::Route, "r".to_owned())],
            outcome: Some(lens::record::Outcome::Ok),
        };
        let mut watcher = scene.watch(filter, None);
        let all = [record("r", "ok"), record("r", "timeout"), record("s", "ok")];
        scene.finish(1.5, &all);
        let events = scene.read(&mut watcher, 2.5, 9);
        assert_eq!(kinds(&events), [("record", Some(0)), ("second", Some(2)), ("second", Some(2))]);
        let second = &events[2].2;
        assert_eq!(second["requests"], 1);
        assert_eq!(second["timings"]["client_ttft"]["p50_us"], 20_500);
        // 1.5 s ago, the second began.
        assert_eq!(second["unix_s"], 998.5);
    }

    #[test]
    fn a_slow_watcher_gets_a_gap_and_then_the_newest_records() {
        let mut scene = Scene::new();
        let mut watcher = scene.watch(Filter::default(), None);
        let many: Vec<_> = (0..10).map(|_| record("r", "ok")).collect();
        scene.finish(0.1, &many);
        let events = scene.read(&mut watcher, 0.2, 2);
        assert_eq!(
            kinds(&events),
            [("gap", Some(5)), ("gap", Some(7)), ("record", Some(8)), ("record", Some(9))]
        );
        assert_eq!(events[0].2, json!({"skipped": 6, "reason": "overrun"}));
        assert_eq!(events[1].2, json!({"skipped": 2, "reason": "limit"}));
        assert_eq!(scene.read(&mut watcher, 0.3, 2), []);
    }

    #[test]
    fn a_client_resumes_after_its_last_event() {
        let mut scene = Scene::new();
        let records: Vec<_> = (0..6).map(|_| record("r", "ok")).collect();
        scene.finish(0.1, &records);
        let epoch = scene.recent.epoch();
        let read = |epoch, sequence| {
            let mut watcher = scene.watch(Filter::default(), Some(Place { epoch, sequence }));
            let events = scene.read(&mut watcher, 0.2, 9);
            kinds(&events).iter().map(|(kind, id)| format!("{kind} {id:?}")).collect::<Vec<_>>()
        };
        assert_eq!(read(epoch, 3), ["record Some(4)", "record Some(5)"]);
        assert_eq!(read(epoch, 5), [""; 0]);
        assert_eq!(read(epoch, 1_000), [""; 0], "an id that was never given");
        assert_eq!(read(epoch, 0).first().map(String::as_str), Some("gap Some(1)"));
        let restarted = read(epoch - 1, 3);
        assert_eq!(restarted[..2], ["gap None", "gap Some(1)"]);
        assert_eq!(restarted.len(), 6);
    }

    #[test]
    fn quiet_watchers_get_comments() {
        let scene = Scene::new();
        let events = Events::parse(Some("record")).expect("valid");
        let form = (events, Form::Sse);
        let mut watcher = Watcher::new(Filter::default(), form, None, &scene.recent, 0);
        let mut block =
            |seconds| watcher.block(&scene.recent, &scene.statistics, (at(seconds), 0), 9);
        assert_eq!(block(0.0), "");
        assert_eq!(block(14.0), "");
        assert_eq!(block(15.0), ": keep-alive\n\n");
        assert_eq!(block(29.0), "");
    }

    #[test]
    fn messages_of_a_websocket_are_lines_of_json() {
        let mut scene = Scene::new();
        let both = (Events::parse(None).expect("both"), Form::Lines);
        let mut watcher = Watcher::new(Filter::default(), both, None, &scene.recent, 0);
        let many: Vec<_> = (0..6).map(|_| record("r", "ok")).collect();
        scene.finish(0.1, &many);
        let clocks = (at(1.5), 1_000_000_000);
        let block = watcher.block(&scene.recent, &scene.statistics, clocks, 1);
        let lines = block.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let lines: Vec<Value> = lines.collect();
        let kinds: Vec<_> = lines.iter().map(|line| line["event"].as_str()).collect();
        assert_eq!(kinds, ["gap", "gap", "record", "second"].map(Some));
        let id = format!("{}-5", scene.recent.epoch());
        assert_eq!(lines[2]["id"], id);
        assert_eq!(lines[2]["data"]["route"], "r");
        assert_eq!(watcher.block(&scene.recent, &scene.statistics, (at(1.9), 0), 1), "");
    }

    #[test]
    fn words_and_ids_are_checked() {
        assert_eq!(Events::parse(Some("second")), Ok(Events { records: false, seconds: true }));
        assert!(Events::parse(Some("record,gap")).is_err());
        for wrong in ["", "7", "7-", "-7", "a-7", "7-7-7", "7--7"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }
}
