//! A capture and what our readers make of it, in the shape of the golden readings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http1::head::{self, HeadLimits};
use http1::{BodyReader, Progress};
use serde_json::{Map, Value, json};
use wire::{Channel, Dialect, Event, EventVisitor, Framing, Part, Reader, ReaderLimits, Usage};

/// One recorded response and its golden reading.
pub struct Capture {
    path: PathBuf,
    bytes: Vec<u8>,
    meta: Value,
}

impl Capture {
    pub fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
        let mut all = Vec::new();
        for engine in
            std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir())
        {
            for file in std::fs::read_dir(engine).unwrap().map(|e| e.unwrap().path()) {
                if file.extension().is_some_and(|e| e == "json") {
                    all.push(Self::load(file));
                }
            }
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    pub fn named(name: &str) -> Self {
        Self::load(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/captures")
                .join(format!("{name}.json")),
        )
    }

    fn load(path: PathBuf) -> Self {
        let meta = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let bytes = std::fs::read(path.with_extension("http")).unwrap();
        Capture { path, bytes, meta }
    }

    pub fn name(&self) -> String {
        format!(
            "{}/{}",
            self.path.parent().unwrap().file_name().unwrap().display(),
            self.path.file_stem().unwrap().display()
        )
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn protocol(&self) -> &str {
        self.expected()["protocol"].as_str().unwrap()
    }

    pub fn expected(&self) -> &Value {
        &self.meta["expected"]
    }

    fn dialect(&self) -> Dialect {
        match self.protocol() {
            "tgi-generate" => Dialect::Generate,
            "ollama-chat" => Dialect::Ollama,
            name => Dialect::from_name(name).unwrap(),
        }
    }

    /// Every member of the golden reading that ours disagrees with.
    pub fn differences(&self, got: &Reading) -> Vec<String> {
        let want = self.expected();
        let mut wrong = Vec::new();
        for (key, got) in got.golden() {
            let want = normalised(&key, want.get(&key).unwrap_or(&Value::Null));
            let irrelevant = want.is_null()
                && matches!(
                    key.as_str(),
                    "events"
                        | "comments"
                        | "content_events"
                        | "complete"
                        | "error"
                        | "usage"
                        | "unterminated_tail"
                        | "content_t_us"
                );
            let whole_body = want.is_null()
                && matches!(key.as_str(), "first_content_event" | "last_content_event")
                && self.expected()["is_stream"] == false;
            let known = KNOWN.iter().any(|(name, k, _)| *name == self.name() && *k == key);
            if normalised(&key, &got) != want && !irrelevant && !whole_body && !known {
                wrong.push(format!("{}: {key}: want {want} got {got}", self.name()));
            }
        }
        wrong
    }

    /// Replays the recorded reads with their times; what differs from the golden times, if anything
    /// does.
    pub fn content_times_differ(&self) -> Option<String> {
        let want = self.expected().get("content_t_us")?.as_array()?.clone();
        let reads = self.meta["reads"].as_array()?;
        let chunks: Vec<&[u8]> = reads
            .iter()
            .map(|r| {
                let offset = r["offset"].as_u64().unwrap() as usize;
                &self.bytes[offset..offset + r["len"].as_u64().unwrap() as usize]
            })
            .collect();
        let reading = Reading::of(self, &chunks);
        let got: Vec<Value> =
            reading.content_reads.0.iter().map(|read| reads[*read]["t_us"].clone()).collect();
        (got != want).then(|| format!("content times: want {want:?} got {got:?}"))
    }
}

/// What golden readings write in more than one way.
fn normalised(key: &str, value: &Value) -> Value {
    match (key, value) {
        ("reasoning" | "text" | "finish_reason", Value::Null) => json!({}),
        ("tool_calls", Value::Null) => json!([]),
        ("tool_calls", Value::Array(calls)) => calls
            .iter()
            .map(|call| {
                let mut call = call.clone();
                // Arguments that are an object in one dialect are compared as what they mean.
                let text = call["arguments"].as_str().unwrap_or_default().to_owned();
                call["arguments"] = serde_json::from_str(&text).unwrap_or(Value::String(text));
                call
            })
            .collect(),
        ("usage", Value::Object(usage)) if usage.values().all(Value::is_null) => Value::Null,
        ("usage", Value::Object(usage)) => Value::Object(
            usage
                .iter()
                .filter(|(k, v)| !v.is_null() && k.as_str() != "total_tokens")
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        ),
        // Absent, null and empty are one; a code is compared as text.
        ("error", Value::Object(error)) => ["type", "message", "code"]
            .into_iter()
            .filter_map(|k| match error.get(k)? {
                Value::String(s) if !s.is_empty() => Some((k.to_owned(), json!(s))),
                Value::Number(n) => Some((k.to_owned(), json!(n.to_string()))),
                _ => None,
            })
            .collect::<Map<_, _>>()
            .into(),
        ("unterminated_tail", Value::Null) => json!(0),
        _ => value.clone(),
    }
}

/// Where we read something else than the golden reading on purpose: capture, member, reason.
const KNOWN: [(&str, &str, &str); 5] = [
    (
        "tgi/generate_stream_length_no_details",
        "end_marker",
        "generated_text is TGI's mark of the last event, with details or without",
    ),
    (
        "vllm/responses_stream",
        "finish_reason",
        "the reason in incomplete_details says more than the status",
    ),
    (
        "vllm/responses_stream_reasoning",
        "finish_reason",
        "the reason in incomplete_details says more than the status",
    ),
    (
        "anthropic/messages_stream_overloaded_midway",
        "usage",
        "the output_tokens of message_start are a placeholder and not believed",
    ),
    ("azure/error_400_content_filter", "error", "the golden reading took the status for the type"),
];

/// Indices of reads. Two readings of the same bytes are equal however the bytes were cut.
#[derive(Debug, Default)]
pub struct Reads(pub Vec<usize>);

impl PartialEq for Reads {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What we read.
#[derive(Debug, Default, PartialEq)]
pub struct Reading {
    pub status: u16,
    pub framing: &'static str,
    pub events: usize,
    pub comments: usize,
    pub content: Vec<usize>,
    /// For each content event the read that completed it; does not depend on the meaning, so it is
    /// not compared.
    pub content_reads: Reads,
    pub roles: Vec<usize>,
    pub text: BTreeMap<u32, String>,
    pub reasoning: BTreeMap<u32, String>,
    pub tool_calls: BTreeMap<(u32, u32), (String, String)>,
    pub usage: Option<Usage>,
    pub usage_events: usize,
    pub finish: BTreeMap<u32, String>,
    pub error: Option<(Option<String>, Option<String>, Option<String>)>,
    pub end: Option<&'static str>,
    pub not_understood: usize,
    pub unterminated: usize,
    body_complete: bool,
    current_read: usize,
}

impl Reading {
    /// Feed the bytes of a whole response, head and transfer coding included, in those pieces.
    pub fn of(capture: &Capture, pieces: &[&[u8]]) -> Self {
        let mut reading = Reading::default();
        let mut buffer = Vec::new();
        let mut open: Option<(BodyReader, Reader)> = None;
        for (at, piece) in pieces.iter().enumerate() {
            reading.current_read = at;
            buffer.extend_from_slice(piece);
            if open.is_none() {
                let Some(len) = head::find_end(&buffer, 0, HeadLimits::default()).unwrap() else {
                    continue;
                };
                open = Some(reading.open(capture, &buffer[..len]));
                buffer.drain(..len);
            }
            let (body, reader) = open.as_mut().unwrap();
            reading.body(body, reader, &mut buffer);
        }
        reading.current_read = 0;
        let (mut body, mut reader) = open.expect("the capture holds a head");
        reading.body_complete = body.is_done() || body.closed().is_ok();
        reader.finish(&mut reading);
        reading.unterminated = reader.unterminated();
        reading
    }

    fn open(&mut self, capture: &Capture, bytes: &[u8]) -> (BodyReader, Reader) {
        let mut fields = head::field_buffer();
        let head = head::parse_response(bytes, &mut fields, HeadLimits::default(), false).unwrap();
        self.status = head.line.status;
        let content_type =
            head.get("content-type").map(String::from_utf8_lossy).unwrap_or_default();
        let framing = Framing::from_content_type(&content_type);
        self.framing = match framing {
            Framing::Sse => "sse",
            Framing::Ndjson => "ndjson",
            Framing::Json => "json",
            Framing::Opaque => "text",
        };
        (
            BodyReader::new(head.framing),
            Reader::new(capture.dialect(), framing, ReaderLimits::default()),
        )
    }

    fn body(&mut self, body: &mut BodyReader, reader: &mut Reader, buffer: &mut Vec<u8>) {
        let mut rest = &buffer[..];
        while let Progress::Data { skip, len } = body.next(rest).unwrap() {
            reader.feed(&rest[skip..skip + len], self);
            rest = &rest[skip + len..];
        }
        buffer.clear();
    }

    fn golden(&self) -> Map<String, Value> {
        let by_choice = |map: &BTreeMap<u32, String>| -> Value {
            map.iter().map(|(k, v)| (k.to_string(), json!(v))).collect::<Map<_, _>>().into()
        };
        let calls: Vec<Value> = self
            .tool_calls
            .iter()
            .map(|((choice, index), (name, arguments))| json!({"choice": choice.to_string(), "index": index, "name": name, "arguments": arguments}))
            .collect();
        let stream = matches!(self.framing, "sse" | "ndjson");
        let is_error = self.error.is_some() || self.status >= 400;
        let code = |c: &Option<String>| {
            c.as_ref()
                .map_or(Value::Null, |c| c.parse::<i64>().map_or_else(|_| json!(c), |n| json!(n)))
        };
        let golden = json!({
            "http_status": self.status,
            "framing": self.framing,
            "is_stream": stream,
            "events": self.events,
            "comments": self.comments,
            "content_events": self.content.len(),
            "first_content_event": self.content.first(),
            "last_content_event": self.content.last(),
            "text": by_choice(&self.text),
            "reasoning": by_choice(&self.reasoning),
            "tool_calls": calls,
            "usage": self.usage.map(usage_json),
            "finish_reason": by_choice(&self.finish),
            "end_marker": self.end,
            "is_error": is_error,
            "error": self.error.as_ref().map(|(kind, message, c)| json!({"type": kind, "message": message, "code": code(c)})),
            "unterminated_tail": self.unterminated,
        });
        golden.as_object().unwrap().clone()
    }
}

fn usage_json(u: Usage) -> Value {
    let all = [
        ("prompt_tokens", u.prompt_tokens),
        ("completion_tokens", u.completion_tokens),
        ("cached_tokens", u.cached_tokens),
        ("reasoning_tokens", u.reasoning_tokens),
    ];
    all.into_iter()
        .filter_map(|(k, v)| Some((k.to_owned(), json!(v?))))
        .collect::<Map<_, _>>()
        .into()
}

impl EventVisitor for Reading {
    fn part(&mut self, part: Part<'_>) {
        match part {
            Part::Role => self.roles.push(self.events),
            Part::Text { channel, choice, index, text } => {
                let text = text.decode();
                match channel {
                    Channel::Content | Channel::Refusal => {
                        self.text.entry(choice).or_default().push_str(&text)
                    }
                    Channel::Reasoning => self.reasoning.entry(choice).or_default().push_str(&text),
                    Channel::ToolName => {
                        self.tool_calls.entry((choice, index)).or_default().0.push_str(&text)
                    }
                    Channel::Auxiliary => {}
                    Channel::ToolArguments => {
                        self.tool_calls.entry((choice, index)).or_default().1.push_str(&text)
                    }
                }
            }
            Part::Finish { choice, reason } => {
                self.finish.insert(choice, reason.decode().into_owned());
            }
            Part::Usage(usage) => {
                self.usage.get_or_insert_default().update(usage);
                self.usage_events += 1;
            }
            Part::Model(_) | Part::Times(_) => {}
            Part::Error { kind, message, code } => {
                let own = |t: Option<wire::json::Text<'_>>| t.map(|t| t.decode().into_owned());
                self.error = Some((own(kind), own(message), own(code)));
            }
            Part::End(marker) => self.end = Some(marker),
        }
    }

    fn event(&mut self, event: &Event) {
        if event.kinds.is_token() && matches!(self.framing, "sse" | "ndjson") {
            self.content.push(self.events);
            self.content_reads.0.push(self.current_read);
        }
        self.not_understood += usize::from(!event.understood);
        self.events += 1;
    }

    fn comment(&mut self, _end: usize) {
        self.comments += 1;
    }
}
