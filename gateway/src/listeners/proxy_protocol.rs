//! The PROXY protocol, versions 1 and 2: a load balancer states the client's address before the
//! first byte of the connection.
//!
//! - *In*: the first bytes of a connection from a trusted proxy.
//! - *Out*: the client's address, if the header has one.
//! - *Never*: a byte after the header. The rest belongs to TLS or HTTP.

use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Maximum length of a line of version 1, with its end.
const MAX_LINE: usize = 107;
/// Maximum bytes after the fixed part of version 2. Load balancers add a few hundred.
const MAX_REST: usize = 4096;

/// Read a header. `None`: the connection is of the proxy itself, or its client is unknown.
///
/// # Errors
/// The connection failed or does not begin with a header.
pub(super) async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Error> {
    // Both versions have more bytes than this.
    let mut start = [0; SIGNATURE.len()];
    io.read_exact(&mut start).await?;
    if start == *SIGNATURE { binary(io).await } else { line(io, &start).await }
}

/// Version 2, after its signature.
async fn binary(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Error> {
    let [command, family] = [io.read_u8().await?, io.read_u8().await?];
    let len = usize::from(io.read_u16().await?);
    if len > MAX_REST {
        return Err(invalid("a PROXY header is too long"));
    }
    let mut rest = vec![0; len];
    io.read_exact(&mut rest).await?;
    match (command, family) {
        (0x20, _) => Ok(None),
        (0x21, 0x11) => match rest.first_chunk::<12>() {
            Some([a, b, c, d, _, _, _, _, high, low, _, _]) => Ok(Some(SocketAddr::from((
                Ipv4Addr::new(*a, *b, *c, *d),
                u16::from_be_bytes([*high, *low]),
            )))),
            None => Err(invalid("a PROXY header is too short")),
        },
        (0x21, 0x21) => match (rest.first_chunk::<16>(), rest.get(32..34), rest.len()) {
            (Some(address), Some([high, low]), 36..) => Ok(Some(SocketAddr::from((
                Ipv6Addr::from(*address),
                u16::from_be_bytes([*high, *low]),
            )))),
            _ => Err(invalid("a PROXY header is too short")),
        },
        (0x21, _) => Ok(None),
        _ => Err(invalid("a PROXY header has an unknown version or command")),
    }
}

/// Version 1, of which the first bytes were read.
async fn line(
    io: &mut (impl AsyncRead + Unpin),
    start: &[u8],
) -> Result<Option<SocketAddr>, Error> {
    let mut line = start.to_vec();
    if !line.starts_with(b"PROXY ") {
        return Err(invalid("the connection does not begin with a PROXY header"));
    }
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_LINE {
            return Err(invalid("a PROXY header is too long"));
        }
        line.push(io.read_u8().await?);
    }
    let text = std::str::from_utf8(&line).unwrap_or_default().trim_end_matches("\r\n");
    let parts: Vec<&str> = text.split(' ').collect();
    let client = |address: &str, port: &str| {
        Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
    };
    match parts.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, _, port, _] => client(source, port)
            .filter(|client| client.is_ipv4() == (*family == "TCP4"))
            .map(Some)
            .ok_or_else(|| invalid("a PROXY header has no valid address")),
        _ => Err(invalid("a PROXY header is malformed")),
    }
}

fn invalid(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a header says, and the bytes after it.
    async fn heard(bytes: &[u8]) -> (Result<Option<SocketAddr>, ErrorKind>, Vec<u8>) {
        let mut io = bytes;
        let result = read(&mut io).await.map_err(|error| error.kind());
        (result, io.to_vec())
    }

    fn second(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, rest, b"GET"].concat()
    }

    #[tokio::test]
    async fn both_versions_state_the_client() {
        let client = |text: &str| Ok(Some(text.parse().expect("an address")));
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let v6 = [[0xfd; 16].as_slice(), &[0; 16], &[0, 9, 0, 80], b"more"].concat();
        for (bytes, want) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 80\r\nGET".to_vec(), client("192.0.2.1:8080")),
            (b"PROXY TCP6 2001:db8::1 ::1 9 80\r\nGET".to_vec(), client("[2001:db8::1]:9")),
            (b"PROXY UNKNOWN\r\nGET".to_vec(), Ok(None)),
            (b"PROXY UNKNOWN ffff::1 ::1 1 2\r\nGET".to_vec(), Ok(None)),
            (second(0x21, 0x11, &v4), client("192.0.2.1:8080")),
            (second(0x21, 0x21, &v6), client("[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:9")),
            (second(0x20, 0, &[]), Ok(None)),
            (second(0x21, 0x31, &[0; 216]), Ok(None)),
        ] {
            assert_eq!(heard(&bytes).await, (want, b"GET".to_vec()));
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 a b 1 2\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 70000 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4\r\n".to_vec(),
            format!("PROXY TCP4 {}\r\n", "1".repeat(200)).into_bytes(),
            second(0x11, 0x11, &[0; 12]),
            second(0x22, 0x11, &[0; 12]),
            second(0x21, 0x11, &[0; 11]),
            second(0x21, 0x21, &[0; 35]),
            second(0x21, 0x11, &[0; 5000]),
        ] {
            assert_eq!(heard(&bytes).await.0, Err(ErrorKind::InvalidData), "{bytes:?}");
        }
        assert_eq!(heard(b"PROXY").await.0, Err(ErrorKind::UnexpectedEof));
    }
}
