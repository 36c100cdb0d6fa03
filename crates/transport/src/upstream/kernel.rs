//! Kernel receive timestamps: when the last bytes of a read reached this host, by the kernel's
//! clock.
//!
//! The difference to our own timestamp is the delay of scheduling and the event loop, recorded as
//! `read_lag_us`. Marks do not use kernel timestamps, because the kernel uses the wall clock and
//! stamps only the last segment of a read.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::clock;

/// Enable receive timestamps on a socket.
pub(super) fn enable(socket: &TcpStream) -> io::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestampns, &true).map_err(io::Error::from)
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
