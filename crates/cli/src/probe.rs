//! `probe`: prints whether a gateway is ready, for health checks of containers.
//!
//! - *In*: the address of an admin listener.
//! - *Out*: what `/readyz` says. Exit code 0 if it is 200, otherwise 1.
//! - *Never*: a wait beyond the timeout, or another program in the image, such as curl.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, ValueEnum};

use crate::write_stdout;

/// Maximum bytes of an answer.
const MAX_ANSWER: usize = 16 << 10;

#[derive(Debug, ClapArgs)]
pub(crate) struct ProbeArgs {
    /// Address of the admin listener.
    #[arg(default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub(crate) admin: SocketAddr,
    /// Backends that must be up.
    #[arg(long, value_enum, default_value_t = NeededBackends::Any)]
    pub(crate) backends: NeededBackends,
    /// Maximum wait for an answer.
    #[arg(long, default_value = "2s", value_parser = probe_timeout, value_name = "D")]
    pub(crate) timeout: Duration,
}

/// Backends that a ready gateway has.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum NeededBackends {
    /// One backend of any route.
    Any,
    /// One backend of every route.
    EveryRoute,
    /// None.
    Ignore,
}

fn probe_timeout(text: &str) -> Result<Duration, String> {
    let time = lens::duration::parse(text).map_err(|bad| bad.to_string())?;
    match time.is_zero() {
        true => Err("must be more than 0s".into()),
        false => Ok(time),
    }
}

/// Prints the answer of the gateway. Fails if it is not ready.
pub(crate) fn probe_gateway(args: &ProbeArgs) -> Result<ExitCode> {
    let answer = exchange(args).with_context(|| {
        format!("{} is not ready: its admin listener does not answer", args.admin)
    })?;
    let (status, body) = parse(&answer).with_context(|| {
        format!("{} is not the admin listener of a gateway: no HTTP answer", args.admin)
    })?;
    if status == 200 {
        write_stdout(body)?;
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!("{} is not ready: {status}: {}", args.admin, body.trim_end());
}

/// The whole answer, within the timeout.
fn exchange(args: &ProbeArgs) -> std::io::Result<String> {
    let until = Instant::now() + args.timeout;
    let left = || {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    };
    let mut socket = TcpStream::connect_timeout(&args.admin, args.timeout)?;
    let value = args.backends.to_possible_value();
    let backends = value.as_ref().map_or("any", clap::builder::PossibleValue::get_name);
    socket.set_write_timeout(Some(left()?))?;
    write!(
        socket,
        "GET /readyz?backends={backends} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        args.admin
    )?;
    read(&mut socket, left)
}

/// Read to the end, or to the maximum.
fn read(
    socket: &mut TcpStream,
    left: impl Fn() -> std::io::Result<Duration>,
) -> std::io::Result<String> {
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    while answer.len() < MAX_ANSWER {
        socket.set_read_timeout(Some(left()?))?;
        match socket.read(&mut part) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(part.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Status and body of an answer.
fn parse(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    Some((status, body))
}
