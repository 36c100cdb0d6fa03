//! Hashes of symbols, words and features.
//!
//! - *In*: symbols (lower-case characters) and parts of features.
//! - *Out*: 64-bit hashes, and the bucket of a feature.
//! - *Never*: a change without a new version of the weights file: the weights are bound to the
//!   buckets.

/// The base of the rolling hash over symbols.
pub const BASE: u64 = 0x0000_0100_0000_01b3;

/// Bits of a bucket number.
pub const BUCKET_BITS: u32 = 19;
/// How many buckets there are.
pub const BUCKETS: usize = 1 << BUCKET_BITS;

/// One more symbol of a word.
pub fn roll(hash: u64, symbol: u32) -> u64 {
    (hash ^ u64::from(symbol)).wrapping_mul(BASE).rotate_left(23)
}

/// The hash of a whole word, as for the words of a text.
pub fn word_hash(word: &str) -> u64 {
    word.chars().fold(0, |h, c| roll(h, c as u32))
}

/// Two parts of one feature, in order.
pub fn pair(a: u64, b: u64) -> u64 {
    a.rotate_left(29).wrapping_add(b).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// The bucket of a feature.
pub fn bucket(hash: u64) -> u32 {
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BUCKET_BITS)) as u32
}
