//! A row of a file: a record and its key.
//!
//! - *In*: records of the gateway; values that a reader has found.
//! - *Out*: values by the names of [`COLUMNS`](crate::COLUMNS).
//! - *Never*: a key that was made up: rows of other sources may have none.

use std::sync::Arc;

use lens::Record;
use observatory::{NumberedRecord, RecordKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Values by the name of their column. Times are Unix microseconds.
pub(crate) type Values = Map<String, Value>;

/// A record and its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The key, if the source has one.
    #[serde(flatten)]
    pub key: Option<RecordKey>,
    /// The record.
    #[serde(flatten)]
    pub record: Arc<Record>,
}

impl From<&NumberedRecord> for Row {
    fn from(numbered: &NumberedRecord) -> Self {
        Row { key: Some(numbered.key.clone()), record: numbered.record.clone() }
    }
}

impl Row {
    /// The values of its columns; absent ones are missing.
    pub(crate) fn values(&self) -> Result<Values, serde_json::Error> {
        match serde_json::to_value(self)? {
            Value::Object(mut values) => {
                values.insert("started_at".into(), self.record.started_at.into());
                Ok(values)
            }
            _ => Ok(Map::new()),
        }
    }

    /// The row with these values.
    pub(crate) fn from_values(mut values: Values) -> Result<Self, serde_json::Error> {
        if let Some(us) = values.get("started_at").and_then(Value::as_u64) {
            /// The text that a record has.
            #[derive(Serialize)]
            struct Text(#[serde(with = "lens::record::rfc3339")] u64);
            values.insert("started_at".into(), json!(Text(us)));
        }
        serde_json::from_value(Value::Object(values))
    }
}

/// When the request of a row began, from the text that a record has.
pub(crate) fn started_at(values: &Values) -> Result<u64, serde_json::Error> {
    /// The text that a record has.
    #[derive(Deserialize)]
    struct Time(#[serde(with = "lens::record::rfc3339")] u64);
    let text = values.get("started_at").unwrap_or(&Value::Null);
    Time::deserialize(text).map(|time| time.0)
}
