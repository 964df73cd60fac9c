//! encode: see `blockvault_core::encode`.

use blockvault_core::{Bases, Encode};
use pyo3::prelude::*;

use crate::batches::{BlockBatch, CancelToken, PlainBatch};
use crate::convert::{column, number, released, slice};

/// Make a block of each row: a delta against its base where that is short, else a full block.
#[pyfunction]
#[pyo3(signature = (plain, rows, *, level, bases, base_rows, delta_limits, cancel))]
#[allow(clippy::too_many_arguments)] // the arguments are the interface
pub(crate) fn encode(
    py: Python<'_>,
    plain: &Bound<'_, PlainBatch>,
    rows: &Bound<'_, PyAny>,
    level: &Bound<'_, PyAny>,
    bases: Option<&Bound<'_, PlainBatch>>,
    base_rows: Option<&Bound<'_, PyAny>>,
    delta_limits: Option<&Bound<'_, PyAny>>,
    cancel: Option<&Bound<'_, CancelToken>>,
) -> PyResult<BlockBatch> {
    let rows = column("rows", rows)?;
    let base_rows = base_rows.map(|rows| column("base_rows", rows)).transpose()?;
    let delta_limits = delta_limits.map(|limits| column("delta_limits", limits)).transpose()?;
    let what = Encode {
        plain: plain.get().core(),
        rows: slice(&rows)?,
        level: number("level", level)?,
        bases: Bases {
            plain: bases.map(|bases| bases.get().core()),
            rows: base_rows.as_ref().map(slice).transpose()?,
        },
        delta_limits: delta_limits.as_ref().map(slice).transpose()?,
    };
    let batch = released(py, cancel, |stop| blockvault_core::encode(&what, stop))?;
    BlockBatch::new(py, batch)
}
