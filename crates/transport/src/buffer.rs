//! Buffers of a worker: one scratch that every read goes through, and a few kept for reuse.
//!
//! Streams that wait hold no buffer. What a read returned is worked off before the next one uses
//! the scratch.

use std::cell::RefCell;

/// Bytes of one read. Larger reads save system calls on floods; this holds about 120 events of a
/// chat stream.
pub const SCRATCH: usize = 32 << 10;
/// Most buffers that a worker keeps, and the largest one worth keeping.
const KEEP: usize = 64;
const LARGEST: usize = 64 << 10;
/// A fresh buffer: the head of an ordinary request with a small body.
const FRESH: usize = 4 << 10;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Work with the scratch buffer. Not reentrant.
#[inline]
pub fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| work(scratch))
}

/// An empty buffer.
#[inline]
pub fn take() -> Vec<u8> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(FRESH))
}

/// A buffer that is not needed any more.
#[inline]
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > LARGEST {
        return;
    }
    buffer.clear();
    FREE.with_borrow_mut(|free| {
        if free.len() < KEEP {
            free.push(buffer);
        }
    });
}
