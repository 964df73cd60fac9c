//! scan: which chunks of a disk hold data, and which of them are not what the parent had.
//!
//! Each thread takes the next piece of 16 MiB that has data, reads it into a buffer that stays in the processor's
//! cache, and hashes it there. Holes are skipped when a piece is taken, with one system call however large they are.
//!
//! Inside a piece no ends of extents are looked up: that call walks every extent of a dense image up to its next
//! hole, for every piece anew. Instead reads grow from one chunk to `READ_BYTES` while they find data, and only a
//! chunk that came out all zero is asked about: a hole, or zeros that someone wrote?

use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::{ScanBatch, check_length};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::hash::digest;
use crate::pool::Buffer;
use crate::source::{Source, next_data};
use crate::team::{self, Watch};
use crate::types::{ChunkSize, ChunkState, DIGEST_BYTES, OFFSET_END, SCAN_CHUNKS_MAX};
use crate::zero::is_zero;

const PIECE_BYTES: u64 = 16 << 20;
const READ_BYTES: usize = 256 << 10;
/// More threads than this do not read faster, whatever the caller says.
const THREADS_MAX: usize = 64;

/// What to scan.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// The disk image.
    pub fd: BorrowedFd<'a>,
    /// The grid.
    pub chunk_size: ChunkSize,
    /// Where the disk ends.
    pub disk_size: u64,
    /// Where the range begins.
    pub first_chunk: u64,
    /// How many chunks it has, all of them on the disk.
    pub chunk_count: usize,
    /// The parent's digests of the range; none: all data is changed.
    pub digests: Option<&'a [u8]>,
    /// The vault's seed.
    pub seed: u64,
    /// How many threads, at least 1.
    pub threads: usize,
    /// Leave no pages in the system's cache that were not there before, as far as the system can.
    pub drop_cache: bool,
}

/// Tells a state and a digest for each chunk of the range.
pub fn scan(what: &Scan<'_>, stop: &Stop<'_>) -> Result<ScanBatch> {
    what.check()?;
    stop.check()?;
    let mut states = vec![ChunkState::Hole as u8; what.chunk_count];
    let mut digests = vec![0; what.chunk_count * DIGEST_BYTES];
    let pieces = Mutex::new(Pieces::new(what, &mut states, &mut digests));
    let read_bytes = AtomicU64::new(0);
    let source = Source::new(what.fd, what.drop_cache);
    // Threads are worth starting only for as many pieces as there can be.
    let piece_count = (what.chunk_count as u64 * what.chunk_size.step()).div_ceil(PIECE_BYTES);
    let has_data = next_data(what.fd, what.start(), what.end())?.is_some();
    if has_data {
        let threads = what.threads.min(THREADS_MAX).min(piece_count as usize);
        team::run(threads, stop, |watch| scan_pieces(what, &source, &pieces, &read_bytes, watch))?;
    }
    Ok(ScanBatch { states, digests, read_bytes: read_bytes.into_inner() })
}

impl Scan<'_> {
    fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::BadArgument(why));
        if self.threads == 0 {
            return bad("threads must be at least 1".to_owned());
        }
        if self.disk_size >= OFFSET_END {
            return bad("disk_size must fit in 63 bits".to_owned());
        }
        let end = self.first_chunk.checked_add(self.chunk_count as u64);
        if end.is_none_or(|end| end > self.chunk_size.count(self.disk_size)) {
            return bad(format!(
                "chunks {} to {} are not all on a disk of {} bytes",
                self.first_chunk,
                u128::from(self.first_chunk) + self.chunk_count as u128,
                self.disk_size
            ));
        }
        if self.chunk_count > SCAN_CHUNKS_MAX {
            return bad(format!("a scan may go over at most {SCAN_CHUNKS_MAX} chunks"));
        }
        match self.digests {
            Some(digests) => check_length("digests", digests.len(), self.chunk_count * DIGEST_BYTES),
            None => Ok(()),
        }
    }

    fn start(&self) -> u64 {
        self.first_chunk * self.chunk_size.step()
    }

    fn end(&self) -> u64 {
        (self.start() + self.chunk_count as u64 * self.chunk_size.step()).min(self.disk_size)
    }
}

/// A run of neighbouring chunks, with the places for what is found of them.
struct Piece<'a> {
    offset: u64,
    states: &'a mut [u8],
    digests: &'a mut [u8],
    parent: Option<&'a [u8]>,
}

/// What is not yet taken of the range.
struct Pieces<'a> {
    rest: Piece<'a>,
}

impl<'a> Pieces<'a> {
    fn new(what: &Scan<'a>, states: &'a mut [u8], digests: &'a mut [u8]) -> Self {
        Self { rest: Piece { offset: what.start(), states, digests, parent: what.digests } }
    }

    /// The next piece that begins with data; none when the rest is a hole.
    fn take(&mut self, what: &Scan<'_>) -> Result<Option<Piece<'a>>> {
        let Some(data) = next_data(what.fd, self.rest.offset, what.end())? else {
            return Ok(None);
        };
        let size = what.chunk_size.step();
        self.rest.cut(((data - self.rest.offset) / size) as usize, size);
        let count = (PIECE_BYTES / size) as usize;
        Ok(Some(self.rest.cut(count.min(self.rest.states.len()), size)))
    }
}

impl<'a> Piece<'a> {
    /// Takes the first chunks away as a piece of their own.
    fn cut(&mut self, count: usize, size: u64) -> Piece<'a> {
        let (states, other_states) = std::mem::take(&mut self.states).split_at_mut(count);
        let (digests, other_digests) = std::mem::take(&mut self.digests).split_at_mut(count * DIGEST_BYTES);
        let (parent, other_parent) = match self.parent {
            Some(parent) => {
                let (parent, other) = parent.split_at(count * DIGEST_BYTES);
                (Some(parent), Some(other))
            }
            None => (None, None),
        };
        let piece = Piece { offset: self.offset, states, digests, parent };
        *self = Piece {
            offset: self.offset + count as u64 * size,
            states: other_states,
            digests: other_digests,
            parent: other_parent,
        };
        piece
    }
}

/// What each thread does.
fn scan_pieces(
    what: &Scan<'_>,
    source: &Source<'_>,
    pieces: &Mutex<Pieces<'_>>,
    read_bytes: &AtomicU64,
    watch: &Watch<'_>,
) -> Result<()> {
    let mut buffer = Buffer::take(READ_BYTES.max(what.chunk_size.bytes()));
    loop {
        watch.check()?;
        let taken = match pieces.lock() {
            Ok(mut pieces) => pieces.take(what)?,
            Err(_) => return Err(Error::Internal("a thread of the scan ended abnormally".to_owned())),
        };
        let Some(mut piece) = taken else {
            return Ok(());
        };
        let (start, end) = (piece.offset, (piece.offset + PIECE_BYTES).min(what.end()));
        read_bytes.fetch_add(scan_piece(what, source, &mut piece, &mut buffer)?, Ordering::Relaxed);
        source.done_with(start, end - start);
    }
}

/// Reads a piece from its front, in steps that grow while they find data; answers the bytes of data and zeros.
fn scan_piece(what: &Scan<'_>, source: &Source<'_>, piece: &mut Piece<'_>, buffer: &mut [u8]) -> Result<u64> {
    let size = what.chunk_size.bytes();
    let count = piece.states.len();
    let end = (piece.offset + count as u64 * size as u64).min(what.disk_size);
    let mut read_bytes = 0;
    let mut row = 0;
    let mut step = 1;
    // Before this byte nothing is data, as far as was asked.
    let mut data_from = piece.offset;
    while row < count {
        let rows = step.min(count - row);
        let offset = piece.offset + (row * size) as u64;
        let bytes = &mut buffer[..rows * size];
        let on_disk = (end - offset).min(bytes.len() as u64) as usize;
        source.read_exactly(&mut bytes[..on_disk], offset)?;
        bytes[on_disk..].fill(0);
        step = (2 * step).min(buffer.len() / size);
        for chunk in buffer[..rows * size].chunks_exact(size) {
            let start = piece.offset + (row * size) as u64;
            let stop = (start + size as u64).min(end);
            if is_zero(chunk) {
                if data_from <= start {
                    data_from = next_data(what.fd, start, end)?.unwrap_or(end);
                }
                if stop <= data_from {
                    row += 1; // a hole, as the states are from the start
                    continue;
                }
                piece.states[row] = ChunkState::Zero as u8;
            } else {
                let found = digest(chunk, what.seed);
                let at = row * DIGEST_BYTES..(row + 1) * DIGEST_BYTES;
                let same = piece.parent.is_some_and(|parent| parent[at.clone()] == found);
                piece.states[row] = if same { ChunkState::Unchanged } else { ChunkState::Changed } as u8;
                piece.digests[at].copy_from_slice(&found);
            }
            read_bytes += stop - start;
            row += 1;
        }
        // In a hole: go on where the next data begins, with small steps again.
        let next = if data_from == end { count } else { ((data_from - piece.offset) / size as u64) as usize };
        if next > row {
            row = next;
            step = 1;
        }
    }
    Ok(read_bytes)
}
