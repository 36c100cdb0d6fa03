//! One connection of HTTP/1.1 to a store.
//!
//! - *In*: requests, one after the other.
//! - *Out*: heads of answers, whose bodies the caller reads.
//! - *Never*: a connection that was idle for long, which the store may be closing; a redirect.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base_url::BaseUrl;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::RequestBody;
use crate::error::{ObjectError, chain};
use crate::options::OptionsError;

/// How long a connection without a request is kept.
const MAX_IDLE: Duration = Duration::from_secs(3);

/// An open connection.
pub(crate) type Sender = SendRequest<RequestBody>;

pub(crate) struct Connection {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    open: Option<(Sender, Instant)>,
}

impl Connection {
    pub(crate) fn new(
        endpoint: &BaseUrl,
        ca: Option<&std::path::Path>,
    ) -> Result<Self, OptionsError> {
        let host = endpoint.host.clone();
        let tls = match endpoint.tls {
            false => None,
            true => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| OptionsError(format!("{host} is not the name of a TLS server")))?;
                Some((TlsConnector::from(Arc::new(crate::tls::config(ca)?)), name))
            }
        };
        Ok(Connection { host, port: endpoint.port, tls, open: None })
    }

    /// Sends a request. The caller returns the connection with [`Connection::keep`] when it has
    /// read the body.
    ///
    /// # Cancel safety
    /// The store may have taken the request. The connection is closed.
    pub(crate) async fn send(
        &mut self,
        request: http::Request<RequestBody>,
    ) -> Result<(Sender, http::Response<Incoming>), ObjectError> {
        let mut sender = self.sender().await?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        Ok((sender, answer))
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&mut self, sender: Sender) {
        self.open = Some((sender, Instant::now()));
    }

    async fn sender(&mut self) -> Result<Sender, ObjectError> {
        if let Some((mut open, since)) = self.open.take()
            && since.elapsed() < MAX_IDLE
            && open.ready().await.is_ok()
        {
            return Ok(open);
        }
        let place = format!("{}:{}", self.host, self.port);
        let wrong =
            |error: std::io::Error| ObjectError::store("connect", format!("{place}: {error}"));
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(wrong)?;
        let _ = socket.set_nodelay(true);
        match &self.tls {
            None => begin(socket).await,
            Some((connector, name)) => {
                begin(connector.connect(name.clone(), socket).await.map_err(wrong)?).await
            }
        }
    }
}

/// Begins HTTP on a connection. Its task ends with the connection.
async fn begin<S>(socket: S) -> Result<Sender, ObjectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(socket)).await.map_err(broken)?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// The failure of a connection, or of the file that was being sent.
pub(crate) fn broken(error: hyper::Error) -> ObjectError {
    let why = chain(&error);
    // hyper's name for an error of the body that a client sends.
    if error.is_user() {
        ObjectError::object("file", why)
    } else {
        ObjectError::store("connection", why)
    }
}
