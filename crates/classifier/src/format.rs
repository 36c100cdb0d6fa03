//! The weights file.
//!
//! - *In*: bytes, or a model.
//! - *Out*: a model, or bytes. Little endian: magic, version, bucket bits, fingerprint of the word
//!   tables, then per question scale, kinds, peak, threshold, slope and what training measured,
//!   then the weights, then a checksum over all of it.
//! - *Never*: a model from a file that was made for other features.

use std::fmt;

use super::hash::{BUCKET_BITS, BUCKETS};
use super::lexicon::Lexicon;
use super::phrase::Phrases;
use super::toxic::Table;
use super::{Accuracy, Head, Model, TASKS};

const MAGIC: &[u8; 8] = b"LLSHIELD";
/// Goes up with every change of the features or of this file.
const VERSION: u16 = 4;

/// Why a weights file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadWeights {
    /// Not a weights file.
    Magic,
    /// Made for another version of the features or other word tables.
    Version,
    /// Truncated or damaged.
    Damaged,
}

impl fmt::Display for BadWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadWeights::Magic => "the file is not a weights file",
            BadWeights::Version => {
                "the weights were trained for another version of the features; train them again"
            }
            BadWeights::Damaged => "the weights file is truncated or damaged",
        })
    }
}

impl std::error::Error for BadWeights {}

fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Checksum of the word tables, which are part of the features.
fn fingerprint() -> u64 {
    checksum(include_bytes!("lexicon.txt")) ^ checksum(include_bytes!("phrases.txt")).rotate_left(1)
}

pub(super) fn write(model: &Model) -> Vec<u8> {
    let mut out = Vec::with_capacity(BUCKETS * TASKS + 65_536);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((BUCKET_BITS as u16).to_le_bytes());
    out.extend(fingerprint().to_le_bytes());
    for head in &model.heads {
        let first = [head.scale].into_iter().chain(head.kinds);
        let numbers = [head.peak, head.threshold, head.slope, head.measured.auc, head.measured.tpr];
        first.chain(numbers).for_each(|v| out.extend(v.to_le_bytes()));
    }
    out.extend(model.weights.iter().flatten().map(|w| w.cast_unsigned()));
    let sum = checksum(&out);
    out.extend(sum.to_le_bytes());
    out
}

/// Takes bytes off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadWeights> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(BadWeights::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn float(&mut self) -> Result<f32, BadWeights> {
        let value = f32::from_le_bytes(self.take()?);
        if value.is_nan() { Err(BadWeights::Damaged) } else { Ok(value) }
    }

    fn head(&mut self) -> Result<Head, BadWeights> {
        let scale = self.float()?;
        let kinds = [self.float()?, self.float()?, self.float()?];
        let (peak, threshold, slope) = (self.float()?, self.float()?, self.float()?);
        let measured = Accuracy { auc: self.float()?, tpr: self.float()? };
        Ok(Head { scale, kinds, peak, threshold, slope, measured })
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<Model, BadWeights> {
    let (body, sum) = bytes.split_last_chunk::<8>().ok_or(BadWeights::Magic)?;
    let mut reader = Reader(body);
    if reader.take::<8>().map_err(|_| BadWeights::Magic)? != *MAGIC {
        return Err(BadWeights::Magic);
    }
    if checksum(body) != u64::from_le_bytes(*sum) {
        return Err(BadWeights::Damaged);
    }
    let version = (
        u16::from_le_bytes(reader.take()?),
        u16::from_le_bytes(reader.take()?),
        u64::from_le_bytes(reader.take()?),
    );
    if version != (VERSION, BUCKET_BITS as u16, fingerprint()) {
        return Err(BadWeights::Version);
    }
    let heads = [reader.head()?, reader.head()?, reader.head()?];
    let (rows, rest) = reader.0.as_chunks::<TASKS>();
    if rows.len() != BUCKETS || !rest.is_empty() {
        return Err(BadWeights::Damaged);
    }
    let weights = rows.iter().map(|row| row.map(u8::cast_signed)).collect();
    let (phrases, toxic) = Phrases::new()
        .and_then(|phrases| Ok((phrases, Table::new()?)))
        .map_err(|_| BadWeights::Damaged)?;
    Ok(Model { weights, heads, lexicon: Lexicon::load(), phrases, toxic })
}
