//! encode: chunks to blocks. One thread; callers run several calls at once.

use crate::batch::{BlockBatch, PlainBatch, bases_of, check_length};
use crate::cancel::Stop;
use crate::codec::Encoder;
use crate::error::{Error, Result};

/// The earlier versions that deltas may be made against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bases<'a> {
    /// Their bytes.
    pub plain: Option<&'a PlainBatch>,
    /// The base of each row, -1 for none.
    pub rows: Option<&'a [i32]>,
}

/// What to encode.
#[derive(Clone, Copy, Debug)]
pub struct Encode<'a> {
    /// The chunks.
    pub plain: &'a PlainBatch,
    /// Which of them become blocks, in this order.
    pub rows: &'a [u32],
    /// The zstd level of full blocks, 1 to 19.
    pub level: i32,
    /// What they may be deltas of.
    pub bases: Bases<'a>,
    /// Up to which length a delta is taken without a look at the full block; none: never.
    pub delta_limits: Option<&'a [u32]>,
}

/// Makes a block of each row: a delta where that is short, else a full block.
pub fn encode(what: &Encode<'_>, stop: &Stop<'_>) -> Result<BlockBatch> {
    if !(1..=19).contains(&what.level) {
        return Err(Error::BadArgument("level must be from 1 to 19".to_owned()));
    }
    let (plain, rows) = (what.plain, what.rows);
    plain.check_rows("rows", rows)?;
    let bases = bases_of(what.bases.plain, what.bases.rows, rows.len(), plain.chunk_size)?;
    if let Some(limits) = what.delta_limits {
        check_length("delta_limits", limits.len(), rows.len())?;
    }
    let mut encoder = Encoder::new(plain.chunk_size, what.level)?;
    // Half of the plain bytes is a common outcome; more is grown into.
    let mut blocks = BlockBatch::with_capacity(rows.len(), rows.len() * plain.chunk_size.bytes() / 2);
    for (at, (row, base)) in rows.iter().zip(bases).enumerate() {
        stop.check()?;
        let limit = what.delta_limits.map_or(0, |limits| limits[at] as usize);
        let block = encoder.encode(plain.bytes_of(*row as usize), base, limit)?;
        blocks.payload.extend_from_slice(block.bytes);
        let codec = block.codec as u8;
        blocks.close_block(codec);
    }
    Ok(blocks)
}
