//! identify: read chunks and name them. Digest, zero check and id come from the same buffer (rule R4).

use std::cell::OnceCell;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::batch::{PlainBatch, check_length};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::hash::{digest, identity};
use crate::pool::Buffer;
use crate::source::Source;
use crate::types::{ChunkSize, ChunkState, DIGEST_BYTES, ID_BYTES, Key, OFFSET_END};
use crate::zero::is_zero;

/// Neighbouring chunks of one file are read together up to so many bytes, and named while the cache has them.
const READ_BYTES: usize = 256 << 10;

/// How chunks are named.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The vault's seed for digests.
    pub seed: u64,
    /// The vault's key for ids; none: no ids are computed.
    pub id_key: Option<Key>,
    /// Leave no pages in the system's cache that were not there before, as far as the system can.
    pub drop_cache: bool,
}

/// Reads `chunks[i]` from `sources[i]` for every `i`. What lies beyond `disk_size` reads as zeros.
pub fn identify(
    sources: &[BorrowedFd<'_>],
    chunks: &[u64],
    chunk_size: ChunkSize,
    disk_size: u64,
    how: &Identity,
    stop: &Stop<'_>,
) -> Result<PlainBatch> {
    check_length("fds", sources.len(), chunks.len())?;
    if disk_size >= OFFSET_END {
        return Err(Error::BadArgument("disk_size must fit in 63 bits".to_owned()));
    }
    let size = chunk_size.bytes();
    let mut names = Names::new(how, chunk_size, chunks.len())?;
    let mut read_bytes = 0;
    let mut row = 0;
    while row < chunks.len() {
        stop.check()?;
        let run = run_length(sources, chunks, row, (READ_BYTES / size).max(1));
        let bytes = &mut names.buffer[row * size..(row + run) * size];
        // A run leaves the disk at most once, in its last chunk on it.
        let on_disk: usize =
            chunks[row..row + run].iter().map(|chunk| chunk_size.length_on(disk_size, *chunk)).sum();
        if on_disk > 0 {
            let offset = chunks[row] * chunk_size.step();
            let source = Source::new(sources[row], how.drop_cache);
            source.read_exactly(&mut bytes[..on_disk], offset)?;
            source.done_with(offset, on_disk as u64);
        }
        bytes[on_disk..].fill(0);
        read_bytes += on_disk as u64;
        names.name(row, run);
        row += run;
    }
    Ok(names.finish(read_bytes))
}

/// How many rows from `row` on are neighbouring chunks of one file.
fn run_length(sources: &[BorrowedFd<'_>], chunks: &[u64], row: usize, longest: usize) -> usize {
    let follows = |(at, chunk): (usize, &u64)| {
        sources[row + at].as_raw_fd() == sources[row].as_raw_fd()
            && chunks[row].checked_add(at as u64) == Some(*chunk)
    };
    chunks[row..].iter().enumerate().take(longest).take_while(|pair| follows(*pair)).count()
}

/// The same for bytes in memory, a whole number of chunks.
pub fn identify_plain(plain: &[u8], chunk_size: ChunkSize, how: &Identity) -> Result<PlainBatch> {
    if !plain.len().is_multiple_of(chunk_size.bytes()) {
        return Err(Error::BadArgument(format!(
            "{} bytes are not whole chunks of {}",
            plain.len(),
            chunk_size.bytes()
        )));
    }
    let count = plain.len() / chunk_size.bytes();
    let mut names = Names::new(how, chunk_size, count)?;
    names.buffer.copy_from_slice(plain);
    names.name(0, count);
    Ok(names.finish(0))
}

/// A batch in the making: its bytes, and the names of the rows done so far.
struct Names<'a> {
    how: &'a Identity,
    chunk_size: ChunkSize,
    buffer: Buffer,
    states: Vec<u8>,
    digests: Vec<u8>,
    ids: Vec<u8>,
    zero_id: OnceCell<[u8; ID_BYTES]>,
}

impl<'a> Names<'a> {
    fn new(how: &'a Identity, chunk_size: ChunkSize, count: usize) -> Result<Self> {
        let id_bytes = if how.id_key.is_some() { ID_BYTES } else { 0 };
        Ok(Self {
            how,
            chunk_size,
            buffer: Buffer::take(chunk_size.batch_bytes(count)?),
            states: Vec::with_capacity(count),
            digests: Vec::with_capacity(count * DIGEST_BYTES),
            ids: Vec::with_capacity(count * id_bytes),
            zero_id: OnceCell::new(),
        })
    }

    /// Names rows `first..first + count`, the next ones in order.
    fn name(&mut self, first: usize, count: usize) {
        let size = self.chunk_size.bytes();
        for chunk in self.buffer[first * size..(first + count) * size].chunks_exact(size) {
            let zero = is_zero(chunk);
            self.states.push(if zero { ChunkState::Zero } else { ChunkState::Changed } as u8);
            self.digests.extend_from_slice(&if zero {
                [0; DIGEST_BYTES]
            } else {
                digest(chunk, self.how.seed)
            });
            if let Some(key) = &self.how.id_key {
                // All zero chunks have one id, so it is computed once.
                let id = if zero {
                    *self.zero_id.get_or_init(|| identity(chunk, key))
                } else {
                    identity(chunk, key)
                };
                self.ids.extend_from_slice(&id);
            }
        }
    }

    fn finish(self, read_bytes: u64) -> PlainBatch {
        PlainBatch {
            buffer: self.buffer,
            chunk_size: self.chunk_size,
            states: self.states,
            digests: self.digests,
            ids: self.ids,
            read_bytes,
        }
    }
}
