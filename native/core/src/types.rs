//! The words of the core as types; the numbers are those of the vault's format and of the Python side.

use crate::error::{Error, Result};

/// Bytes of a digest: XXH3-128 in canonical (big-endian) order. All zero stands for "reads as zeros".
pub const DIGEST_BYTES: usize = 16;
/// Bytes of a block id: BLAKE3-256, keyed.
pub const ID_BYTES: usize = 32;
/// Bytes that AES-GCM adds to a block.
pub const TAG_BYTES: usize = 16;
/// A 32-byte key, for identities or for AES-256.
pub type Key = [u8; 32];

/// How many blocks a delta may rest on, one on the other (docs/format.md).
pub const DEPTH_MAX: usize = 8;

/// The largest offset that the system calls take.
pub const OFFSET_END: u64 = 1 << 63;

/// The most bytes that one batch may hold, and the most chunks that one scan may go over: far more than is wise, and
/// little enough that a wrong number is an error and not the end of the process for want of memory.
const BATCH_BYTES_MAX: usize = 4 << 30;
/// See `BATCH_BYTES_MAX`.
pub(crate) const SCAN_CHUNKS_MAX: usize = 1 << 22;

/// A chunk's size in bytes: a power of two from 16 KiB to 4 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSize(usize);

impl ChunkSize {
    /// The smallest and the largest that there may be.
    pub const MIN: u64 = 16 << 10;
    /// See `MIN`.
    pub const MAX: u64 = 4 << 20;

    /// Checks the size.
    pub fn new(size: u64) -> Result<Self> {
        if (Self::MIN..=Self::MAX).contains(&size) && size.is_power_of_two() {
            return Ok(Self(size as usize));
        }
        Err(Error::BadArgument(format!(
            "chunk_size {size} is not a power of two from {} to {}",
            Self::MIN,
            Self::MAX
        )))
    }

    /// As a length in memory.
    pub fn bytes(self) -> usize {
        self.0
    }

    /// As a step on a disk.
    pub fn step(self) -> u64 {
        self.0 as u64
    }

    /// How many bytes so many chunks take in memory.
    pub fn batch_bytes(self, count: usize) -> Result<usize> {
        count
            .checked_mul(self.0)
            .filter(|bytes| *bytes <= BATCH_BYTES_MAX)
            .ok_or_else(|| Error::BadArgument(format!("a batch may hold at most {BATCH_BYTES_MAX} bytes")))
    }

    /// How many chunks a disk of that size has, the last one perhaps short.
    pub fn count(self, disk_size: u64) -> u64 {
        disk_size.div_ceil(self.step())
    }

    /// How many bytes of a chunk lie on a disk of that size: all, some (the last) or none (beyond it).
    pub fn length_on(self, disk_size: u64, chunk: u64) -> usize {
        match chunk.checked_mul(self.step()) {
            Some(offset) if offset < disk_size => (disk_size - offset).min(self.step()) as usize,
            _ => 0,
        }
    }
}

/// What a scan found of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkState {
    /// Never allocated by the file system.
    Hole = 0,
    /// Allocated, but all bytes are zero.
    Zero = 1,
    /// Its digest is the parent's.
    Unchanged = 2,
    /// Its digest is not the parent's, or there is no parent.
    Changed = 3,
}

/// How a block is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// The chunk as it is.
    Raw = 0,
    /// A zstd frame that decodes alone.
    Zstd = 1,
    /// A zstd frame whose prefix is the base's plain bytes.
    Delta = 2,
}

impl Codec {
    /// The codec of a stored number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd, Self::Delta].into_iter().find(|codec| *codec as u8 == number)
    }
}

/// What became of a block on the way back to plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockStatus {
    /// Its identity was computed and is the one asked for.
    Good = 0,
    /// The pack ends before it, or the device failed.
    Unreadable = 1,
    /// Its tag, frame or size is not what it must be.
    Undecodable = 2,
    /// It decodes, but to other bytes.
    OtherIdentity = 3,
    /// It is a delta and its base was not given.
    BaseMissing = 4,
}

/// How a range was made to read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleared {
    /// A hole was punched: the space is free.
    Punch,
    /// The device zeroed it by itself.
    Zeroout,
    /// Zero bytes were written.
    Write,
}

impl Cleared {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Punch => "punch",
            Self::Zeroout => "zeroout",
            Self::Write => "write",
        }
    }
}
