//! A scripted host: its clock stands still until a test waits, and its servers return scripted
//! responses.
//!
//! - *In*: answers, in the order of the questions.
//! - *Out*: the questions that were asked.
//! - *Never*: a thread, a socket or a real wait. When all tasks wait, the clock moves to the next
//!   alarm.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use filters::settings::{
    Action, Class, FilterSettings, Judge, JudgeKind, JudgeMode, OnFailure, Template,
};
use filters::{
    BoxFuture, Call, Failure, Filter, Host, HostRequest, HostResponse, Job, Place, Report, Side,
    Sizes, Subject, TextSource,
};
use lens::Tick;
use parking_lot::Mutex;
use serde_json::Value;

/// How long a judge may take in these tests.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// What a server does when it is asked.
#[derive(Clone, Debug)]
pub enum Act {
    /// It answers with that status and body.
    Says(u16, String),
    /// It answers well, after that time.
    Thinks(Duration, String),
    /// No server answers there.
    Gone,
    /// It never answers.
    Silent,
}

#[derive(Default)]
struct State {
    now: u64,
    alarms: Vec<u64>,
    script: VecDeque<Act>,
    asks: Vec<HostRequest>,
}

/// The played host.
#[derive(Clone, Default)]
pub struct Stage(Arc<Mutex<State>>);

impl Stage {
    /// A stage whose servers answer with these documents.
    pub fn saying(answers: impl IntoIterator<Item = Value>) -> Self {
        Self::doing(answers.into_iter().map(|answer| Act::Says(200, answer.to_string())))
    }

    /// A stage whose servers do these things.
    pub fn doing(acts: impl IntoIterator<Item = Act>) -> Self {
        let stage = Stage::default();
        stage.0.lock().script.extend(acts);
        stage
    }

    /// More of the same.
    pub fn then(&self, acts: impl IntoIterator<Item = Act>) {
        self.0.lock().script.extend(acts);
    }

    /// What was asked since the last time.
    pub fn asks(&self) -> Vec<HostRequest> {
        std::mem::take(&mut self.0.lock().asks)
    }

    /// The documents that were asked since the last time.
    pub fn questions(&self) -> Vec<Value> {
        self.asks()
            .iter()
            .map(|ask| serde_json::from_slice(&ask.body).expect("a question is JSON"))
            .collect()
    }

    /// Let time pass.
    pub fn pass(&self, time: Duration) {
        self.0.lock().now += u64::try_from(time.as_nanos()).expect("a short time");
    }

    /// Put a question to a filter.
    pub fn judge(&self, filter: &dyn Filter, subject: &Arc<Subject>) -> Result<Report, Failure> {
        let until = Tick(self.now().0 + u64::try_from(DEADLINE.as_nanos()).expect("a short time"));
        let call = Call::new(self, Some(until), Failure::Deadline);
        self.run(filter.judge(subject, &call))
    }

    /// Run to the end; the clock moves when nothing else does.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return done;
            }
            let mut state = self.0.lock();
            let now = state.now;
            state.alarms.retain(|alarm| *alarm > now);
            state.now = state.alarms.iter().copied().min().expect("a task waits for an alarm");
        }
    }
}

impl Host for Stage {
    fn now(&self) -> Tick {
        Tick(self.0.lock().now)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let stage = self.clone();
        let due = self.now().0 + u64::try_from(time.as_nanos()).expect("a short time");
        self.0.lock().alarms.push(due);
        Box::pin(std::future::poll_fn(move |_| {
            if stage.now().0 >= due { Poll::Ready(()) } else { Poll::Pending }
        }))
    }

    fn send(&self, ask: HostRequest) -> BoxFuture<'static, Result<HostResponse, Failure>> {
        let act = {
            let mut state = self.0.lock();
            state.asks.push(ask);
            state.script.pop_front().expect("the script has an answer for each question")
        };
        match act {
            Act::Thinks(time, body) => {
                let thought = self.sleep(time);
                Box::pin(async move {
                    thought.await;
                    Ok(HostResponse { status: 200, body: body.into() })
                })
            }
            Act::Says(status, body) => {
                Box::pin(std::future::ready(Ok(HostResponse { status, body: body.into() })))
            }
            Act::Gone => Box::pin(std::future::ready(Err(Failure::Unreachable))),
            Act::Silent => Box::pin(std::future::pending()),
        }
    }

    fn offload(&self, job: Job) -> Result<(), Failure> {
        job();
        Ok(())
    }
}

/// A judge that blocks on both sides, from 0.5 on.
pub fn settings(kind: JudgeKind) -> Judge {
    Judge {
        declared: FilterSettings {
            name: "guard".into(),
            class: Class::Guardrail,
            on_failure: OnFailure::Closed,
            deadline: DEADLINE,
            mode: JudgeMode::Hold,
        },
        kind,
        backend: "guards".into(),
        path: "/ask".into(),
        model: "m".into(),
        template: Template::LlamaGuard,
        input: Action::Block,
        output: Action::Block,
        threshold: 0.5,
        categories: Vec::new(),
        examples: Vec::new(),
        language: "en".into(),
        files: None,
    }
}

/// The filter of these settings.
pub fn filter(settings: &Judge) -> Arc<dyn Filter> {
    filters::judge::build(settings).expect("a remote judge")
}

/// A prompt of these texts.
pub fn prompt(texts: &[(wire::request::PromptRole, &str)]) -> Arc<Subject> {
    let mut builder = Subject::build(Side::Input, Sizes { messages: 3, ..Sizes::default() }, 0);
    texts.iter().for_each(|(speaker, text)| {
        builder.text(TextSource::Prompt(*speaker), Place::default(), text)
    });
    Arc::new(builder.done())
}

/// A prompt with a text of each voice.
pub fn talk() -> Arc<Subject> {
    use wire::request::PromptRole::{Assistant, System, Tool, ToolDefinition, User};
    prompt(&[
        (System, "be nice"),
        (User, "hi"),
        (Assistant, "hello"),
        (Tool, "42"),
        (User, "go on"),
        (ToolDefinition, "adds"),
    ])
}

/// A window of an answer.
pub fn window(text: &str) -> Arc<Subject> {
    Arc::new(Subject::of_answer(text))
}

/// The findings in short: kind, text, span, score.
pub fn found(report: &Report) -> Vec<(&str, usize, std::ops::Range<usize>, f32)> {
    report
        .found
        .iter()
        .map(|found| (&*found.kind, found.text, found.span.clone(), found.score))
        .collect()
}

/// The scores by the category's name.
pub fn scores(report: &Report) -> BTreeMap<&'static str, f32> {
    report.scores.iter().map(|(category, score)| (category.name(), *score)).collect()
}

/// Each of these answers makes no sense to the judge.
pub fn refuses(settings: &Judge, subject: &Arc<Subject>, answers: impl IntoIterator<Item = Value>) {
    for answer in answers {
        let shown: String = answer.to_string().chars().take(200).collect();
        assert_eq!(
            Stage::saying([answer]).judge(&*filter(settings), subject),
            Err(Failure::InvalidResponse),
            "{shown}"
        );
    }
}
