//! The classes that calls hand out and take. Arrays are made once, without a copy where the batch gives its bytes
//! away, and are read-only.

use blockvault_core as core;
use numpy::{Element, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::convert::{column, descriptor, number, released, slice};
use crate::errors::raised;

/// Asks a running call to stop at its next piece; may be used from any thread.
#[pyclass(frozen, module = "blockvault._native")]
#[derive(Default)]
pub(crate) struct CancelToken(core::CancelToken);

#[pymethods]
impl CancelToken {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Ask every call that holds this token to stop.
    fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether `cancel` was called.
    #[getter]
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

impl CancelToken {
    pub(crate) fn token(&self) -> core::CancelToken {
        self.0.clone()
    }
}

/// What a scan found: one state and one digest a chunk.
#[pyclass(frozen, module = "blockvault._native")]
pub(crate) struct ScanBatch {
    states: Py<PyArray1<u8>>,
    digests: Py<PyArray2<u8>>,
    #[pyo3(get)]
    read_bytes: u64,
}

#[pymethods]
impl ScanBatch {
    /// `(n,)`: 0 hole, 1 zero, 2 unchanged, 3 changed.
    #[getter]
    fn states(&self, py: Python<'_>) -> Py<PyArray1<u8>> {
        self.states.clone_ref(py)
    }

    /// `(n, 16)`: all zero bytes for holes and zero chunks.
    #[getter]
    fn digests(&self, py: Python<'_>) -> Py<PyArray2<u8>> {
        self.digests.clone_ref(py)
    }
}

impl ScanBatch {
    pub(crate) fn new(py: Python<'_>, batch: core::ScanBatch) -> PyResult<Self> {
        Ok(Self {
            states: frozen_column(py, batch.states)?,
            digests: frozen_table(py, batch.digests, 16)?,
            read_bytes: batch.read_bytes,
        })
    }
}

/// Chunks of plain bytes, each padded with zeros to `chunk_size`; immutable.
#[pyclass(frozen, module = "blockvault._native")]
pub(crate) struct PlainBatch {
    core: core::PlainBatch,
    states: PyOnceLock<Py<PyArray1<u8>>>,
    digests: PyOnceLock<Py<PyArray2<u8>>>,
    ids: PyOnceLock<Py<PyArray2<u8>>>,
}

#[pymethods]
impl PlainBatch {
    fn __len__(&self) -> usize {
        self.core.len()
    }

    /// The size of every chunk.
    #[getter]
    fn chunk_size(&self) -> usize {
        self.core.chunk_size().bytes()
    }

    /// `(n,)`: 1 zero, 3 data.
    #[getter]
    fn states<'py>(&'py self, py: Python<'py>) -> PyResult<&'py Py<PyArray1<u8>>> {
        self.states.get_or_try_init(py, || frozen_column(py, self.core.states().to_vec()))
    }

    /// `(n, 16)`, or empty where none were computed.
    #[getter]
    fn digests<'py>(&'py self, py: Python<'py>) -> PyResult<&'py Py<PyArray2<u8>>> {
        self.digests.get_or_try_init(py, || frozen_table(py, self.core.digests().to_vec(), 16))
    }

    /// `(n, 32)`, or empty where none were computed.
    #[getter]
    fn ids<'py>(&'py self, py: Python<'py>) -> PyResult<&'py Py<PyArray2<u8>>> {
        self.ids.get_or_try_init(py, || frozen_table(py, self.core.ids().to_vec(), 32))
    }

    /// Bytes that were read to make it.
    #[getter]
    fn read_bytes(&self) -> u64 {
        self.core.read_bytes()
    }

    /// The plain bytes of one chunk.
    fn chunk<'py>(&self, py: Python<'py>, row: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.core.chunk(number("row", row)?).map_err(|error| raised(py, &error))?;
        Ok(PyBytes::new(py, bytes))
    }

    /// Write the rows in order to a pipe or file at its position, at most `byte_count` bytes in all.
    fn write_into(
        &self,
        py: Python<'_>,
        fd: i32,
        rows: &Bound<'_, PyAny>,
        byte_count: &Bound<'_, PyAny>,
    ) -> PyResult<u64> {
        let fd = descriptor(py, fd)?;
        let rows = column("rows", rows)?;
        let rows = slice(&rows)?;
        let byte_count = number("byte_count", byte_count)?;
        released(py, None, |stop| self.core.write_into(fd, rows, byte_count, stop))
    }
}

impl PlainBatch {
    pub(crate) fn new(core: core::PlainBatch) -> Self {
        Self { core, states: PyOnceLock::new(), digests: PyOnceLock::new(), ids: PyOnceLock::new() }
    }

    pub(crate) fn core(&self) -> &core::PlainBatch {
        &self.core
    }
}

/// Blocks as they will be stored, back to back: block i is `payload[offsets[i]:offsets[i + 1]]`.
#[pyclass(frozen, module = "blockvault._native")]
pub(crate) struct BlockBatch {
    payload: Py<PyMemoryView>,
    offsets: Py<PyArray1<u64>>,
    codecs: Py<PyArray1<u8>>,
}

#[pymethods]
impl BlockBatch {
    /// The stored bytes of all blocks.
    #[getter]
    fn payload(&self, py: Python<'_>) -> Py<PyMemoryView> {
        self.payload.clone_ref(py)
    }

    /// `(m + 1,)`: where each block begins, and where the last one ends.
    #[getter]
    fn offsets(&self, py: Python<'_>) -> Py<PyArray1<u64>> {
        self.offsets.clone_ref(py)
    }

    /// `(m,)`: 0 raw, 1 zstd, 2 delta.
    #[getter]
    fn codecs(&self, py: Python<'_>) -> Py<PyArray1<u8>> {
        self.codecs.clone_ref(py)
    }
}

impl BlockBatch {
    pub(crate) fn new(py: Python<'_>, batch: core::BlockBatch) -> PyResult<Self> {
        let payload = frozen_column(py, batch.payload)?;
        Ok(Self {
            payload: PyMemoryView::from(payload.bind(py).as_any())?.unbind(),
            offsets: frozen_column(py, batch.offsets)?,
            codecs: frozen_column(py, batch.codecs)?,
        })
    }
}

/// A read-only array that owns the numbers.
pub(crate) fn frozen_column<T: Element>(py: Python<'_>, numbers: Vec<T>) -> PyResult<Py<PyArray1<T>>> {
    let array = PyArray1::from_vec(py, numbers);
    array.try_readwrite()?.make_nonwriteable();
    Ok(array.unbind())
}

fn frozen_table(py: Python<'_>, bytes: Vec<u8>, width: usize) -> PyResult<Py<PyArray2<u8>>> {
    let count = bytes.len() / width;
    let array = PyArray1::from_vec(py, bytes).reshape([count, width])?;
    array.try_readwrite()?.make_nonwriteable();
    Ok(array.unbind())
}
