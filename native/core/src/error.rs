//! The ways in which the core can fail.
//!
//! The policy: what the caller did wrong is `BadArgument` and nothing was done; what the system refused carries the
//! descriptor, the byte offset and the system's number; damage in a pack is no error at all but a status of its
//! block. Each error has a kind, a stable string that scripts may test; the binding turns it into an exception.

use std::fmt;
use std::os::fd::RawFd;

/// What most functions here return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call ended without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An argument makes no sense; it names which and why.
    BadArgument(String),
    /// Stopped on request.
    Cancelled,
    /// The system could not read.
    Read {
        /// The file, device or pipe.
        fd: RawFd,
        /// The first byte that could not be read.
        offset: u64,
        /// The system's number.
        errno: i32,
    },
    /// The source ends inside the disk: it became shorter.
    Shrunk {
        /// The file or device.
        fd: RawFd,
        /// Where it ends now.
        offset: u64,
    },
    /// The system could not write.
    Write {
        /// The file, device or pipe.
        fd: RawFd,
        /// The first byte that could not be written; a pipe has none.
        offset: Option<u64>,
        /// The system's number.
        errno: i32,
    },
    /// An invariant of the core did not hold.
    Internal(String),
}

/// Every kind that `Error::kind` can answer; the Python side is held equal to it by a test.
pub const ERROR_KINDS: [&str; 7] = [
    "native.bad-argument",
    "job.cancelled",
    "image.read-error",
    "image.changed",
    "target.write-error",
    "target.no-space",
    "native.internal",
];

impl Error {
    /// The stable name of this way to fail.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadArgument(_) => "native.bad-argument",
            Self::Cancelled => "job.cancelled",
            Self::Read { .. } => "image.read-error",
            Self::Shrunk { .. } => "image.changed",
            Self::Write { errno, .. } if [libc::ENOSPC, libc::EDQUOT].contains(errno) => "target.no-space",
            Self::Write { .. } => "target.write-error",
            Self::Internal(_) => "native.internal",
        }
    }

    /// The message, with the file called by `name`.
    pub fn message(&self, name: &str) -> String {
        match self {
            Self::BadArgument(why) | Self::Internal(why) => why.clone(),
            Self::Cancelled => "stopped on request".to_owned(),
            Self::Read { offset, .. } => format!("cannot read {name} at byte {offset}"),
            Self::Shrunk { offset, .. } => {
                format!("{name} ends at byte {offset}, before the end of the disk")
            }
            Self::Write { offset: Some(offset), .. } => format!("cannot write {name} at byte {offset}"),
            Self::Write { offset: None, .. } => format!("cannot write {name}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { fd, .. } | Self::Shrunk { fd, .. } | Self::Write { fd, .. } => {
                out.write_str(&self.message(&format!("file descriptor {fd}")))
            }
            _ => out.write_str(&self.message("")),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_listed_kind_and_every_kind_an_error() {
        let write = |errno| Error::Write { fd: 3, offset: Some(4096), errno };
        let errors = [
            Error::BadArgument("level must be from 1 to 19".into()),
            Error::Cancelled,
            Error::Read { fd: 3, offset: 4096, errno: libc::EIO },
            Error::Shrunk { fd: 3, offset: 4096 },
            write(libc::EIO),
            write(libc::ENOSPC),
            write(libc::EDQUOT),
            Error::Internal("odd".into()),
        ];
        let mut kinds: Vec<_> = errors.iter().map(Error::kind).collect();
        kinds.dedup();
        assert_eq!(kinds, ERROR_KINDS);
    }

    #[test]
    fn messages_name_the_file_and_the_byte() {
        let error = Error::Read { fd: 3, offset: 4096, errno: libc::EIO };
        assert_eq!(error.message("/a.img"), "cannot read /a.img at byte 4096");
        assert_eq!(error.to_string(), "cannot read file descriptor 3 at byte 4096");
    }
}
