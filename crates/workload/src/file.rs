//! The workload file of `llm-lens run --config`.
//!
//! - *In*: YAML, and the folder that relative paths begin at.
//! - *Out*: a [`WorkloadFile`]: what the file says, without defaults.
//! - *Never*: a key that is dropped. All problems are reported at once, with line and column.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use yaml::Problems;

use crate::arrival::{Arrival, MAX_BURST, MAX_RATE, Spacing, Stage, Stop};
use crate::document::{Section, read};
use crate::image::MAX_SIDE;
use crate::length::{Length, MAX_LENGTH};
use crate::prompts::Prompts;
use crate::provider::Provider;
use crate::request::{Cancel, Images, Pause, Prefix, Workload};
use crate::text::{Tokenizer, Unit};
use crate::trace::PACES;

/// Maximum users of a closed loop.
pub(crate) const MAX_CONCURRENCY: u64 = 15_000;
/// Maximum images of a prompt.
const MAX_IMAGES: u64 = 16;
/// Maximum choices of an answer.
const MAX_CHOICES: u64 = 128;
/// Maximum groups of prompts with the same prefix, and tokens of all prefixes together.
const MAX_GROUPS: u64 = 10_000;
const MAX_PREFIXES: u64 = 50_000_000;

/// What a workload file says. Absent is the default.
#[derive(Debug)]
pub struct WorkloadFile {
    /// URL of the server.
    pub base_url: Option<String>,
    /// Preset of the server.
    pub provider: Option<Provider>,
    /// Model to request.
    pub model: Option<String>,
    /// Environment variable with the key.
    pub api_key_env: Option<String>,
    /// Seed of everything random.
    pub seed: Option<u64>,
    /// Whether answers are streamed.
    pub stream: Option<bool>,
    /// Maximum time of a request.
    pub timeout: Option<Duration>,
    /// Requests before the run that are not measured.
    pub warm_up: Option<u64>,
    /// Maximum error of the client.
    pub max_client_error: Option<Duration>,
    /// Objectives, as `--slo` has them.
    pub objectives: Option<String>,
    /// How requests arrive.
    pub arrival: Option<Arrival>,
    /// When the run stops.
    pub stop: Option<Stop>,
    /// A trace and the pace at which it is replayed.
    pub replay: Option<(PathBuf, f64)>,
    /// Values of settings, each combination of which is a run.
    pub sweep: Option<Sweep>,
    /// Length and number of the prefixes, whose texts depend on the seed.
    pub prefix: Option<(u32, u32)>,
    /// Requests; its prompts are those of the file, if it names any.
    pub workload: Workload,
    /// Whether the file names prompts.
    pub has_prompts: bool,
}

/// Values of settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sweep {
    /// Users of a closed loop.
    pub concurrency: Vec<usize>,
    /// Requests per second of an open loop.
    pub rate: Vec<f64>,
    /// Lengths of prompts.
    pub prompt_length: Vec<Length>,
    /// Maximum tokens of answers.
    pub max_tokens: Vec<Length>,
}

impl WorkloadFile {
    /// The workload, with the texts of its prefixes.
    pub fn workload(&self, seed: u64) -> Workload {
        let mut workload = self.workload.clone();
        let make = |(length, groups)| Prefix::new(length, groups, &workload.unit, seed);
        workload.prefix = self.prefix.map(make);
        workload
    }
}

/// A workload file to begin with. It is valid unchanged.
pub const STARTER: &str = "\
# A workload for: llm-lens run --config bench.yaml
# Arguments of the command line replace what stands here. docs/load-test.md has every key.
base_url: http://127.0.0.1:8080
# provider: vllm              # openai, anthropic, azure, vllm, sglang, tgi, ollama, llamacpp
# model: m                    # default: the first model that the server lists
# api_key_env: LLM_API_KEY    # environment variable with the key

arrival:
  kind: poisson               # closed, poisson, constant, gamma, burst
  rate: 5                     # requests per second
  # stages:                   # instead of rate: a ramp, then a step
  #   - {from: 1, to: 20, duration: 1m}
  #   - {rate: 20, duration: 4m}
stop: {duration: 30s}         # or {requests: 100}; stages and traces have an end of their own
warm_up: 5                    # requests before, not measured

prompts:
  length: lognormal:256~200   # words; tokens with a tokenizer
  # tokenizer: tokenizer.json
  # file: prompts.jsonl       # strings, {prompt}, {messages} or ShareGPT conversations
answers:
  max_tokens: 16..128

# conversation: {turns: 3, think_time: 1s..5s}
# shared_prefix: {length: 1024, groups: 4}
# cancel: {share: 0.05, after: 500ms..2s}
# sweep: {rate: [1, 2, 5, 10]} # a run for each; also concurrency, prompt_length, max_tokens
# body: {temperature: 0}      # further members of each request

objectives: ttft=500ms,tpot=50ms
timeout: 2m
seed: 1
";

const ROOT: [&str; 21] = [
    "base_url",
    "provider",
    "model",
    "api_key_env",
    "seed",
    "stream",
    "timeout",
    "warm_up",
    "max_client_error",
    "objectives",
    "arrival",
    "stop",
    "replay",
    "prompts",
    "answers",
    "conversation",
    "shared_prefix",
    "tools",
    "images",
    "cancel",
    "sweep",
];

/// Reads a workload file. Its relative paths begin at `folder`.
///
/// # Errors
/// All problems of the file.
pub fn parse(name: &str, text: &str, folder: &Path) -> Result<WorkloadFile, Problems> {
    let known: Vec<&str> = ROOT.into_iter().chain(["body"]).collect();
    read(name, text, &known, |root| Builder { folder }.build(root))
}

struct Builder<'f> {
    folder: &'f Path,
}

fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".into()) } else { Ok(text.to_owned()) }
}

impl Builder<'_> {
    fn build(&self, root: &Section<'_>) -> WorkloadFile {
        let (mut workload, has_prompts) = self.prompts(root);
        self.answers(root, &mut workload);
        if let Some(section) = root.section("conversation", &["turns", "think_time"]) {
            workload.turns = self.length(&section, "turns").unwrap_or(workload.turns);
            workload.think_time = section.value::<Pause>("think_time").unwrap_or_default();
        }
        workload.tools = self.tools(root);
        workload.images = images(root);
        workload.cancel = cancel(root);
        if root.has("body") {
            match root.json("body") {
                Some(Value::Object(body)) => workload.body = self.members(root, body),
                Some(_) => root.wrong("body", "expected members, for example {temperature: 0}"),
                None => {}
            }
        }
        let file = WorkloadFile {
            base_url: root.get("base_url", text),
            provider: root.value("provider"),
            model: root.get("model", text),
            api_key_env: root.get("api_key_env", text),
            seed: root.count("seed", 0..=u64::MAX),
            stream: root.flag("stream"),
            timeout: root.duration("timeout"),
            warm_up: root.count("warm_up", 0..=1_000_000),
            max_client_error: root.duration("max_client_error"),
            objectives: root
                .get("objectives", |text| text.parse::<crate::Slo>().map(|_| text.to_owned())),
            arrival: arrival(root),
            stop: stop(root),
            replay: self.replay(root),
            sweep: sweep(root),
            prefix: prefix(root),
            workload,
            has_prompts,
        };
        if file.replay.is_some() && (root.has("arrival") || file.has_prompts) {
            root.wrong("replay", "a trace has arrivals and prompts of its own; remove the others");
        }
        if file.replay.is_some() && file.sweep.is_some() {
            root.wrong("sweep", "a trace has one pace and its own lengths; remove one of the two");
        }
        let provider = file.provider.unwrap_or_default();
        if let Err(why) = file.workload.check(&provider) {
            root.wrong("", why);
        }
        file
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    fn length(&self, section: &Section<'_>, name: &str) -> Option<Length> {
        section.get(name, |text| match text.strip_prefix("file:") {
            Some(path) => format!("file:{}", self.path(path).display()).parse(),
            None => text.parse(),
        })
    }

    fn prompts(&self, root: &Section<'_>) -> (Workload, bool) {
        let made = |length| Workload::new(Prompts::Made(length));
        let default = || made(Length::Fixed(32));
        let Some(section) = root.section("prompts", &["length", "file", "tokenizer"]) else {
            return (default(), false);
        };
        let from_file = |path: &str| Prompts::from_file(&self.path(path));
        let mut workload = match (section.has("file"), section.has("length")) {
            (true, true) => {
                section.wrong("file", "prompts have either a length or a file; remove one");
                default()
            }
            (true, false) => section.get("file", from_file).map_or_else(default, Workload::new),
            (false, _) => self.length(&section, "length").map_or_else(default, made),
        };
        let load = |path: &str| Tokenizer::load(&self.path(path));
        if let Some(tokenizer) = section.get("tokenizer", load) {
            workload.unit = Unit::Tokens(Arc::new(tokenizer));
        }
        (workload, section.has("file") || section.has("length"))
    }

    fn answers(&self, root: &Section<'_>, workload: &mut Workload) {
        let known = ["max_tokens", "ignore_eos", "choices"];
        let Some(section) = root.section("answers", &known) else { return };
        workload.max_tokens = self.length(&section, "max_tokens");
        workload.ignore_eos = section.flag("ignore_eos").unwrap_or(false);
        workload.choices = section.count("choices", 1..=MAX_CHOICES).unwrap_or(1) as u32;
    }

    fn tools(&self, root: &Section<'_>) -> Option<Value> {
        root.get("tools", |path| {
            let path = self.path(path);
            let name = path.display();
            let text = crate::read_file(&path)?;
            let value: Value = serde_json::from_str(&text).map_err(|e| format!("{name}: {e}"))?;
            if value.is_array() { Ok(value) } else { Err(format!("{name} is not a JSON array")) }
        })
    }

    /// Members of bodies that nothing else sets.
    fn members(&self, root: &Section<'_>, body: Map<String, Value>) -> Map<String, Value> {
        const OWN: [(&str, &str); 9] = [
            ("model", "model"),
            ("stream", "stream"),
            ("stream_options", "stream"),
            ("messages", "prompts"),
            ("max_tokens", "answers.max_tokens"),
            ("max_completion_tokens", "answers.max_tokens"),
            ("ignore_eos", "answers.ignore_eos"),
            ("n", "answers.choices"),
            ("tools", "tools"),
        ];
        for (member, key) in OWN.iter().filter(|(member, _)| body.contains_key(*member)) {
            root.wrong("body", format!("{member:?} is set by {key}"));
        }
        body
    }

    fn replay(&self, root: &Section<'_>) -> Option<(PathBuf, f64)> {
        let section = root.section("replay", &["file", "pace"])?;
        if !section.has("file") {
            section.wrong("file", "is missing: the trace");
        }
        let file = section.get("file", text)?;
        Some((self.path(&file), section.number("pace", PACES).unwrap_or(1.0)))
    }
}

fn sweep(root: &Section<'_>) -> Option<Sweep> {
    let known = ["concurrency", "rate", "prompt_length", "max_tokens"];
    let section = root.section("sweep", &known)?;
    let users = |text: &str| {
        let users = text.parse().ok().filter(|n| (1..=MAX_CONCURRENCY).contains(n));
        users.map(|n| n as usize).ok_or_else(|| format!("must be from 1 to {MAX_CONCURRENCY}"))
    };
    let rate = |text: &str| {
        let rate = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= MAX_RATE);
        rate.ok_or_else(|| format!("must be above 0 and at most {MAX_RATE}"))
    };
    let sweep = Sweep {
        concurrency: section.values("concurrency", users),
        rate: section.values("rate", rate),
        prompt_length: section.values("prompt_length", str::parse),
        max_tokens: section.values("max_tokens", str::parse),
    };
    if !sweep.concurrency.is_empty() && !sweep.rate.is_empty() {
        section.wrong("rate", "a sweep has either rates or concurrencies; remove one of them");
    }
    if known.into_iter().all(|name| !section.has(name)) {
        section.wrong("", format!("has no values; known: {}", known.join(", ")));
    }
    Some(sweep)
}

fn prefix(root: &Section<'_>) -> Option<(u32, u32)> {
    let section = root.section("shared_prefix", &["length", "groups"])?;
    if !section.has("length") {
        section.wrong("length", "is missing: the length of the prefix");
    }
    let groups = section.count("groups", 1..=MAX_GROUPS).unwrap_or(1);
    let length = section.count("length", 1..=u64::from(MAX_LENGTH))?;
    if length * groups > MAX_PREFIXES {
        section.wrong("groups", format!("all prefixes together are longer than {MAX_PREFIXES}"));
        return None;
    }
    Some((length as u32, groups as u32))
}

fn images(root: &Section<'_>) -> Option<Images> {
    let section = root.section("images", &["count", "width", "height"])?;
    let side = |name| section.count(name, 1..=u64::from(MAX_SIDE)).unwrap_or(512) as u32;
    let count = section.count("count", 1..=MAX_IMAGES).unwrap_or(1) as u32;
    Some(Images { count, width: side("width"), height: side("height") })
}

fn cancel(root: &Section<'_>) -> Option<Cancel> {
    let section = root.section("cancel", &["share", "after"])?;
    for name in ["share", "after"] {
        if !section.has(name) {
            section.wrong(name, "is missing; write for example {share: 0.1, after: 500ms}");
        }
    }
    Some(Cancel { share: section.number("share", 0.0..=1.0)?, after: section.value("after")? })
}

fn stop(root: &Section<'_>) -> Option<Stop> {
    let section = root.section("stop", &["requests", "duration"])?;
    let requests = section.count("requests", 1..=u64::MAX).map(Stop::Requests);
    let duration = section.duration("duration").map(Stop::After);
    if section.has("requests") == section.has("duration") {
        section.wrong("", "write either {requests: 100} or {duration: 30s}");
    }
    requests.or(duration)
}

fn arrival(root: &Section<'_>) -> Option<Arrival> {
    const KINDS: [&str; 5] = ["closed", "poisson", "constant", "gamma", "burst"];
    let known = ["kind", "concurrency", "rate", "burstiness", "stages", "size", "interval"];
    let section = root.section("arrival", &known)?;
    if !section.has("kind") {
        section.wrong("kind", format!("is missing: {}", KINDS.join(", ")));
    }
    let kind = section.get("kind", |kind| {
        let known = KINDS.into_iter().find(|known| *known == kind);
        known.ok_or_else(|| format!("{kind:?} is not a kind; {}", yaml::hint(kind, &KINDS)))
    })?;
    let fitting: &[&str] = match kind {
        "closed" => &["concurrency"],
        "burst" => &["size", "interval"],
        "gamma" => &["rate", "stages", "burstiness"],
        _ => &["rate", "stages"],
    };
    for name in known.into_iter().filter(|name| *name != "kind" && section.has(name)) {
        if !fitting.contains(&name) {
            section.wrong(name, format!("is not for {kind}; known: {}", fitting.join(", ")));
        }
    }
    let missing = |name: &str| {
        if !section.has(name) {
            section.wrong(name, "is missing");
        }
    };
    let arrival = match kind {
        "closed" => {
            missing("concurrency");
            let users = section.count("concurrency", 1..=MAX_CONCURRENCY)?;
            Arrival::Closed { concurrency: users as usize }
        }
        "burst" => {
            missing("size");
            missing("interval");
            let size = section.count("size", 1..=u64::from(MAX_BURST));
            Arrival::Burst { interval: section.duration("interval")?, size: size? as u32 }
        }
        _ => {
            let spacing = match kind {
                "constant" => Spacing::Constant,
                "gamma" => {
                    missing("burstiness");
                    Spacing::Gamma(section.number("burstiness", 0.01..=1_000.0)?)
                }
                _ => Spacing::Poisson,
            };
            Arrival::Open { spacing, stages: stages(&section)? }
        }
    };
    arrival.check().map_err(|why| section.wrong("", why)).ok()?;
    Some(arrival)
}

fn stages(section: &Section<'_>) -> Option<Vec<Stage>> {
    if section.has("rate") == section.has("stages") {
        section.wrong("", "needs either rate or stages");
        return None;
    }
    if section.has("rate") {
        let rate = section.number("rate", 0.0..=MAX_RATE)?;
        return Some(vec![Stage { from: rate, to: rate, duration: None }]);
    }
    let known = ["rate", "from", "to", "duration"];
    let stage = |stage: &Section<'_>| {
        let number = |name| stage.number(name, 0.0..=MAX_RATE);
        let (rate, from, to) = (number("rate"), number("from"), number("to"));
        let is_ramp = stage.has("from") && stage.has("to");
        if is_ramp == stage.has("rate") || stage.has("from") != stage.has("to") {
            stage.wrong(
                "",
                "write either {rate: 20, duration: 1m} or {from: 1, to: 20, duration: 1m}",
            );
            return None;
        }
        let duration = stage.duration("duration");
        Some(Stage { from: rate.or(from)?, to: rate.or(to)?, duration })
    };
    section.sections("stages", &known).iter().map(stage).collect()
}

#[cfg(test)]
mod tests;
