//! The part of HTTP/1.1 that both ends of the bench need: framed bodies.
//!
//! In: header fields of a parsed head, then raw bytes as they arrive.
//! Out: payload bytes without their framing, and whether the body has ended.
//! Never: accepts a body that ends with the connection, which would break
//! keep-alive; never reads past the end of a body.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};

/// Maximum header fields of a head.
pub const MAX_HEADERS: usize = 64;

/// Maximum bytes of a head, chunk-size line or trailer line.
pub const MAX_HEAD: usize = 16 * 1024;

const MAX_CHUNK: usize = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
    Fixed(usize),
    Done,
}

/// Decodes the framing of a message body.
#[derive(Debug)]
pub struct Body {
    step: Step,
}

impl Body {
    /// Chooses the framing from the header fields; no field means no body.
    ///
    /// # Errors
    /// When `content-length` is not a number.
    pub fn of(headers: &[httparse::Header<'_>]) -> Result<Self> {
        let mut step = Step::Done;
        for field in headers {
            if field.name.eq_ignore_ascii_case("transfer-encoding") {
                return Ok(Self { step: Step::Size });
            }
            if field.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(field.value)?;
                let length = text.trim().parse().context("content-length")?;
                step = Step::Fixed(length);
            }
        }
        Ok(Self { step })
    }

    /// Whether the body is cut into chunks.
    #[must_use]
    pub fn is_chunked(&self) -> bool {
        self.step == Step::Size
    }

    /// Decodes as much of `input` as possible into `out`; returns true at the end of the body.
    ///
    /// # Errors
    /// When the chunk framing is broken.
    pub fn decode(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> Result<bool> {
        loop {
            match self.step {
                Step::Done | Step::Fixed(0) => {
                    self.step = Step::Done;
                    return Ok(true);
                }
                Step::Fixed(left) => match take(input, out, left) {
                    0 => return Ok(false),
                    took => self.step = Step::Fixed(left - took),
                },
                Step::Data(left) => match take(input, out, left) {
                    0 => return Ok(false),
                    took if took == left => self.step = Step::DataEnd,
                    took => self.step = Step::Data(left - took),
                },
                Step::Size | Step::DataEnd | Step::Trailer => {
                    let Some(length) = line(input)? else {
                        return Ok(false);
                    };
                    self.step = self.after_line(&input[..length])?;
                    input.advance(length + 2);
                }
            }
        }
    }

    fn after_line(&self, line: &[u8]) -> Result<Step> {
        match self.step {
            Step::Size => match chunk_size(line)? {
                0 => Ok(Step::Trailer),
                size => Ok(Step::Data(size)),
            },
            Step::DataEnd => {
                ensure!(line.is_empty(), "a chunk is longer than its size");
                Ok(Step::Size)
            }
            Step::Trailer if !line.is_empty() => Ok(Step::Trailer),
            _ => Ok(Step::Done),
        }
    }
}

fn take(input: &mut BytesMut, out: &mut Vec<u8>, left: usize) -> usize {
    let count = left.min(input.len());
    out.extend_from_slice(&input[..count]);
    input.advance(count);
    count
}

/// Length of the first line of `input` without its CRLF; `None` while it is incomplete.
fn line(input: &[u8]) -> Result<Option<usize>> {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(end) if end > 0 && input[end - 1] == b'\r' => Ok(Some(end - 1)),
        Some(_) => bail!("a line of the chunk framing lacks its CR"),
        None if input.len() > MAX_HEAD => bail!("endless chunk-size line"),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<usize> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let text = std::str::from_utf8(digits)?.trim();
    let size = usize::from_str_radix(text, 16).context("chunk size")?;
    ensure!(size <= MAX_CHUNK, "chunk of {size} bytes");
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &'static str, value: &'static [u8]) -> [httparse::Header<'static>; 1] {
        [httparse::Header { name, value }]
    }

    #[test]
    fn chunks_cut_anywhere_give_the_same_payload() -> Result<()> {
        let wire = b"5\r\nhello\r\n1;x=y\r\n \r\n5\r\nworld\r\n0\r\nt: 1\r\n\r\nnext";
        for cut in 0..wire.len() - 4 {
            let mut body = Body::of(&header("Transfer-Encoding", b"chunked"))?;
            let (mut input, mut out) = (BytesMut::from(&wire[..cut]), Vec::new());
            assert!(!body.decode(&mut input, &mut out)?);
            input.extend_from_slice(&wire[cut..]);
            assert!(body.decode(&mut input, &mut out)?);
            assert_eq!(out, b"hello world");
            assert_eq!(&input[..], b"next");
        }
        Ok(())
    }

    #[test]
    fn broken_framing_is_an_error() -> Result<()> {
        for wire in [&b"zz\r\n"[..], b"1\r\nab\r\n", b"3\nabc"] {
            let mut body = Body::of(&header("transfer-encoding", b"chunked"))?;
            assert!(body.decode(&mut BytesMut::from(wire), &mut Vec::new()).is_err());
        }
        Ok(())
    }

    #[test]
    fn a_fixed_length_ends_in_time() -> Result<()> {
        let mut body = Body::of(&header("content-length", b"3"))?;
        let (mut input, mut out) = (BytesMut::from(&b"ab"[..]), Vec::new());
        assert!(!body.decode(&mut input, &mut out)?);
        input.extend_from_slice(b"cd");
        assert!(body.decode(&mut input, &mut out)?);
        assert_eq!((&out[..], &input[..]), (&b"abc"[..], &b"d"[..]));
        Ok(())
    }
}
