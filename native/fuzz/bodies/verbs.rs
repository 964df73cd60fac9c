//! The verbs with any arguments: places, rows, offsets, digests and sizes as a hostile manifest or digest state would
//! give them. Each answers or refuses; none panics, asks for memory without bound, or writes beyond the disk.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;

use blockvault_core::{
    Apply, Bases, ChunkSize, Encode, Identity, Key, PlainBatch, Scan, Stop, apply, clear, encode, encrypt,
    identify, identify_plain, scan,
};

const SIZE: u64 = 16 << 10;
const KEY: Key = [2; 32];

static KNOWN: LazyLock<PlainBatch> = LazyLock::new(|| {
    let mut plain = b"some text ".repeat(SIZE as usize / 5)[..SIZE as usize].to_vec();
    plain.resize(2 * SIZE as usize, 0);
    plain.extend((0..SIZE as u32).map(|i| (i * i / 7) as u8));
    let how = Identity { seed: 0, id_key: Some(KEY), drop_cache: false };
    identify_plain(&plain, ChunkSize::new(SIZE).unwrap(), &how).unwrap()
});

/// Numbers out of the input, small ones and those at the edges more often than any; zeros when it is used up.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn any(&mut self) -> u64 {
        let mut eight = [0; 8];
        eight.fill_with(|| self.byte());
        u64::from_le_bytes(eight)
    }

    fn number(&mut self) -> u64 {
        let how = self.byte();
        let low = u64::from(self.byte());
        match how & 7 {
            0..=3 => low,
            4 => low * SIZE,
            5 => (1_u64 << (how >> 2)).wrapping_add(low).wrapping_sub(128),
            6 => u64::MAX - low,
            _ => self.any(),
        }
    }

    fn some(&mut self) -> Vec<u64> {
        let count = usize::from(self.byte() & 15);
        (0..count).map(|_| self.number()).collect()
    }
}

/// A disk of three chunks, a hole between them, and a ragged end.
fn disk() -> (OwnedFd, u64) {
    let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::empty()).unwrap();
    let size = 12 * SIZE + 77;
    rustix::fs::ftruncate(&file, size).unwrap();
    for (row, chunk) in [(0, 1), (1, 4), (2, 11)] {
        rustix::io::pwrite(&file, KNOWN.chunk(row).unwrap(), chunk * SIZE).unwrap();
    }
    (file, size)
}

fn small(numbers: Vec<u64>) -> Vec<u32> {
    numbers.into_iter().map(|number| number as u32).collect()
}

pub fn run(data: &[u8]) {
    let mut input = Numbers(data);
    let stop = Stop::never();
    let chunk_size = KNOWN.chunk_size();
    let (file, true_size) = disk();
    let disk_size = if input.byte() & 1 == 0 { true_size } else { input.number() };
    match input.byte() % 6 {
        0 => {
            let first_chunk = input.number();
            let chunk_count = input.number() as usize;
            let digests: Vec<u8> =
                std::iter::repeat_with(|| input.byte()).take(data.len().min(16 * 13)).collect();
            let what = Scan {
                fd: file.as_fd(),
                chunk_size,
                disk_size,
                first_chunk,
                chunk_count,
                digests: (digests.len() == chunk_count.saturating_mul(16)).then_some(&digests),
                seed: 0,
                threads: 1,
                drop_cache: false,
            };
            if let Ok(found) = scan(&what, &stop) {
                assert_eq!(found.states.len(), chunk_count);
            }
        }
        1 => {
            let chunks = input.some();
            let how = Identity { seed: 0, id_key: Some(KEY), drop_cache: false };
            let sources = vec![file.as_fd(); chunks.len()];
            if let Ok(found) = identify(&sources, &chunks, chunk_size, disk_size, &how, &stop) {
                assert_eq!(found.len(), chunks.len());
            }
        }
        2 => {
            let (rows, chunks, fresh) = (small(input.some()), input.some(), input.byte() & 1 == 0);
            let what = Apply {
                plain: &KNOWN,
                rows: &rows,
                fd: file.as_fd(),
                direct: None,
                chunks: &chunks,
                disk_size,
                fresh,
            };
            if apply(&what, &stop).is_ok() && disk_size <= true_size {
                let size = rustix::fs::fstat(&file).unwrap().st_size as u64;
                assert!(size <= true_size, "something was written beyond the disk");
            }
        }
        3 => {
            let offsets = input.some();
            let first_slot = input.number();
            if let Ok(sealed) = encrypt(input.0, &offsets, &KEY, b"fuzz", first_slot) {
                assert_eq!(sealed.offsets.len(), offsets.len());
            }
        }
        4 => {
            let (rows, base_rows) = (small(input.some()), small(input.some()));
            let bases: Vec<i32> = base_rows.into_iter().map(u32::cast_signed).collect();
            let what = Encode {
                plain: &KNOWN,
                rows: &rows,
                level: i32::from(input.byte() % 24),
                bases: Bases { plain: Some(&KNOWN), rows: Some(&bases) },
                delta_limits: None,
            };
            if let Ok(blocks) = encode(&what, &stop) {
                assert_eq!(blocks.codecs.len(), rows.len());
            }
        }
        _ => {
            let (offset, byte_count) = (input.number(), input.number());
            if clear(file.as_fd(), offset, byte_count).is_ok() {
                assert!(rustix::fs::fstat(&file).unwrap().st_size as u64 <= true_size);
            }
        }
    }
}
