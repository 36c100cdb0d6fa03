//! A gateway's shared state from a text of settings, requests from text, and a client that keeps
//! what it is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use config::Found;
use http1::head::{self, HeadIndex, HeadLimits};
use lens::Record;
use observatory::Observatory;
use pipeline::shared::Shared;
use pipeline::stage::{accept, authenticate};
use pipeline::{ExchangeGuard, Incoming};
use plan::client_limits::ClientLimits;
use plan::clock;
use plan::host::ThreadPool;
use plan::{Plan, Tools};
use refusal::Refusal;
use transport::{AnswerHead, Gone, Memory, Sink, StreamBuffer};

pub const CHAT: &str = "/v1/chat/completions";

/// The state that requests share. `backend`, `route` and `more` are more members of the backend
/// `b`, of the route `r`, and of the settings.
pub fn shared(backend: &str, route: &str, more: &str) -> Arc<Shared> {
    let text = format!(
        "backends: [{{name: b, url: 'http://127.0.0.1:1', models: [m]{backend}}}, {{name: c, url: 'http://127.0.0.1:2', models: [m, n]}}]\n\
         pools: [{{name: p, balance: round_robin, backends: [b, c]}}]\nroutes: [{{name: r{route}}}]\n{more}\n"
    );
    let text = if route.contains("pool:") {
        text
    } else {
        text.replace("{name: r", "{name: r, backend: b")
    };
    of(&text)
}

/// The same of a whole text of settings.
pub fn of(text: &str) -> Arc<Shared> {
    let settings =
        Arc::new(config::parse("test", text).unwrap_or_else(|problems| panic!("{problems}")));
    let observatory = Arc::new(Observatory::new(1, 16, Vec::new()));
    let threads = |name| Arc::new(ThreadPool::new(name, 1, 16));
    let tools = Tools {
        observatory: observatory.clone(),
        filters: filters::Registry::standard(),
        pool: threads("shield"),
        counting: threads("count"),
    };
    let plan = Plan::build(settings.clone(), &Found::new(), &tools, None).expect("a plan");
    Arc::new(Shared {
        plan: ArcSwap::from_pointee(plan),
        started_with: settings,
        last_reload: parking_lot::Mutex::default(),
        drain: Arc::default(),
        found: parking_lot::Mutex::default(),
        observatory,
        statistics: Arc::new(stats::Statistics::new(clock::now())),
        tools,
        client_limits: ClientLimits::new(usize::MAX),
        memory: Memory::new(u64::MAX),
        usage_sums: Arc::default(),
        audit: None,
        contents: None,
        tracing: None,
        draining: AtomicBool::new(false),
        started: clock::now(),
        tasks: tokio_util::task::TaskTracker::new(),
        file: None,
    })
}

/// A request that a listener has read.
pub struct Read {
    pub buffer: Vec<u8>,
    pub index: HeadIndex,
}

impl Read {
    pub fn post(path: &str, fields: &str, body: &str) -> Read {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: gateway\r\n{fields}content-length: {}\r\n\r\n",
            body.len()
        );
        let mut fields = head::field_buffer();
        let index = HeadIndex::new(
            &head::parse_request(head.as_bytes(), &mut fields, HeadLimits::default())
                .expect("a head"),
            head.as_bytes(),
        );
        Read { buffer: (head + body).into_bytes(), index }
    }

    pub fn with_head<T>(
        &self,
        work: impl FnOnce(&head::Head<'_, head::RequestLine<'_>>) -> T,
    ) -> T {
        let mut fields = head::FieldList::new();
        work(&self.index.head(&self.buffer, &mut fields))
    }

    pub fn body(&self) -> &[u8] {
        &self.buffer[self.index.head_len()..]
    }

    pub fn incoming(self) -> Incoming {
        let body = self.index.head_len()..self.buffer.len();
        Incoming { buffer: self.buffer.into(), head: self.index, body, encoded: false }
    }

    /// What a listener does: accept, then authenticate.
    pub fn open(&self, shared: &Arc<Shared>) -> (ExchangeGuard, Result<(), Refusal>) {
        let plan = shared.plan.load_full();
        let now = clock::now();
        let (mut accepted, shown, checked) = self.with_head(|head| {
            let dialect = match accept::server(&head.line) {
                accept::Server::Exchange(dialect) => Some(dialect),
                accept::Server::PassThrough => None,
            };
            (
                accept::accepted(head, dialect, now),
                authenticate::read_credential(&plan, head, None),
                accept::check(head),
            )
        });
        accepted.client = Some([127, 0, 0, 1].into());
        let mut exchange = ExchangeGuard::open(shared, plan, accepted, now);
        let admitted = checked.and_then(|()| authenticate::admit(&mut exchange, shown));
        (exchange, admitted)
    }

    /// The same, with the body read and the route chosen.
    pub fn routed(&self, shared: &Arc<Shared>) -> ExchangeGuard {
        let (mut exchange, admitted) = self.open(shared);
        admitted.expect("admitted");
        self.with_head(|head| {
            pipeline::stage::inspect::read_body(&mut exchange, head, false, self.body())
        })
        .expect("not refused");
        self.with_head(|head| pipeline::stage::route::select(&mut exchange, head))
            .expect("a route");
        exchange.expected = pipeline::stage::rate_limit::expected(&exchange, self.body());
        exchange
    }
}

/// A chat with that text.
pub fn chat(text: &str) -> Read {
    Read::post(
        CHAT,
        "",
        &format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}"),
    )
}

/// The records that were written.
pub fn records(shared: &Shared) -> Vec<Arc<Record>> {
    shared.observatory.recent(16)
}

/// A client that takes everything, or has left.
#[derive(Default)]
pub struct Client {
    pub status: Option<u16>,
    pub fields: String,
    pub body: Vec<u8>,
    pub ended: Option<bool>,
    pub gone: AtomicBool,
}

impl Sink for Client {
    fn begin(&mut self, head: &AnswerHead, extra: &str, _: &mut StreamBuffer) -> Result<(), Gone> {
        (self.status, self.fields) = (Some(head.status), extra.to_owned());
        Ok(())
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        out: &mut StreamBuffer,
    ) -> Poll<Result<(), Gone>> {
        self.body.extend_from_slice(out.pending());
        let len = out.pending().len();
        out.advance(len);
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.gone.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn end(&mut self, complete: bool) {
        self.ended = Some(complete);
    }
}

impl Client {
    /// The code of the error that it was answered.
    pub fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("an error object");
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}
