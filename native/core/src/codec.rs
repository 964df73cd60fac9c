//! Plain bytes to zstd frames and back. A frame has its content size in its header, no checksum, no dictionary id.
//!
//! Contexts live as long as one call, never as long as a thread: a context borrows the prefixes that it is given.

use zstd_safe::{CCtx, CParameter, DCtx, SafeResult};

use crate::error::{Error, Result};
use crate::types::{ChunkSize, Codec};

/// The level of every delta: at a chunk's size 9 takes no longer than 3 and stores 3% less (docs/decisions, 0005);
/// what is above takes ten times as long.
const DELTA_LEVEL: i32 = 9;
/// Pieces of a chunk and its base that are compared in place, to tell whether they are alike.
const ALIKE_BYTES: usize = 256;
/// The highest level at which a full block is tried without a first look.
const BLIND_LEVEL: i32 = 3;

/// Makes blocks of chunks; `'b` is the life of the bases.
pub(crate) struct Encoder<'b> {
    full: CCtx<'b>,
    glance: Option<CCtx<'b>>,
    probe: CCtx<'b>,
    delta: CCtx<'b>,
    decoder: Decoder<'b>,
    chunk_size: ChunkSize,
    full_frame: Vec<u8>,
    delta_frame: Vec<u8>,
    proof: Vec<u8>,
}

/// A block made, to be stored as it is.
pub(crate) struct Encoded<'a> {
    pub(crate) codec: Codec,
    pub(crate) bytes: &'a [u8],
}

impl<'b> Encoder<'b> {
    /// Levels are 1 to 19.
    pub(crate) fn new(chunk_size: ChunkSize, level: i32) -> Result<Self> {
        let bound = zstd_safe::compress_bound(chunk_size.bytes());
        // Prefix and chunk are both in reach of a match, wherever in the chunk it stands.
        let window_log = (2 * chunk_size.bytes()).ilog2();
        Ok(Self {
            full: compressor(level, None)?,
            glance: if level > BLIND_LEVEL { Some(compressor(1, None)?) } else { None },
            probe: compressor(1, Some(window_log))?,
            delta: compressor(DELTA_LEVEL, Some(window_log))?,
            decoder: Decoder::new()?,
            chunk_size,
            full_frame: vec![0; bound],
            delta_frame: vec![0; bound],
            proof: Vec::new(),
        })
    }

    /// A delta if there is a base and the delta is short: at most `delta_limit`, or under half of the full block.
    ///
    /// A base that has nothing to do with the chunk costs the delta's level eight times what the full block costs. So
    /// where most of the two does not stand in the same place, a look at level 1 comes first, and a delta that would
    /// have to become a quarter shorter than that is not tried.
    pub(crate) fn encode<'a>(
        &'a mut self,
        chunk: &'a [u8],
        base: Option<&'b [u8]>,
        delta_limit: usize,
    ) -> Result<Encoded<'a>> {
        let Some(base) = base else {
            let full = self.encode_full(chunk)?;
            return Ok(self.full_block(chunk, full));
        };
        let mut full = None;
        if !alike(chunk, base) {
            done(self.probe.ref_prefix(base))?;
            let length = done(self.probe.compress2(&mut self.delta_frame[..], chunk))?;
            if length > delta_limit {
                let frame = self.encode_full(chunk)?;
                if 3 * length >= 2 * frame.unwrap_or(chunk.len()) {
                    return Ok(self.full_block(chunk, frame));
                }
                full = Some(frame);
            }
        }
        let delta_length = self.encode_delta(chunk, base)?;
        if let Some(length) = delta_length.filter(|length| *length <= delta_limit) {
            return Ok(Encoded { codec: Codec::Delta, bytes: &self.delta_frame[..length] });
        }
        let full = match full {
            Some(frame) => frame,
            None => self.encode_full(chunk)?,
        };
        if let Some(length) = delta_length.filter(|length| 2 * length < full.unwrap_or(chunk.len())) {
            return Ok(Encoded { codec: Codec::Delta, bytes: &self.delta_frame[..length] });
        }
        Ok(self.full_block(chunk, full))
    }

    /// What `encode_full` answered, as a block.
    fn full_block<'a>(&'a self, chunk: &'a [u8], frame: Option<usize>) -> Encoded<'a> {
        match frame {
            Some(length) => Encoded { codec: Codec::Zstd, bytes: &self.full_frame[..length] },
            None => Encoded { codec: Codec::Raw, bytes: chunk },
        }
    }

    /// The length of the frame in `full_frame`; none where it saves less than a sixteenth.
    ///
    /// Above level 3 a look with level 1 comes first: what it cannot shorten at all is not worth the long search.
    fn encode_full(&mut self, chunk: &[u8]) -> Result<Option<usize>> {
        if let Some(glance) = &mut self.glance {
            let length = done(glance.compress2(&mut self.full_frame[..], chunk))?;
            if length + chunk.len() / 64 > chunk.len() {
                return Ok(None);
            }
        }
        let length = done(self.full.compress2(&mut self.full_frame[..], chunk))?;
        Ok(Some(length).filter(|length| length + chunk.len() / 16 <= chunk.len()))
    }

    /// The length of the frame in `delta_frame`, proven to decode (rule R3); none if it does not.
    fn encode_delta(&mut self, chunk: &[u8], base: &'b [u8]) -> Result<Option<usize>> {
        done(self.delta.ref_prefix(base))?;
        let length = done(self.delta.compress2(&mut self.delta_frame[..], chunk))?;
        self.proof.resize(self.chunk_size.bytes(), 0);
        let proven = self.decoder.decode(&self.delta_frame[..length], Some(base), &mut self.proof)
            && self.proof == chunk;
        Ok(proven.then_some(length))
    }
}

/// Whether half of a chunk stands in its base, in the same place.
fn alike(chunk: &[u8], base: &[u8]) -> bool {
    let pieces = chunk.chunks_exact(ALIKE_BYTES).zip(base.chunks_exact(ALIKE_BYTES));
    2 * pieces.filter(|(new, old)| new == old).count() >= chunk.len() / ALIKE_BYTES
}

/// Makes chunks of frames.
pub(crate) struct Decoder<'b>(DCtx<'b>);

impl<'b> Decoder<'b> {
    /// A context of its own.
    pub(crate) fn new() -> Result<Self> {
        DCtx::try_create().map(Self).ok_or_else(out_of_memory)
    }

    /// Fills `chunk` from exactly one frame of exactly its size; false for anything else. The frame is looked at
    /// before it is decoded and decoded in place, so a hostile one cannot ask for memory.
    pub(crate) fn decode(&mut self, frame: &[u8], base: Option<&'b [u8]>, chunk: &mut [u8]) -> bool {
        let declared = zstd_safe::get_frame_content_size(frame).ok().flatten();
        if declared != Some(chunk.len() as u64)
            || zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len())
        {
            return false;
        }
        if let Some(base) = base
            && self.0.ref_prefix(base).is_err()
        {
            return false;
        }
        self.0.decompress(chunk, frame) == Ok(chunk.len())
    }
}

fn compressor<'b>(level: i32, window_log: Option<u32>) -> Result<CCtx<'b>> {
    let mut context = CCtx::try_create().ok_or_else(out_of_memory)?;
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::ContentSizeFlag(true),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ] {
        done(context.set_parameter(parameter))?;
    }
    if let Some(window_log) = window_log {
        done(context.set_parameter(CParameter::WindowLog(window_log)))?;
    }
    Ok(context)
}

fn done(result: SafeResult) -> Result<usize> {
    result.map_err(|code| Error::Internal(format!("zstd: {}", zstd_safe::get_error_name(code))))
}

fn out_of_memory() -> Error {
    Error::Internal("zstd: no memory for a context".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    }

    fn size() -> ChunkSize {
        ChunkSize::new(16 << 10).unwrap()
    }

    #[test]
    fn a_delta_is_taken_when_short_and_both_sides_of_its_limits_hold() {
        let base = noise(1, size().bytes());
        let mut chunk = base.clone();
        let mut encoder = Encoder::new(size(), 1).unwrap();
        let twin = encoder.encode(&chunk, Some(&base), 64).unwrap();
        assert_eq!(twin.codec, Codec::Delta);
        assert!(twin.bytes.len() < 64);

        // A third is new: too long for the limit, but under half of the full block, which is raw.
        let third = chunk.len() / 3;
        chunk[..third].copy_from_slice(&noise(2, third));
        assert_eq!(encoder.encode(&chunk, Some(&base), 64).unwrap().codec, Codec::Delta);
        // Two thirds are new: more than half of the full block, but within the limit.
        chunk[..2 * third].copy_from_slice(&noise(3, 2 * third));
        assert_eq!(encoder.encode(&chunk, Some(&base), 64).unwrap().codec, Codec::Raw);
        assert_eq!(encoder.encode(&chunk, Some(&base), chunk.len()).unwrap().codec, Codec::Delta);
        assert_eq!(encoder.encode(&chunk, None, chunk.len()).unwrap().codec, Codec::Raw);
    }

    #[test]
    fn a_base_that_moved_is_found_and_one_that_has_nothing_in_common_is_not_used() {
        let base = noise(1, size().bytes() + 100);
        let mut encoder = Encoder::new(size(), 1).unwrap();
        // Apart in memory: zstd uses nothing of a prefix that overlaps with what is compressed.
        let (first, moved) = (&base[..size().bytes()], &base[100..].to_vec());
        assert!(!alike(moved, first));
        let block = encoder.encode(moved, Some(first), 0).unwrap();
        assert_eq!(block.codec, Codec::Delta);
        assert!(block.bytes.len() < 300, "{}", block.bytes.len());
        let other: Vec<u8> = noise(2, size().bytes()).iter().map(|byte| byte % 16).collect();
        let alone = encoder.encode(&other, None, 0).unwrap().bytes.to_vec();
        for limit in [0, alone.len() / 2] {
            let block = encoder.encode(&other, Some(first), limit).unwrap();
            assert_eq!((block.codec, block.bytes), (Codec::Zstd, &alone[..]));
        }
    }

    #[test]
    fn raw_is_taken_when_the_frame_saves_less_than_a_sixteenth() {
        for level in [1, 3, 9, 19] {
            let mut encoder = Encoder::new(size(), level).unwrap();
            let mut chunk = noise(1, size().bytes());
            let sixteenth = chunk.len() / 16;
            chunk[..sixteenth / 2].fill(7);
            assert_eq!(encoder.encode(&chunk, None, 0).unwrap().codec, Codec::Raw, "level {level}");
            chunk[..sixteenth * 2].fill(7);
            let block = encoder.encode(&chunk, None, 0).unwrap();
            assert_eq!(block.codec, Codec::Zstd, "level {level}");
            assert!(block.bytes.len() <= size().bytes() - sixteenth);
        }
    }

    #[test]
    fn a_frame_of_another_size_or_with_bytes_behind_it_is_refused() {
        let chunk = vec![7; size().bytes()];
        let mut encoder = Encoder::new(size(), 1).unwrap();
        let mut frame = encoder.encode(&chunk, None, 0).unwrap().bytes.to_vec();
        let mut decoder = Decoder::new().unwrap();
        let mut out = vec![0; size().bytes()];
        assert!(decoder.decode(&frame, None, &mut out));
        assert_eq!(out, chunk);
        for wrong in [0, size().bytes() - 1, size().bytes() * 2] {
            assert!(!decoder.decode(&frame, None, &mut vec![0; wrong]));
        }
        for cut in 0..frame.len() {
            assert!(!decoder.decode(&frame[..cut], None, &mut out));
        }
        frame.push(0);
        assert!(!decoder.decode(&frame, None, &mut out));
    }

    #[test]
    fn a_failed_delta_leaves_nothing_behind_for_the_next_frame() {
        let (base, other) = (noise(1, size().bytes()), noise(2, size().bytes()));
        let chunk = base.clone();
        let mut encoder = Encoder::new(size(), 1).unwrap();
        let delta = encoder.encode(&chunk, Some(&base), 64).unwrap().bytes.to_vec();
        let plain = vec![7; size().bytes()];
        let full = encoder.encode(&plain, None, 0).unwrap().bytes.to_vec();
        let mut decoder = Decoder::new().unwrap();
        let mut out = vec![0; size().bytes()];
        let mut broken = delta.clone();
        broken.truncate(delta.len() - 1);
        assert!(!decoder.decode(&broken, Some(&base), &mut out));
        assert!(decoder.decode(&full, None, &mut out) && out == plain);
        assert!(!decoder.decode(&delta, None, &mut out) || out != chunk);
        assert!(!decoder.decode(&delta, Some(&other), &mut out) || out != chunk);
        assert!(decoder.decode(&delta, Some(&base), &mut out) && out == chunk);
    }
}
