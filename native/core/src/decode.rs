//! decode: stored blocks back to plain bytes, each proven by its identity.
//!
//! Nothing a pack holds is trusted: a stored length is compared with what a block can be before memory is given, a
//! frame is decoded in place, and bytes that are not what they must be never leave here: such a chunk reads as zeros
//! and has a status that says why.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::{PlainBatch, bases_of, check_length};
use crate::cancel::Stop;
use crate::cipher::Cipher;
use crate::codec::Decoder;
use crate::encode::Bases;
use crate::error::{Error, Result};
use crate::hash::identity;
use crate::pool::Buffer;
use crate::source::read_exactly;
use crate::team::{self, Watch};
use crate::types::{BlockStatus, ChunkSize, ChunkState, Codec, ID_BYTES, Key, OFFSET_END, TAG_BYTES};
use crate::zero::is_zero;

/// Blocks that lie one after the other are read together up to so many bytes.
const READ_BYTES: usize = 1 << 20;
/// More threads than this do not decode faster, whatever the caller says.
const THREADS_MAX: usize = 64;

/// A pack as far as reading needs it.
#[derive(Clone, Copy, Debug)]
pub struct Pack<'a> {
    /// Its file.
    pub fd: BorrowedFd<'a>,
    /// Its key, if its blocks are encrypted.
    pub key: Option<&'a Key>,
    /// What its blocks are bound to.
    pub associated: &'a [u8],
}

/// Which blocks to decode: one entry of every slice for each.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// The packs that are named.
    pub packs: &'a [Pack<'a>],
    /// Which of them.
    pub pack_rows: &'a [u32],
    /// The slot, which is the nonce of an encrypted block.
    pub slots: &'a [u32],
    /// Where the block begins in the pack.
    pub offsets: &'a [u64],
    /// Its stored length, tag included.
    pub lengths: &'a [u32],
    /// `Codec` as numbers.
    pub codecs: &'a [u8],
    /// 32 bytes each: what the block must be.
    pub ids: &'a [u8],
    /// The bases of the deltas.
    pub bases: Bases<'a>,
    /// The size of every chunk.
    pub chunk_size: ChunkSize,
    /// The vault's key for ids.
    pub id_key: &'a Key,
    /// How many threads, at least 1.
    pub threads: usize,
}

/// Decodes blocks; answers the chunks and the status of each.
pub fn decode(what: &Blocks<'_>, stop: &Stop<'_>) -> Result<(PlainBatch, Vec<u8>)> {
    let count = what.pack_rows.len();
    what.check()?;
    stop.check()?;
    let bases = bases_of(what.bases.plain, what.bases.rows, count, what.chunk_size)?;
    let ciphers = what
        .packs
        .iter()
        .map(|pack| pack.key.map(|key| Cipher::new(key, pack.associated)).transpose())
        .collect::<Result<Vec<_>>>()?;

    let mut buffer = Buffer::take(what.chunk_size.batch_bytes(count)?);
    let mut states = vec![ChunkState::Zero as u8; count];
    let mut status = vec![BlockStatus::Good as u8; count];
    let mut ids = vec![0; count * ID_BYTES];
    let mut blocks: Vec<_> = buffer
        .chunks_exact_mut(what.chunk_size.bytes())
        .zip(ids.as_chunks_mut::<ID_BYTES>().0)
        .zip(states.iter_mut().zip(&mut status))
        .zip(bases)
        .enumerate()
        .map(|(row, (((chunk, id), (state, status)), base))| Block { row, base, chunk, id, state, status })
        .collect();
    blocks.sort_by_key(|block| what.place(block.row));

    let groups = groups(what, &mut blocks);
    let threads = what.threads.min(THREADS_MAX).min(groups.len());
    let queue = Mutex::new(groups.into_iter());
    let read_bytes = AtomicU64::new(0);
    if threads > 0 {
        team::run(threads, stop, |watch| decode_groups(what, &ciphers, &queue, &read_bytes, watch))?;
    }
    drop(queue);
    drop(blocks);
    let plain = PlainBatch {
        buffer,
        chunk_size: what.chunk_size,
        states,
        digests: Vec::new(),
        ids,
        read_bytes: read_bytes.into_inner(),
    };
    Ok((plain, status))
}

impl Blocks<'_> {
    fn check(&self) -> Result<()> {
        let count = self.pack_rows.len();
        if self.threads == 0 {
            return Err(Error::BadArgument("threads must be at least 1".to_owned()));
        }
        if self.pack_rows.iter().any(|row| *row as usize >= self.packs.len()) {
            return Err(Error::BadArgument(format!("pack_rows must be under {}", self.packs.len())));
        }
        check_length("slots", self.slots.len(), count)?;
        check_length("offsets", self.offsets.len(), count)?;
        check_length("lengths", self.lengths.len(), count)?;
        check_length("codecs", self.codecs.len(), count)?;
        check_length("ids", self.ids.len(), count * ID_BYTES)
    }

    fn pack(&self, row: usize) -> &Pack<'_> {
        &self.packs[self.pack_rows[row] as usize]
    }

    /// Blocks sorted by this are read from front to back.
    fn place(&self, row: usize) -> (u32, u64) {
        (self.pack_rows[row], self.offsets[row])
    }

    /// The stored length, if a block can be so long: a raw chunk with its tag is the longest there is.
    fn length(&self, row: usize) -> Option<usize> {
        let longest = self.chunk_size.bytes() + if self.pack(row).key.is_some() { TAG_BYTES } else { 0 };
        Some(self.lengths[row] as usize).filter(|length| *length <= longest)
    }
}

/// One block, and where what becomes of it goes.
struct Block<'a, 'b> {
    row: usize,
    base: Option<&'b [u8]>,
    chunk: &'a mut [u8],
    id: &'a mut [u8; ID_BYTES],
    state: &'a mut u8,
    status: &'a mut u8,
}

/// Blocks that lie next to each other, read with one call.
type Group<'s, 'a, 'b> = &'s mut [Block<'a, 'b>];

fn groups<'s, 'a, 'b>(what: &Blocks<'_>, blocks: &'s mut [Block<'a, 'b>]) -> Vec<Group<'s, 'a, 'b>> {
    let mut bytes = 0;
    blocks
        .chunk_by_mut(|left, right| {
            let joined = what.pack_rows[left.row] == what.pack_rows[right.row]
                && what.length(left.row).zip(what.length(right.row)).is_some_and(|(length, next)| {
                    bytes += length;
                    what.offsets[left.row].checked_add(length as u64) == Some(what.offsets[right.row])
                        && bytes + next <= READ_BYTES
                });
            if !joined {
                bytes = 0;
            }
            joined
        })
        .collect()
}

/// What each thread does.
fn decode_groups<'s, 'a: 's, 'b: 's>(
    what: &Blocks<'_>,
    ciphers: &[Option<Cipher<'_>>],
    queue: &Mutex<impl Iterator<Item = Group<'s, 'a, 'b>>>,
    read_bytes: &AtomicU64,
    watch: &Watch<'_>,
) -> Result<()> {
    let mut decoder = Decoder::new()?;
    let mut stored = Buffer::take(READ_BYTES.max(what.chunk_size.bytes() + TAG_BYTES));
    loop {
        watch.check()?;
        let taken = match queue.lock() {
            Ok(mut groups) => groups.next(),
            Err(_) => return Err(Error::Internal("a thread of the decoder ended abnormally".to_owned())),
        };
        let Some(group) = taken else {
            return Ok(());
        };
        // If the group cannot be read as a whole, each block is read alone: only those that are hurt are lost.
        let whole = read_group(what, group, &mut stored);
        let mut at = 0;
        for block in group {
            let length = what.length(block.row);
            let sealed = match length {
                None => Err(BlockStatus::Undecodable),
                Some(length) if whole => Ok(&mut stored[at..at + length]),
                Some(length) => read_block(what, block.row, &mut stored[..length]),
            };
            at += length.unwrap_or(0);
            if let Ok(sealed) = &sealed {
                read_bytes.fetch_add(sealed.len() as u64, Ordering::Relaxed);
            }
            let cipher = ciphers[what.pack_rows[block.row] as usize].as_ref();
            let result = sealed.and_then(|sealed| decode_block(what, cipher, &mut decoder, block, sealed));
            *block.status = result.err().unwrap_or(BlockStatus::Good) as u8;
            if result.is_err() {
                block.chunk.fill(0);
            } else if !is_zero(block.chunk) {
                *block.state = ChunkState::Changed as u8;
            }
        }
    }
}

fn read_group(what: &Blocks<'_>, group: &[Block<'_, '_>], stored: &mut [u8]) -> bool {
    let length: usize = group.iter().filter_map(|block| what.length(block.row)).sum();
    match group {
        [first, _, ..] => read_block(what, first.row, &mut stored[..length]).is_ok(),
        _ => false,
    }
}

/// Fills the buffer from where the block of that row begins.
fn read_block<'a>(
    what: &Blocks<'_>,
    row: usize,
    stored: &'a mut [u8],
) -> std::result::Result<&'a mut [u8], BlockStatus> {
    let offset = what.offsets[row];
    if offset >= OFFSET_END - stored.len() as u64 || read_exactly(what.pack(row).fd, stored, offset).is_err()
    {
        return Err(BlockStatus::Unreadable);
    }
    Ok(stored)
}

fn decode_block<'b>(
    what: &Blocks<'_>,
    cipher: Option<&Cipher<'_>>,
    decoder: &mut Decoder<'b>,
    block: &mut Block<'_, 'b>,
    sealed: &mut [u8],
) -> std::result::Result<(), BlockStatus> {
    let stored = match cipher {
        Some(cipher) => cipher.open(what.slots[block.row].into(), sealed).ok_or(BlockStatus::Undecodable)?,
        None => sealed,
    };
    let decoded = match Codec::from_number(what.codecs[block.row]) {
        Some(Codec::Raw) if stored.len() == block.chunk.len() => {
            block.chunk.copy_from_slice(stored);
            true
        }
        Some(Codec::Zstd) => decoder.decode(stored, None, block.chunk),
        Some(Codec::Delta) => {
            decoder.decode(stored, Some(block.base.ok_or(BlockStatus::BaseMissing)?), block.chunk)
        }
        Some(Codec::Raw) | None => false,
    };
    if !decoded {
        return Err(BlockStatus::Undecodable);
    }
    *block.id = identity(block.chunk, what.id_key);
    let wanted = &what.ids[block.row * ID_BYTES..(block.row + 1) * ID_BYTES];
    if block.id == wanted { Ok(()) } else { Err(BlockStatus::OtherIdentity) }
}
