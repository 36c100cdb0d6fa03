//! Memory of all clients: request bodies that are read or kept, and queued answers.
//!
//! - *In*: buffers, and changes of queues.
//! - *Out*: whether one more body fits; the bytes held.
//! - *Never*: a count without its buffer. A count is released when the buffer is dropped.
//!
//! Limits on one body, one stream and one connection do not bound their number: HTTP/2 alone lets
//! one connection send a hundred bodies. Only a sum does.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use config::settings::Limits;

/// Counts the bytes that are held for clients.
#[derive(Debug)]
pub struct Memory {
    held: AtomicI64,
    /// Maximum bytes where the settings name none.
    default_max: u64,
    refused: AtomicU64,
}

impl Memory {
    /// No bytes yet. `default_max` applies where the settings name no limit.
    pub fn new(default_max: u64) -> Arc<Self> {
        Arc::new(Memory { held: AtomicI64::new(0), default_max, refused: AtomicU64::new(0) })
    }

    /// Maximum bytes: `limits.buffered_bytes`, or the default of the process.
    pub fn max(&self, limits: &Limits) -> u64 {
        if limits.buffered_bytes == 0 { self.default_max } else { limits.buffered_bytes as u64 }
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        u64::try_from(self.held.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Requests refused because their bodies did not fit.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A queue of answers grew or shrank. An answer that has begun is never refused.
    pub fn change(&self, bytes: i64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Count `bytes` more, if they fit below `max`.
    fn grow(&self, bytes: usize, max: u64) -> bool {
        let (more, max) = (signed(bytes), i64::try_from(max).unwrap_or(i64::MAX));
        let fits = self.held.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= max;
        if !fits {
            self.held.fetch_sub(more, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }
}

/// A number of bytes that is counted until it is dropped.
#[derive(Debug)]
pub struct Held {
    memory: Option<Arc<Memory>>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory {
            memory.change(-signed(self.bytes));
        }
    }
}

/// A buffer with bytes of a client, counted until it is dropped.
#[derive(Debug)]
pub struct HeldBuffer {
    bytes: Vec<u8>,
    held: Held,
}

impl HeldBuffer {
    /// A buffer whose bytes are counted from the first [`HeldBuffer::count`] on.
    pub fn new(bytes: Vec<u8>, memory: &Arc<Memory>) -> Self {
        HeldBuffer { bytes, held: Held { memory: Some(memory.clone()), bytes: 0 } }
    }

    /// Count the bytes that it has now. `false`: they do not fit below `max`.
    pub fn count(&mut self, max: u64) -> bool {
        let (held, len) = (&mut self.held, self.bytes.len());
        let Some(memory) = &held.memory else { return true };
        if len > held.bytes && !memory.grow(len - held.bytes, max) {
            return false;
        }
        if len < held.bytes {
            memory.change(-signed(held.bytes - len));
        }
        held.bytes = len;
        true
    }

    /// A buffer made from this one, for example a redacted body. It is counted without a limit: the
    /// request was admitted.
    pub fn derived(&self, bytes: Vec<u8>) -> Self {
        let held = self.copied(bytes.len());
        HeldBuffer { bytes, held }
    }

    /// Count a copy of that many bytes, without a limit.
    pub fn copied(&self, bytes: usize) -> Held {
        if let Some(memory) = &self.held.memory {
            memory.change(signed(bytes));
        }
        Held { memory: self.held.memory.clone(), bytes }
    }

    /// The bytes, which are no longer counted.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A buffer of the gateway itself, which is not counted.
impl From<Vec<u8>> for HeldBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        HeldBuffer { bytes, held: Held { memory: None, bytes: 0 } }
    }
}

impl Default for HeldBuffer {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl Deref for HeldBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for HeldBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_until_their_buffer_is_dropped() {
        let memory = Memory::new(100);
        let mut one = HeldBuffer::new(vec![0; 60], &memory);
        assert!(one.count(100));
        let mut other = HeldBuffer::new(vec![0; 40], &memory);
        assert!(other.count(100), "both fit exactly");
        other.push(0);
        assert!(!other.count(100), "one byte too many");
        assert_eq!((memory.held(), memory.refused()), (100, 1), "the refused byte is not counted");
        one.truncate(10);
        assert!(one.count(100) && other.count(100));
        assert_eq!(memory.held(), 51);
        let copy = one.derived(vec![0; 500]);
        assert_eq!(memory.held(), 551, "an admitted request is never refused");
        drop((one, copy));
        assert_eq!(memory.held(), 41);
        drop(other.into_bytes());
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn queued_answers_take_room_from_bodies() {
        let memory = Memory::new(100);
        memory.change(95);
        let mut body = HeldBuffer::new(vec![0; 6], &memory);
        assert!(!body.count(100));
        memory.change(-95);
        assert!(body.count(100));
        drop(body);
        assert_eq!(memory.held(), 0);
    }
}
