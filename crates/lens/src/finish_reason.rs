//! Finish reasons of answers, in the few kinds that a metric label may have.
//!
//! - *In*: the word of an engine, in any dialect.
//! - *Out*: its kind. Words that are not known are [`FinishReason::Other`].
//! - *Never*: a word of an engine as a label.

/// Why an answer, or one of its choices, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the text, or reached a stop sequence.
    Stop,
    /// The maximum number of tokens, or the end of the context.
    Length,
    /// The model calls a tool.
    ToolCalls,
    /// A filter of the engine or provider ended or refused the text.
    ContentFilter,
    /// Anything else, such as an abort.
    Other,
}

impl FinishReason {
    /// All kinds, in the order of their counts in [`crate::Series`].
    pub const ALL: [FinishReason; 5] = [
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::ToolCalls,
        FinishReason::ContentFilter,
        FinishReason::Other,
    ];

    /// The kind of an engine's word.
    pub fn from_word(word: &str) -> Self {
        match word {
            "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "completed" | "word" => {
                FinishReason::Stop
            }
            "length"
            | "limit"
            | "max_tokens"
            | "max_output_tokens"
            | "model_context_window_exceeded" => FinishReason::Length,
            "tool_calls" | "tool_use" | "function_call" => FinishReason::ToolCalls,
            "content_filter" | "refusal" => FinishReason::ContentFilter,
            _ => FinishReason::Other,
        }
    }

    /// The value of the label.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::ContentFilter => "content_filter",
            FinishReason::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_all_dialects_have_a_kind() {
        for (word, kind) in [
            ("stop", "stop"),
            ("end_turn", "stop"),
            ("eos_token", "stop"),
            ("completed", "stop"),
            ("length", "length"),
            ("max_tokens", "length"),
            ("max_output_tokens", "length"),
            ("tool_use", "tool_calls"),
            ("content_filter", "content_filter"),
            ("abort", "other"),
            ("", "other"),
            ("STOP", "other"),
        ] {
            assert_eq!(FinishReason::from_word(word).name(), kind, "{word}");
        }
    }

    #[test]
    fn kinds_are_in_the_order_of_their_counts() {
        for (at, kind) in FinishReason::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
    }
}
