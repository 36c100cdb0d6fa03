//! Send times in event texts, so that a reader can compute their age.
//!
//! In: the wall clock, which client and engine share on one machine.
//! Out: a fixed-width decimal stamp, and the age of a stamp found in an event.
//! Never: compares clocks of two machines; a negative age counts as zero.

use std::time::{SystemTime, UNIX_EPOCH};

/// Digits of a stamp: enough for any 64-bit count of nanoseconds.
pub const DIGITS: usize = 20;

/// The byte that opens a stamp inside an event.
pub const MARK: u8 = b'@';

/// Nanoseconds of the wall clock.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Writes `nanos` over the whole of `slot`, padded with zeros on the left.
pub fn write(slot: &mut [u8], nanos: u64) {
    let mut rest = nanos;
    for digit in slot.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
}

/// Finds the stamp in an event, if it carries one.
#[must_use]
pub fn read(event: &[u8]) -> Option<u64> {
    let at = event.iter().position(|byte| *byte == MARK)? + 1;
    let digits = event.get(at..at + DIGITS)?;
    digits.iter().try_fold(0_u64, |sum, digit| {
        let value = digit.checked_sub(b'0').filter(|value| *value < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_an_event() {
        let mut event = *b"data: {\"content\":\" @00000000000000000000\"}";
        let at = event.len() - 2 - DIGITS;
        write(&mut event[at..at + DIGITS], 1_234_567_890_123);
        assert_eq!(read(&event), Some(1_234_567_890_123));
        assert_eq!(read(b"data: [DONE]"), None);
        assert_eq!(read(b"data: @123"), None);
    }
}
