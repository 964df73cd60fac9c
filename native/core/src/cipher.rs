//! AES-256-GCM for blocks. A block's nonce is its slot; the key belongs to one pack only (rule R13), so no nonce
//! comes twice under one key.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::batch::BlockBatch;
use crate::error::{Error, Result};
use crate::types::{Key, TAG_BYTES};

/// Opens and seals the blocks of one pack.
pub(crate) struct Cipher<'a> {
    key: LessSafeKey,
    associated: &'a [u8],
}

impl<'a> Cipher<'a> {
    /// Every block is bound to `associated`.
    pub(crate) fn new(key: &Key, associated: &'a [u8]) -> Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key)
            .map_err(|_| Error::Internal("AES-256-GCM: key refused".to_owned()))?;
        Ok(Self { key: LessSafeKey::new(key), associated })
    }

    /// Turns sealed bytes into plain bytes in place; none if tag, slot or associated data are not those of the block.
    pub(crate) fn open<'b>(&self, slot: u64, sealed: &'b mut [u8]) -> Option<&'b [u8]> {
        self.key.open_in_place(nonce(slot), Aad::from(self.associated), sealed).ok().map(|plain| &*plain)
    }

    fn seal(&self, slot: u64, block: &mut [u8]) -> Result<[u8; TAG_BYTES]> {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(slot), Aad::from(self.associated), block)
            .map_err(|_| Error::Internal("AES-256-GCM: block refused".to_owned()))?;
        tag.as_ref().try_into().map_err(|_| Error::Internal("AES-256-GCM: odd tag".to_owned()))
    }
}

fn nonce(slot: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[4..].copy_from_slice(&slot.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals each block of a payload; block `i` lies at `offsets[i]..offsets[i + 1]` and becomes slot `first_slot + i`.
pub fn encrypt(
    payload: &[u8],
    offsets: &[u64],
    key: &Key,
    associated: &[u8],
    first_slot: u64,
) -> Result<BlockBatch> {
    let Some(last) = offsets.last() else {
        return Err(Error::BadArgument("offsets must be one row of at least one number".to_owned()));
    };
    if !offsets.is_sorted() || *last > payload.len() as u64 {
        return Err(Error::BadArgument("offsets must rise and stay inside the payload".to_owned()));
    }
    let count = offsets.len() - 1;
    if first_slot.checked_add(count as u64).is_none() {
        return Err(Error::BadArgument("slots must fit in 64 bits".to_owned()));
    }
    let cipher = Cipher::new(key, associated)?;
    let mut sealed = BlockBatch::with_capacity(count, (last - offsets[0]) as usize + count * TAG_BYTES);
    // The blocks come first in the zip: at their end no slot is asked for, and the last of 64 bits may be in use.
    for (bounds, slot) in offsets.windows(2).zip(first_slot..) {
        let start = sealed.payload.len();
        sealed.payload.extend_from_slice(&payload[bounds[0] as usize..bounds[1] as usize]);
        let tag = cipher.seal(slot, &mut sealed.payload[start..])?;
        sealed.payload.extend_from_slice(&tag);
        sealed.close_block(0);
    }
    Ok(sealed)
}
