//! clear: see `blockvault_core::clear`.

use pyo3::prelude::*;

use crate::convert::{descriptor, number, released};

/// Make a range read as zeros, freeing its space where the file system or device can; tell how.
#[pyfunction]
pub(crate) fn clear(
    py: Python<'_>,
    fd: i32,
    offset: &Bound<'_, PyAny>,
    byte_count: &Bound<'_, PyAny>,
) -> PyResult<&'static str> {
    let fd = descriptor(py, fd)?;
    let (offset, byte_count) = (number("offset", offset)?, number("byte_count", byte_count)?);
    released(py, None, |_| blockvault_core::clear(fd, offset, byte_count)).map(blockvault_core::Cleared::name)
}
