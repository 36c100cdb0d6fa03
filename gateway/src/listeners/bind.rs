//! Listening sockets: bound before anything runs, so that a taken address is an error and not a
//! retry, and kept in pingora's table, so that they can be handed to a successor.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use config::Settings;
use config::settings::Listener;
use pages::playground::Listening;
use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::{Fds, ListenFds};
use pingora::services::listening::Service;
use process::hand_over::{self, Predecessor};
use socket2::{Domain, Socket, Type};
use transport::BuildError;

use crate::tls::{Acceptor, Certificate};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Prefix of the admin listener in the table of sockets.
const ADMIN: &str = "admin:";

/// Why a listener cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {why}{}", way_out(.why))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        why: std::io::Error,
    },
    /// No gateway handed its listeners over.
    #[error(
        "no running gateway handed its listeners over at {path}: {why}; send QUIT to it after starting this one"
    )]
    Upgrade {
        /// The socket.
        path: PathBuf,
        /// What happened.
        why: std::io::Error,
    },
    /// There is no path for the socket.
    #[error("no path for the socket of --upgrade: {0}")]
    UpgradePath(std::io::Error),
    /// Its certificate, key or authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] BuildError),
    /// A socket failed.
    #[error("cannot set up a listener")]
    Socket(#[from] std::io::Error),
}

/// What to do about an address that cannot be bound.
fn way_out(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; another process uses it: stop that one, or set another address (--listen, --admin, or in the settings)"
        }
        std::io::ErrorKind::AddrNotAvailable => "; this machine does not have the address",
        _ => "",
    }
}

/// A bound address.
pub(crate) struct Bound {
    pub(crate) address: SocketAddr,
    /// Its settings; of the admin listener, only the address is used.
    pub(crate) listener: Listener,
    /// The name in the table of sockets.
    name: String,
    tls: Option<Arc<Acceptor>>,
}

/// Listening sockets: the inherited ones, and those of this gateway.
pub(crate) struct Sockets {
    inherited: Fds,
    table: Fds,
    predecessor: Option<Predecessor>,
}

impl Sockets {
    /// Start without sockets or, with `upgrade`, with those of a running gateway.
    pub(crate) fn new(settings: &Settings, upgrade: bool) -> Result<Self, BindError> {
        let (mut inherited, mut predecessor) = (Fds::new(), None);
        if upgrade {
            let configured = settings.shutdown.upgrade_socket.as_deref();
            let path = hand_over::socket_path(configured).map_err(BindError::UpgradePath)?;
            let (sockets, from) =
                hand_over::take(&path).map_err(|why| BindError::Upgrade { path, why })?;
            sockets.into_iter().for_each(|(name, fd)| inherited.add(name, fd));
            predecessor = Some(from);
        }
        Ok(Sockets { inherited, table: Fds::new(), predecessor })
    }

    /// Bind the listeners of clients, in their order.
    pub(crate) fn bind_all(&mut self, listeners: &[Listener]) -> Result<Vec<Bound>, BindError> {
        listeners.iter().map(|listener| self.bind(listener)).collect()
    }

    fn bind(&mut self, listener: &Listener) -> Result<Bound, BindError> {
        let wanted = listener.address;
        let tls = listener.tls.as_ref().map(Acceptor::load).transpose()?.map(Arc::new);
        let (address, name) = match self.take_inherited("", wanted) {
            Some((address, fd)) => (address, self.keep(address.to_string(), fd)),
            None => {
                let listener = listen(wanted)?;
                let address = listener.local_addr()?;
                (address, self.keep(address.to_string(), listener.into_raw_fd()))
            }
        };
        Ok(Bound { address, listener: listener.clone(), name, tls })
    }

    pub(crate) fn bind_admin(&mut self, wanted: SocketAddr) -> Result<Bound, BindError> {
        let (address, fd) = match self.take_inherited(ADMIN, wanted) {
            Some(inherited) => inherited,
            None => {
                let listener = listen(wanted)?;
                (listener.local_addr()?, listener.into_raw_fd())
            }
        };
        let name = self.keep(format!("{ADMIN}{address}"), fd);
        Ok(Bound { address, listener: Listener::plain(wanted), name, tls: None })
    }

    /// The table of sockets to serve and to hand over, and the gateway that they came from.
    /// Inherited sockets that no setting names are closed.
    pub(crate) fn into_parts(mut self) -> (ListenFds, Option<Predecessor>) {
        let (names, _) = self.table.serialize();
        let closed = self.inherited.close_unclaimed(&names.into_iter().collect());
        if !closed.is_empty() {
            tracing::info!(
                listeners = closed.join(","),
                "inherited listeners that the settings do not name were closed"
            );
        }
        (Arc::new(Mutex::new(self.table)), self.predecessor)
    }

    /// An inherited socket for that address; port 0 takes any of the same host.
    fn take_inherited(&self, prefix: &str, wanted: SocketAddr) -> Option<(SocketAddr, i32)> {
        let (names, fds) = self.inherited.serialize();
        names.iter().zip(fds).find_map(|(name, fd)| {
            let address: SocketAddr = name.strip_prefix(prefix)?.parse().ok()?;
            let fits = address == wanted || (wanted.port() == 0 && address.ip() == wanted.ip());
            (fits && self.table.get(name).is_none()).then_some((address, fd))
        })
    }

    fn keep(&mut self, name: String, fd: i32) -> String {
        self.table.add(name.clone(), fd);
        name
    }
}

impl Bound {
    /// A pingora service that accepts here. The app performs TLS handshakes, so that it can count
    /// and time them.
    pub(crate) fn service<A: ServerApp + Send + Sync + 'static>(&self, app: A) -> Service<A> {
        let mut endpoint = ListenerConfig::tcp(self.name.as_str());
        if self.tls.is_none() {
            // Reads use the worker's scratch buffer and writes are whole: buffers of the listener
            // would only cost memory. TLS records are small, and need them.
            endpoint = endpoint.l4_buffer(L4BufferSettings::unbuffered());
        }
        let mut service = Service::new(format!("listener {}", self.address), app);
        service.add_listener(endpoint);
        service
    }

    /// Its TLS acceptor, if it serves TLS.
    pub(crate) fn tls(&self) -> Option<Arc<Acceptor>> {
        self.tls.clone()
    }

    /// Its certificate, if it serves TLS.
    pub(crate) fn certificate(&self) -> Option<Arc<Certificate>> {
        self.tls.as_ref().map(|tls| tls.certificate().clone())
    }

    /// Its address and settings, for the playground.
    pub(crate) fn listening(&self) -> Listening {
        Listening { address: self.address, listener: self.listener.clone() }
    }

    pub(crate) fn describe(&self) -> String {
        let (scheme, protocols) = match (&self.tls, self.listener.h2c) {
            (Some(_), _) => ("https", "HTTP/1.1 and HTTP/2"),
            (None, true) => ("http", "HTTP/1.1 and h2c"),
            (None, false) => ("http", "HTTP/1.1"),
        };
        format!("{scheme}://{} ({protocols})", self.address)
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|why| BindError::Listen { address, why })
}
