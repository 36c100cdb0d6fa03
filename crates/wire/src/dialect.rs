//! The dialects of inference engines, one module each.
//!
//! - *In*: the data of one event, or a whole JSON body.
//! - *Out*: parts of events, passed to a listener in byte order where the dialect allows it.
//! - *Never*: state shared between dialects. Each dialect keeps its own state between events.
//!
//! Members may come in any order. Members that must be known first (a choice's index, an event's
//! type) are read first; then the scanner returns to a saved position.

mod anthropic;
mod embeddings;
mod generate;
mod llama_cpp;
mod ollama;
mod openai_chat;
mod openai_completions;
mod openai_responses;
mod shared;

use std::ops::Range;

use crate::event::{EventReporter, EventVisitor, Usage};
use crate::json::{self, Malformed, Scan};

/// The API that an engine serves on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `/v1/chat/completions` of OpenAI and compatible engines.
    OpenAiChat,
    /// `/v1/completions`.
    OpenAiCompletions,
    /// `/v1/responses`.
    OpenAiResponses,
    /// `/v1/messages`.
    Anthropic,
    /// `/generate` and `/generate_stream` of TGI, and `/generate` of SGLang.
    Generate,
    /// `/api/chat` and `/api/generate`.
    Ollama,
    /// `/completion` of llama.cpp.
    LlamaCpp,
    /// `/v1/embeddings`: nothing is generated, but tokens are counted.
    Embeddings,
}

impl Dialect {
    /// All dialects, for tables and tests.
    pub const ALL: [Dialect; 8] = [
        Dialect::OpenAiChat,
        Dialect::OpenAiCompletions,
        Dialect::OpenAiResponses,
        Dialect::Anthropic,
        Dialect::Generate,
        Dialect::Ollama,
        Dialect::LlamaCpp,
        Dialect::Embeddings,
    ];

    /// The name used in records, metrics and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::OpenAiChat => "openai-chat",
            Dialect::OpenAiCompletions => "openai-completions",
            Dialect::OpenAiResponses => "openai-responses",
            Dialect::Anthropic => "anthropic",
            Dialect::Generate => "generate",
            Dialect::Ollama => "ollama",
            Dialect::LlamaCpp => "llamacpp-completion",
            Dialect::Embeddings => "embeddings",
        }
    }

    /// The dialect with this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    /// The conventional dialect of a request path, after any prefix
    /// (`/openai/deployments/x/chat/completions` is chat). `None` if the path is not a known
    /// inference path.
    pub fn from_path(path: &str) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        // Triton's generate extension has the same last segment, but another format.
        if path.starts_with("/v2/models/") {
            return None;
        }
        let (rest, last) = path.rsplit_once('/')?;
        match last {
            "completions" if rest.ends_with("/chat") => Some(Dialect::OpenAiChat),
            "completions" => Some(Dialect::OpenAiCompletions),
            "responses" => Some(Dialect::OpenAiResponses),
            // Other APIs have paths with these last segments, such as `/v1/threads/T/messages`.
            "messages" if rest.is_empty() || rest.ends_with("/v1") => Some(Dialect::Anthropic),
            "generate" | "chat" if rest.ends_with("/api") => Some(Dialect::Ollama),
            "generate" | "generate_stream" if matches!(rest, "" | "/v1") => Some(Dialect::Generate),
            "completion" if !rest.ends_with("/chat") => Some(Dialect::LlamaCpp),
            "embeddings" => Some(Dialect::Embeddings),
            "embed" if rest.ends_with("/api") => Some(Dialect::Embeddings),
            _ => None,
        }
    }

    /// Position of the model that an inference path names, as `/openai/deployments/MODEL/...` and
    /// `/v1/engines/MODEL/...` do. Servers with such paths ignore the model of the body. In
    /// `/engines/ENGINE/v1/...`, the segment is no model. Case is ignored, as some servers do.
    pub fn model_in_path(path: &str) -> Option<Range<usize>> {
        const BEFORE: [&str; 4] = ["deployments", "engines", "models", "upstream"];
        const AFTER: [&str; 10] = [
            "/chat/completions",
            "/completions",
            "/embeddings",
            "/responses",
            "/messages",
            "/generate_stream",
            "/api/generate",
            "/generate",
            "/api/chat",
            "/completion",
        ];
        let path = path.strip_suffix('/').unwrap_or(path);
        let path = AFTER.iter().find_map(|end| without_end(path, end))?;
        let (path, has_version) = match without_end(path, "/v1") {
            Some(path) => (path, true),
            None => (path, false),
        };
        // Runs for each request: most paths have no segment left.
        let mut end = 0;
        let mut starts = path.split('/').filter_map(|segment| {
            end += segment.len() + 1;
            let word = BEFORE.iter().find(|word| segment.eq_ignore_ascii_case(word))?;
            Some((end, *word))
        });
        let (start, word) = starts.next()?;
        let is_engine = word == "engines" || starts.any(|(_, word)| word == "engines");
        (start < path.len() && !(has_version && is_engine)).then_some(start..path.len())
    }

    /// `gen_ai.operation.name` of the OpenTelemetry conventions.
    pub fn operation(self) -> &'static str {
        match self {
            Dialect::OpenAiCompletions | Dialect::Generate | Dialect::LlamaCpp => "text_completion",
            Dialect::Embeddings => "embeddings",
            Dialect::OpenAiChat
            | Dialect::OpenAiResponses
            | Dialect::Anthropic
            | Dialect::Ollama => "chat",
        }
    }

    /// Whether answers contain generated text: all but embeddings.
    pub fn generates(self) -> bool {
        self != Dialect::Embeddings
    }

    /// Whether a request is for a stream. `stream`: its member of that name.
    pub fn is_stream(self, path: &str, stream: Option<bool>) -> bool {
        match self {
            Dialect::Ollama => stream != Some(false),
            Dialect::Generate if path.ends_with("/generate_stream") => true,
            _ => stream == Some(true),
        }
    }

    /// Whether a request may contain several prompts, each with its own choices.
    pub fn batches_prompts(self) -> bool {
        self == Dialect::OpenAiCompletions
    }

    /// Whether the prompt token count excludes tokens read from or written to a cache. Anthropic
    /// reports these separately; all other dialects include them.
    pub fn counts_cache_separately(self) -> bool {
        self == Dialect::Anthropic
    }

    /// Whether the dialect supports `stream_options.include_usage`.
    pub fn takes_stream_options(self) -> bool {
        matches!(self, Dialect::OpenAiChat | Dialect::OpenAiCompletions)
    }

    /// Whether another backend can resume a stream from the text generated so far.
    pub fn can_resume(self) -> bool {
        matches!(self, Dialect::OpenAiChat | Dialect::OpenAiCompletions)
    }

    /// Whether the event that ends a stream may be large: it repeats the answer, the prompt, or the
    /// tokens of both.
    pub(crate) fn ends_with_large_event(self) -> bool {
        matches!(
            self,
            Dialect::OpenAiResponses | Dialect::Ollama | Dialect::Generate | Dialect::LlamaCpp
        )
    }

    /// Whether an event may repeat all earlier text, so that its new text depends on earlier
    /// events.
    pub fn text_is_cumulative(self) -> bool {
        self == Dialect::Generate
    }

    /// Whether the closing events depend on the index or sequence number of the last event.
    pub fn closing_needs_last_event(self) -> bool {
        matches!(self, Dialect::Anthropic | Dialect::OpenAiResponses)
    }

    /// Path and body of the smallest request: one output token, where the API allows it.
    pub fn probe(self, model: &str) -> (&'static str, String) {
        let model = json::escaped(model);
        let messages = "\"messages\":[{\"role\":\"user\",\"content\":\"ok\"}]";
        match self {
            Dialect::OpenAiChat => (
                "/v1/chat/completions",
                format!("{{\"model\":\"{model}\",\"max_tokens\":1,{messages}}}"),
            ),
            Dialect::OpenAiCompletions => (
                "/v1/completions",
                format!("{{\"model\":\"{model}\",\"max_tokens\":1,\"prompt\":\"ok\"}}"),
            ),
            // The API's minimum is 16.
            Dialect::OpenAiResponses => (
                "/v1/responses",
                format!("{{\"model\":\"{model}\",\"max_output_tokens\":16,\"input\":\"ok\"}}"),
            ),
            Dialect::Anthropic => {
                ("/v1/messages", format!("{{\"model\":\"{model}\",\"max_tokens\":1,{messages}}}"))
            }
            Dialect::Generate => (
                "/generate",
                "{\"inputs\":\"ok\",\"parameters\":{\"max_new_tokens\":1}}".to_owned(),
            ),
            Dialect::Ollama => (
                "/api/chat",
                format!(
                    "{{\"model\":\"{model}\",\"stream\":false,\"options\":{{\"num_predict\":1}},{messages}}}"
                ),
            ),
            Dialect::LlamaCpp => ("/completion", "{\"prompt\":\"ok\",\"n_predict\":1}".to_owned()),
            Dialect::Embeddings => {
                ("/v1/embeddings", format!("{{\"model\":\"{model}\",\"input\":\"ok\"}}"))
            }
        }
    }
}

/// State that a dialect keeps between the events of one stream.
#[derive(Debug, Default)]
pub(crate) struct DialectState {
    /// Anthropic: the blocks that are tool calls.
    pub(crate) blocks: anthropic::Blocks,
    /// SGLang: length of the cumulative text so far.
    pub(crate) cumulative: usize,
    /// llama.cpp: generated tokens of each choice.
    pub(crate) choice_tokens: shared::ChoiceTokens,
    /// The request has `echo`: the first text of a chat stream is the prompt.
    pub(crate) echo_pending: bool,
}

/// Usage in the last complete member `usage`, or else `timings`, of a document of which only the
/// end is known.
pub(crate) fn usage_at_end(tail: &[u8]) -> Option<Usage> {
    let usage = json::last_value(tail, b"\"usage\"");
    let usage = usage.and_then(|mut value| shared::usage(&mut value).ok());
    let timings = || Some(shared::timings(&mut json::last_value(tail, b"\"timings\"")?).ok()?.0);
    usage.filter(|usage| !usage.is_blank()).or_else(timings).filter(|usage| !usage.is_blank())
}

/// Parse an error object.
pub(crate) fn read_error<L: EventVisitor>(
    data: &[u8],
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    shared::error(&mut Scan::new(data), report)
}

/// Parse one event or body.
pub(crate) fn read<L: EventVisitor>(
    dialect: Dialect,
    state: &mut DialectState,
    data: &[u8],
    report: &mut EventReporter<'_, L>,
) -> Result<(), Malformed> {
    let scan = &mut Scan::new(data);
    match dialect {
        Dialect::OpenAiChat => openai_chat::read(state, scan, report),
        Dialect::OpenAiCompletions => openai_completions::read(state, scan, report),
        Dialect::OpenAiResponses => openai_responses::read(scan, report),
        Dialect::Anthropic => anthropic::read(state, scan, report),
        Dialect::Generate => generate::read(state, scan, report),
        Dialect::Ollama => ollama::read(scan, report),
        Dialect::LlamaCpp => llama_cpp::read(scan, report),
        Dialect::Embeddings => embeddings::read(scan, report),
    }
}

/// The text without `end`, in any case, if it ends with it.
fn without_end<'t>(text: &'t str, end: &str) -> Option<&'t str> {
    let (rest, last) = text.split_at_checked(text.len().checked_sub(end.len())?)?;
    last.eq_ignore_ascii_case(end).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_dialect_behind_any_prefix() {
        for (path, want) in [
            ("/v1/chat/completions", Some(Dialect::OpenAiChat)),
            ("/openai/deployments/gpt-4o/chat/completions", Some(Dialect::OpenAiChat)),
            ("/v1/chat/completions/", Some(Dialect::OpenAiChat)),
            ("/v1/completions", Some(Dialect::OpenAiCompletions)),
            ("/v1/messages", Some(Dialect::Anthropic)),
            ("/generate_stream", Some(Dialect::Generate)),
            ("/api/generate", Some(Dialect::Ollama)),
            ("/api/chat", Some(Dialect::Ollama)),
            ("/completion", Some(Dialect::LlamaCpp)),
            ("/v1/chat/completion", None),
            ("/api/embed", Some(Dialect::Embeddings)),
            ("/v1/embed", None),
            ("/v2/models/m/generate_stream", None),
            ("/v1/models", None),
            ("/chat", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(Dialect::from_path(path), want, "{path}");
        }
    }

    #[test]
    fn models_in_paths_are_found() {
        for (path, model) in [
            ("/openai/deployments/m/chat/completions", Some("m")),
            ("/openai/Deployments/M-1/Chat/Completions/", Some("M-1")),
            ("/v1/engines/m/completions", Some("m")),
            ("/V1/Engines/m/completions", Some("m")),
            ("/engines/llama.cpp/v1/chat/completions", None),
            ("/models/org/m/v1/chat/completions", Some("org/m")),
            ("/models/m/api/chat", Some("m")),
            ("/deployments/m/api/generate", Some("m")),
            ("/models/m/completion", Some("m")),
            ("/models/m/generate", Some("m")),
            ("/v1/chat/completions", None),
            ("/v1/models/m", None),
        ] {
            assert_eq!(Dialect::model_in_path(path).map(|at| &path[at]), model, "{path}");
        }
    }

    #[test]
    fn streams_are_the_default_of_ollama_and_generate_stream() {
        for (path, by_default) in [
            ("/api/chat", true),
            ("/api/generate", true),
            ("/generate_stream", true),
            ("/generate", false),
            ("/v1/chat/completions", false),
            ("/completion", false),
        ] {
            let dialect = Dialect::from_path(path).unwrap();
            assert_eq!(dialect.is_stream(path, None), by_default, "{path}");
            assert!(dialect.is_stream(path, Some(true)), "{path}");
        }
        assert!(!Dialect::Ollama.is_stream("/api/chat", Some(false)));
    }

    #[test]
    fn names_round_trip() {
        for dialect in Dialect::ALL {
            assert_eq!(Dialect::from_name(dialect.name()), Some(dialect));
        }
    }
}
