//! Signals of the process.
//!
//! - *In*: TERM drains and ends; INT ends at once; HUP reloads the settings; QUIT hands the
//!   listeners to a successor; USR1, USR2 and ALRM are ignored.
//! - *Out*: what a signal requests.
//! - *Never*: the end of a starting gateway by a signal that a running one handles otherwise:
//!   [`hold`] keeps these signals until [`Signals::new`] has installed the handlers.

use nix::sys::signal::{self, SigSet};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Signals that end a process without a handler, but not a gateway.
const HELD: [signal::Signal; 5] = [
    signal::Signal::SIGHUP,
    signal::Signal::SIGQUIT,
    signal::Signal::SIGUSR1,
    signal::Signal::SIGUSR2,
    signal::Signal::SIGALRM,
];

/// Hold HUP, QUIT, USR1, USR2 and ALRM until the gateway serves. Call it in the main thread, before
/// any other thread is started: a thread inherits what its parent holds.
pub fn hold() {
    // It fails for an invalid argument only.
    let _ = SigSet::from_iter(HELD).thread_block();
}

/// Deliver the signals that [`hold`] holds, to the handlers that are installed by now.
pub fn release() {
    let _ = SigSet::from_iter(HELD).thread_unblock();
}

/// What a signal requests, except for a reload.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// End when the running requests have ended: TERM.
    Drain,
    /// Pass the listeners to a successor, then drain: QUIT.
    HandOver,
    /// End now: INT.
    End,
}

/// The handlers.
pub struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Received and ignored: without a handler, they would end the process.
    _ignored: [Signal; 3],
}

impl Signals {
    /// Install the handlers, and release the held signals.
    pub fn new() -> std::io::Result<Self> {
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _ignored: [
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::user_defined2())?,
                signal(SignalKind::alarm())?,
            ],
        };
        release();
        Ok(signals)
    }

    /// Wait for a signal. HUP notifies `reload`.
    pub async fn wait(&mut self, reload: &Notify) -> Wanted {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Wanted::Drain,
                _ = self.quit.recv() => return Wanted::HandOver,
                _ = self.interrupt.recv() => return Wanted::End,
                _ = self.hangup.recv() => reload.notify_one(),
            }
        }
    }

    /// Wait for TERM or INT only.
    pub async fn wait_for_end(&mut self) -> Wanted {
        tokio::select! {
            _ = self.terminate.recv() => Wanted::Drain,
            _ = self.interrupt.recv() => Wanted::End,
        }
    }

    /// Wait for INT only.
    pub async fn interrupted(&mut self) {
        let _ = self.interrupt.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Raised in this thread: other threads of the test hold nothing.
    #[tokio::test]
    async fn signals_of_the_start_are_handled_when_the_gateway_serves() {
        hold();
        HELD.into_iter().for_each(|held| signal::raise(held).expect("a signal"));
        let mut signals = Signals::new().expect("handlers");
        let reload = Notify::new();
        tokio::time::timeout(std::time::Duration::from_secs(10), async {
            // Both are pending, in any order.
            while signals.wait(&reload).await != Wanted::HandOver {}
            tokio::select! {
                () = reload.notified() => {}
                _ = signals.wait(&reload) => unreachable!("QUIT was raised once"),
            }
        })
        .await
        .expect("QUIT hands over, and HUP reloads");
    }
}
