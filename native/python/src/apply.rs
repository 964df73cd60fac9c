//! apply: see `blockvault_core::apply`.

use blockvault_core::Apply;
use pyo3::prelude::*;

use crate::batches::{CancelToken, PlainBatch};
use crate::convert::{column, descriptor, number, released, slice};

/// Write rows to their chunks of the target, clipped to the disk; return the bytes of data written.
#[pyfunction]
#[pyo3(signature = (plain, rows, fd, chunks, *, disk_size, fresh, direct_fd=None, cancel))]
#[allow(clippy::too_many_arguments)] // the arguments are the interface
pub(crate) fn apply(
    py: Python<'_>,
    plain: &Bound<'_, PlainBatch>,
    rows: &Bound<'_, PyAny>,
    fd: i32,
    chunks: &Bound<'_, PyAny>,
    disk_size: &Bound<'_, PyAny>,
    fresh: bool,
    direct_fd: Option<i32>,
    cancel: Option<&Bound<'_, CancelToken>>,
) -> PyResult<u64> {
    let rows = column("rows", rows)?;
    let chunks = column("chunks", chunks)?;
    let what = Apply {
        plain: plain.get().core(),
        rows: slice(&rows)?,
        fd: descriptor(py, fd)?,
        direct: direct_fd.map(|fd| descriptor(py, fd)).transpose()?,
        chunks: slice(&chunks)?,
        disk_size: number("disk_size", disk_size)?,
        fresh,
    };
    released(py, cancel, |stop| blockvault_core::apply(&what, stop))
}
