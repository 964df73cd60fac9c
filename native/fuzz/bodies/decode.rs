//! A pack of any bytes, read with any table: `decode` answers with statuses, never with a panic, and what it calls
//! good has the identity asked for.
//!
//! The pack begins with true blocks, sealed if the input says so. The input is a table of 15 blocks at most (codec, which
//! true block, id and base, and what is added to that block's offset and length), then bytes that are laid over the pack
//! by exclusive or: an input of zeros is an undamaged pack, so that every path is within reach.

use std::os::fd::AsFd;
use std::sync::LazyLock;

use blockvault_core::{
    Bases, BlockBatch, BlockStatus, Blocks, ChunkSize, Encode, Identity, Key, Pack, PlainBatch, Stop, decode,
    encode, encrypt, identify_plain,
};

const SIZE: usize = 16 << 10;
const ID_KEY: Key = [1; 32];
const PACK_KEY: Key = [2; 32];
const ASSOCIATED: &[u8] = b"fuzz";
const ENTRY_BYTES: usize = 10;

/// A chunk of text, one of zeros, one that is neither, and one that differs little from the third: targets for the
/// ids, and bases for the deltas.
static KNOWN: LazyLock<PlainBatch> = LazyLock::new(|| {
    let mut plain = b"some text ".repeat(SIZE / 10 + 1)[..SIZE].to_vec();
    plain.resize(2 * SIZE, 0);
    plain.extend((0..SIZE as u32).map(|i| (i * i / 7) as u8));
    plain.extend_from_within(2 * SIZE..);
    plain[3 * SIZE + 5000..3 * SIZE + 5100].fill(9);
    let how = Identity { seed: 0, id_key: Some(ID_KEY), drop_cache: false };
    identify_plain(&plain, ChunkSize::new(SIZE as u64).unwrap(), &how).unwrap()
});

/// What the pack begins with: two frames, a raw chunk, and a delta against it.
static TRUE_BLOCKS: LazyLock<BlockBatch> = LazyLock::new(|| {
    let what = Encode {
        plain: &KNOWN,
        rows: &[0, 1, 2, 3],
        level: 1,
        bases: Bases { plain: Some(&KNOWN), rows: Some(&[-1, -1, -1, 2]) },
        delta_limits: None,
    };
    encode(&what, &Stop::never()).unwrap()
});

static SEALED_BLOCKS: LazyLock<BlockBatch> =
    LazyLock::new(|| encrypt(&TRUE_BLOCKS.payload, &TRUE_BLOCKS.offsets, &PACK_KEY, ASSOCIATED, 0).unwrap());

pub fn run(data: &[u8]) {
    let Some((head, rest)) = data.split_first() else { return };
    let count = usize::from(head & 15).min(rest.len() / ENTRY_BYTES);
    let encrypted = head & 16 != 0;
    let (table, pack) = rest.split_at(count * ENTRY_BYTES);
    let entries: Vec<_> = table.chunks_exact(ENTRY_BYTES).collect();
    let number = |entry: &[u8], at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());

    let blocks: &BlockBatch = if encrypted { &SEALED_BLOCKS } else { &TRUE_BLOCKS };
    let mut content = blocks.payload.clone();
    content.resize(content.len().max(pack.len()), 0);
    content.iter_mut().zip(pack).for_each(|(byte, damage)| *byte ^= damage);
    let file = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::empty()).unwrap();
    rustix::io::pwrite(&file, &content, 0).unwrap();
    let known = |entry: &[u8]| usize::from(entry[1]) % KNOWN.len();
    let offset =
        |entry: &[u8]| blocks.offsets[known(entry)].wrapping_add(number(entry, 2).cast_signed() as u64);
    let length = |entry: &[u8]| {
        let true_length = blocks.offsets[known(entry) + 1] - blocks.offsets[known(entry)];
        (true_length as u32).wrapping_add(number(entry, 6))
    };
    let wanted: Vec<usize> = entries.iter().map(|entry| known(entry)).collect();
    let ids: Vec<u8> =
        wanted.iter().flat_map(|row| &KNOWN.ids()[row * 32..(row + 1) * 32]).copied().collect();
    let what = Blocks {
        packs: &[Pack { fd: file.as_fd(), key: encrypted.then_some(&PACK_KEY), associated: ASSOCIATED }],
        pack_rows: &vec![0; count],
        slots: &wanted.iter().map(|row| *row as u32).collect::<Vec<_>>(),
        offsets: &entries.iter().map(|entry| offset(entry)).collect::<Vec<_>>(),
        lengths: &entries.iter().map(|entry| length(entry)).collect::<Vec<_>>(),
        codecs: &entries.iter().map(|entry| entry[0]).collect::<Vec<_>>(),
        ids: &ids,
        base_rows: Some(
            &entries
                .iter()
                .map(|entry| (i32::from(entry[1] >> 4) - 1).min(count as i32 - 1))
                .collect::<Vec<_>>(),
        ),
        wanted: &(0..count as u32).collect::<Vec<_>>(),
        chunk_size: KNOWN.chunk_size(),
        id_key: &ID_KEY,
        threads: 1,
    };
    let (plain, status) = decode(&what, &Stop::never()).unwrap();
    for (row, status) in status.iter().enumerate() {
        let chunk = plain.chunk(row).unwrap();
        if *status == BlockStatus::Good as u8 {
            assert!(chunk == KNOWN.chunk(wanted[row]).unwrap(), "a block was called good and is another");
        } else {
            assert!(chunk.iter().all(|byte| *byte == 0), "bytes that failed a check came out");
        }
    }
}
