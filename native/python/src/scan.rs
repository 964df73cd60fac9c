//! scan: see `blockvault_core::scan`.

use blockvault_core::Scan;
use pyo3::prelude::*;

use crate::batches::{CancelToken, ScanBatch};
use crate::convert::{chunk_size as checked_chunk_size, descriptor, number, released, slice, table};

/// Tell for each chunk if it is a hole, zero, unchanged or changed against the parent's digests.
#[pyfunction]
#[pyo3(signature = (fd, *, chunk_size, disk_size, first_chunk, chunk_count, digests, seed, threads, drop_cache, cancel))]
#[allow(clippy::too_many_arguments)] // the arguments are the interface
pub(crate) fn scan(
    py: Python<'_>,
    fd: i32,
    chunk_size: &Bound<'_, PyAny>,
    disk_size: &Bound<'_, PyAny>,
    first_chunk: &Bound<'_, PyAny>,
    chunk_count: &Bound<'_, PyAny>,
    digests: Option<&Bound<'_, PyAny>>,
    seed: &Bound<'_, PyAny>,
    threads: &Bound<'_, PyAny>,
    drop_cache: bool,
    cancel: Option<&Bound<'_, CancelToken>>,
) -> PyResult<ScanBatch> {
    let digests = digests.map(|digests| table("digests", digests, 16)).transpose()?;
    let what = Scan {
        fd: descriptor(py, fd)?,
        chunk_size: checked_chunk_size(chunk_size)?,
        disk_size: number("disk_size", disk_size)?,
        first_chunk: number("first_chunk", first_chunk)?,
        chunk_count: number("chunk_count", chunk_count)?,
        digests: digests.as_ref().map(slice).transpose()?,
        seed: number("seed", seed)?,
        threads: number("threads", threads)?,
        drop_cache,
    };
    let batch = released(py, cancel, |stop| blockvault_core::scan(&what, stop))?;
    ScanBatch::new(py, batch)
}
