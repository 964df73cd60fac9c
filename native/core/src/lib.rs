//! The byte loops of `BlockVault`: a disk image in, verified blocks out, and back.
//!
//! Floors, from the ground up; a module uses only those before its own:
//!
//! * `types`, `error`, `cancel`, `pool`, `team`: the words, the ways to fail and to stop, buffers, threads;
//! * `zero`, `hash`, `codec`, `cipher`: what is done to the bytes of one chunk;
//! * `source`, `sink`: what is done to files: exact reads, holes, writes;
//! * `batch`: what crosses the boundary, many MiB at a time;
//! * `scan`, `identify`, `encode`, `decode`, `apply`: one verb each.
//!
//! Rules that hold everywhere: a chunk is `chunk_size` bytes, and what lies beyond the disk reads as zeros; digest,
//! id and block of a chunk come from one read of one buffer; stored bytes are never trusted: whatever a pack
//! holds, `decode` answers with a status and never with a panic or with memory without bound.

pub mod cancel;
pub mod error;
mod pool;
mod team;
pub mod types;

mod cipher;
mod codec;
mod hash;
mod zero;

mod sink;
mod source;

pub mod batch;

mod apply;
mod decode;
mod encode;
mod identify;
mod scan;

pub use apply::{Apply, apply};
pub use batch::{BlockBatch, PlainBatch, ScanBatch};
pub use cancel::{CancelToken, Stop};
pub use cipher::encrypt;
pub use decode::{Blocks, Pack, decode};
pub use encode::{Bases, Encode, encode};
pub use error::{ERROR_KINDS, Error, Result};
pub use identify::{Identity, identify, identify_plain};
pub use scan::{Scan, scan};
pub use sink::{clear, copy_range};
pub use types::{BlockStatus, ChunkSize, ChunkState, Cleared, Codec, Key};

/// The version that every part of the program shows.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `release`, or `debug` for a build that nobody should measure.
pub const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// The instruction sets that this processor has and the loops can use; chosen at run time, not when built.
pub fn simd() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! present {
            ($($name:tt),*) => {
                [$(($name, std::arch::is_x86_feature_detected!($name))),*]
            };
        }
        present!("sse2", "sse4.1", "avx2", "avx512f", "avx512vl", "bmi2", "aes", "vaes", "pclmulqdq")
            .into_iter()
            .filter_map(|(name, there)| there.then_some(name))
            .collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        vec!["neon"]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}
