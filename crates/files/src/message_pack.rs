//! MessagePack: maps with the names of fields, one after the other, as JSON lines have them.
//!
//! - *In*: rows, or bytes.
//! - *Out*: bytes, or rows, or their values. Numbers come back to the last bit.
//! - *Never*: an allocation of a length that the bytes state, but that they do not have.

use std::io::{self, BufRead, Read};

use rmp_serde::Deserializer;
use rmp_serde::decode::Error;
use serde::de::DeserializeOwned;

use crate::reader::{MAX_ROW, ReadError, Reader, too_long};
use crate::row::{self, Row, Values};

/// Maximum depth of a value. Records have five levels.
const MAX_DEPTH: usize = 32;

/// Append a row.
pub(crate) fn encode(row: &Row, out: &mut Vec<u8>) -> Result<(), rmp_serde::encode::Error> {
    rmp_serde::encode::write_named(out, row)
}

pub(crate) struct MessagePackReader<R> {
    input: R,
    position: u64,
}

impl<R: BufRead> MessagePackReader<R> {
    pub(crate) fn new(input: R) -> Self {
        MessagePackReader { input, position: 0 }
    }
}

/// Counts what is read of a row, up to the limit.
struct Limited<'r, R> {
    input: &'r mut R,
    read: usize,
}

impl<R: BufRead> Read for Limited<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(MAX_ROW - self.read);
        let read = self.input.read(&mut out[..most])?;
        self.read += read;
        Ok(read)
    }
}

impl<R: BufRead> MessagePackReader<R> {
    fn decode<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ReadError> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut limited = Limited { input: &mut self.input, read: 0 };
        let mut decoder = Deserializer::new(&mut limited);
        decoder.set_max_depth(MAX_DEPTH);
        let decoded = T::deserialize(&mut decoder);
        let read = limited.read;
        match decoded {
            Ok(decoded) => {
                self.position += read as u64;
                Ok(Some(decoded))
            }
            // The system cannot read the file; the row may be good.
            Err(Error::InvalidMarkerRead(error) | Error::InvalidDataRead(error))
                if error.kind() != io::ErrorKind::UnexpectedEof =>
            {
                Err(error.into())
            }
            Err(error) => {
                let problem = if read == MAX_ROW { too_long() } else { error.to_string() };
                Err(ReadError::row(format!("byte {}", self.position), problem))
            }
        }
    }
}

impl<R: BufRead + Send> Reader for MessagePackReader<R> {
    fn read(&mut self) -> Result<Option<Row>, ReadError> {
        self.decode()
    }

    fn read_values(&mut self) -> Result<Option<Values>, ReadError> {
        let at = self.position;
        let Some(mut values) = self.decode::<Values>()? else { return Ok(None) };
        let started_at = row::started_at(&values)
            .map_err(|error| ReadError::row(format!("byte {at}"), error))?;
        values.insert("started_at".into(), started_at.into());
        Ok(Some(values))
    }

    fn position(&self) -> u64 {
        self.position
    }
}
