//! The tables, their versions, and what connections set.
//!
//! - *In*: a connection.
//! - *Out*: tables of this version.
//! - *Never*: a change to a database of a newer version; two migrations at once.

use tokio_postgres::Client;

use crate::error::Error;

/// The version of the schema, in `llm_lens.schema_version`.
pub(crate) const VERSION: i32 = MIGRATIONS.len() as i32;
/// Statements that bring a database from each version to the next.
const MIGRATIONS: [&str; 1] = [include_str!("schema.sql")];

/// First number of the advisory locks, which other programs may use, too: "lens".
pub(crate) const LOCKS: i32 = 0x6c65_6e73;
/// Second number of the lock of migrations, partitions and retention. Those from 0 on are slots.
pub(crate) const CHANGE_LOCK: i32 = -1;

/// What a connection of the writer sets. The limits of time are those of a batch. Without
/// `synchronous_commit`, a batch that is acknowledged and gone from the spill could be lost.
pub(crate) const WRITER: &str = "
SET statement_timeout = '8s';
SET lock_timeout = '4s';
SET idle_in_transaction_session_timeout = '30s';
SET synchronous_commit = on;
SET timezone = 'UTC';
";

/// The table that a batch is copied to. It empties itself with each transaction.
const STAGING: &str = "
CREATE TEMPORARY TABLE IF NOT EXISTS llm_lens_staging (LIKE llm_lens.records)
ON COMMIT DELETE ROWS";

/// What a connection of queries sets.
pub(crate) fn reader(limit: std::time::Duration) -> String {
    let ms = limit.as_millis();
    format!(
        "SET statement_timeout = '{ms}ms'; SET lock_timeout = '{ms}ms';
         SET default_transaction_read_only = on; SET timezone = 'UTC';
         SET idle_in_transaction_session_timeout = '30s';"
    )
}

/// Creates or migrates the tables.
///
/// # Errors
/// [`Error::Newer`], or what the server reports.
pub(crate) async fn migrate(client: &mut Client) -> Result<(), Error> {
    let from = version(client).await?;
    if from < VERSION {
        let change = client.transaction().await?;
        change.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&LOCKS, &CHANGE_LOCK]).await?;
        // Another gateway may have migrated meanwhile.
        let from = version(change.client()).await?;
        for migration in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)) {
            if from == 0 {
                create(change.client()).await?;
            }
            change.batch_execute(migration).await?;
        }
        if from < VERSION {
            change.execute("UPDATE llm_lens.schema_version SET version = $1", &[&VERSION]).await?;
        }
        change.commit().await?;
        if from < VERSION {
            tracing::info!(from, to = VERSION, "record store: schema migrated");
        }
    }
    check_newer(version(client).await?)?;
    client.batch_execute(STAGING).await?;
    Ok(())
}

/// Creates the schema and the table of its version. A schema that the administrator has created
/// needs no permission for the database.
async fn create(client: &Client) -> Result<(), Error> {
    let exists = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'llm_lens')";
    if !client.query_one(exists, &[]).await?.try_get::<_, bool>(0)? {
        client.batch_execute("CREATE SCHEMA llm_lens").await?;
    }
    let table = "CREATE TABLE llm_lens.schema_version (version integer NOT NULL);
        INSERT INTO llm_lens.schema_version VALUES (0)";
    Ok(client.batch_execute(table).await?)
}

/// Refuses a database that queries of this version cannot read.
pub(crate) async fn check(client: &Client) -> Result<(), Error> {
    match version(client).await? {
        VERSION => Ok(()),
        older if older < VERSION => Err(Error::Older(older)),
        newer => Err(Error::Newer(newer)),
    }
}

fn check_newer(version: i32) -> Result<(), Error> {
    if version > VERSION { Err(Error::Newer(version)) } else { Ok(()) }
}

/// The version of a database; 0: it has no tables.
async fn version(client: &Client) -> Result<i32, Error> {
    // `to_regclass` may not see what was committed while this transaction waited for the lock.
    let exists = "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n
        ON n.oid = c.relnamespace WHERE nspname = 'llm_lens' AND relname = 'schema_version')";
    if !client.query_one(exists, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let found = client.query_opt("SELECT version FROM llm_lens.schema_version", &[]).await?;
    match found {
        Some(row) => Ok(row.try_get(0)?),
        None => Err(Error::Damaged("schema version: the table is empty")),
    }
}
