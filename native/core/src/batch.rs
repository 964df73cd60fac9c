//! What crosses the boundary: batches of states, of plain chunks, of blocks.

use std::os::fd::BorrowedFd;

use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::pool::Buffer;
use crate::sink::write_stream;
use crate::types::{ChunkSize, ChunkState};

/// What a scan found: a state and a digest for each chunk.
#[derive(Debug)]
pub struct ScanBatch {
    /// `ChunkState` as numbers.
    pub states: Vec<u8>,
    /// 16 bytes a chunk; all zero for holes and zero chunks.
    pub digests: Vec<u8>,
    /// Bytes of the disk that were read, holes not counted.
    pub read_bytes: u64,
}

/// Chunks of plain bytes, each padded with zeros to the chunk size.
#[derive(Debug)]
pub struct PlainBatch {
    pub(crate) buffer: Buffer,
    pub(crate) chunk_size: ChunkSize,
    pub(crate) states: Vec<u8>,
    pub(crate) digests: Vec<u8>,
    pub(crate) ids: Vec<u8>,
    pub(crate) read_bytes: u64,
}

impl PlainBatch {
    /// How many chunks.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The size of each.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// `ChunkState::Zero` or `ChunkState::Changed` for each, as numbers.
    pub fn states(&self) -> &[u8] {
        &self.states
    }

    /// 16 bytes a chunk, or nothing where none were computed.
    pub fn digests(&self) -> &[u8] {
        &self.digests
    }

    /// 32 bytes a chunk, or nothing where none were computed.
    pub fn ids(&self) -> &[u8] {
        &self.ids
    }

    /// Bytes that were read to make it.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// The bytes of one chunk.
    pub fn chunk(&self, row: usize) -> Result<&[u8]> {
        if row < self.len() {
            return Ok(self.bytes_of(row));
        }
        Err(Error::BadArgument(format!("row {row} is not in a batch of {}", self.len())))
    }

    /// Writes rows in order to a pipe, at most `byte_count` bytes in all; answers the bytes written.
    pub fn write_into(
        &self,
        fd: BorrowedFd<'_>,
        rows: &[u32],
        byte_count: u64,
        stop: &Stop<'_>,
    ) -> Result<u64> {
        self.check_rows("rows", rows)?;
        let mut left = byte_count;
        for row in rows {
            stop.check()?;
            let length = left.min(self.chunk_size.step());
            write_stream(fd, &self.bytes_of(*row as usize)[..length as usize], stop)?;
            left -= length;
        }
        Ok(byte_count - left)
    }

    /// The bytes of a row that was checked.
    pub(crate) fn bytes_of(&self, row: usize) -> &[u8] {
        let size = self.chunk_size.bytes();
        &self.buffer[row * size..(row + 1) * size]
    }

    /// Whether a row that was checked is all zeros.
    pub(crate) fn is_zero(&self, row: usize) -> bool {
        self.states[row] == ChunkState::Zero as u8
    }

    /// Proves that every row is one of this batch.
    pub(crate) fn check_rows(&self, name: &str, rows: &[u32]) -> Result<()> {
        if rows.iter().all(|row| (*row as usize) < self.len()) {
            return Ok(());
        }
        Err(Error::BadArgument(format!("{name} must be under {}", self.len())))
    }
}

/// The bytes of each row's base, as `base_rows` names them in `bases`; -1 is none.
pub(crate) fn bases_of<'b>(
    bases: Option<&'b PlainBatch>,
    base_rows: Option<&[i32]>,
    count: usize,
    chunk_size: ChunkSize,
) -> Result<Vec<Option<&'b [u8]>>> {
    let Some(base_rows) = base_rows else {
        return Ok(vec![None; count]);
    };
    check_length("base_rows", base_rows.len(), count)?;
    let known = bases.map_or(0, PlainBatch::len);
    if bases.is_some_and(|bases| bases.chunk_size != chunk_size) {
        return Err(Error::BadArgument("bases must have the same chunk size".to_owned()));
    }
    base_rows
        .iter()
        .map(|row| match (usize::try_from(*row), bases) {
            (Ok(row), Some(bases)) if row < known => Ok(Some(bases.bytes_of(row))),
            _ if *row == -1 => Ok(None),
            _ => Err(Error::BadArgument(format!("base_rows must be -1 or under {known}"))),
        })
        .collect()
}

/// Proves that an array has a number for each row.
pub(crate) fn check_length(name: &str, length: usize, count: usize) -> Result<()> {
    if length == count {
        return Ok(());
    }
    Err(Error::BadArgument(format!("{name} must have {count} entries, not {length}")))
}

/// Blocks as they will be stored, back to back.
#[derive(Debug)]
pub struct BlockBatch {
    /// The stored bytes of all blocks.
    pub payload: Vec<u8>,
    /// Where each block begins, and at the end where the last one ends.
    pub offsets: Vec<u64>,
    /// `Codec` as numbers.
    pub codecs: Vec<u8>,
}

impl BlockBatch {
    pub(crate) fn with_capacity(count: usize, bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(count + 1);
        offsets.push(0);
        Self { payload: Vec::with_capacity(bytes), offsets, codecs: Vec::with_capacity(count) }
    }

    /// What was put at the end of the payload since the last block is a block.
    pub(crate) fn close_block(&mut self, codec: u8) {
        self.offsets.push(self.payload.len() as u64);
        self.codecs.push(codec);
    }
}
