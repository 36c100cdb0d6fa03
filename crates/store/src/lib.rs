//! The store of records: keeps finished records for days, and answers queries about them.
//!
//! - *In*: finished [`lens::Record`]s with their [`observatory::RecordKey`]s, by the [`sink()`].
//! - *Out*: pages of records, one record by its id, counts by label, charts from sketches.
//! - *Never*: a record twice; a percentile that is an average of percentiles; a query without a
//!   limit of rows and time.
//!
//! [`Store`] is the interface of queries. [`SqliteStore`] and [`Writer`] implement it with SQLite
//! files in a folder: `docs/adr/0017-store.md`. Another database implements the same trait.

mod api;
pub use api::{API_PAGES, ApiPage};

mod field;
pub use field::Field;

mod clock;
pub use clock::{ClockReadings, WallClock};

mod rollup;
pub use rollup::{ROLLUP_TIMINGS, Rollup};

mod query;
pub use query::{
    Chart, ChartQuery, ChartSeries, Cursor, FacetCounts, FacetQuery, Facets, Filter, MAX_LABELS,
    MAX_PAGE, MAX_POINTS, MAX_READ_LABELS, MAX_SERIES, Page, PageQuery, PartitionSummary, Row,
    Scan, ScannedRecord, Store, StoreError, Summary, automatic_step,
};

mod chart;
pub use chart::{COMBINED, ChartKind, ChartPlan, ChartSums, MAX_ROLLED_UP, ROLLED_UP, STEPS};

mod counters;
pub use counters::Counters;

mod partition;
mod ranges;
mod schema;

mod writer;
pub use writer::{StoreOptions, Writer};

mod reader;
pub use reader::SqliteStore;

mod destination;
pub use destination::sink;
