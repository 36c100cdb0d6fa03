//! Values of fields with the number of their records, from counts by hour of all slots.
//!
//! - *In*: fields and a range of hours.
//! - *Out*: the values with the most records, and how many others there are.
//! - *Never*: more than [`MAX_READ_LABELS`] values of a field in memory.

use std::collections::HashMap;

use store::{FacetCounts, FacetQuery, Facets, Field, MAX_READ_LABELS};
use tokio_postgres::Client;

use crate::error::Error;
use crate::partition::HOUR_US;
use crate::value::{time, unsigned};

const COUNTS: &str = "SELECT field, value, n FROM (
        SELECT field, value, sum(records)::bigint AS n,
            row_number() OVER (PARTITION BY field ORDER BY sum(records) DESC) AS rank
        FROM llm_lens.facets WHERE field = ANY ($1) AND hour >= $2 AND hour < $3
        GROUP BY field, value
    ) counts WHERE rank <= $4";

/// Reads counts.
pub(super) async fn read(client: &Client, query: &FacetQuery) -> Result<Facets, Error> {
    let codes: Vec<i16> = query.fields.iter().map(|field| i16::from(field.code())).collect();
    let (from, to) = query.hours();
    let hour = |hour: u64| time(hour.saturating_mul(HOUR_US));
    let (from, to) = (hour(from), hour(to.unwrap_or(u64::MAX)));
    let rows = client.query(COUNTS, &[&codes, &from, &to, &(MAX_READ_LABELS as i64)]).await?;
    let mut all: HashMap<i16, HashMap<String, u64>> = HashMap::new();
    for row in rows {
        let counts = all.entry(row.try_get(0)?).or_default();
        counts.insert(row.try_get(1)?, unsigned(row.try_get(2)?));
    }
    let mut facets = Facets::default();
    for field in &query.fields {
        let counts = all.get(&i16::from(field.code())).cloned().unwrap_or_default();
        if counts.len() >= MAX_READ_LABELS {
            let name = field.name();
            let problem = format!("the rarest values of {name} are missing, there are too many");
            facets.problems.push(problem);
        }
        facets.fields.push(FacetCounts::new(*field, counts, query.limit));
    }
    Ok(facets)
}

/// The values of one field with the most records.
pub(super) async fn top(
    client: &Client,
    query: &FacetQuery,
    field: Field,
) -> Result<Vec<String>, Error> {
    let facets = read(client, &FacetQuery { fields: vec![field], ..query.clone() }).await?;
    let values = facets.fields.into_iter().flat_map(|counts| counts.values);
    Ok(values.map(|(text, _)| text).collect())
}
