//! Calls to the store of shared limits: scripts for Redis or Valkey, and their arguments.
//!
//! - *In*: a slice that is [`Wanted`].
//! - *Out*: a [`Call`]; what its answer means.
//! - *Never*: a connection. The pipeline has it, and runs the call.
//!
//! The store has the time, so that gateways need not agree on theirs. A rate is the same GCRA as in
//! `account.rs`, in microseconds; a calendar's window is a count under a name with the window's
//! end; streams at a time are a count for each gateway. Each decision is one script, and so atomic.

use std::time::Duration;

use super::lease::Wanted;
use super::settings::Window;

/// Milliseconds for which a key outlives its last debt.
const KEY_TTL_SLACK: u64 = 1000;
/// Milliseconds after which a silent gateway counts as crashed, and its streams are released.
const GATEWAY_TTL: u64 = 10_000;

/// A script of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Takes units of a rate: `{granted, microseconds}`.
    TakeRate,
    /// Gives units of a rate back.
    GiveRate,
    /// Takes units of a calendar's window: `{granted, microseconds}`.
    TakeCount,
    /// Gives units of a calendar's window back.
    GiveCount,
    /// Takes and gives back what is counted at a time: `{granted, microseconds}`.
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
    /// What to run.
    pub script: Script,
    /// Its only key.
    pub key: &'w str,
    /// Its arguments.
    pub args: Vec<String>,
    /// Of [`Script::Concurrent`]: the gateway is certain of what it has.
    pub certain: bool,
}

/// What the store grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// So many units.
    Units(u64),
    /// None now; some after that time, if ever.
    None(Option<Duration>),
}

impl From<(u64, i64)> for Granted {
    /// An answer of a script that takes.
    fn from((granted, wait): (u64, i64)) -> Self {
        match granted {
            0 => Granted::None(u64::try_from(wait).ok().map(Duration::from_micros)),
            granted => Granted::Units(granted),
        }
    }
}

impl Wanted {
    /// Take `need` to `want` units. `gateway` names this process among those that share.
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

    /// Give `want` units back.
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

    /// Say that this gateway lives, and what it has at a time.
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

/// The end of a window, which its name has, in Unix seconds.
fn end_of(key: &str) -> u64 {
    key.rsplit(':').next().and_then(|end| end.parse().ok()).unwrap_or(u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_grants_units_or_says_when_there_are_some() {
        assert_eq!(Granted::from((3, 0)), Granted::Units(3));
        assert_eq!(Granted::from((0, 5)), Granted::None(Some(Duration::from_micros(5))));
        assert_eq!(Granted::from((0, -1)), Granted::None(None), "it never fits");
    }

    #[test]
    fn the_name_of_a_window_has_its_end() {
        assert_eq!(end_of("p:limit:subject:1700000000"), 1_700_000_000);
        assert_eq!(end_of("p:limit:subject"), u64::from(u32::MAX));
    }
}
