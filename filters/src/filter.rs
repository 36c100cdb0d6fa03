//! The trait that every filter implements.
//!
//! All requests of a route share one filter object; the state for a single answer is in the
//! [`AnswerWatch`] that it opens. A filter runs only at its [`Hooks`] and costs nothing elsewhere.

use std::fmt;
use std::sync::Arc;

use wire::Channel;

use crate::BoxFuture;
use crate::host::Call;
use crate::report::{Failure, Report};
use crate::subject::Subject;

/// The points at which a filter runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks(u8);

impl Hooks {
    /// No hook.
    pub const NONE: Hooks = Hooks(0);
    /// [`Filter::head`].
    pub const CHECK_HEAD: Hooks = Hooks(1);
    /// [`Filter::look`], at prompts.
    pub const DETECT: Hooks = Hooks(2);
    /// [`Filter::judge`], of prompts.
    pub const JUDGE_PROMPT: Hooks = Hooks(4);
    /// [`Filter::watch`].
    pub const WATCH_ANSWER: Hooks = Hooks(8);
    /// [`Filter::judge`], of windows of answers.
    pub const JUDGE_ANSWER: Hooks = Hooks(16);

    /// Whether this set contains all hooks of `other`.
    pub fn has(self, other: Hooks) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Hooks {
    type Output = Hooks;
    fn bitor(self, other: Hooks) -> Hooks {
        Hooks(self.0 | other.0)
    }
}

/// The parts of a request head that filters receive.
#[derive(Debug)]
pub struct RequestHead<'h> {
    /// The method, such as `POST`.
    pub method: &'h str,
    /// The path without its query.
    pub path: &'h str,
    /// The header fields: names in any case, with their values.
    pub fields: &'h [(&'h str, &'h [u8])],
}

impl RequestHead<'_> {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }
}

/// Facts about an answer that are known before its first event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFacts {
    /// The status.
    pub status: u16,
    /// Whether it is a stream of events.
    pub streamed: bool,
    /// The request's id.
    pub request_id: Arc<str>,
}

/// The refusal of a request or an answer by a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRefusal {
    /// The response status, 400 to 599. It is not sent once the answer has started.
    pub status: u16,
    /// A stable error code for programs.
    pub code: &'static str,
    /// A message for people. It must not contain text from the client.
    pub message: String,
}

/// A check of requests and answers.
///
/// Every method has a default that does nothing; a filter implements those that its
/// [`hooks`](Filter::hooks) name.
pub trait Filter: Send + Sync + fmt::Debug {
    /// The hooks of the filter. Called once, when the chain is built.
    fn hooks(&self) -> Hooks;

    /// Checks the head of a request. Synchronous: it must not wait, and should take microseconds.
    ///
    /// # Errors
    /// [`FilterRefusal`], when the request ends here.
    fn check_head(&self, head: &RequestHead<'_>) -> Result<(), FilterRefusal> {
        let _ = head;
        Ok(())
    }

    /// Checks the whole prompt. Synchronous: it blocks every other stream of the worker. Long
    /// prompts are checked on a thread of the pool instead.
    fn detect(&self, subject: &Subject) -> Report {
        let _ = subject;
        Report::default()
    }

    /// Checks the whole prompt, or a window of an answer. It may wait for a server or for a thread
    /// of the pool ([`Call::ask`], [`Call::offload`]). Judges of one stage run concurrently.
    ///
    /// # Errors
    /// [`Failure`] when there is no result; the `on_failure` setting of the filter then applies.
    ///
    /// # Cancel safety
    /// The future is dropped at its deadline, or when the request ends.
    fn judge<'a>(
        &'a self,
        subject: &'a Arc<Subject>,
        call: &'a Call<'a>,
    ) -> BoxFuture<'a, Result<Report, Failure>> {
        let _ = (subject, call);
        Box::pin(async { Ok(Report::default()) })
    }

    /// Opens a watch for an answer, before its first event. `None`: the filter skips this answer.
    fn watch(&self, facts: &AnswerFacts) -> Option<Box<dyn AnswerWatch>> {
        let _ = facts;
        None
    }
}

/// The state of a filter for one answer.
pub trait AnswerWatch: Send + fmt::Debug {
    /// Checks a piece of decoded text before it is sent to the client. Synchronous, and called for
    /// each event: it should take less than a microsecond.
    ///
    /// # Errors
    /// [`FilterRefusal`]: the answer ends before this piece.
    fn text(&mut self, choice: u32, channel: Channel, text: &str) -> Result<(), FilterRefusal>;

    /// Checks the complete answer, before its end is sent to the client.
    ///
    /// # Errors
    /// [`FilterRefusal`]: the answer ends early.
    fn end(&mut self) -> Result<(), FilterRefusal> {
        Ok(())
    }
}
