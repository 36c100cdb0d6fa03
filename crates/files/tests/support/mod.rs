//! Records for tests.
#![allow(dead_code, reason = "each test uses some of it")]

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::{Export, FileSource, Row, RowWriter, Source, Target};
use lens::gaps::{GapSketch, GapSummary};
use lens::guardrail::FilterAccount;
use lens::record::{
    MarkUs, MarksUs, Outcome, RecordAttempt, RecordHedge, RecordResume, RecordRouting, RecordUsage,
};
use lens::sketch::Sketch;
use lens::trace::{RecordInterval, RecordStall, RecordTrace};
use lens::{
    EngineSplit, GuardrailOverhead, Ledger, Record, RecordFormat, RecordGuardrail, State, Tick,
};
use observatory::RecordKey;

pub const FORMATS: [RecordFormat; 6] = [
    RecordFormat::Jsonl,
    RecordFormat::Csv,
    RecordFormat::Msgpack,
    RecordFormat::Protobuf,
    RecordFormat::Arrow,
    RecordFormat::Parquet,
];

/// The formats of this build.
pub fn formats() -> impl Iterator<Item = RecordFormat> {
    FORMATS.into_iter().filter(|format| files::is_supported(*format).is_ok())
}

fn gaps(count: u64) -> GapSummary {
    GapSummary { count, mean: 1.0 / 3.0, p50: 1, p90: 2, p99: 3, max: u64::MAX }
}

fn gap_sketch() -> GapSketch {
    let mut sketch = Sketch::default();
    [1, 70, u64::MAX].into_iter().for_each(|gap| sketch.add(gap));
    GapSketch(sketch)
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn mark(arrival: u64) -> Option<MarkUs> {
    Some(MarkUs { arrival: Some(arrival), written: Some(arrival + 1) })
}

fn trace() -> RecordTrace {
    RecordTrace {
        span_id: "00f067aa0ba902b7".into(),
        upstream_span_id: text("00f067aa0ba902b8"),
        provider: "openai".into(),
        server: "".into(),
        intervals: vec![
            RecordInterval { state: Cow::Borrowed("read_request"), from_us: -5, to_us: i64::MAX },
            RecordInterval { state: Cow::Borrowed("send"), from_us: i64::MIN, to_us: 0 },
        ],
        stall_times: vec![RecordStall { at_us: 7, us: 3 }],
    }
}

fn routing() -> RecordRouting {
    RecordRouting {
        pool: Some("edge".into()),
        chosen: Some("least_requests".into()),
        offload: Some("predicted".into()),
        engine_waiting: Some(4),
        predicted_ttft_us: Some(100_000),
        predicted_tpot_us: Some(1e-7 / 3.0),
        retry_denied: true,
        hedge: Some(RecordHedge {
            backend: "h".into(),
            won: true,
            after_us: 9,
            span_id: text("00f067aa0ba902b9"),
            provider: text("vllm"),
        }),
        resumes: vec![RecordResume { backend: "x".into(), after_tokens: 1, at_us: 2 }],
        failed_attempts: vec![
            RecordAttempt {
                backend: "f".into(),
                code: "c".into(),
                http_status: Some(500),
                us: 3,
                at_us: 4,
                span_id: text("00f067aa0ba902ba"),
                provider: text("openai"),
            },
            RecordAttempt {
                backend: "g".into(),
                code: String::new(),
                http_status: None,
                us: 0,
                at_us: 0,
                span_id: None,
                provider: None,
            },
        ],
    }
}

fn guardrail() -> RecordGuardrail {
    RecordGuardrail {
        guardrail: "strict".into(),
        mode: Cow::Borrowed("enforce"),
        input: [("email".into(), 2), ("a \"rule\", quoted".into(), u64::MAX)].into(),
        output: [("card".into(), 1)].into(),
        held_events: 5,
        held_bytes_max: 512,
        hold_us: Some(gaps(5)),
        verdict: Cow::Borrowed("redact"),
        risk: 0.1,
        level: Cow::Borrowed("LOW"),
        filters: vec![FilterAccount {
            filter: "judge".into(),
            side: Cow::Borrowed("input"),
            verdict: Cow::Borrowed("failed_open"),
            failure: Some(Cow::Borrowed("timeout")),
            calls: 2,
            cpu_us: 1,
            queue_us: 2,
            remote_us: 3,
            wall_us: 6,
            critical: true,
        }],
    }
}

fn overhead() -> GuardrailOverhead {
    GuardrailOverhead {
        validation_us: 1,
        threat_detection_us: 2,
        output_filtering_us: 3,
        hold_us: 4,
        total_us: 10,
        security_impact_percent: 100.0 / 3.0,
        first_event_delay_us: Some(3),
        last_event_delay_us: Some(7),
        added_ttft_us: Some(5),
        ttft_without_us: Some(6),
    }
}

/// A record with every field. A new field of a record breaks the compilation here: add it to the
/// table of columns, too.
#[allow(clippy::too_many_lines, reason = "a literal with every field")]
pub fn full() -> Row {
    let mut ledger = Ledger::open(State::ReadRequest, Tick(0));
    for (at, state) in State::ALL.into_iter().enumerate() {
        ledger.switch(state, Tick::from_micros(at as u64 * 10));
    }
    let record = Record {
        schema: lens::record::SCHEMA,
        id: "id, with \"quotes\"\r\nand lines".into(),
        unique_id: text("u"),
        trace_id: text("4bf92f3577b34da6a3ce929d0e0e4736"),
        parent_span_id: text("00f067aa0ba902b6"),
        trace_flags: Some(255),
        trace: Some(Box::new(trace())),
        started_at: 1_767_323_045_678_901,
        route: "chat".into(),
        backend: Some("engine".into()),
        routing: routing(),
        dialect: Some(Cow::Borrowed("openai_chat")),
        endpoint: "/v1/chat/completions".into(),
        caller: Some("anonymous".into()),
        owner: Some(" Ünïcode \u{1f600}\u{0} ".into()),
        cost: Some(0.1 + 0.7),
        model_requested: text("=HYPERLINK(\"x\")"),
        model_answered: text(""),
        http_status: Some(u16::MAX),
        stream: true,
        outcome: Outcome::ClientGone,
        error_code: text("e"),
        engine_error: text("ee"),
        finish_reasons: vec!["stop".into(), String::new(), "a,b".into()],
        usage: Some(RecordUsage {
            prompt_tokens: Some(u64::MAX),
            prompt_estimated: true,
            completion_tokens: Some(0),
            reasoning_tokens: Some(1),
            cached_tokens: Some(2),
            cache_write_tokens: Some(3),
            estimated: true,
        }),
        not_parsed: Some(Cow::Borrowed("gzip")),
        events: Some(12),
        content_events: Some(9),
        comments: Some(1),
        bytes_from_client: u64::MAX,
        bytes_to_client: 0,
        sent_us: Some(1),
        marks_us: MarksUs {
            first_byte: mark(1),
            first_event: mark(2),
            role: mark(3),
            reasoning: mark(4),
            content: mark(5),
            tool_call: mark(6),
            first_token: mark(7),
            last_token: Some(MarkUs { arrival: Some(8), written: None }),
        },
        engine_us: Some(1),
        engine_ttft_us: Some(2),
        engine_split: Some(EngineSplit {
            queue_us: Some(1),
            load_us: Some(2),
            prefill_us: Some(3),
            decode_us: Some(4),
            unexplained_us: Some(5),
            disagrees: true,
        }),
        client_ttft_us: Some(3),
        tpot_us: Some(1.0 / 3.0),
        itl_us: Some(gaps(1)),
        client_itl_us: Some(gaps(2)),
        client_itl_sketch: Some(gap_sketch()),
        event_times: None,
        stalls: Some(1),
        coalesced_events: Some(2),
        read_lag_us: Some(gaps(3)),
        guardrail: Some(Box::new(guardrail())),
        guardrail_overhead: Some(overhead()),
        ledger_us: ledger.close(Tick::from_micros(1000)),
        total_us: 1000,
    };
    let key = RecordKey { instance: "gw-1".into(), epoch: u64::MAX, sequence: 7 };
    Row { key: Some(key), record: Arc::new(record) }
}

/// A record with the required fields only, and without a key.
pub fn bare() -> Row {
    let json = r#"{"schema":1,"id":"","started_at":"1970-01-01T00:00:00Z","route":"","endpoint":"/","stream":false,
        "outcome":"ok","bytes_from_client":0,"bytes_to_client":0,"ledger_us":{},"total_us":0}"#;
    serde_json::from_str(&json.replace('\n', "")).expect("a record")
}

/// A record with a number.
pub fn numbered(sequence: u64) -> Row {
    let Row { record, .. } = bare();
    let outcome = if sequence.is_multiple_of(3) { Outcome::Timeout } else { Outcome::Ok };
    let id = format!("id-{sequence}");
    let record = Record { id, outcome, total_us: sequence * 1000, ..(*record).clone() };
    let key = RecordKey { instance: "gw-1".into(), epoch: 1, sequence };
    Row { key: Some(key), record: Arc::new(record) }
}

/// Writes rows to a file of any format: as JSON lines first, which an export converts.
pub fn write(folder: &Path, rows: &[Row], format: RecordFormat) -> PathBuf {
    let path = folder.join("all").with_extension(format.extension());
    let _ = std::fs::remove_file(&path);
    if !format.is_columnar() {
        let file = std::fs::File::create(&path).expect("a file");
        let mut out = RowWriter::new(file, format).expect("rows");
        rows.iter().for_each(|row| out.write(row).expect("written"));
        out.flush().expect("written");
        return path;
    }
    let from = write(folder, rows, RecordFormat::Msgpack);
    convert(&from, &path, format).expect("converted");
    path
}

/// Exports a file.
pub fn convert(from: &Path, to: &Path, format: RecordFormat) -> Result<u64, files::ExportError> {
    let export = Export {
        source: from.display().to_string(),
        conditions: Vec::new(),
        format,
        target: Target::File(to.to_owned()),
        resume: false,
        checkpoint: 10_000,
    };
    let open = |place: Option<&str>| {
        FileSource::open(from, place).map(|source| Box::new(source) as Box<dyn Source>)
    };
    export.copy(0, open, &mut |_| ())
}

/// All rows of a file.
pub fn read(path: &Path) -> Result<Vec<Row>, files::ReadError> {
    let format = RecordFormat::from_path(path).expect("a format");
    let mut reader = files::open(path, format)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.read()? {
        rows.push(row);
    }
    Ok(rows)
}
