//! A connection to the database, for a thread that may block.
//!
//! - *In*: where the database is, and work with a client.
//! - *Out*: results within a time limit.
//! - *Never*: a wait without a limit. A connection whose work exceeded it is not used again.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use base_url::PostgresUrl;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, Socket};

use crate::error::{Error, connecting};
use crate::tls::Tls;

/// Maximum time of a connection attempt, with its login.
const CONNECT: Duration = Duration::from_secs(5);

/// Where the database is.
#[derive(Clone)]
pub struct Database {
    /// Host, port, user, database, and whether to use TLS.
    pub url: PostgresUrl,
    /// The password; `None`: the server must not want one.
    pub password: Option<String>,
    /// PEM file with certificate authorities; `None`: those of the system.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.url)
    }
}

impl Database {
    /// Host and port, for messages.
    fn at(&self) -> String {
        self.url.authority()
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host(&self.url.host)
            .port(self.url.port)
            .user(&self.url.user)
            .dbname(&self.url.database)
            .application_name("llm-lens")
            .connect_timeout(CONNECT)
            .ssl_mode(match self.url.tls {
                true => tokio_postgres::config::SslMode::Require,
                false => tokio_postgres::config::SslMode::Disable,
            });
        if let Some(password) = &self.password {
            config.password(password);
        }
        config
    }
}

/// A connection, driven only while its work runs.
pub(crate) struct Session {
    runtime: Runtime,
    client: Client,
}

impl Session {
    /// Connects, and runs `setup`, which is SQL.
    pub(crate) fn connect(database: &Database, setup: &str) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Local(format!("cannot start a runtime: {error}")))?;
        let connected: Result<Client, Error> = runtime.block_on(async {
            let client = match database.url.tls {
                true => connect(database, Tls::new(database.ca.as_deref())?).await,
                false => connect(database, NoTls).await,
            }?;
            within(CONNECT, async { Ok(client.batch_execute(setup).await?) }).await?;
            Ok(client)
        });
        Ok(Session { client: connected?, runtime })
    }

    /// Runs work for at most `limit`.
    pub(crate) fn run_within<T>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let client = &mut self.client;
        self.runtime.block_on(async { within(limit, work(client)).await })
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Error::Timeout(limit)))
}

async fn connect<T>(database: &Database, tls: T) -> Result<Client, Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (at, user) = (database.at(), &database.url.user);
    let config = database.config();
    let connecting =
        async { config.connect(tls).await.map_err(|error| connecting(&error, &at, user)) };
    let (client, connection) = match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected?,
        Err(_) => {
            return Err(Error::Connect {
                at: at.clone(),
                why: format!("no answer within {CONNECT:?}"),
            });
        }
    };
    // It ends with the client, or with the connection, whose error the client reports.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
