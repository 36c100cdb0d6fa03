//! Loopback listeners and free ports.
//!
//! In: an address, or nothing.
//! Out: a listener whose backlog takes thousands of connections at once, or a port that was free a
//! moment ago, for programs that require one.
//! Never: binds a fixed port of its own choice.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use tokio::net::{TcpListener, TcpSocket};

/// Maximum connections that wait to be accepted, here and in every peer.
pub const BACKLOG: u32 = 4096;

/// Listens with a deep backlog.
///
/// # Errors
/// When the address is taken.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("bind {address}"))?;
    Ok(socket.listen(BACKLOG)?)
}

/// A loopback address whose port is free now.
///
/// # Errors
/// When no port is free.
pub fn free() -> Result<SocketAddr> {
    let probe = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).context("free port")?;
    Ok(probe.local_addr()?)
}
