//! Calls to the store of shared limits: scripts for Redis or Valkey, and their arguments.
//!
//! - *In*: units that requests need of the store, as [`LeaseRequest`].
//! - *Out*: a [`Call`], and the meaning of its reply.
//! - *Never*: a connection. The plan owns it and runs the call.
//!
//! Scripts use the store's clock, so that gateway clocks need not agree. A rate is the same GCRA as
//! in `account.rs`, in microseconds; a calendar window is a count under a key with the window's
//! end; concurrent streams are a count per gateway. Each decision is one script, and therefore
//! atomic.

use std::time::Duration;

use super::lease::LeaseRequest;
use super::settings::Window;

/// Milliseconds for which a key outlives its last debt.
const KEY_TTL_SLACK: u64 = 1000;
/// Milliseconds after which a silent gateway counts as crashed, and its streams are released.
const GATEWAY_TTL: u64 = 10_000;

/// A script of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Takes units of a rate. Replies `{granted, microseconds}`.
    TakeRate,
    /// Returns units of a rate.
    GiveRate,
    /// Takes units of a calendar window. Replies `{granted, microseconds}`.
    TakeCount,
    /// Returns units of a calendar window.
    GiveCount,
    /// Takes and returns concurrent units. Replies `{granted, microseconds}`.
    Concurrent,
}

impl Script {
    /// All scripts, in the order of their numbers.
    pub const ALL: [Script; 5] = [
        Script::TakeRate,
        Script::GiveRate,
        Script::TakeCount,
        Script::GiveCount,
        Script::Concurrent,
    ];

    /// The source, in Lua.
    pub const fn source(self) -> &'static str {
        match self {
            Script::TakeRate => include_str!("store/take_rate.lua"),
            Script::GiveRate => include_str!("store/give_rate.lua"),
            Script::TakeCount => include_str!("store/take_count.lua"),
            Script::GiveCount => include_str!("store/give_count.lua"),
            Script::Concurrent => include_str!("store/concurrent.lua"),
        }
    }
}

/// A script with its arguments.
#[derive(Debug)]
pub struct Call<'w> {
    /// The script to run.
    pub script: Script,
    /// Its only key.
    pub key: &'w str,
    /// Its arguments.
    pub args: Vec<String>,
    /// For [`Script::Concurrent`]: whether the gateway is certain of its leased units.
    pub certain: bool,
}

/// What the store grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// This many units.
    Units(u64),
    /// No units now. They are available after this time; `None`: never.
    None(Option<Duration>),
}

impl From<(u64, i64)> for Granted {
    /// Parse the reply of a script that takes units.
    fn from((granted, wait): (u64, i64)) -> Self {
        match granted {
            0 => Granted::None(u64::try_from(wait).ok().map(Duration::from_micros)),
            granted => Granted::Units(granted),
        }
    }
}

impl LeaseRequest {
    /// Take at least `need` and at most `want` units. `gateway`: id of this process in the store.
    pub fn take(&self, gateway: &str) -> Call<'_> {
        let (need, want) = (self.need, self.want);
        match self.quota.window {
            Window::Rolling(period) => {
                let args = [
                    self.quota.amount,
                    period.as_micros() as u64,
                    self.quota.burst,
                    need,
                    want,
                    KEY_TTL_SLACK,
                ];
                self.call(Script::TakeRate, args)
            }
            Window::Day | Window::Month => {
                self.call(Script::TakeCount, [self.quota.amount, end_of(&self.key), need, want])
            }
            Window::AtATime => self.concurrent(gateway, (need, want), 0),
        }
    }

    /// Return `want` units.
    pub fn give(&self, gateway: &str) -> Call<'_> {
        match self.quota.window {
            Window::Rolling(period) => self.call(
                Script::GiveRate,
                [self.quota.amount, period.as_micros() as u64, self.want, KEY_TTL_SLACK],
            ),
            Window::Day | Window::Month => self.call(Script::GiveCount, [self.want, KEY_TTL_SLACK]),
            Window::AtATime => self.concurrent(gateway, (0, 0), self.want),
        }
    }

    /// Report that this gateway is alive, and its concurrent units.
    pub fn keep_alive(&self, gateway: &str) -> Call<'_> {
        self.concurrent(gateway, (0, 0), 0)
    }

    fn call<const N: usize>(&self, script: Script, args: [u64; N]) -> Call<'_> {
        Call {
            script,
            key: &self.key,
            args: args.map(|arg| arg.to_string()).into(),
            certain: false,
        }
    }

    fn concurrent(&self, gateway: &str, (need, want): (u64, u64), back: u64) -> Call<'_> {
        let (leased, alone) = self.leased();
        // Only a call that changes nothing confirms what the gateway holds.
        let certain = alone && want == 0 && back == 0;
        let numbers =
            [GATEWAY_TTL, self.quota.amount, leased, need, want, back, u64::from(certain)];
        let args =
            std::iter::once(gateway.to_owned()).chain(numbers.iter().map(u64::to_string)).collect();
        Call { script: Script::Concurrent, key: &self.key, args, certain }
    }
}

/// End of a calendar window in Unix seconds, parsed from its key.
fn end_of(key: &str) -> u64 {
    key.rsplit(':').next().and_then(|end| end.parse().ok()).unwrap_or(u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_grants_units_or_gives_a_wait() {
        assert_eq!(Granted::from((3, 0)), Granted::Units(3));
        assert_eq!(Granted::from((0, 5)), Granted::None(Some(Duration::from_micros(5))));
        assert_eq!(Granted::from((0, -1)), Granted::None(None), "it never fits");
    }

    #[test]
    fn window_end_is_parsed_from_the_key() {
        assert_eq!(end_of("p:limit:subject:1700000000"), 1_700_000_000);
        assert_eq!(end_of("p:limit:subject"), u64::from(u32::MAX));
    }
}
