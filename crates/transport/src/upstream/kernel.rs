//! What the kernel knows of a connection: when the last bytes of a read reached this host, and
//! whether the peer has received what was sent.
//!
//! The difference between the receive timestamp and our own is the delay of scheduling and the
//! event loop, recorded as `read_lag_us`. Marks do not use kernel timestamps, because the kernel
//! uses the wall clock and stamps only the last segment of a read.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use pingora::protocols::l4::ext::get_tcp_info;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::clock;

/// Enable receive timestamps on a socket.
pub(super) fn enable(socket: &TcpStream) -> io::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestampns, &true).map_err(io::Error::from)
}

/// Whether the peer may have received any of the last `len` bytes that were sent before it closed
/// the connection. A close acknowledges everything that was received. True where the kernel does
/// not tell.
pub(super) fn may_have_arrived(socket: &TcpStream, len: usize) -> bool {
    let Ok(info) = get_tcp_info(socket.as_raw_fd()) else { return true };
    // The handshake counts as one acknowledged byte.
    let acknowledged = info.tcpi_bytes_acked.saturating_sub(1);
    let sent = info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans);
    len == 0 || acknowledged + len as u64 > sent
}

/// Read. Returns the number of bytes, and how many microseconds ago the kernel received them.
pub(super) fn poll_read(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    buf: &mut [u8],
) -> Poll<io::Result<(usize, Option<u64>)>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let read = socket.try_io(Interest::READABLE, || {
            let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
            let mut slices = [IoSliceMut::new(buf)];
            let message = recvmsg::<()>(
                socket.as_raw_fd(),
                &mut slices,
                Some(&mut control),
                MsgFlags::empty(),
            )?;
            let stamp = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|c| match c {
                    ControlMessageOwned::ScmTimestampns(at) => Some(at),
                    _ => None,
                })
            });
            let lag = stamp.and_then(|at| {
                let us = u64::try_from(at.tv_sec()).ok()? * 1_000_000
                    + u64::try_from(at.tv_nsec()).ok()? / 1_000;
                clock::wall_us().checked_sub(us)
            });
            Ok((message.bytes, lag))
        });
        match read {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn bytes_that_a_closed_peer_did_not_receive_are_known() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        let (mut peer, _) = listener.accept().await.expect("a connection");
        socket.write_all(b"first request").await.expect("open");
        peer.read_exact(&mut [0; 13]).await.expect("it was sent");
        peer.write_all(b"answer").await.expect("open");
        socket.read_exact(&mut [0; 6]).await.expect("it was sent");
        assert!(may_have_arrived(&socket, 13), "a request that was answered");
        // The peer closes, and the next request meets a closed connection.
        drop(peer);
        socket.write_all(b"second request").await.expect("half open");
        let _ = socket.read(&mut [0; 1]).await;
        assert!(!may_have_arrived(&socket, 14), "a request that was never received");
        assert!(may_have_arrived(&socket, 0));
    }
}
