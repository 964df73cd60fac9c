//! Reading disk images and packs: exact reads, and where data lies in a sparse file.
//!
//! A read that ends early is an error, never a short answer. Holes are found with `SEEK_DATA`; that moves the
//! descriptor's own position, which nothing in this program uses, and its answer does not depend on that position,
//! so several threads may ask at once.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Fills the buffer from the file at `offset`.
pub(crate) fn read_exactly(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(Error::Shrunk { fd: fd.as_raw_fd(), offset: offset + done as u64 }),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(fd, offset + done as u64, errno)),
        }
    }
    Ok(())
}

/// The first byte at or after `position` that may be data; none if all up to `end` is a hole. A device cannot tell:
/// there everything is data.
pub(crate) fn next_data(fd: BorrowedFd<'_>, position: u64, end: u64) -> Result<Option<u64>> {
    if position >= end {
        return Ok(None);
    }
    match rustix::fs::seek(fd, SeekFrom::Data(position)) {
        Ok(data) => Ok(Some(data.max(position)).filter(|data| *data < end)),
        Err(Errno::NXIO) => {
            // No data from here to the end of the file: a hole, or the file has become too short.
            let size = rustix::fs::seek(fd, SeekFrom::End(0)).map_err(|errno| failed(fd, position, errno))?;
            if size < end { Err(Error::Shrunk { fd: fd.as_raw_fd(), offset: size }) } else { Ok(None) }
        }
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(position)),
        Err(errno) => Err(failed(fd, position, errno)),
    }
}

/// Where the data that lies at `position` ends, at most at `end`.
pub(crate) fn data_end(fd: BorrowedFd<'_>, position: u64, end: u64) -> Result<u64> {
    match rustix::fs::seek(fd, SeekFrom::Hole(position)) {
        Ok(hole) if hole > position => Ok(hole.min(end)),
        Err(Errno::NXIO) => Err(Error::Shrunk { fd: fd.as_raw_fd(), offset: position }),
        // A file that cannot tell, or has no notion of position.
        Ok(_) | Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(end),
        Err(errno) => Err(failed(fd, position, errno)),
    }
}

/// Lets the system forget the cached pages of a range. Only advice: what it answers does not matter.
pub(crate) fn drop_cache(fd: BorrowedFd<'_>, offset: u64, length: u64) {
    let _ = rustix::fs::fadvise(fd, offset, std::num::NonZeroU64::new(length), Advice::DontNeed);
}

fn failed(fd: BorrowedFd<'_>, offset: u64, errno: Errno) -> Error {
    Error::Read { fd: fd.as_raw_fd(), offset, errno: errno.raw_os_error() }
}
