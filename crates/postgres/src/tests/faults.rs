//! What goes wrong with a database.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use observatory::{DeliveryError, Destination as _};
use store::{PageQuery, Store as _, StoreError};

use super::{DAY, KEEP, LIMIT, SECOND, Server, batch, numbered};
use crate::PostgresStore;
use crate::session::Session;
use crate::writer::Writer;

const RECORDS: &str = "SELECT count(*) FROM llm_lens.records";
const COUNTED: &str =
    "SELECT coalesce(sum(records), 0)::bigint FROM llm_lens.facets WHERE field = 9";

fn page() -> PageQuery {
    PageQuery { limit: 10, ..PageQuery::default() }
}

fn why(result: Result<(), DeliveryError>) -> String {
    match result {
        Err(DeliveryError::Retryable { why, .. }) => why,
        other => panic!("not retryable: {other:?}"),
    }
}

#[test]
fn server_that_is_down_is_named_and_records_are_kept() {
    let url = "postgres://lens@127.0.0.1:1/records?sslmode=disable".parse().unwrap();
    let database = crate::Database { url, password: Some("hunter2".into()), ca: None };
    let options = crate::SinkOptions { keep: KEEP, spill: None, wall_us: || DAY };
    let mut gateway =
        crate::destination::ToPostgres::new(database.clone(), &options, Arc::default());
    let error = why(gateway.deliver(&batch(0..1), LIMIT));
    let named = "cannot connect to PostgreSQL at 127.0.0.1:1: ";
    assert!(error.starts_with(named) && !error.contains("hunter2"), "{error}");
    let store = PostgresStore::new(database.clone(), LIMIT);
    let answer = store.page(&page()).unwrap_err();
    assert!(matches!(&answer, StoreError::Unavailable(why) if why.starts_with(named)), "{answer}");
    assert!(!format!("{database:?}").contains("hunter2"));
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn wrong_password_is_named_without_it() {
    let mut server = Server::new();
    let right = server.database.password.replace("hunter2".into());
    let error = why(server.gateway().deliver(&batch(0..1), LIMIT));
    assert!(
        error.contains("refuses the user") && error.contains("record_store.password"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
    server.database.password = None;
    let error = why(server.gateway().deliver(&batch(0..1), LIMIT));
    assert!(error.contains("record_store.password"), "{error}");
    server.database.password = right;
    assert_eq!(server.gateway().deliver(&batch(0..1), LIMIT), Ok(()));
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn tls_is_wanted_unless_it_is_disabled() {
    let mut server = Server::new();
    server.database.url.tls = true;
    let error = why(server.gateway().deliver(&batch(0..1), LIMIT));
    assert!(error.contains("TLS"), "{error}");
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn gateways_that_start_at_the_same_time_migrate_once() {
    let server = Server::new();
    thread::scope(|scope| {
        for number in 0..6 {
            let mut gateway = server.gateway();
            let records = vec![numbered(&format!("gw{number}"), number)];
            scope.spawn(move || assert_eq!(gateway.deliver(&records, LIMIT), Ok(())));
        }
    });
    assert_eq!((server.number(RECORDS), server.number(COUNTED)), (6, 6));
    assert_eq!(server.number("SELECT version::bigint FROM llm_lens.schema_version"), 1);
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn newer_schema_is_not_touched_and_records_wait() {
    let server = Server::new();
    let store = PostgresStore::new(server.database.clone(), LIMIT);
    let answer = store.page(&page()).unwrap_err().to_string();
    assert!(answer.contains("a gateway that writes to it migrates it"), "{answer}");
    assert_eq!(server.gateway().deliver(&batch(0..1), LIMIT), Ok(()));
    server.sql("UPDATE llm_lens.schema_version SET version = 99");
    let error = why(server.gateway().deliver(&batch(1..2), LIMIT));
    let named = "schema version 99 of the database is newer than 1";
    assert!(error.contains(named) && error.contains("use the newer llm-lens"), "{error}");
    assert!(store.page(&page()).unwrap_err().to_string().contains(named));
    assert_eq!(server.number(RECORDS), 1);
}

/// Batches whose time is over at any step, with the connection that goes with it: none is stored in
/// part, and none is counted twice when it comes again.
#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn batch_that_is_cut_off_anywhere_is_stored_once() {
    let server = Server::new();
    let mut interrupted = 0;
    for round in 0..30 {
        let records = batch(round * 100..(round + 1) * 100);
        let mut limit = Duration::from_micros(500 * round);
        let mut gateway = server.gateway();
        while gateway.deliver(&records, limit).is_err() {
            assert!(limit < LIMIT, "not stored within {limit:?}");
            limit = limit * 2 + Duration::from_millis(1);
            interrupted += 1;
        }
        let stored = (round + 1) as i64 * 100;
        assert_eq!((server.number(RECORDS), server.number(COUNTED)), (stored, stored));
    }
    assert!(interrupted > 10, "{interrupted} batches were interrupted");
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn connections_that_the_server_ends_are_replaced() {
    let server = Server::new();
    let mut gateway = server.gateway();
    let store = PostgresStore::new(server.database.clone(), LIMIT);
    for number in 0..3 {
        let mut attempts = 0;
        while gateway.deliver(&batch(number..number + 1), LIMIT).is_err() {
            attempts += 1;
            assert!(attempts < 3, "the connection is not replaced");
        }
        assert_eq!(store.page(&page()).unwrap().rows.len() as u64, number + 1);
        let name = &server.database.url.database;
        server.admin_sql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        ));
    }
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn lock_of_another_session_delays_a_batch() {
    let server = Server::new();
    let mut gateway = server.gateway();
    assert_eq!(gateway.deliver(&batch(0..1), LIMIT), Ok(()));
    let mut other = Session::connect(&server.database, "").unwrap();
    let lock = "BEGIN; LOCK TABLE llm_lens.records IN ACCESS EXCLUSIVE MODE";
    other.run_within(LIMIT, async |client| Ok(client.batch_execute(lock).await?)).unwrap();
    let start = Instant::now();
    let error = why(gateway.deliver(&batch(1..2), LIMIT));
    assert!(error.contains("lock timeout") && start.elapsed() < LIMIT / 2, "{error}");
    let store = PostgresStore::new(server.database.clone(), Duration::from_millis(200));
    assert!(matches!(store.page(&page()), Err(StoreError::Timeout | StoreError::Read(_))));
    other.run_within(LIMIT, async |client| Ok(client.batch_execute("ROLLBACK").await?)).unwrap();
    assert_eq!(gateway.deliver(&batch(1..2), LIMIT), Ok(()));
    assert_eq!((server.number(RECORDS), server.number(COUNTED)), (2, 2));
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn only_the_record_that_the_database_refuses_is_lost() {
    let server = Server::new();
    let mut gateway = server.gateway();
    assert_eq!(gateway.deliver(&batch(0..1), LIMIT), Ok(()));
    server.sql("ALTER TABLE llm_lens.records ADD CHECK (id <> 'id-37')");
    let result = gateway.deliver(&batch(0..100), LIMIT);
    assert!(
        matches!(&result, Err(DeliveryError::Permanent { lost: 1, why }) if why.contains("check constraint")),
        "{result:?}"
    );
    assert_eq!((server.number(RECORDS), server.number(COUNTED)), (99, 99));
}

#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn retention_drops_partitions_by_one_gateway_at_a_time() {
    let server = Server::new();
    let mut writer = Writer::connect(&server.database, KEEP, LIMIT).unwrap();
    let mut other = Writer::connect(&server.database, KEEP, LIMIT).unwrap();
    // Eleven hours: windows of six hours each.
    let records: Vec<_> = batch((0..10_000).step_by(100));
    assert_eq!(writer.write(&records, LIMIT).unwrap(), 100);
    assert_eq!(other.write(&records, LIMIT).unwrap(), 0);
    let tables = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE c.relname ~ '_20260102t0[06]_6h$' AND c.relkind = 'r'";
    assert_eq!(server.number(tables), 8);
    let six_hours = 6 * 3600 * SECOND;
    let keep = KEEP.as_micros() as u64;
    // The last record of the first window is not old enough, and then it is.
    assert_eq!(writer.drop_old(DAY + six_hours + keep - 1, LIMIT).unwrap(), 0);
    let mut busy = Session::connect(&server.database, "").unwrap();
    let lock = "SELECT pg_advisory_lock(1818586739, -1)";
    busy.run_within(LIMIT, async |client| Ok(client.batch_execute(lock).await?)).unwrap();
    assert_eq!(writer.drop_old(DAY + six_hours + keep, LIMIT).unwrap(), 0);
    drop(busy);
    let start = Instant::now();
    let mut dropped = 0;
    // The server notices the end of the other connection a moment later.
    while dropped == 0 && start.elapsed() < LIMIT {
        dropped = writer.drop_old(DAY + six_hours + keep, LIMIT).unwrap();
    }
    assert_eq!((dropped, server.number(tables)), (1, 4));
    assert_eq!(server.number(RECORDS), 100 - 54);
    // The other gateway does not know that its window is gone: a late record makes it again.
    let mut gateway = server.gateway();
    gateway.set_writer(other);
    assert_eq!(gateway.deliver(&batch(3..4), LIMIT), Ok(()));
    assert_eq!(server.number(RECORDS), 100 - 54 + 1);
}

/// A drop waits a second for its lock, and gives up: writers wait behind it no longer.
#[test]
#[ignore = "needs a PostgreSQL server: make test-stack"]
fn retention_gives_up_when_a_query_is_long() {
    let server = Server::new();
    let mut writer = Writer::connect(&server.database, KEEP, LIMIT).unwrap();
    writer.write(&batch(0..10), LIMIT).unwrap();
    let mut reader = Session::connect(&server.database, "").unwrap();
    let read = "BEGIN; SELECT count(*) FROM llm_lens.records";
    reader.run_within(LIMIT, async |client| Ok(client.batch_execute(read).await?)).unwrap();
    let error = writer.drop_old(DAY * 2, LIMIT).unwrap_err().to_string();
    assert!(error.contains("lock timeout"), "{error}");
    assert_eq!(server.number(RECORDS), 10);
    let end = "ROLLBACK";
    reader.run_within(LIMIT, async |client| Ok(client.batch_execute(end).await?)).unwrap();
    assert_eq!(writer.drop_old(DAY * 2, LIMIT).unwrap(), 1);
}
