//! Idle connections, a list for each worker and backend. No lock, no task for each connection.
//!
//! - *In*: a connection whose answer was read to its end.
//! - *Out*: the most recently used one that has rested and is alive: a read that would block proves
//!   that neither a close nor a stray byte has arrived.
//! - *Never*: a connection with unread bytes; more than the backend's `idle_connections`, or than
//!   the process may have; one older than [`MAX_IDLE`].
//!
//! A worker that has idle connections runs one sweeper, which ends with the last of them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lens::Tick;
use tokio::net::TcpStream;

use super::connect::Io;
use crate::clock;

/// Maximum idle time of a connection. Engines close idle connections after 5 s (uvicorn) to 75 s.
const MAX_IDLE: Duration = Duration::from_secs(55);
/// How long a connection rests after a chunked answer. llama-server closes it up to 5 ms after the
/// end, although it has announced a keep-alive: a request in between would get no answer.
pub(super) const REST: Duration = Duration::from_millis(50);
/// Interval at which the sweeper drops connections that the backend closed.
const SWEEP: Duration = Duration::from_secs(2);

/// Idle connections of all workers.
static ALL: AtomicUsize = AtomicUsize::new(0);
/// Maximum of them.
static MAX_ALL: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Bound the idle connections of the process, for which descriptors must be left.
pub fn limit_idle_connections(most: usize) {
    MAX_ALL.store(most, Ordering::Relaxed);
}

#[derive(Debug)]
struct Idle {
    io: Io,
    since: Tick,
    rests: bool,
    _counted: Counted,
}

impl Idle {
    fn has_rested(&self) -> bool {
        !self.rests || clock::now().nanos_since(self.since) >= REST.as_nanos() as u64
    }
}

/// Counts an idle connection until it is dropped.
#[derive(Debug)]
struct Counted;

impl Counted {
    /// `None`: the process has enough.
    fn new() -> Option<Self> {
        let fits = ALL.fetch_add(1, Ordering::Relaxed) < MAX_ALL.load(Ordering::Relaxed);
        let counted = Counted;
        fits.then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALL.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Idle connections by backend.
type IdleByBackend = HashMap<usize, Vec<Idle>, foldhash::fast::RandomState>;

thread_local! {
    static IDLE: RefCell<IdleByBackend> = RefCell::default();
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
}

/// Take a live connection to that backend.
pub(super) fn take(backend: usize) -> Option<Io> {
    IDLE.with_borrow_mut(|all| {
        let list = all.get_mut(&backend)?;
        while let Some(at) = list.iter().rposition(Idle::has_rested) {
            let idle = list.remove(at);
            if is_alive(&idle) {
                return Some(idle.io);
            }
        }
        None
    })
}

/// Add an idle connection to the pool.
pub(super) fn put(backend: usize, io: Io, rests: bool, most: usize) {
    IDLE.with_borrow_mut(|all| {
        let list = all.entry(backend).or_default();
        if list.len() < most
            && let Some(counted) = Counted::new()
        {
            list.push(Idle { io, since: clock::now(), rests, _counted: counted });
        }
    });
    if !SWEEPING.replace(true) {
        // Owned by the worker's runtime; it ends with the last idle connection, or with the
        // runtime.
        tokio::spawn(sweep(Sweeper));
    }
}

/// Marks the worker's sweeper as running. When it is dropped, another one may start.
struct Sweeper;

impl Drop for Sweeper {
    fn drop(&mut self) {
        SWEEPING.set(false);
    }
}

async fn sweep(_sweeper: Sweeper) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let empty = IDLE.with_borrow_mut(|all| {
            all.retain(|_, list| {
                list.retain(is_alive);
                !list.is_empty()
            });
            all.is_empty()
        });
        if empty {
            return;
        }
    }
}

fn is_alive(idle: &Idle) -> bool {
    let young = clock::now().nanos_since(idle.since) < MAX_IDLE.as_nanos() as u64;
    young && would_wait(idle.io.socket())
}

/// Whether a read would block: the connection is open and has no surplus byte.
fn would_wait(socket: &TcpStream) -> bool {
    matches!(socket.try_read(&mut [0; 1]), Err(e) if e.kind() == ErrorKind::WouldBlock)
}
