//! The client of a remote judge, with its circuit breaker.
//!
//! - *In*: a request as a JSON document.
//! - *Out*: the parsed response.
//! - *Never*: a request while the breaker is open; a response larger than the host allows.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::Value;

use crate::breaker::Breaker;
use crate::host::{Call, HostRequest};
use crate::report::Failure;

/// The endpoint of a judge, with its circuit breaker.
#[derive(Debug)]
pub struct Remote {
    backend: Arc<str>,
    path: String,
    breaker: Breaker,
}

impl Remote {
    /// A judge at that path of that backend.
    pub fn new(backend: Arc<str>, path: impl Into<String>) -> Self {
        Remote { backend, path: path.into(), breaker: Breaker::default() }
    }

    /// Send one request and parse the response with `read`. `None` of `read` is
    /// [`Failure::InvalidResponse`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn call<T>(
        &self,
        call: &Call<'_>,
        question: &Value,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, Failure> {
        self.admit(call)?;
        let began = call.now();
        let answer = self.put(call, question).await;
        call.waited_for_others(began);
        let answered = answer.and_then(|answer| read(&answer).ok_or(Failure::InvalidResponse));
        self.count(call, answered.as_ref().err());
        answered
    }

    /// Send several requests concurrently as one call: it fails when one of them fails, and counts
    /// once for the breaker.
    ///
    /// # Errors
    /// The first [`Failure`].
    pub async fn call_all<T>(
        &self,
        call: &Call<'_>,
        questions: &[Value],
        read: impl Fn(usize, &Value) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        self.admit(call)?;
        let began = call.now();
        let answers = join_all(questions.iter().map(|question| self.put(call, question))).await;
        call.waited_for_others(began);
        let read = |(at, answer): (usize, Result<Value, Failure>)| {
            answer.and_then(|answer| read(at, &answer).ok_or(Failure::InvalidResponse))
        };
        let answered: Result<Vec<T>, Failure> = answers.into_iter().enumerate().map(read).collect();
        self.count(call, answered.as_ref().err());
        answered
    }

    fn admit(&self, call: &Call<'_>) -> Result<(), Failure> {
        if self.breaker.admits(call.now()) { Ok(()) } else { Err(Failure::Open) }
    }

    async fn put(&self, call: &Call<'_>, question: &Value) -> Result<Value, Failure> {
        let ask = HostRequest {
            backend: self.backend.clone(),
            path: self.path.clone(),
            body: question.to_string().into(),
        };
        match call.send_uncounted(ask).await? {
            reply if matches!(reply.status, 429 | 500..) => Err(Failure::Overloaded),
            reply if (200..300).contains(&reply.status) => {
                serde_json::from_slice(&reply.body).map_err(|_| Failure::InvalidResponse)
            }
            _ => Err(Failure::Refused),
        }
    }

    fn count(&self, call: &Call<'_>, failure: Option<&Failure>) {
        match failure {
            None => self.breaker.record_success(),
            Some(Failure::Unreachable | Failure::Deadline | Failure::Overloaded) => {
                self.breaker.record_failure(call.now())
            }
            // Other judges may have used up the common deadline. And a failure that the text of one
            // client causes must not open the breaker for all clients.
            Some(_) => {}
        }
    }
}
