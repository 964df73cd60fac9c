//! encrypt: see `blockvault_core::encrypt`.

use pyo3::prelude::*;

use crate::batches::BlockBatch;
use crate::convert::{buffer, column, key as checked_key, number, released, slice};

/// Seal each block with AES-256-GCM under its slot's nonce; each grows by its 16-byte tag.
#[pyfunction]
#[pyo3(signature = (payload, offsets, *, key, associated, first_slot))]
pub(crate) fn encrypt(
    py: Python<'_>,
    payload: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    key: &Bound<'_, PyAny>,
    associated: &[u8],
    first_slot: &Bound<'_, PyAny>,
) -> PyResult<BlockBatch> {
    let payload = buffer("payload", payload)?;
    let payload = payload.as_ref().map_or(Ok(&[][..]), slice)?;
    let offsets = column("offsets", offsets)?;
    let offsets = slice(&offsets)?;
    let key = checked_key("key", key)?;
    let first_slot = number("first_slot", first_slot)?;
    let batch =
        released(py, None, |_| blockvault_core::encrypt(payload, offsets, &key, associated, first_slot))?;
    BlockBatch::new(py, batch)
}
