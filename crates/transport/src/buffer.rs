//! Buffers of a worker: one scratch that every read goes through, and a few kept for reuse.
//!
//! Idle streams hold no buffer. The bytes of a read are processed before the next read uses the
//! scratch.

use std::cell::RefCell;

/// Maximum bytes of one read: about 120 events of a chat stream. A large read saves system calls
/// under load.
pub const SCRATCH: usize = 32 << 10;
/// Maximum number of buffers that a worker keeps, and maximum capacity of a kept one, in bytes.
const MAX_FREE_BUFFERS: usize = 64;
const LARGEST: usize = 64 << 10;
/// Capacity of a new buffer in bytes: the head of an ordinary request with a small body.
const FRESH: usize = 4 << 10;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Call `work` with the scratch buffer. Not reentrant.
#[inline]
pub fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| work(scratch))
}

/// Take an empty buffer: a kept one, or a new one.
#[inline]
pub fn take() -> Vec<u8> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(FRESH))
}

/// Return a buffer for reuse.
#[inline]
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > LARGEST {
        return;
    }
    buffer.clear();
    FREE.with_borrow_mut(|free| {
        if free.len() < MAX_FREE_BUFFERS {
            free.push(buffer);
        }
    });
}
