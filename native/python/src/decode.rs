//! decode: see `blockvault_core::decode`.

use blockvault_core::{Blocks, Pack};
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::batches::{CancelToken, PlainBatch, frozen_column};
use crate::convert::{
    chunk_size as checked_chunk_size, column, descriptor, key, number, optional_key, released, slice, table,
};

type PackArgument<'py> = (i32, Bound<'py, PyAny>, Vec<u8>);

/// Read blocks from their packs, open, decode and check each against its id.
#[pyfunction]
#[pyo3(signature = (
    packs, pack_rows, slots, offsets, lengths, codecs, ids, *, base_rows, wanted, chunk_size, id_key, threads, cancel
))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)] // the arguments are the interface
pub(crate) fn decode(
    py: Python<'_>,
    packs: Vec<PackArgument<'_>>,
    pack_rows: &Bound<'_, PyAny>,
    slots: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    lengths: &Bound<'_, PyAny>,
    codecs: &Bound<'_, PyAny>,
    ids: &Bound<'_, PyAny>,
    base_rows: Option<&Bound<'_, PyAny>>,
    wanted: &Bound<'_, PyAny>,
    chunk_size: &Bound<'_, PyAny>,
    id_key: &Bound<'_, PyAny>,
    threads: &Bound<'_, PyAny>,
    cancel: Option<&Bound<'_, CancelToken>>,
) -> PyResult<(PlainBatch, Py<PyArray1<u8>>)> {
    let keys = packs
        .iter()
        .map(|(_, key, _)| optional_key("the key of a pack", key))
        .collect::<PyResult<Vec<_>>>()?;
    let packs = packs
        .iter()
        .zip(&keys)
        .map(|((fd, _, associated), key)| {
            Ok(Pack { fd: descriptor(py, *fd)?, key: key.as_ref(), associated })
        })
        .collect::<PyResult<Vec<_>>>()?;
    let pack_rows = column("pack_rows", pack_rows)?;
    let slots = column("slots", slots)?;
    let offsets = column("offsets", offsets)?;
    let lengths = column("lengths", lengths)?;
    let codecs = column("codecs", codecs)?;
    let ids = table("ids", ids, 32)?;
    let base_rows = base_rows.map(|rows| column("base_rows", rows)).transpose()?;
    let wanted = column("wanted", wanted)?;
    let id_key = key("id_key", id_key)?;
    let what = Blocks {
        packs: &packs,
        pack_rows: slice(&pack_rows)?,
        slots: slice(&slots)?,
        offsets: slice(&offsets)?,
        lengths: slice(&lengths)?,
        codecs: slice(&codecs)?,
        ids: slice(&ids)?,
        base_rows: base_rows.as_ref().map(slice).transpose()?,
        wanted: slice(&wanted)?,
        chunk_size: checked_chunk_size(chunk_size)?,
        id_key: &id_key,
        threads: number("threads", threads)?,
    };
    let (batch, status) = released(py, cancel, |stop| blockvault_core::decode(&what, stop))?;
    Ok((PlainBatch::new(batch), frozen_column(py, status)?))
}
