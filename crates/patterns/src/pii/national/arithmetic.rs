//! Arithmetic of check digits that identifiers of several countries share.
//!
//! - *In*: a candidate, separators and all.
//! - *Out*: whether its check digits are valid.
//! - *Never*: a number whose digits are all the same: none was issued.

use crate::pii::checks::{self, alnum, digits, monotone, month_day, two, weighted};

/// Whether the last digit is `fold` of the weighted sum of the digits before it.
pub(super) fn last(text: &str, weights: &[u32], fold: fn(u32) -> u32) -> bool {
    let d = digits(text);
    d.len() == weights.len() + 1 && !monotone(&d) && d.last() == Some(&fold(weighted(&d, weights)))
}

/// The complement to eleven; ten counts as zero.
pub(super) fn eleven(sum: u32) -> u32 {
    (11 - sum % 11) % 11 % 10
}

/// The complement to ten.
pub(super) fn ten(sum: u32) -> u32 {
    (10 - sum % 10) % 10
}

/// The remainder of eleven; ten counts as zero.
pub(super) fn rest(sum: u32) -> u32 {
    sum % 11 % 10
}

/// Luhn over all digits, which are so many.
pub(super) fn luhn(text: &str, length: usize) -> bool {
    let d = digits(text);
    d.len() == length && !monotone(&d) && checks::luhn(&d)
}

/// ISO 7064 mod 11, 10 over so many digits.
pub(super) fn iso_11_10(text: &str, length: usize) -> bool {
    let d = digits(text);
    d.len() == length && !monotone(&d) && checks::mod_11_10(&d)
}

/// Whether six digits at `at` are year, month and day.
pub(super) fn year_first(d: &[u32], at: usize) -> bool {
    month_day(two(d, at + 2), two(d, at + 4))
}

/// Whether six digits at `at` are day, month and year.
pub(super) fn day_first(d: &[u32], at: usize) -> bool {
    month_day(two(d, at + 2), two(d, at))
}

/// The digits as one number.
pub(super) fn number(text: &str) -> u64 {
    digits(text).iter().fold(0, |n, d| n.wrapping_mul(10).wrapping_add(u64::from(*d)))
}

/// The values of letters and digits in an alphabet; `None` if one is not in it.
pub(super) fn values(text: &str, alphabet: &str) -> Option<Vec<u32>> {
    alnum(text).chars().map(|c| alphabet.find(c).map(|at| at as u32)).collect()
}

/// The value of a byte of an identifier: a digit, or a letter from ten.
pub(super) fn value(b: u8) -> u32 {
    char::from(b).to_digit(36).unwrap_or(0)
}
