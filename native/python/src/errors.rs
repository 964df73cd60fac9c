//! The one place where an error of the core becomes an exception of `blockvault.errors`.

use blockvault_core::Error;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception for an error: its class says what a handler would do, its `kind` is the core's.
pub(crate) fn raised(py: Python<'_>, error: &Error) -> PyErr {
    build(py, error).unwrap_or_else(|failure| failure)
}

/// An argument that makes no sense.
pub(crate) fn bad_argument(py: Python<'_>, why: String) -> PyErr {
    raised(py, &Error::BadArgument(why))
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = match error {
        Error::BadArgument(_) => "InvalidInputError",
        Error::Cancelled => "CancelledError",
        Error::Read { .. } | Error::Shrunk { .. } | Error::Write { .. } => "DeviceError",
        Error::Internal(_) => "InternalError",
    };
    let (fd, why, errno) = match error {
        Error::Read { fd, errno, .. } | Error::Write { fd, errno, .. } => (*fd, system_text(*errno), *errno),
        // The disk's bytes cannot be had: for a handler of system errors that is an input/output error.
        Error::Shrunk { fd, .. } => (*fd, "it became shorter while it was read".to_owned(), EIO),
        Error::BadArgument(_) | Error::Cancelled | Error::Internal(_) => (-1, String::new(), 0),
    };
    let name = path_of(fd);
    let details = PyDict::new(py);
    if errno != 0 {
        details.set_item("why", why)?;
        details.set_item("errno", errno)?;
        details.set_item("filename", &name)?;
    }
    let class = py.import("blockvault.errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call((error.kind(), error.message(&name)), Some(&details))?))
}

const EIO: i32 = 5;

/// The path behind a descriptor, for messages.
fn path_of(fd: i32) -> String {
    match std::fs::read_link(format!("/proc/self/fd/{fd}")) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(_) => format!("file descriptor {fd}"),
    }
}

/// The system's own words for an error number.
fn system_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
