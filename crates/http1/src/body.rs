//! Message bodies: locates the payload in the bytes that were read.
//!
//! - *In*: the bytes after a head, cut anywhere.
//! - *Out*: ranges of payload, and the offset at which the body ends.
//! - *Never*: a copy. Chunk extensions and trailers are bounded and dropped.

/// How a message body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body.
    Empty,
    /// `Content-Length`, more than zero.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the sender closes the connection; responses only.
    UntilClose,
}

/// Why a body is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk size is not a plain hexadecimal number.
    #[error("malformed chunk size")]
    ChunkSize,
    /// A CRLF is missing or malformed.
    #[error("malformed chunk end")]
    ChunkEnd,
    /// Chunk extensions or trailers exceed their limit.
    #[error("chunk extensions or trailers are too long")]
    TooLong,
    /// The sender closed the connection before the body was complete.
    #[error("the body ended early")]
    Truncated,
}

/// Result of [`BodyReader::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// After `skip` bytes of framing come `len` bytes of payload (at least one).
    Data {
        /// Framing bytes to skip.
        skip: usize,
        /// Payload bytes after them.
        len: usize,
    },
    /// No payload in the given bytes; read more.
    More,
    /// The body ended; `used` of the given bytes belonged to it.
    Done {
        /// Bytes of framing that ended the body.
        used: usize,
    },
}

/// Maximum bytes of one chunk's extension.
const MAX_EXTENSION: u16 = 1024;
/// Maximum bytes of all trailers together.
const MAX_TRAILER: u16 = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    Size { value: u64, digits: u8 },
    Extension { value: u64, seen: u16 },
    SizeLf { value: u64 },
    Payload { left: u64 },
    PayloadCr,
    PayloadLf,
    TrailerStart { seen: u16 },
    Trailer { seen: u16 },
    TrailerLf { seen: u16 },
    EndLf,
    Done,
}

/// Reads one body.
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
}

impl BodyReader {
    /// A reader at the start of a body.
    pub fn new(framing: BodyFraming) -> Self {
        let state = match framing {
            BodyFraming::Empty | BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(length) => State::Length(length),
            BodyFraming::Chunked => State::Size { value: 0, digits: 0 },
            BodyFraming::UntilClose => State::UntilClose,
        };
        BodyReader { state }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Handle the end of the connection.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] unless the body was complete or delimited by the close.
    pub fn closed(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// Classify the next bytes. The caller advances by the returned lengths and calls again with
    /// the rest.
    ///
    /// # Errors
    /// [`BodyError`] if the framing is invalid. The connection is unusable after that.
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        match &mut self.state {
            State::Done => return Ok(Progress::Done { used: 0 }),
            _ if bytes.is_empty() => return Ok(Progress::More),
            State::UntilClose => return Ok(Progress::Data { skip: 0, len: bytes.len() }),
            State::Length(left) => {
                let len = take(left, bytes.len());
                if *left == 0 {
                    self.state = State::Done;
                }
                return Ok(Progress::Data { skip: 0, len });
            }
            _ => {}
        }
        self.chunked(bytes)
    }

    fn chunked(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        for (at, &b) in bytes.iter().enumerate() {
            if let State::Payload { left } = &mut self.state {
                let len = take(left, bytes.len() - at);
                if *left == 0 {
                    self.state = State::PayloadCr;
                }
                return Ok(Progress::Data { skip: at, len });
            }
            self.state = step(self.state, b)?;
            if self.state == State::Done {
                return Ok(Progress::Done { used: at + 1 });
            }
        }
        Ok(Progress::More)
    }
}

/// Subtract at most `available` from `left` and return the number subtracted.
fn take(left: &mut u64, available: usize) -> usize {
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(available);
    *left -= len as u64;
    len
}

/// The state after one byte of chunk framing.
fn step(state: State, b: u8) -> Result<State, BodyError> {
    Ok(match state {
        State::Size { value, digits } => match (char::from(b).to_digit(16), b) {
            (Some(_), _) if digits >= 15 => return Err(BodyError::ChunkSize),
            (Some(d), _) => State::Size { value: value << 4 | u64::from(d), digits: digits + 1 },
            (None, b'\r') if digits > 0 => State::SizeLf { value },
            (None, b';' | b' ' | b'\t') if digits > 0 => State::Extension { value, seen: 0 },
            _ => return Err(BodyError::ChunkSize),
        },
        State::Extension { value, seen } => match b {
            b'\r' => State::SizeLf { value },
            _ if seen >= MAX_EXTENSION => return Err(BodyError::TooLong),
            b'\t' | b' '..=b'~' => State::Extension { value, seen: seen + 1 },
            _ => return Err(BodyError::ChunkSize),
        },
        State::SizeLf { value: 0 } if b == b'\n' => State::TrailerStart { seen: 0 },
        State::SizeLf { value } if b == b'\n' => State::Payload { left: value },
        State::PayloadCr if b == b'\r' => State::PayloadLf,
        State::PayloadLf if b == b'\n' => State::Size { value: 0, digits: 0 },
        State::TrailerStart { .. } if b == b'\r' => State::EndLf,
        State::TrailerStart { seen } | State::Trailer { seen } => match b {
            _ if seen >= MAX_TRAILER => return Err(BodyError::TooLong),
            b'\r' => State::TrailerLf { seen },
            b'\n' | 0 => return Err(BodyError::ChunkEnd),
            _ => State::Trailer { seen: seen + 1 },
        },
        State::TrailerLf { seen } if b == b'\n' => State::TrailerStart { seen },
        State::EndLf if b == b'\n' => State::Done,
        _ => return Err(BodyError::ChunkEnd),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Payload, whether the body ended, and the number of bytes after it.
    fn read(framing: BodyFraming, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), BodyError> {
        let mut reader = BodyReader::new(framing);
        let (mut out, mut surplus) = (Vec::new(), 0);
        for mut piece in pieces.iter().copied() {
            loop {
                match reader.next(piece)? {
                    Progress::Data { skip, len } => {
                        out.extend_from_slice(&piece[skip..skip + len]);
                        piece = &piece[skip + len..];
                    }
                    Progress::More => break,
                    Progress::Done { used } => {
                        surplus += piece.len() - used;
                        break;
                    }
                }
            }
        }
        Ok((out, reader.is_done(), surplus))
    }

    #[test]
    fn chunked_at_every_cut() {
        let wire = b"5;ext=\"1\"\r\nhello\r\n00a\r\n, my world\r\n0\r\nX: y\r\n\r\nGET";
        for cut in 0..=wire.len() {
            let (a, b) = wire.split_at(cut);
            assert_eq!(
                read(BodyFraming::Chunked, &[a, b]),
                Ok((b"hello, my world".to_vec(), true, 3)),
                "cut at {cut}"
            );
        }
        let single: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(read(BodyFraming::Chunked, &single), Ok((b"hello, my world".to_vec(), true, 3)));
    }

    #[test]
    fn broken_chunks_are_refused() {
        for bad in [
            &b"0_2e\r\n"[..],
            b"+1_0\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b"\r\n",
            b"5\n",
            b"5\r\r",
            b"5\r\nhelloX",
            b"5\r\nhello\rX",
            b" 5\r\n",
            b"1;a\nb\r\n",
            b"1;\0\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\nX: y\n\r\n",
            b"\xa05\r\n",
            b"0\r\n\rX",
        ] {
            assert!(
                read(BodyFraming::Chunked, &[bad]).is_err(),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
        assert_eq!(read(BodyFraming::Chunked, &[b"1;", &[b'a'; 2000]]), Err(BodyError::TooLong));
    }

    #[test]
    fn lengths_and_closes() {
        assert_eq!(read(BodyFraming::Length(3), &[b"ab", b"cd"]), Ok((b"abc".to_vec(), true, 1)));
        assert_eq!(read(BodyFraming::UntilClose, &[b"ab"]), Ok((b"ab".to_vec(), false, 0)));
        let mut half = BodyReader::new(BodyFraming::Length(3));
        assert_eq!(half.next(b"ab"), Ok(Progress::Data { skip: 0, len: 2 }));
        assert_eq!(half.closed(), Err(BodyError::Truncated));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(BodyFraming::Chunked, &[&bytes]);
        }
    }
}
