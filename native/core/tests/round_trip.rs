//! One disk through every verb: image, scan, identify, encode, encrypt, pack, decode, apply, and the same image again.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use blockvault_core::{
    Apply, Bases, BlockBatch, BlockStatus, Blocks, CancelToken, ChunkSize, ChunkState, Cleared, Encode,
    Error, Identity, Key, Pack, PlainBatch, Scan, ScanBatch, Stop, apply, clear, copy_range, decode, encode,
    encrypt, identify, identify_plain, scan,
};

const SIZE: u64 = 16 << 10;
const SEED: u64 = 7;
const ID_KEY: Key = [1; 32];
const PACK_KEY: Key = [2; 32];

fn chunk_size() -> ChunkSize {
    ChunkSize::new(SIZE).unwrap()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

/// A sparse image: noise, a written zero chunk, text, and a ragged end.
fn image() -> (File, u64) {
    let file = tempfile::tempfile().unwrap();
    let size = 1000 * SIZE + 77;
    file.set_len(size).unwrap();
    file.write_all_at(&noise(1, 3 * SIZE as usize), 5 * SIZE).unwrap();
    file.write_all_at(&vec![0; SIZE as usize], 20 * SIZE).unwrap();
    file.write_all_at("some text ".repeat(4000).as_bytes(), 700 * SIZE).unwrap();
    file.write_all_at(b"end", size - 3).unwrap();
    (file, size)
}

fn scan_of(file: &File, size: u64, digests: Option<&[u8]>) -> Result<ScanBatch, Error> {
    let what = Scan {
        fd: file.as_fd(),
        chunk_size: chunk_size(),
        disk_size: size,
        first_chunk: 0,
        chunk_count: chunk_size().count(size) as usize,
        digests,
        seed: SEED,
        threads: 2,
        drop_cache: false,
    };
    scan(&what, &Stop::never())
}

fn data_chunks(found: &ScanBatch) -> Vec<u64> {
    (0..)
        .zip(&found.states)
        .filter(|(_, state)| **state == ChunkState::Changed as u8)
        .map(|(chunk, _)| chunk)
        .collect()
}

fn naming() -> Identity {
    Identity { seed: SEED, id_key: Some(ID_KEY), drop_cache: false }
}

fn full_blocks(plain: &PlainBatch, level: i32) -> BlockBatch {
    let rows: Vec<u32> = (0..plain.len() as u32).collect();
    let what = Encode { plain, rows: &rows, level, bases: Bases::default(), delta_limits: None };
    encode(&what, &Stop::never()).unwrap()
}

fn packed(blocks: &BlockBatch) -> File {
    let mut pack = tempfile::tempfile().unwrap();
    pack.write_all(&blocks.payload).unwrap();
    pack
}

fn decoded(
    pack: &File,
    blocks: &BlockBatch,
    codecs: &[u8],
    ids: &[u8],
    key: Option<&Key>,
) -> (PlainBatch, Vec<u8>) {
    let count = codecs.len();
    let lengths: Vec<u32> = blocks.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect();
    let what = Blocks {
        packs: &[Pack { fd: pack.as_fd(), key, associated: b"pack" }],
        pack_rows: &vec![0; count],
        slots: &(0..count as u32).collect::<Vec<_>>(),
        offsets: &blocks.offsets[..count],
        lengths: &lengths,
        codecs,
        ids,
        base_rows: None,
        wanted: &(0..count as u32).collect::<Vec<_>>(),
        chunk_size: chunk_size(),
        id_key: &ID_KEY,
        threads: 2,
    };
    decode(&what, &Stop::never()).unwrap()
}

#[test]
fn an_image_comes_back() {
    let (mut source, size) = image();
    let found = scan_of(&source, size, None).unwrap();
    let chunks = data_chunks(&found);
    assert_eq!(chunks, [5, 6, 7, 700, 701, 702, 1000]);
    assert_eq!(found.states[20], ChunkState::Zero as u8);
    assert_eq!(found.read_bytes, 7 * SIZE + 77);

    let sources = vec![source.as_fd(); chunks.len()];
    let plain = identify(&sources, &chunks, chunk_size(), size, &naming(), &Stop::never()).unwrap();
    let blocks = full_blocks(&plain, 3);
    let sealed = encrypt(&blocks.payload, &blocks.offsets, &PACK_KEY, b"pack", 0).unwrap();
    let pack = packed(&sealed);
    let (back, status) = decoded(&pack, &sealed, &blocks.codecs, plain.ids(), Some(&PACK_KEY));
    assert!(status.iter().all(|status| *status == BlockStatus::Good as u8));

    let mut target = tempfile::tempfile().unwrap();
    target.set_len(size).unwrap();
    let rows: Vec<u32> = (0..chunks.len() as u32).collect();
    let what = Apply {
        plain: &back,
        rows: &rows,
        fd: target.as_fd(),
        direct: None,
        chunks: &chunks,
        disk_size: size,
        fresh: true,
    };
    assert_eq!(apply(&what, &Stop::never()).unwrap(), 6 * SIZE + 77);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    source.seek(SeekFrom::Start(0)).unwrap();
    source.read_to_end(&mut left).unwrap();
    target.read_to_end(&mut right).unwrap();
    assert!(left == right);
    assert!(target.metadata().unwrap().blocks() * 512 < 10 * SIZE);

    // Nothing changed, then one byte did.
    let parent = found.digests;
    assert!(data_chunks(&scan_of(&target, size, Some(&parent)).unwrap()).is_empty());
    target.write_all_at(b"!", 6 * SIZE).unwrap();
    assert_eq!(data_chunks(&scan_of(&target, size, Some(&parent)).unwrap()), [6]);
}

#[test]
fn every_flipped_bit_of_a_sealed_block_is_seen() {
    let plain =
        identify_plain(&"text ".repeat(3277).as_bytes()[..SIZE as usize], chunk_size(), &naming()).unwrap();
    let blocks = full_blocks(&plain, 3);
    let sealed = encrypt(&blocks.payload, &blocks.offsets, &PACK_KEY, b"pack", 0).unwrap();
    let pack = packed(&sealed);
    for (at, byte) in (0..).zip(&sealed.payload) {
        for bit in 0..8 {
            pack.write_all_at(&[byte ^ (1 << bit)], at).unwrap();
            let (back, status) = decoded(&pack, &sealed, &blocks.codecs, plain.ids(), Some(&PACK_KEY));
            assert_eq!(status, [BlockStatus::Undecodable as u8]);
            assert!(back.chunk(0).unwrap().iter().all(|byte| *byte == 0));
        }
        pack.write_all_at(&[*byte], at).unwrap();
    }
}

#[test]
fn a_block_that_cannot_be_read_does_not_take_its_neighbours_along() {
    let plain = identify_plain(&noise(1, 3 * SIZE as usize), chunk_size(), &naming()).unwrap();
    let blocks = full_blocks(&plain, 1);
    let pack = packed(&blocks);
    pack.set_len(blocks.offsets[2] + 100).unwrap();
    let (_, status) = decoded(&pack, &blocks, &blocks.codecs, plain.ids(), None);
    assert_eq!(status, [0, 0, BlockStatus::Unreadable as u8]);
}

#[test]
fn a_used_target_keeps_no_stale_byte() {
    let (source, size) = image();
    let chunks: Vec<u64> = (0..chunk_size().count(size)).collect();
    let sources = vec![source.as_fd(); chunks.len()];
    let plain = identify(&sources, &chunks, chunk_size(), size, &naming(), &Stop::never()).unwrap();
    let target = tempfile::tempfile().unwrap();
    target.write_all_at(&noise(9, size as usize), 0).unwrap();
    let rows: Vec<u32> = (0..chunks.len() as u32).collect();
    let what = Apply {
        plain: &plain,
        rows: &rows,
        fd: target.as_fd(),
        direct: None,
        chunks: &chunks,
        disk_size: size,
        fresh: false,
    };
    apply(&what, &Stop::never()).unwrap();
    let found = scan_of(&source, size, None).unwrap();
    assert!(data_chunks(&scan_of(&target, size, Some(&found.digests)).unwrap()).is_empty());
    assert_eq!(target.metadata().unwrap().len(), size);
}

#[test]
fn clearing_frees_space_and_copying_leaves_holes() {
    let target = tempfile::tempfile().unwrap();
    target.write_all_at(&noise(1, 64 << 10), 0).unwrap();
    assert_eq!(clear(target.as_fd(), 4096, 32 << 10), Ok(Cleared::Punch));
    assert_eq!(target.metadata().unwrap().blocks() * 512, 32 << 10);
    let (source, size) = image();
    let copy = tempfile::tempfile().unwrap();
    copy.set_len(size).unwrap();
    let copied = copy_range(source.as_fd(), copy.as_fd(), 0, size, &Stop::never()).unwrap();
    assert!(copied < 10 * SIZE, "{copied}");
    let found = scan_of(&source, size, None).unwrap();
    assert!(data_chunks(&scan_of(&copy, size, Some(&found.digests)).unwrap()).is_empty());
}

#[test]
fn a_call_can_be_stopped() {
    let (source, size) = image();
    let token = CancelToken::default();
    token.cancel();
    let stop = Stop::new(Some(token), &|| false);
    let copy = tempfile::tempfile().unwrap();
    assert_eq!(copy_range(source.as_fd(), copy.as_fd(), 0, size, &stop), Err(Error::Cancelled));
    assert_eq!(copy.metadata().unwrap().len(), 0);
}
