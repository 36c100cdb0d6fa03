//! Measurement: ledger, marks, timings, histograms, the record.
//!
//! The ledger of a request, the marks of a stream, gaps between tokens, histograms, the record, and
//! the comparison of two distributions. `docs/measurement.md` has the definitions.
//!
//! - *In*: [`Tick`]s, events of [`wire`], bytes written.
//! - *Out*: [`Record`]s and [`Series`].
//! - *Never*: a clock. Time is an argument everywhere, so every figure can be tested to the
//!   microsecond.

mod time;
pub use time::Tick;

pub mod duration;
pub mod ledger;
pub mod observe;
pub use ledger::{Ledger, State};

pub mod histogram;
pub use histogram::{CountHistogram, Histogram, MAX_BUCKETS, MAX_VALUE, SCALE, TimeHistogram};
mod micros;
pub use micros::Micros;

mod counts;
mod event_times;
pub mod gaps;
pub mod sketch;
pub use counts::Counts;
pub use event_times::{EventTimes, MAX_TIMES, StreamTimes};
pub mod stream;
mod tokens;
pub use stream::{EngineError, MAX_CHOICES, StreamLens};

mod finish_reason;
pub use finish_reason::FinishReason;

mod engine_split;
pub use engine_split::{EngineSplit, Measured};

pub mod guardrail;
pub use guardrail::{EventDelays, GuardrailOverhead, RecordGuardrail};

pub mod record;
pub use record::Record;
pub mod record_filter;
pub use record_filter::RecordFilter;
mod record_format;
pub use record_format::RecordFormat;

pub mod series;
pub use series::{FilterSeries, Series};
pub mod sharded;
pub use sharded::Sharded;

mod timing;
pub use timing::Timing;

pub mod trace;
pub mod varint;

pub mod compare;
