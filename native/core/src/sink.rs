//! Writing restore targets: whole writes, ranges that must read as zeros, copies that leave holes alone.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FallocateFlags, FileType};
use rustix::io::Errno;

use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::pool::Buffer;
use crate::source::{data_end, next_data, read_exactly};
use crate::types::{Cleared, OFFSET_END};

/// How much is copied between two looks at the cancel token.
const COPY_BYTES: usize = 16 << 20;
/// How much is copied by hand at once.
const HAND_BYTES: usize = 1 << 20;
/// A device clears whole sectors; no sector is larger than this.
const SECTOR_BYTES: u64 = 4096;

/// Writes all pieces one after the other from `offset` on, however often the system takes only a part.
pub(crate) fn write_gathered(
    fd: BorrowedFd<'_>,
    mut pieces: &mut [IoSlice<'_>],
    mut offset: u64,
) -> Result<()> {
    while !pieces.is_empty() {
        match rustix::io::pwritev(fd, pieces, offset) {
            Ok(0) => return Err(failed(fd, Some(offset), Errno::IO)),
            Ok(count) => {
                offset += count as u64;
                IoSlice::advance_slices(&mut pieces, count);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(fd, Some(offset), errno)),
        }
    }
    Ok(())
}

/// Writes all bytes to a pipe, or to a file at its position. Between parts it asks `stop`; a signal ends the wait.
pub(crate) fn write_stream(fd: BorrowedFd<'_>, mut bytes: &[u8], stop: &Stop<'_>) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => stop.ask()?,
            Err(Errno::AGAIN) => {
                stop.ask()?;
                match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(failed(fd, None, errno)),
                }
            }
            Err(errno) => return Err(failed(fd, None, errno)),
        }
    }
    Ok(())
}

/// Makes a range read as zeros, freeing its space where the file system or device can.
pub fn clear(fd: BorrowedFd<'_>, offset: u64, byte_count: u64) -> Result<Cleared> {
    let end = range_end(offset, byte_count)?;
    let is_device = rustix::fs::fstat(fd)
        .map(|stat| FileType::from_raw_mode(stat.st_mode).is_block_device())
        .map_err(|errno| failed(fd, Some(offset), errno))?;
    // A device takes only whole sectors; its ragged ends are written.
    let align = if is_device { SECTOR_BYTES } else { 1 };
    let (start, stop) = (offset.next_multiple_of(align), end / align * align);
    let ways = [
        (Cleared::Punch, FallocateFlags::PUNCH_HOLE, true),
        // On a device the kernel carries this out as BLKZEROOUT: by the device itself, or by writing.
        (Cleared::Zeroout, FallocateFlags::ZERO_RANGE, is_device),
    ];
    for (how, flags, possible) in ways {
        if possible && start < stop {
            match rustix::fs::fallocate(fd, flags | FallocateFlags::KEEP_SIZE, start, stop - start) {
                Ok(()) => {
                    write_zeros(fd, offset, start)?;
                    write_zeros(fd, stop, end)?;
                    return Ok(how);
                }
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV | Errno::PERM) => {}
                Err(errno) => return Err(failed(fd, Some(start), errno)),
            }
        }
    }
    write_zeros(fd, offset, end)?;
    Ok(Cleared::Write)
}

/// Copies the data extents of a range to the same place in another file; holes are left out. Answers the bytes
/// copied. The kernel copies where it can, sharing the blocks if the file system does.
pub fn copy_range(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    offset: u64,
    byte_count: u64,
    stop: &Stop<'_>,
) -> Result<u64> {
    let end = range_end(offset, byte_count)?;
    let mut copied = 0;
    let mut position = offset;
    let mut by_hand = false;
    while let Some(data) = next_data(source, position, end)? {
        let hole = data_end(source, data, end)?;
        position = data;
        while position < hole {
            stop.check()?;
            let length = (hole - position).min(COPY_BYTES as u64) as usize;
            let moved = if by_hand { 0 } else { copy_in_kernel(source, target, position, length) };
            // Not between these two files: copy by hand, which tells the true error if there is one.
            by_hand = moved == 0;
            if by_hand {
                copy_by_hand(source, target, position, length)?;
            }
            position += if by_hand { length as u64 } else { moved };
        }
        start_write_back(target, data, hole);
        copied += hole - data;
    }
    Ok(copied)
}

fn copy_in_kernel(source: BorrowedFd<'_>, target: BorrowedFd<'_>, position: u64, length: usize) -> u64 {
    let (mut from, mut to) = (position, position);
    rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length).unwrap_or(0) as u64
}

fn copy_by_hand(source: BorrowedFd<'_>, target: BorrowedFd<'_>, position: u64, length: usize) -> Result<()> {
    let mut buffer = Buffer::take(length.min(HAND_BYTES));
    for done in (0..length).step_by(HAND_BYTES) {
        let piece = &mut buffer[..(length - done).min(HAND_BYTES)];
        read_exactly(source, piece, position + done as u64)?;
        write_gathered(target, &mut [IoSlice::new(piece)], position + done as u64)?;
    }
    Ok(())
}

/// Starts writing a range to the device, so that the sync at the end finds little left. Only a hint: a failure of the
/// device is told by that sync.
pub(crate) fn start_write_back(fd: BorrowedFd<'_>, start: u64, end: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(start), i64::try_from(end.saturating_sub(start))) else {
        return;
    };
    if length > 0 {
        // SAFETY: the descriptor is open for as long as it is borrowed, and the call touches no memory of ours.
        #[allow(unsafe_code)]
        unsafe {
            libc::sync_file_range(fd.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE);
        }
    }
}

fn write_zeros(fd: BorrowedFd<'_>, start: u64, stop: u64) -> Result<()> {
    static ZEROS: [u8; HAND_BYTES] = [0; HAND_BYTES];
    let mut position = start;
    while position < stop {
        let length = (stop - position).min(HAND_BYTES as u64);
        write_gathered(fd, &mut [IoSlice::new(&ZEROS[..length as usize])], position)?;
        position += length;
    }
    Ok(())
}

fn range_end(offset: u64, byte_count: u64) -> Result<u64> {
    offset
        .checked_add(byte_count)
        .filter(|end| *end < OFFSET_END)
        .ok_or_else(|| Error::BadArgument("the range is out of bounds".to_owned()))
}

fn failed(fd: BorrowedFd<'_>, offset: Option<u64>, errno: Errno) -> Error {
    Error::Write { fd: fd.as_raw_fd(), offset, errno: errno.raw_os_error() }
}
