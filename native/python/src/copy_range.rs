//! `copy_range`: see `blockvault_core::copy_range`.

use pyo3::prelude::*;

use crate::batches::CancelToken;
use crate::convert::{descriptor, number, released};

/// Copy the data extents of a range from one file to the same place in another; return the bytes copied.
#[pyfunction]
#[pyo3(signature = (source_fd, target_fd, offset, byte_count, cancel))]
pub(crate) fn copy_range(
    py: Python<'_>,
    source_fd: i32,
    target_fd: i32,
    offset: &Bound<'_, PyAny>,
    byte_count: &Bound<'_, PyAny>,
    cancel: Option<&Bound<'_, CancelToken>>,
) -> PyResult<u64> {
    let (source, target) = (descriptor(py, source_fd)?, descriptor(py, target_fd)?);
    let (offset, byte_count) = (number("offset", offset)?, number("byte_count", byte_count)?);
    released(py, cancel, |stop| blockvault_core::copy_range(source, target, offset, byte_count, stop))
}
