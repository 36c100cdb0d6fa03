//! A scripted request between a scripted source and a scripted sink. No socket, and time is
//! tokio's, which tests pause.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use lens::gaps::Gaps;
use lens::{Ledger, State, Tick};
use relay::{
    Answer, Context, End, GuardrailResult, GuardrailTools, InterruptedStream, Note, Parts, Relay,
    Request, Resume, Sent, TokenTimeouts, Verdict,
};
use tokio::time::Sleep;
use traffic::Exhausted;
use transport::{
    AnswerHead, BodyListener, BodyStep, Gone, Sink, Source, StreamBuffer, Upstream, UpstreamError,
    clock,
};
use wire::{Dialect, Framing, ReaderLimits};

/// What a source does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// One read brings these bytes.
    Read(Vec<u8>),
    Wait(Duration),
    /// The connection breaks.
    Die,
}

/// A backend that answers by a script; the end of the script is the proper end of the body.
pub struct ScriptedSource {
    framing: Framing,
    status: u16,
    steps: VecDeque<Step>,
    timer: Option<Pin<Box<Sleep>>>,
    /// When each read returned.
    pub reads: Vec<Tick>,
}

impl ScriptedSource {
    pub fn new(framing: Framing, steps: Vec<Step>) -> Self {
        ScriptedSource { framing, status: 200, steps: steps.into(), timer: None, reads: Vec::new() }
    }

    /// Wait as scripted; ready at the next step that is not a wait.
    fn poll_wait(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        while let Some(Step::Wait(time)) = self.steps.front() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(*time)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            self.steps.pop_front();
        }
        Poll::Ready(())
    }
}

impl Source for ScriptedSource {
    fn poll_send(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), UpstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_head(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        ready!(self.poll_wait(cx));
        if matches!(self.steps.front(), Some(Step::Die)) {
            return Poll::Ready(Err(UpstreamError::ClosedEarly));
        }
        Poll::Ready(Ok(AnswerHead {
            status: self.status,
            fields: Vec::new(),
            length: None,
            framing: self.framing,
            encoded: false,
            first_byte: clock::now(),
        }))
    }

    fn poll_body(
        &mut self,
        cx: &mut TaskContext<'_>,
        listener: &mut impl BodyListener,
    ) -> Poll<Result<BodyStep, UpstreamError>> {
        ready!(self.poll_wait(cx));
        match self.steps.pop_front() {
            Some(Step::Read(bytes)) => {
                let now = clock::now();
                self.reads.push(now);
                listener.begin_read(now, None);
                listener.payload(&bytes);
                Poll::Ready(Ok(BodyStep::More))
            }
            Some(Step::Die) => Poll::Ready(Err(UpstreamError::ClosedEarly)),
            Some(Step::Wait(_)) => unreachable!("waited for"),
            None => Poll::Ready(Ok(BodyStep::End)),
        }
    }

    fn settle(self, _: &Upstream) {}
}

/// How a client takes an answer.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    All,
    /// At most so many bytes a write, and a wait between two writes.
    Slowly(usize, Duration),
    /// Nothing more after so many bytes.
    StopsAfter(usize),
    /// It leaves after so many bytes.
    LeavesAfter(usize),
}

/// A client that takes an answer in its own way.
pub struct ScriptedSink {
    takes: Takes,
    timer: Option<Pin<Box<Sleep>>>,
    pub head: Option<(u16, String)>,
    pub taken: Vec<u8>,
    /// How it ended: properly or not.
    pub ended: Option<bool>,
}

impl ScriptedSink {
    pub fn new(takes: Takes) -> Self {
        ScriptedSink { takes, timer: None, head: None, taken: Vec::new(), ended: None }
    }
}

impl Sink for ScriptedSink {
    fn begin(&mut self, head: &AnswerHead, extra: &str, _: &mut StreamBuffer) -> Result<(), Gone> {
        assert!(self.head.is_none(), "a second head");
        self.head = Some((head.status, extra.to_owned()));
        Ok(())
    }

    fn poll_write(
        &mut self,
        cx: &mut TaskContext<'_>,
        out: &mut StreamBuffer,
    ) -> Poll<Result<(), Gone>> {
        assert!(self.head.is_some(), "a body without a head");
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
        let most = match self.takes {
            Takes::All => usize::MAX,
            Takes::Slowly(most, wait) => {
                self.timer = Some(Box::pin(tokio::time::sleep(wait)));
                most
            }
            Takes::StopsAfter(most) if self.taken.len() >= most => return Poll::Pending,
            Takes::LeavesAfter(most) if self.taken.len() >= most => return Poll::Ready(Err(Gone)),
            Takes::StopsAfter(most) | Takes::LeavesAfter(most) => most - self.taken.len(),
        };
        let pending = out.pending();
        let len = pending.len().min(most);
        self.taken.extend_from_slice(&pending[..len]);
        out.advance(len);
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, _: &mut TaskContext<'_>) -> Poll<()> {
        match self.takes {
            Takes::LeavesAfter(most) if self.taken.len() >= most => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    fn end(&mut self, complete: bool) {
        self.ended = Some(complete);
    }
}

/// A request whose decisions are set by the test.
pub struct ScriptedRequest {
    pub ledger: Ledger,
    pub sent: Sent,
    pub answer: Answer,
    pub guarded: GuardrailResult,
    pub verdict: Verdict,
    pub committed: bool,
    /// Whether another backend may resume the stream.
    pub resumable: bool,
    /// The text that a resume was asked for.
    pub resumed_with: Option<String>,
    /// A stream ends when it has generated so many tokens.
    pub budget: Option<u64>,
    pub notes: Vec<Note>,
    pub queued: i64,
    pub backend_released: bool,
    pub host: std::sync::Arc<dyn filters::Host>,
}

/// What filters may use in tests: nothing.
pub struct NoHost;

impl filters::Host for NoHost {
    fn now(&self) -> Tick {
        clock::now()
    }

    fn sleep(&self, time: Duration) -> filters::BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn send(
        &self,
        _: filters::HostRequest,
    ) -> filters::BoxFuture<'static, Result<filters::HostResponse, filters::Failure>> {
        Box::pin(async { Err(filters::Failure::Unreachable) })
    }

    fn offload(&self, job: filters::Job) -> Result<(), filters::Failure> {
        job();
        Ok(())
    }
}

impl ScriptedRequest {
    pub fn new() -> Self {
        ScriptedRequest {
            ledger: Ledger::open(State::Gateway, clock::now()),
            sent: Sent::default(),
            answer: Answer::default(),
            guarded: GuardrailResult::default(),
            verdict: Verdict::default(),
            committed: false,
            resumable: false,
            resumed_with: None,
            budget: None,
            notes: Vec::new(),
            queued: 0,
            backend_released: false,
            host: std::sync::Arc::new(NoHost),
        }
    }
}

impl<S> Request<S> for ScriptedRequest {
    fn id(&self) -> &str {
        "test"
    }

    fn parts(&mut self) -> Parts<'_> {
        Parts {
            ledger: &mut self.ledger,
            sent: &mut self.sent,
            answer: &mut self.answer,
            guarded: &mut self.guarded,
            verdict: &mut self.verdict,
        }
    }

    fn head_received(&mut self, _: &AnswerHead, _: &mut S) {}

    fn retry(&mut self, status: u16) -> bool {
        status >= 500 && !self.committed && self.resumable
    }

    fn commit(&mut self) {
        self.committed = true;
    }

    fn fields(&mut self, _: Tick) -> String {
        "x-request-id: test\r\n".into()
    }

    fn is_charged(&self) -> bool {
        self.budget.is_some()
    }

    fn charge(&mut self) -> Option<Exhausted> {
        let used = self.answer.lens.completion_tokens().0.unwrap_or(0);
        let exhausted = self.budget.is_some_and(|budget| used >= budget);
        let (unit, on_exhausted) =
            (traffic::settings::Unit::OutputTokens, traffic::settings::OnExhausted::Length);
        exhausted.then(|| Exhausted { limit: "tokens \"a day\"".into(), unit, on_exhausted })
    }

    fn first_token(&mut self) {}

    fn release_backend(&mut self) {
        self.backend_released = true;
    }

    fn is_resumable(&self) -> bool {
        self.resumable
    }

    fn resume(&mut self, text: &str) -> Resume {
        self.resumed_with = Some(text.to_owned());
        if self.resumable { Resume::Selected } else { Resume::Impossible }
    }

    fn resumed(&mut self) -> Option<String> {
        None
    }

    fn flush_gaps(&mut self) {
        let (itl, client) = self.answer.lens.drain_gaps();
        drop((itl, client));
    }

    fn flush_holds(&mut self, holds: &mut Gaps) {
        drop(holds.drain());
    }

    fn queued(&mut self, change: i64) {
        self.queued += change;
    }

    fn guardrail_tools(&self) -> GuardrailTools {
        GuardrailTools { host: self.host.clone(), hasher: None }
    }

    fn audit(&mut self, notes: &[Note]) {
        self.notes.extend_from_slice(notes);
    }
}

/// Settings of a gateway with these lines, for timeouts and guardrails.
pub fn settings(more: &str) -> config::Settings {
    let text = format!(
        "backends: [{{name: b, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: b}}]\n{more}"
    );
    config::parse("test", &text).expect("good settings")
}

/// What does not change while an answer of that dialect is relayed.
pub fn context(dialect: Dialect) -> Context {
    Context {
        head_at: clock::now(),
        timeouts: settings("").timeouts,
        token_timeouts: TokenTimeouts::default(),
        drain: std::sync::Arc::default(),
        ring: 256 << 10,
        dialect: Some(dialect),
        reader_limits: ReaderLimits::default(),
        echoes_prompt: false,
        choices: 1,
        max_tokens: None,
        stall_ns: u64::MAX,
        guardrail: None,
        usage_of_prompt: None,
    }
}

/// Relay a script; how it ended, and what is left to resume.
pub async fn run<S: Source>(
    request: &mut ScriptedRequest,
    context: Context,
    source: &mut S,
    sink: &mut ScriptedSink,
    cut: Option<Box<InterruptedStream>>,
) -> (End, Option<Box<InterruptedStream>>) {
    let done = Relay::new(request, context, source, sink, cut).forward_answer().await;
    assert_eq!(request.queued, 0, "the gauge of queued bytes is back at zero");
    done
}
