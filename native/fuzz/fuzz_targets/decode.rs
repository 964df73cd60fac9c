//! A pack of any bytes, read with any table: `decode` answers with statuses, never with a panic, and what it calls
//! good has the identity asked for.
//!
//! The pack begins with true blocks. The input is a table of 15 blocks at most (codec, which true block, id and base,
//! and what is added to that block's offset and length), then bytes that are laid over the pack by exclusive or: an input
//! of zeros is an undamaged pack, so that every path is within reach.

#![no_main]

use std::os::fd::AsFd;
use std::sync::LazyLock;

use blockvault_core::{
    Bases, BlockBatch, BlockStatus, Blocks, ChunkSize, Encode, Identity, Key, Pack, PlainBatch, Stop, decode,
    encode, identify_plain,
};
use libfuzzer_sys::fuzz_target;

const SIZE: usize = 16 << 10;
const ID_KEY: Key = [1; 32];
const PACK_KEY: Key = [2; 32];
const ENTRY_BYTES: usize = 10;

/// A chunk of text, one of zeros, one that is neither: targets for the ids, and bases for the deltas.
static KNOWN: LazyLock<PlainBatch> = LazyLock::new(|| {
    let mut plain = b"some text ".repeat(SIZE / 10 + 1)[..SIZE].to_vec();
    plain.resize(2 * SIZE, 0);
    plain.extend((0..SIZE as u32).map(|i| (i * i / 7) as u8));
    let how = Identity { seed: 0, id_key: Some(ID_KEY) };
    identify_plain(&plain, ChunkSize::new(SIZE as u64).unwrap(), &how).unwrap()
});

/// What the pack begins with: two frames and a raw chunk.
static TRUE_BLOCKS: LazyLock<BlockBatch> = LazyLock::new(|| {
    let what =
        Encode { plain: &KNOWN, rows: &[0, 1, 2], level: 1, bases: Bases::default(), delta_limits: None };
    encode(&what, &Stop::never()).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first() else { return };
    let count = usize::from(head & 15).min(rest.len() / ENTRY_BYTES);
    let encrypted = head & 16 != 0;
    let (table, pack) = rest.split_at(count * ENTRY_BYTES);
    let entries: Vec<_> = table.chunks_exact(ENTRY_BYTES).collect();
    let number = |entry: &[u8], at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());

    let mut content = TRUE_BLOCKS.payload.clone();
    content.resize(content.len().max(pack.len()), 0);
    content.iter_mut().zip(pack).for_each(|(byte, damage)| *byte ^= damage);
    let file = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::empty()).unwrap();
    rustix::io::pwrite(&file, &content, 0).unwrap();
    let known = |entry: &[u8]| usize::from(entry[1]) % KNOWN.len();
    let offset = |entry: &[u8]| TRUE_BLOCKS.offsets[known(entry)] + u64::from(number(entry, 2));
    let length = |entry: &[u8]| {
        let true_length = TRUE_BLOCKS.offsets[known(entry) + 1] - TRUE_BLOCKS.offsets[known(entry)];
        (true_length as u32).wrapping_add(number(entry, 6))
    };
    let wanted: Vec<usize> = entries.iter().map(|entry| known(entry)).collect();
    let ids: Vec<u8> =
        wanted.iter().flat_map(|row| &KNOWN.ids()[row * 32..(row + 1) * 32]).copied().collect();
    let blocks = Blocks {
        packs: &[Pack { fd: file.as_fd(), key: encrypted.then_some(&PACK_KEY), associated: b"fuzz" }],
        pack_rows: &vec![0; count],
        slots: &(0..count as u32).collect::<Vec<_>>(),
        offsets: &entries.iter().map(|entry| offset(entry)).collect::<Vec<_>>(),
        lengths: &entries.iter().map(|entry| length(entry)).collect::<Vec<_>>(),
        codecs: &entries.iter().map(|entry| entry[0]).collect::<Vec<_>>(),
        ids: &ids,
        bases: Bases {
            plain: Some(&KNOWN),
            rows: Some(&entries.iter().map(|entry| i32::from(entry[1] >> 6) - 1).collect::<Vec<_>>()),
        },
        chunk_size: KNOWN.chunk_size(),
        id_key: &ID_KEY,
        threads: 1,
    };
    let (plain, status) = decode(&blocks, &Stop::never()).unwrap();
    for (row, status) in status.iter().enumerate() {
        let chunk = plain.chunk(row).unwrap();
        if *status == BlockStatus::Good as u8 {
            assert!(chunk == KNOWN.chunk(wanted[row]).unwrap());
        } else {
            assert!(chunk.iter().all(|byte| *byte == 0));
        }
    }
});
