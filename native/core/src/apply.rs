//! apply: chunks onto a restore target, and never a stale byte left on one that was used before (rule R14).
//!
//! Where the target can be written past the page cache (`O_DIRECT`) whole chunks are: that costs a twentieth of the CPU
//! time, which decoding needs, and leaves the cache to others. What is ragged, and what the device refuses so, goes
//! through the cache; the two never touch the same page.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::batch::{PlainBatch, check_length};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::pool::PAGE_BYTES;
use crate::sink::{clear, start_write_back, write_gathered};
use crate::types::OFFSET_END;

/// Neighbouring chunks are written together up to so many bytes.
const WRITE_BYTES: usize = 4 << 20;

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Apply<'a> {
    /// The chunks.
    pub plain: &'a PlainBatch,
    /// Which of them.
    pub rows: &'a [u32],
    /// The target.
    pub fd: BorrowedFd<'a>,
    /// The same target opened with `O_DIRECT`, if it can be.
    pub direct: Option<BorrowedFd<'a>>,
    /// Where each goes, as a chunk of the target.
    pub chunks: &'a [u64],
    /// Nothing is written beyond.
    pub disk_size: u64,
    /// The target was freshly made and reads as zeros, so zero chunks are left out.
    pub fresh: bool,
}

/// Writes the rows; answers the bytes of data written.
pub fn apply(what: &Apply<'_>, stop: &Stop<'_>) -> Result<u64> {
    what.plain.check_rows("rows", what.rows)?;
    check_length("chunks", what.chunks.len(), what.rows.len())?;
    if what.disk_size >= OFFSET_END {
        return Err(Error::BadArgument("disk_size must fit in 63 bits".to_owned()));
    }
    let (mut written, mut lowest, mut highest) = (0, u64::MAX, 0);
    let mut at = 0;
    while at < what.rows.len() {
        stop.check()?;
        let run = what.run_length(at);
        let length: u64 = (at..at + run).map(|at| what.length(at) as u64).sum();
        if length > 0 {
            let offset = what.chunks[at] * what.plain.chunk_size.step();
            if !what.is_zero(at) {
                if !what.write_direct(at, run, offset)? {
                    write_gathered(what.fd, &mut what.gather(at, run), offset)?;
                    lowest = lowest.min(offset);
                    highest = highest.max(offset + length);
                }
                written += length;
            } else if !what.fresh {
                clear(what.fd, offset, length)?;
            }
        }
        at += run;
    }
    if lowest < highest {
        start_write_back(what.fd, lowest, highest);
    }
    Ok(written)
}

impl Apply<'_> {
    fn is_zero(&self, at: usize) -> bool {
        self.plain.is_zero(self.rows[at] as usize)
    }

    /// Writes a run past the page cache; false where that cannot be.
    fn write_direct(&self, at: usize, run: usize, offset: u64) -> Result<bool> {
        let Some(direct) = self.direct else {
            return Ok(false);
        };
        let mut pieces = self.gather(at, run);
        if pieces.iter().any(|piece| !piece.len().is_multiple_of(PAGE_BYTES)) {
            return Ok(false);
        }
        match write_gathered(direct, &mut pieces, offset) {
            Ok(()) => Ok(true),
            // Some file systems open a file so and then refuse; some tell a device's larger blocks only now.
            Err(Error::Write { errno, .. }) if errno == Errno::INVAL.raw_os_error() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How much of a row lies on the disk.
    fn length(&self, at: usize) -> usize {
        self.plain.chunk_size.length_on(self.disk_size, self.chunks[at])
    }

    /// How many rows from `at` on go to neighbouring chunks and are written, or cleared, alike.
    fn run_length(&self, at: usize) -> usize {
        let zero = self.is_zero(at);
        let longest = if zero { usize::MAX } else { WRITE_BYTES / self.plain.chunk_size.bytes() };
        (at..self.rows.len())
            .take(longest.max(1))
            .take_while(|next| {
                self.chunks[at].checked_add((next - at) as u64) == Some(self.chunks[*next])
                    && self.is_zero(*next) == zero
            })
            .count()
    }

    /// The bytes of a run, in as few pieces as they lie in memory.
    fn gather(&self, at: usize, run: usize) -> Vec<IoSlice<'_>> {
        let size = self.plain.chunk_size.bytes();
        let mut pieces = Vec::new();
        let mut next = at;
        while next < at + run {
            let first = self.rows[next] as usize;
            let together =
                (next..at + run).take_while(|row| self.rows[*row] as usize == first + (row - next)).count();
            let length = (next..next + together).map(|row| self.length(row)).sum::<usize>();
            if length > 0 {
                pieces.push(IoSlice::new(&self.plain.buffer[first * size..first * size + length]));
            }
            next += together;
        }
        pieces
    }
}
