//! Where large buffers come from: a small pool, so that a batch does not pay for its pages anew.
//!
//! A fresh buffer of 16 MiB costs 4,096 page faults, about as long as hashing it. What is given back is kept, at most
//! `IDLE_BYTES_MAX` in all, so memory stays bounded by the buffers in use plus that. A buffer's old bytes are still
//! there when it is taken: whoever takes one writes all of it. Buffers begin at a page, as `O_DIRECT` asks for.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// How many bytes may wait unused.
const IDLE_BYTES_MAX: usize = 64 << 20;

/// What `O_DIRECT` asks of memory, offsets and lengths: no device and no file system that is known asks for more.
pub(crate) const PAGE_BYTES: usize = 4096;

static IDLE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer of the pool; goes back when dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// A buffer of that length, with any bytes in it.
    pub(crate) fn take(length: usize) -> Self {
        // At most twice as long as asked for, so that a large buffer does not sit behind a small need.
        let needed = length.saturating_add(PAGE_BYTES);
        let fits = |bytes: &Vec<u8>| (needed..=needed.saturating_mul(2)).contains(&bytes.len());
        let found = IDLE.lock().ok().and_then(|mut idle| {
            let at = idle.iter().rposition(fits)?;
            Some(idle.swap_remove(at))
        });
        let bytes = found.unwrap_or_else(|| vec![0; needed]);
        let start = bytes.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        Self { bytes, start, length }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() || bytes.len() > IDLE_BYTES_MAX {
            return;
        }
        if let Ok(mut idle) = IDLE.lock() {
            idle.push(bytes);
            while idle.iter().map(Vec::len).sum::<usize>() > IDLE_BYTES_MAX {
                idle.remove(0); // the one that waited longest
            }
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for_and_idle_memory_is_bounded() {
        let lengths = [0, 1, 5 << 20, 9 << 20, 40 << 20, 70 << 20, 6 << 20];
        for _ in 0..3 {
            let held: Vec<_> = lengths.iter().map(|length| Buffer::take(*length)).collect();
            assert!(held.iter().zip(lengths).all(|(buffer, length)| buffer.len() == length));
            assert!(held.iter().all(|buffer| buffer.as_ptr().addr().is_multiple_of(PAGE_BYTES)));
        }
        let idle: usize = IDLE.lock().unwrap().iter().map(Vec::len).sum();
        assert!(idle <= IDLE_BYTES_MAX);
        assert!(idle > 0);
    }
}
