//! identify and `identify_plain`: see `blockvault_core::identify`.

use blockvault_core::Identity;
use pyo3::prelude::*;

use crate::batches::{CancelToken, PlainBatch};
use crate::convert::{
    buffer, chunk_size as checked_chunk_size, column, descriptor, number, optional_key, released, slice,
};

/// Read the given chunks, each from its own file; digest and id are those of the bytes that were read.
#[pyfunction]
#[pyo3(signature = (fds, chunks, *, chunk_size, disk_size, seed, id_key, drop_cache=false, cancel))]
#[allow(clippy::too_many_arguments)] // the arguments are the interface
pub(crate) fn identify(
    py: Python<'_>,
    fds: &Bound<'_, PyAny>,
    chunks: &Bound<'_, PyAny>,
    chunk_size: &Bound<'_, PyAny>,
    disk_size: &Bound<'_, PyAny>,
    seed: &Bound<'_, PyAny>,
    id_key: &Bound<'_, PyAny>,
    drop_cache: bool,
    cancel: Option<&Bound<'_, CancelToken>>,
) -> PyResult<PlainBatch> {
    let fds = column::<i32>("fds", fds)?;
    let sources = slice(&fds)?.iter().map(|fd| descriptor(py, *fd)).collect::<PyResult<Vec<_>>>()?;
    let chunks = column("chunks", chunks)?;
    let chunks = slice(&chunks)?;
    let chunk_size = checked_chunk_size(chunk_size)?;
    let disk_size = number("disk_size", disk_size)?;
    let how = Identity { seed: number("seed", seed)?, id_key: optional_key("id_key", id_key)?, drop_cache };
    let batch = released(py, cancel, |stop| {
        blockvault_core::identify(&sources, chunks, chunk_size, disk_size, &how, stop)
    })?;
    Ok(PlainBatch::new(batch))
}

/// The same as `identify` for bytes that are already in memory.
#[pyfunction]
#[pyo3(signature = (plain, *, chunk_size, seed, id_key))]
pub(crate) fn identify_plain(
    py: Python<'_>,
    plain: &Bound<'_, PyAny>,
    chunk_size: &Bound<'_, PyAny>,
    seed: &Bound<'_, PyAny>,
    id_key: &Bound<'_, PyAny>,
) -> PyResult<PlainBatch> {
    let plain = buffer("plain", plain)?;
    let plain = plain.as_ref().map_or(Ok(&[][..]), slice)?;
    let chunk_size = checked_chunk_size(chunk_size)?;
    let how =
        Identity { seed: number("seed", seed)?, id_key: optional_key("id_key", id_key)?, drop_cache: false };
    let batch = released(py, None, |_| blockvault_core::identify_plain(plain, chunk_size, &how))?;
    Ok(PlainBatch::new(batch))
}
