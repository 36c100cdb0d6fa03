//! Keep-alives of an answer that is held for its first token: the head of the stream and its
//! comments pass, and its events do not. Proxies close connections that are silent for a minute,
//! and a prefill can take longer.
//!
//! - *In*: a held event stream with whole comments.
//! - *Out*: the head, once, and the comments, in the queue.
//! - *Never*: a commitment. Another backend may still send the events; they follow the comments
//!   under the same head.

use lens::State;
use transport::{Sink, Source};

use super::{End, Relay, Step};
use crate::request::Request;

impl<R: Request<S>, S: Source, D: Sink> Relay<'_, R, S, D> {
    /// Queue the comments of a held answer. A stream that is resumed gets none: what a resuming
    /// backend sends is held until it is known to continue the answer.
    pub(super) fn pass_comments(&mut self) -> Result<Step, End> {
        if self.resumes || self.out.len() >= self.context.ring {
            return Ok(Step::Idle);
        }
        let Some((head, comments)) = self.source.take_comments() else { return Ok(Step::Idle) };
        if self.out.is_empty() {
            let read_at = self.source.held_read_at();
            self.first_byte_read(head.first_byte, State::AwaitFirstToken, read_at);
        }
        if !self.request.parts().answer.measured {
            self.open_answer(&head);
            self.request.parts().answer.measured = true;
        }
        if !self.is_open {
            self.send_head(head)?;
            self.is_open = true;
        }
        let lines = comments.split(|byte| matches!(byte, b'\r' | b'\n'));
        let count = lines.filter(|line| line.starts_with(b":")).count();
        self.request.parts().answer.lens.add_comments(count as u64);
        self.out.push(&comments);
        self.out.commit();
        Ok(Step::Moved)
    }
}
