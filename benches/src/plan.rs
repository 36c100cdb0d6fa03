//! The answer of the mock engine, as selected by a request header.
//!
//! In: a header value such as `stream;events=500;gap_us=20000;per=1`.
//! Out: a `Plan`; its `Display` writes the same header value back.
//! Never: lets a plan grow without bounds; counts and times are capped.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::time::Duration;

/// Name of the request header that carries a plan.
pub const HEADER: &str = "x-mock";

const MAX_EVENTS: u64 = 10_000_000;
const MAX_PER: u64 = 64;
const MAX_TIME: u64 = 600_000_000;

/// A kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A whole chat completion of about 400 bytes.
    Json,
    /// A stream of chat completion chunks.
    Stream {
        /// Content events, in addition to the role, finish and `[DONE]` events.
        events: u64,
        /// Pause between two writes; zero means no pause. Resolution 1 ms.
        gap: Duration,
        /// Content events in one write, each its own HTTP chunk.
        per: u64,
    },
    /// A stream that sends one event and is idle afterwards.
    Idle {
        /// How long it is idle, unless the client disconnects earlier.
        hold: Duration,
    },
}

impl Plan {
    /// Parses a header value. Unknown names and invalid numbers are errors.
    ///
    /// # Errors
    /// When the value is not a plan. Numbers above the caps are reduced to them.
    pub fn parse(value: &str) -> Result<Self> {
        let mut parts = value.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let (mut events, mut gap, mut per, mut hold) = (1, 0, 1, 60_000_000);
        for part in parts {
            let (name, number) = part.split_once('=').context("plan: no '='")?;
            let number: u64 = number.parse().context("plan: not a number")?;
            match name {
                "events" => events = number.min(MAX_EVENTS),
                "gap_us" => gap = number.min(MAX_TIME),
                "per" => per = number.clamp(1, MAX_PER),
                "hold_us" => hold = number.min(MAX_TIME),
                _ => bail!("plan: unknown name {name:?}"),
            }
        }
        match kind {
            "json" => Ok(Self::Json),
            "stream" => Ok(Self::Stream { events, gap: Duration::from_micros(gap), per }),
            "idle" => Ok(Self::Idle { hold: Duration::from_micros(hold) }),
            _ => bail!("plan: unknown kind {kind:?}"),
        }
    }

    /// Whether the answer is a stream of events.
    #[must_use]
    pub fn streams(self) -> bool {
        self != Self::Json
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json => write!(f, "json"),
            Self::Stream { events, gap, per } => {
                let gap = gap.as_micros();
                write!(f, "stream;events={events};gap_us={gap};per={per}")
            }
            Self::Idle { hold } => write!(f, "idle;hold_us={}", hold.as_micros()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_what_it_writes() -> Result<()> {
        let plans = [
            Plan::Json,
            Plan::Stream { events: 500, gap: Duration::from_millis(20), per: 8 },
            Plan::Idle { hold: Duration::from_secs(3) },
        ];
        for plan in plans {
            assert_eq!(Plan::parse(&plan.to_string())?, plan);
        }
        assert!(Plan::parse("flood").is_err());
        assert!(Plan::parse("stream;events=x").is_err());
        assert!(Plan::parse("stream;speed=1").is_err());
        Ok(())
    }
}
