//! The bodies of requests, and conversations of several of them.
//!
//! - *In*: a [`Workload`], a seed, the number of a conversation, the answers so far.
//! - *Out*: a [`Request`] for each turn.
//! - *Never*: state between conversations: each depends on the seed and its number only, however
//!   many users or workers there are.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use crate::image;
use crate::length::Length;
use crate::prompts::{FilePrompt, Prompts};
use crate::provider::{Api, Provider};
use crate::text::Unit;
use crate::trace::{BLOCK, TraceRequest};

/// `max_tokens` of an API that requires it, if none is given.
const DEFAULT_LIMIT: u32 = 1_024;
/// Multiplier that spreads numbers over the seeds.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// What requests contain.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Prompts, one for each conversation, or for each of its turns.
    pub prompts: Prompts,
    /// What lengths of generated texts count.
    pub unit: Unit,
    /// Maximum tokens of answers. Default: the server's.
    pub max_tokens: Option<Length>,
    /// Engines that know `ignore_eos` generate exactly that many.
    pub ignore_eos: bool,
    /// Turns of a conversation.
    pub turns: Length,
    /// From the end of an answer to the next turn, and in a closed loop to the next conversation.
    pub think_time: Pause,
    /// A text that many prompts begin with.
    pub prefix: Option<Prefix>,
    /// `tools` of each request, in the form of the API.
    pub tools: Option<Value>,
    /// Images of each prompt.
    pub images: Option<Images>,
    /// Choices of an answer (`n`).
    pub choices: u32,
    /// Requests that the client cancels.
    pub cancel: Option<Cancel>,
    /// Further members of each body.
    pub body: Map<String, Value>,
}

/// A time, uniform between two bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pause {
    /// Minimum.
    pub min: Duration,
    /// Maximum.
    pub max: Duration,
}

/// Texts that many prompts begin with, sent as the system message.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefix {
    /// Their length.
    pub length: u32,
    /// The texts. Each conversation has one of them.
    pub texts: Arc<[String]>,
}

/// Generated images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Images {
    /// Images of a prompt.
    pub count: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// Requests that the client cancels. They are in no distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cancel {
    /// Share of requests, 0 to 1.
    pub share: f64,
    /// From the send to the cancellation. Requests that end before are not cancelled.
    pub after: Pause,
}

/// A request to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its JSON body.
    pub body: Vec<u8>,
    /// Choices of its answer.
    pub choices: u32,
    /// When the client cancels it, from the send.
    pub cancel_after: Option<Duration>,
    /// Whether a further turn carries its answer on.
    pub has_next: bool,
}

impl Workload {
    /// A workload of single prompts.
    pub fn new(prompts: Prompts) -> Self {
        Workload {
            prompts,
            unit: Unit::Words,
            max_tokens: None,
            ignore_eos: false,
            turns: Length::Fixed(1),
            think_time: Pause::default(),
            prefix: None,
            tools: None,
            images: None,
            choices: 1,
            cancel: None,
            body: Map::new(),
        }
    }

    /// What cannot be combined.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, provider: &Provider) -> Result<(), String> {
        let has_turns = self.turns != Length::Fixed(1);
        if has_turns && self.tools.is_some() {
            return Err("tools and turns cannot be combined: a call needs a result".into());
        }
        if has_turns && self.choices > 1 {
            return Err("choices and turns cannot be combined: one answer is carried on".into());
        }
        if provider.api == Api::Anthropic && self.choices > 1 {
            return Err("the API of Anthropic has no choices; remove them".into());
        }
        Ok(())
    }

    /// What reports show beside prompts and `max_tokens`; null for a workload of single prompts.
    pub fn json(&self) -> Value {
        let mut out = Map::new();
        if self.turns != Length::Fixed(1) {
            out.insert("turns".into(), self.turns.json());
        }
        if self.think_time != Pause::default() {
            out.insert("think_time".into(), self.think_time.json());
        }
        if let Some(prefix) = &self.prefix {
            out.insert(
                "prefix".into(),
                json!({"length": prefix.length, "groups": prefix.texts.len()}),
            );
        }
        if let Some(tools) = &self.tools {
            let digest = crate::digest(tools.to_string().bytes());
            out.insert("tools".into(), json!({"digest": digest}));
        }
        if let Some(Images { count, width, height }) = self.images {
            out.insert("images".into(), json!({"count": count, "width": width, "height": height}));
        }
        if self.choices > 1 {
            out.insert("choices".into(), self.choices.into());
        }
        if self.ignore_eos {
            out.insert("ignore_eos".into(), true.into());
        }
        if let Some(cancel) = self.cancel {
            out.insert(
                "cancel".into(),
                json!({"share": cancel.share, "after": cancel.after.json()}),
            );
        }
        if !self.body.is_empty() {
            out.insert("body".into(), self.body.clone().into());
        }
        if out.is_empty() { Value::Null } else { out.into() }
    }
}

impl Pause {
    /// A time.
    pub fn sample(self, random: &mut SmallRng) -> Duration {
        if self.max <= self.min { self.min } else { random.random_range(self.min..=self.max) }
    }

    fn json(self) -> Value {
        json!({"min_s": self.min.as_secs_f64(), "max_s": self.max.as_secs_f64()})
    }
}

impl std::str::FromStr for Pause {
    type Err = String;

    /// `2s`, or `1s..5s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let time = |text: &str| lens::duration::parse(text.trim()).map_err(|bad| bad.to_string());
        let (min, max) = match text.split_once("..") {
            Some((min, max)) => (time(min)?, time(max)?),
            None => (time(text)?, time(text)?),
        };
        if min > max {
            return Err(format!("{text:?}: the first time must not be longer than the second"));
        }
        Ok(Pause { min, max })
    }
}

impl Prefix {
    /// Generates the texts.
    pub fn new(length: u32, groups: u32, unit: &Unit, seed: u64) -> Self {
        let text = |group: u32| {
            let mut random = SmallRng::seed_from_u64(spread(seed ^ 0x9e2, u64::from(group)));
            unit.text(length, &mut random)
        };
        Prefix { length, texts: (0..groups).map(text).collect() }
    }
}

fn spread(seed: u64, number: u64) -> u64 {
    seed ^ number.wrapping_mul(SPREAD)
}

/// A conversation: requests of which each carries the answers before it.
#[derive(Clone, Debug)]
pub struct Conversation {
    workload: Arc<Workload>,
    number: u64,
    seed: u64,
    turns: u32,
    turn: u32,
    system: Option<String>,
    messages: Vec<Value>,
    random: SmallRng,
}

impl Conversation {
    /// The conversation of this number.
    pub fn new(workload: &Arc<Workload>, seed: u64, number: u64) -> Self {
        // Apart from those of prompts, which do not change when other settings do.
        let mut random = SmallRng::seed_from_u64(!spread(seed, number));
        let mut turns = workload.turns.sample(&mut random);
        if let Prompts::FromFile { prompts, .. } = &workload.prompts
            && let FilePrompt::Turns(recorded) = file_prompt(prompts, number)
        {
            turns = turns.min(u32::try_from(recorded.len()).unwrap_or(u32::MAX));
        }
        let system = workload
            .prefix
            .as_ref()
            .map(|prefix| prefix.texts[random.random_range(0..prefix.texts.len())].clone());
        let workload = workload.clone();
        Conversation {
            workload,
            number,
            seed,
            turns,
            turn: 0,
            system,
            messages: Vec::new(),
            random,
        }
    }

    /// The next request; `None` at the end.
    pub fn next(&mut self, provider: &Provider, model: &str, stream: bool) -> Option<Request> {
        if self.turn >= self.turns {
            return None;
        }
        let turn = u64::from(self.turn).wrapping_mul(0xD1B5_4A32_D192_ED03);
        let mut random = SmallRng::seed_from_u64(spread(self.seed, self.number) ^ turn);
        let answer = self.prompt(provider.api, &mut random);
        self.turn += 1;
        let workload = &self.workload;
        let limit = answer.or_else(|| workload.max_tokens.as_ref().map(|l| l.sample(&mut random)));
        let mut body = workload.body.clone();
        body.insert("model".into(), model.into());
        body.insert("stream".into(), stream.into());
        self.write_messages(provider.api, &mut body);
        let limit = limit.or((provider.api == Api::Anthropic).then_some(DEFAULT_LIMIT));
        if let Some(limit) = limit {
            body.insert(provider.limit.into(), limit.into());
        }
        if stream && provider.api == Api::OpenAiChat {
            body.insert("stream_options".into(), json!({"include_usage": true}));
        }
        if workload.ignore_eos {
            body.insert("ignore_eos".into(), true.into());
        }
        if workload.choices > 1 {
            body.insert("n".into(), workload.choices.into());
        }
        if let Some(tools) = &workload.tools {
            body.insert("tools".into(), tools.clone());
        }
        let cancel_after = workload.cancel.and_then(|cancel| {
            let is_cancelled = self.random.random::<f64>() < cancel.share;
            is_cancelled.then(|| cancel.after.sample(&mut self.random))
        });
        Some(Request {
            body: Value::from(body).to_string().into_bytes(),
            choices: workload.choices,
            cancel_after,
            has_next: self.turn < self.turns,
        })
    }

    /// The answer to the last request, which the next one carries on.
    pub fn add_answer(&mut self, text: &str) {
        self.messages.push(json!({"role": "assistant", "content": text}));
    }

    /// Time to think before the next turn.
    pub fn think_time(&mut self) -> Duration {
        self.workload.think_time.sample(&mut self.random)
    }

    /// Adds the prompt of this turn; returns the length of the answer, if the source has one.
    fn prompt(&mut self, api: Api, random: &mut SmallRng) -> Option<u32> {
        let workload = self.workload.clone();
        let (text, answer) = match &workload.prompts {
            Prompts::Made(length) => (workload.unit.text(length.sample(random), random), None),
            Prompts::Trace(requests) => {
                let request = &requests[(self.number % requests.len() as u64) as usize];
                (trace_text(request, &workload.unit, self.seed, random), request.answer)
            }
            Prompts::FromFile { prompts, .. } => match file_prompt(prompts, self.number) {
                FilePrompt::Text(text) => (text.clone(), None),
                FilePrompt::Messages(messages) => {
                    if self.turn > 0 {
                        // The file has the first turn only.
                        self.messages.push(message(
                            api,
                            workload.unit.text(32, random),
                            Vec::new(),
                        ));
                    } else if let Value::Array(list) = messages {
                        self.messages.clone_from(list);
                    }
                    return None;
                }
                FilePrompt::Turns(turns) => {
                    let turn = &turns[self.turn as usize];
                    let length = turn.answer.as_ref().and_then(|text| workload.unit.count(text));
                    (turn.user.clone(), length.map(|n| n.max(1)))
                }
            },
        };
        let images = workload.images.map_or_else(Vec::new, |images| {
            let image = |_| image::noise(images.width, images.height, random);
            (0..images.count).map(image).collect()
        });
        self.messages.push(message(api, text, images));
        answer
    }

    fn write_messages(&self, api: Api, body: &mut Map<String, Value>) {
        let mut messages = self.messages.clone();
        match (api, &self.system) {
            (Api::OpenAiChat, Some(system)) => {
                messages.insert(0, json!({"role": "system", "content": system}));
            }
            (Api::Anthropic, Some(system)) => {
                body.insert("system".into(), system.as_str().into());
            }
            (_, None) => {}
        }
        body.insert("messages".into(), messages.into());
    }
}

fn file_prompt(prompts: &[FilePrompt], number: u64) -> &FilePrompt {
    &prompts[(number % prompts.len() as u64) as usize]
}

/// A text of the blocks that a trace names: the same for the same hash.
fn trace_text(request: &TraceRequest, unit: &Unit, seed: u64, random: &mut SmallRng) -> String {
    let mut texts = Vec::new();
    let mut left = request.prompt;
    for hash in &request.blocks {
        let mut random = SmallRng::seed_from_u64(spread(seed ^ 0xb10c, *hash));
        let length = left.min(BLOCK);
        if length == 0 {
            break;
        }
        texts.push(unit.text(length, &mut random));
        left -= length;
    }
    if left > 0 {
        texts.push(unit.text(left, random));
    }
    texts.join(" ")
}

/// A message of the user.
fn message(api: Api, text: String, images: Vec<String>) -> Value {
    if images.is_empty() {
        return json!({"role": "user", "content": text});
    }
    let mut parts = vec![json!({"type": "text", "text": text})];
    parts.extend(images.into_iter().map(|data| match api {
        Api::OpenAiChat => {
            json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}})
        }
        Api::Anthropic => {
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
        }
    }));
    json!({"role": "user", "content": parts})
}

#[cfg(test)]
mod tests;
