//! decode: stored blocks back to plain bytes, each proven by its identity.
//!
//! Nothing a pack holds is trusted: a stored length is compared with what a block can be before memory is given, a
//! frame is decoded in place, and bytes that are not what they must be never leave here: such a chunk reads as zeros
//! and has a status that says why.
//!
//! A delta is decoded with all that it rests on at once, from the full block upwards: each version is the prefix of the
//! next while the processor's cache still has it, and none of them but the last goes to memory.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::{PlainBatch, check_length};
use crate::cancel::Stop;
use crate::cipher::Cipher;
use crate::codec::Decoder;
use crate::error::{Error, Result};
use crate::hash::identity;
use crate::pool::Buffer;
use crate::source::read_exactly;
use crate::team::{self, Watch};
use crate::types::{
    BlockStatus, ChunkSize, ChunkState, Codec, DEPTH_MAX, ID_BYTES, Key, OFFSET_END, TAG_BYTES,
};
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
    /// The row of each delta's base, -1 for none.
    pub base_rows: Option<&'a [i32]>,
    /// The rows that are asked for; the others are only bases.
    pub wanted: &'a [u32],
    /// The size of every chunk.
    pub chunk_size: ChunkSize,
    /// The vault's key for ids.
    pub id_key: &'a Key,
    /// How many threads, at least 1.
    pub threads: usize,
}

/// Decodes blocks; answers the chunks that are asked for and the status of each.
pub fn decode(what: &Blocks<'_>, stop: &Stop<'_>) -> Result<(PlainBatch, Vec<u8>)> {
    let count = what.wanted.len();
    what.check()?;
    stop.check()?;
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
        .zip(what.wanted)
        .map(|(((chunk, id), (state, status)), row)| Block { row: *row as usize, chunk, id, state, status })
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
        check_length("ids", self.ids.len(), count * ID_BYTES)?;
        if self.wanted.iter().any(|row| *row as usize >= count) {
            return Err(Error::BadArgument(format!("wanted must be under {count}")));
        }
        let Some(base_rows) = self.base_rows else {
            return Ok(());
        };
        check_length("base_rows", base_rows.len(), count)?;
        if base_rows.iter().all(|row| *row == -1 || usize::try_from(*row).is_ok_and(|row| row < count)) {
            return Ok(());
        }
        Err(Error::BadArgument(format!("base_rows must be -1 or under {count}")))
    }

    fn codec(&self, row: usize) -> Option<Codec> {
        Codec::from_number(self.codecs[row])
    }

    /// What a block rests on, the nearest first and the full block last; none if that is not all there. A chain that
    /// is longer than may be, or goes round in a circle, is none.
    fn below(&self, row: usize) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        let mut at = row;
        while self.codec(at) == Some(Codec::Delta) {
            at = usize::try_from(self.base_rows?[at]).ok()?;
            found.push(at);
            if found.len() > DEPTH_MAX {
                return None;
            }
        }
        Some(found)
    }

    fn pack(&self, row: usize) -> &Pack<'_> {
        &self.packs[self.pack_rows[row] as usize]
    }

    /// Blocks sorted by this are read from front to back.
    fn place(&self, row: usize) -> (u32, u64) {
        (self.pack_rows[row], self.offsets[row])
    }

    /// The longest block there is: a raw chunk with its tag.
    fn longest(&self) -> usize {
        self.chunk_size.bytes() + TAG_BYTES
    }

    /// The stored length, if a block can be so long.
    fn length(&self, row: usize) -> Option<usize> {
        let longest = self.chunk_size.bytes() + if self.pack(row).key.is_some() { TAG_BYTES } else { 0 };
        Some(self.lengths[row] as usize).filter(|length| *length <= longest)
    }
}

/// One block that is asked for, and where what becomes of it goes.
struct Block<'a> {
    row: usize,
    chunk: &'a mut [u8],
    id: &'a mut [u8; ID_BYTES],
    state: &'a mut u8,
    status: &'a mut u8,
}

/// Blocks that lie next to each other, read with one call.
type Group<'s, 'a> = &'s mut [Block<'a>];

fn groups<'s, 'a>(what: &Blocks<'_>, blocks: &'s mut [Block<'a>]) -> Vec<Group<'s, 'a>> {
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
fn decode_groups<'s, 'a: 's>(
    what: &Blocks<'_>,
    ciphers: &[Option<Cipher<'_>>],
    queue: &Mutex<impl Iterator<Item = Group<'s, 'a>>>,
    read_bytes: &AtomicU64,
    watch: &Watch<'_>,
) -> Result<()> {
    let mut full = Decoder::new()?;
    let mut stored = Buffer::take(READ_BYTES.max(what.longest()));
    let mut below = Below { plain: Buffer::take(0), stored: Buffer::take(0) };
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
            let result = match sealed {
                Err(status) => Err(status),
                Ok(sealed) if what.codec(block.row) == Some(Codec::Delta) => {
                    below.decode(what, ciphers, block, sealed, read_bytes)?
                }
                Ok(sealed) => open(what, ciphers, block.row, sealed)
                    .and_then(|frame| decode_block(what, &mut full, block.row, frame, None, block.chunk)),
            };
            match result {
                Ok(id) => {
                    *block.id = id;
                    if !is_zero(block.chunk) {
                        *block.state = ChunkState::Changed as u8;
                    }
                }
                Err(status) => {
                    *block.status = status as u8;
                    block.chunk.fill(0);
                }
            }
        }
    }
}

/// Where a thread decodes what a delta rests on.
struct Below {
    plain: Buffer,
    stored: Buffer,
}

type Decoded = std::result::Result<[u8; ID_BYTES], BlockStatus>;

impl Below {
    /// Decodes a delta and what it rests on, each proven by its identity before it serves as a prefix (rule R3).
    fn decode(
        &mut self,
        what: &Blocks<'_>,
        ciphers: &[Option<Cipher<'_>>],
        block: &mut Block<'_>,
        sealed: &mut [u8],
        read_bytes: &AtomicU64,
    ) -> Result<Decoded> {
        let Some(rows) = what.below(block.row) else {
            return Ok(Err(BlockStatus::BaseMissing));
        };
        let size = what.chunk_size.bytes();
        if self.plain.len() < rows.len() * size {
            self.plain = Buffer::take(rows.len() * size);
            self.stored = Buffer::take(what.longest());
        }
        let mut decoder = Decoder::new()?; // it borrows the prefixes, so it lives no longer than they stay as they are
        let mut plains = self.plain.chunks_exact_mut(size);
        let mut base: Option<&[u8]> = None;
        for row in rows.into_iter().rev() {
            let Some((length, plain)) = what.length(row).zip(plains.next()) else {
                return Ok(Err(BlockStatus::BaseMissing));
            };
            let good = read_block(what, row, &mut self.stored[..length])
                .and_then(|sealed| open(what, ciphers, row, sealed))
                .and_then(|frame| decode_block(what, &mut decoder, row, frame, base, plain));
            if good.is_err() {
                return Ok(Err(BlockStatus::BaseMissing));
            }
            read_bytes.fetch_add(length as u64, Ordering::Relaxed);
            base = Some(plain);
        }
        Ok(open(what, ciphers, block.row, sealed)
            .and_then(|frame| decode_block(what, &mut decoder, block.row, frame, base, block.chunk)))
    }
}

fn read_group(what: &Blocks<'_>, group: &[Block<'_>], stored: &mut [u8]) -> bool {
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

/// What lies in the pack, without its encryption.
fn open<'a>(
    what: &Blocks<'_>,
    ciphers: &[Option<Cipher<'_>>],
    row: usize,
    sealed: &'a mut [u8],
) -> std::result::Result<&'a [u8], BlockStatus> {
    match &ciphers[what.pack_rows[row] as usize] {
        Some(cipher) => cipher.open(what.slots[row].into(), sealed).ok_or(BlockStatus::Undecodable),
        None => Ok(sealed),
    }
}

fn decode_block<'b>(
    what: &Blocks<'_>,
    decoder: &mut Decoder<'b>,
    row: usize,
    frame: &[u8],
    base: Option<&'b [u8]>,
    chunk: &mut [u8],
) -> Decoded {
    let decoded = match what.codec(row) {
        Some(Codec::Raw) if frame.len() == chunk.len() => {
            chunk.copy_from_slice(frame);
            true
        }
        Some(Codec::Zstd) => decoder.decode(frame, None, chunk),
        Some(Codec::Delta) => decoder.decode(frame, Some(base.ok_or(BlockStatus::BaseMissing)?), chunk),
        Some(Codec::Raw) | None => false,
    };
    if !decoded {
        return Err(BlockStatus::Undecodable);
    }
    let id = identity(chunk, what.id_key);
    let wanted = &what.ids[row * ID_BYTES..(row + 1) * ID_BYTES];
    if id == wanted { Ok(id) } else { Err(BlockStatus::OtherIdentity) }
}
