//! The Python face of the core. Every verb is three steps: take borrowed or owned Rust values, release the GIL
//! once and call the core, hand the result over without a copy. Nothing is decided here.

mod apply;
mod batches;
mod clear;
mod convert;
mod copy_range;
mod decode;
mod encode;
mod encrypt;
mod errors;
mod identify;
mod scan;

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What this build is: version, profile, instruction sets in use, threads worth starting.
#[pyfunction]
fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", blockvault_core::VERSION)?;
    info.set_item("profile", blockvault_core::PROFILE)?;
    info.set_item("simd", blockvault_core::simd())?;
    info.set_item("threads", std::thread::available_parallelism().map_or(1, std::num::NonZero::get))?;
    Ok(info)
}

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", blockvault_core::VERSION)?;
    module.add("ERROR_KINDS", blockvault_core::ERROR_KINDS.to_vec())?;
    module.add_class::<batches::CancelToken>()?;
    module.add_class::<batches::ScanBatch>()?;
    module.add_class::<batches::PlainBatch>()?;
    module.add_class::<batches::BlockBatch>()?;
    module.add_function(wrap_pyfunction!(build_info, module)?)?;
    module.add_function(wrap_pyfunction!(scan::scan, module)?)?;
    module.add_function(wrap_pyfunction!(identify::identify, module)?)?;
    module.add_function(wrap_pyfunction!(identify::identify_plain, module)?)?;
    module.add_function(wrap_pyfunction!(encode::encode, module)?)?;
    module.add_function(wrap_pyfunction!(encrypt::encrypt, module)?)?;
    module.add_function(wrap_pyfunction!(decode::decode, module)?)?;
    module.add_function(wrap_pyfunction!(apply::apply, module)?)?;
    module.add_function(wrap_pyfunction!(clear::clear, module)?)?;
    module.add_function(wrap_pyfunction!(copy_range::copy_range, module)?)?;
    Ok(())
}
