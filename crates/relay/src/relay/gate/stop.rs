//! For what an answer ends before its end, and what closes it.

use std::sync::Arc;

use filters::{Failure, Refused};
use wire::ending::{Ending, Envelope, Why};
use wire::{Dialect, Framing, rewrite};

use super::Content;
use crate::respond::Refusal;

/// For what an answer ends.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It holds something that must not be shown.
    Blocked {
        /// What to call it.
        kind: String,
    },
    /// It cannot be read as it must be.
    Unreadable,
    /// A filter's own no.
    Refused(Refused),
    /// A filter that must say cannot.
    Failed {
        /// The filter.
        filter: Arc<str>,
        /// Why.
        failure: Failure,
    },
}

impl Stop {
    /// The same as an answer of ours, where none has begun.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Stop::Blocked { kind } => {
                Refusal::blocked(502, "content_blocked", format!("The answer was withheld by the route's guard: it holds {kind}."))
            }
            Stop::Unreadable => Refusal::unreadable_answer(),
            Stop::Refused(refused) => Refusal::by_filter(refused),
            Stop::Failed { filter, failure } => Refusal::guard_unavailable(filter, failure),
        }
    }
}

/// What must be known to close a stream in its own words.
#[derive(Debug, Default)]
pub(super) struct Closing {
    envelope: Option<Envelope>,
    /// The last event that was passed on, where its dialect needs it.
    last: Vec<u8>,
    /// Choices whose ending was passed on.
    ended: Vec<u32>,
}

impl Closing {
    /// The data of an event; the first tells what all repeat.
    pub(super) fn begin(&mut self, data: &[u8]) {
        if self.envelope.is_none() {
            self.envelope = Some(Envelope::of(data));
        }
    }

    /// An event was passed on.
    pub(super) fn passed(&mut self, dialect: Dialect, event: &[u8], content: &Content) {
        self.ended.extend(content.reasons.iter().map(|(choice, _)| *choice));
        if matches!(dialect, Dialect::Anthropic | Dialect::OpenAiResponses) {
            self.last.clear();
            self.last.extend_from_slice(event);
        }
    }

    /// The events that close the stream.
    pub(super) fn events(&self, dialect: Dialect, seen: &[u32], tokens: Option<u64>, (why, message): (Why, &str)) -> String {
        let nothing = Envelope::default();
        let envelope = self.envelope.as_ref().unwrap_or(&nothing);
        let last = rewrite::data(Framing::Sse, &self.last);
        let mut choices: Vec<u32> = seen.iter().copied().filter(|choice| !self.ended.contains(choice)).collect();
        if seen.is_empty() {
            choices.push(0);
        }
        Ending { dialect, envelope, last: &last, choices: &choices, tokens, message, why }.events()
    }
}
