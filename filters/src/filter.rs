//! The trait that every filter implements.
//!
//! A filter is one object for a route and is shared by all of its requests; what it must remember
//! of one answer lives in the [`Watch`] that it opens. It takes part where its [`Hooks`] say, and
//! costs nothing elsewhere.

use std::fmt;
use std::sync::Arc;

use wire::Channel;

use crate::BoxFuture;
use crate::host::Call;
use crate::report::{Failure, Report};
use crate::subject::Subject;

/// Where a filter takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks(u8);

impl Hooks {
    /// Nowhere.
    pub const NONE: Hooks = Hooks(0);
    /// [`Filter::head`].
    pub const HEAD: Hooks = Hooks(1);
    /// [`Filter::look`], at prompts.
    pub const LOOK: Hooks = Hooks(2);
    /// [`Filter::judge`], of prompts.
    pub const JUDGE: Hooks = Hooks(4);
    /// [`Filter::watch`].
    pub const WATCH: Hooks = Hooks(8);
    /// [`Filter::judge`], of windows of answers.
    pub const JUDGE_ANSWER: Hooks = Hooks(16);

    /// Whether all of `other` is in here.
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

/// The head of a request, as far as a filter may know it.
#[derive(Debug)]
pub struct RequestHead<'h> {
    /// `POST`.
    pub method: &'h str,
    /// The path without its query.
    pub path: &'h str,
    /// Names in any case, with their values.
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

/// What an answer is, before its first event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFacts {
    /// The status.
    pub status: u16,
    /// Whether it is a stream of events.
    pub streamed: bool,
    /// The request's id.
    pub request_id: Arc<str>,
}

/// A filter's own no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status to answer with, 400 to 599. In the middle of an answer it does not show.
    pub status: u16,
    /// A stable word for programs.
    pub code: &'static str,
    /// A sentence for people. It must not repeat text of the client.
    pub message: String,
}

/// Something that looks at requests and answers.
///
/// Every method has a default that does nothing; a filter implements those that its
/// [`hooks`](Filter::hooks) name.
pub trait Filter: Send + Sync + fmt::Debug {
    /// Where it takes part. Asked once, when the chain is built.
    fn hooks(&self) -> Hooks;

    /// The head of a request has come. Synchronous: it must not wait, and should take microseconds.
    ///
    /// # Errors
    /// [`Refused`], when the request ends here.
    fn head(&self, head: &RequestHead<'_>) -> Result<(), Refused> {
        let _ = head;
        Ok(())
    }

    /// The whole request is there. Synchronous: what it costs, every other stream of the worker
    /// waits; long prompts are looked at on a thread of the pool instead.
    fn look(&self, subject: &Subject) -> Report {
        let _ = subject;
        Report::default()
    }

    /// The whole request, or a window of an answer, for filters that wait: for a server, or for a
    /// thread of the pool ([`Call::ask`], [`Call::offload`]). Judges of one stage run side by side.
    ///
    /// # Errors
    /// [`Failure`], when it cannot say: its declared mode then applies.
    ///
    /// # Cancel safety
    /// The future is dropped when its time is over, or the request is.
    fn judge<'a>(
        &'a self,
        subject: &'a Arc<Subject>,
        call: &'a Call<'a>,
    ) -> BoxFuture<'a, Result<Report, Failure>> {
        let _ = (subject, call);
        Box::pin(async { Ok(Report::default()) })
    }

    /// An answer begins. `None`: this one is not of interest.
    fn watch(&self, facts: &AnswerFacts) -> Option<Box<dyn Watch>> {
        let _ = facts;
        None
    }
}

/// What a filter remembers of one answer.
pub trait Watch: Send + fmt::Debug {
    /// A piece of generated text, decoded, before it is passed on. Synchronous, and called for each
    /// event: it should take less than a microsecond.
    ///
    /// # Errors
    /// [`Refused`]: the answer ends before this piece.
    fn text(&mut self, choice: u32, channel: Channel, text: &str) -> Result<(), Refused>;

    /// The answer is complete; its ending has not been passed on.
    ///
    /// # Errors
    /// [`Refused`]: the answer ends early.
    fn end(&mut self) -> Result<(), Refused> {
        Ok(())
    }
}
