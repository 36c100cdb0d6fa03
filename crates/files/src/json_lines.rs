//! JSON lines: one object a line, as in `/api/requests`, with the key of the record.
//!
//! - *In*: rows, or lines; the lines of other programs and of `/api/requests`, too.
//! - *Out*: lines, or rows. Fractions that another program has written may differ in the last bits.
//! - *Never*: a line over [`MAX_ROW`].

use std::io::BufRead;

use crate::reader::{MAX_ROW, ReadError, Reader, append_line, too_long};
use crate::row::Row;

/// Append a row.
pub(crate) fn encode(row: &Row, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *out, row)?;
    out.push(b'\n');
    Ok(())
}

pub(crate) struct JsonLinesReader<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    position: u64,
}

impl<R: BufRead> JsonLinesReader<R> {
    pub(crate) fn new(input: R) -> Self {
        JsonLinesReader { input, line: Vec::new(), number: 0, position: 0 }
    }
}

impl<R: BufRead + Send> Reader for JsonLinesReader<R> {
    fn read(&mut self) -> Result<Option<Row>, ReadError> {
        loop {
            self.line.clear();
            if !append_line(&mut self.input, &mut self.line)? {
                return Ok(None);
            }
            self.number += 1;
            let place = || format!("line {}", self.number);
            if self.line.len() > MAX_ROW {
                return Err(ReadError::row(place(), too_long()));
            }
            let bytes = self.line.len() as u64;
            let is_whole = self.line.ends_with(b"\n");
            if self.line.trim_ascii().is_empty() {
                self.position += bytes;
                continue;
            }
            // serde_json counts lines from its own start.
            let row = serde_json::from_slice(&self.line).map_err(|error| {
                let problem = error.to_string();
                let problem = problem.replace(" at line 1 column ", " at character ");
                ReadError::row(place(), problem)
            })?;
            if is_whole {
                self.position += bytes;
            }
            return Ok(Some(row));
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}
