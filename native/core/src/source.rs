//! Reading disk images and packs: exact reads, and where data lies in a sparse file.
//!
//! A read that ends early is an error, never a short answer. Holes are found with `SEEK_DATA`; that moves the
//! descriptor's own position, which nothing in this program uses, and its answer does not depend on that position,
//! so several threads may ask at once.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use crate::error::{Error, Result};

/// `RWF_DONTCACHE` (Linux 6.14): what the page cache held stays there, what the read brought in does not.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Fills the buffer from the file at `offset`.
pub(crate) fn read_exactly(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<()> {
    read_by(fd, buffer, offset, |rest, at| rustix::io::pread(fd, rest, at))
}

/// A file of which a read may have to leave no pages behind in the system's cache.
pub(crate) struct Source<'a> {
    fd: BorrowedFd<'a>,
    drop_cache: bool,
    /// The file system (or the kernel) does not know `RWF_DONTCACHE`.
    refused: AtomicBool,
}

impl<'a> Source<'a> {
    /// With `drop_cache` pages that a read brings into the cache are let go of; where the system cannot tell them from
    /// those that were there before, both are.
    pub(crate) fn new(fd: BorrowedFd<'a>, drop_cache: bool) -> Self {
        Self { fd, drop_cache, refused: AtomicBool::new(false) }
    }

    /// Fills the buffer from the file at `offset`.
    pub(crate) fn read_exactly(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if !self.drop_cache || self.refused.load(Ordering::Relaxed) {
            return read_exactly(self.fd, buffer, offset);
        }
        read_by(self.fd, buffer, offset, |rest, at| {
            match rustix::io::preadv2(self.fd, &mut [IoSliceMut::new(rest)], at, DONT_CACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.refused.store(true, Ordering::Relaxed);
                    rustix::io::pread(self.fd, rest, at)
                }
                done => done,
            }
        })
    }

    /// To be called when a range was read and is not needed again.
    pub(crate) fn done_with(&self, offset: u64, length: u64) {
        if self.drop_cache && self.refused.load(Ordering::Relaxed) {
            drop_cache(self.fd, offset, length);
        }
    }
}

fn read_by(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
    read: impl Fn(&mut [u8], u64) -> rustix::io::Result<usize>,
) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match read(&mut buffer[done..], offset + done as u64) {
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
fn drop_cache(fd: BorrowedFd<'_>, offset: u64, length: u64) {
    let _ = rustix::fs::fadvise(fd, offset, std::num::NonZeroU64::new(length), Advice::DontNeed);
}

fn failed(fd: BorrowedFd<'_>, offset: u64, errno: Errno) -> Error {
    Error::Read { fd: fd.as_raw_fd(), offset, errno: errno.raw_os_error() }
}
