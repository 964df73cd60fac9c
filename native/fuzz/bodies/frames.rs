//! One block whose stored bytes are the input: a zstd frame, a delta against a known base, or raw. Whatever a frame
//! declares, it is decoded into the chunk that is there or refused, and since the id asked for is of other bytes, never
//! called good.

use std::os::fd::AsFd;
use std::sync::LazyLock;

use blockvault_core::{
    BlockStatus, Blocks, ChunkSize, Identity, Key, Pack, PlainBatch, Stop, decode, identify_plain,
};

const ID_KEY: Key = [1; 32];
/// The sizes that a vault may have, except the largest: a fuzzer has better to do than to clear 4 MiB.
const SIZES: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// For each size a base: text, then bytes that do not repeat.
static BASES: LazyLock<Vec<PlainBatch>> = LazyLock::new(|| {
    SIZES
        .iter()
        .map(|size| {
            let mut plain = b"some text ".repeat(size / 20 + 1)[..size / 2].to_vec();
            plain.extend((0..(size / 2) as u32).map(|i| (i.wrapping_mul(i) / 7) as u8));
            let how = Identity { seed: 0, id_key: Some(ID_KEY), drop_cache: false };
            identify_plain(&plain, ChunkSize::new(*size as u64).unwrap(), &how).unwrap()
        })
        .collect()
});

pub fn run(data: &[u8]) {
    let Some((head, stored)) = data.split_first() else { return };
    let base = &BASES[usize::from(head >> 4) % SIZES.len()];
    let file = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::empty()).unwrap();
    rustix::io::pwrite(&file, stored, 0).unwrap();
    let below = rustix::fs::memfd_create("base", rustix::fs::MemfdFlags::empty()).unwrap();
    rustix::io::pwrite(&below, base.chunk(0).unwrap(), 0).unwrap();
    let mut ids = vec![0; 32];
    ids.extend_from_slice(base.ids());
    let what = Blocks {
        packs: &[
            Pack { fd: file.as_fd(), key: None, associated: b"" },
            Pack { fd: below.as_fd(), key: None, associated: b"" },
        ],
        pack_rows: &[0, 1],
        slots: &[0, 0],
        offsets: &[0, 0],
        lengths: &[stored.len() as u32, base.chunk_size().bytes() as u32],
        codecs: &[head & 3, 0],
        ids: &ids,
        base_rows: Some(&[if head & 4 == 0 { 1 } else { -1 }, -1]),
        wanted: &[0],
        chunk_size: base.chunk_size(),
        id_key: &ID_KEY,
        threads: 1,
    };
    let (plain, status) = decode(&what, &Stop::never()).unwrap();
    assert!(status[0] != BlockStatus::Good as u8, "bytes were called good under an id that they do not have");
    assert!(plain.chunk(0).unwrap().iter().all(|byte| *byte == 0), "bytes that failed a check came out");
}
