//! Python values to what the core takes. Each argument is checked here or in the core, with an error that names it.

use std::os::fd::BorrowedFd;

use blockvault_core::{ChunkSize, Key, Result, Stop};
use numpy::{
    Element, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::batches::CancelToken;
use crate::errors::{bad_argument, raised};

/// An integer that fits its type.
pub(crate) fn number<'py, T: FromPyObjectOwned<'py>>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<T> {
    value.extract().map_err(|_| {
        let width = std::mem::size_of::<T>() * 8;
        bad_argument(value.py(), format!("{name} must be a number that fits in {width} bits"))
    })
}

/// A chunk size.
pub(crate) fn chunk_size(value: &Bound<'_, PyAny>) -> PyResult<ChunkSize> {
    ChunkSize::new(number("chunk_size", value)?).map_err(|error| raised(value.py(), &error))
}

/// One row of numbers, borrowed for as long as the call takes.
pub(crate) fn column<'py, T: Element>(
    name: &str,
    value: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArray1<'py, T>> {
    let array = value.cast::<PyArray1<T>>().ok().filter(|array| array.is_c_contiguous());
    match array.and_then(|array| array.try_readonly().ok()) {
        Some(array) => Ok(array),
        None => Err(bad_argument(
            value.py(),
            format!("{name} must be a contiguous array of {}", type_name::<T>()),
        )),
    }
}

/// Rows of so many bytes.
pub(crate) fn table<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    width: usize,
) -> PyResult<PyReadonlyArray2<'py, u8>> {
    let array = value
        .cast::<PyArray2<u8>>()
        .ok()
        .filter(|array| array.is_c_contiguous() && array.shape().get(1) == Some(&width));
    match array.and_then(|array| array.try_readonly().ok()) {
        Some(array) => Ok(array),
        None => Err(bad_argument(
            value.py(),
            format!("{name} must be a contiguous array of u8, shape (n, {width})"),
        )),
    }
}

fn type_name<T>() -> &'static str {
    std::any::type_name::<T>()
}

/// The numbers of an array that was checked to be contiguous.
pub(crate) fn slice<'a, T: Element, D: numpy::ndarray::Dimension>(
    array: &'a numpy::PyReadonlyArray<'_, T, D>,
) -> PyResult<&'a [T]> {
    Ok(array.as_slice()?)
}

/// A 32-byte key.
pub(crate) fn key(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Key> {
    let bytes = value.cast::<PyBytes>().ok().and_then(|bytes| bytes.as_bytes().try_into().ok());
    bytes.ok_or_else(|| bad_argument(value.py(), format!("{name} must have 32 bytes")))
}

/// A 32-byte key or None.
pub(crate) fn optional_key(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<Key>> {
    if value.is_none() { Ok(None) } else { key(name, value).map(Some) }
}

/// The bytes of any buffer, without a copy if nobody can change them meanwhile; empty is None.
pub(crate) fn buffer<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
) -> PyResult<Option<PyReadonlyArray1<'py, u8>>> {
    let py = value.py();
    let not_bytes = |_| bad_argument(py, format!("{name} must be bytes or a contiguous memoryview of bytes"));
    if value.len().map_err(not_bytes)? == 0 {
        return Ok(None);
    }
    let view = |bytes: &Bound<'py, PyAny>| py.import("numpy")?.call_method1("frombuffer", (bytes, "u1"));
    let borrowed = view(value).map_err(not_bytes)?;
    let array = if borrowed.getattr("flags")?.getattr("writeable")?.is_truthy()? {
        view(&borrowed.call_method0("tobytes")?)?
    } else {
        borrowed
    };
    column(name, &array).map(Some)
}

/// A descriptor that the caller keeps open while the call lasts.
pub(crate) fn descriptor<'a>(py: Python<'_>, fd: i32) -> PyResult<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(bad_argument(py, format!("{fd} is not a file descriptor")));
    }
    // SAFETY: the number is not -1. That it stays open is the caller's part, as for every call of Python's `os`; a
    // closed or reused number gives an error or other bytes, never a fault of memory.
    #[allow(unsafe_code)]
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Runs a call of the core with the GIL released. While it runs, Python's signal handlers get their turn: what
/// they raise ends the call and is raised from it.
pub(crate) fn released<T: Send>(
    py: Python<'_>,
    cancel: Option<&Bound<'_, CancelToken>>,
    call: impl FnOnce(&Stop<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let token = cancel.map(|token| token.get().token());
    let (result, signal) = py.detach(move || {
        let signal = std::cell::RefCell::new(None);
        let poll = || {
            #[allow(clippy::redundant_closure_for_method_calls)]
            // the bare path is not general enough in its lifetime
            let answer = Python::attach(|py| py.check_signals());
            answer.map_err(|error| signal.replace(Some(error))).is_err()
        };
        let result = call(&Stop::new(token, &poll));
        (result, signal.into_inner())
    });
    match signal {
        Some(error) => Err(error),
        None => result.map_err(|error| raised(py, &error)),
    }
}
