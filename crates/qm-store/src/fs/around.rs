//! Reading past what a disk can no longer read.

use std::io;
use std::ops::Range;

use super::File;

/// What is left out at once around a place that cannot be read: what operating systems read and
/// cache together.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// What became of [`read_around`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Around {
    /// Bytes of the buffer that are of the file, as from [`File::read_at`]. Those in `unreadable`
    /// are zeros.
    pub filled: usize,
    /// What the disk did not give, in offsets of the file, in order.
    pub unreadable: Vec<Range<u64>>,
}

/// Reads like [`File::read_at`], but leaves zeros where the disk says that it cannot read, and
/// tells where that is. Everything else costs nothing extra: only what failed is asked for again,
/// page by page.
///
/// # Errors
/// Whatever is not the disk failing to read a place.
pub fn read_around(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<Around> {
    let mut around = Around::default();
    match file.read_at(buffer, offset) {
        Ok(filled) => {
            around.filled = filled;
            return Ok(around);
        }
        Err(error) if is_unreadable(&error) => {}
        Err(error) => return Err(error),
    }
    let left = file.len()?.saturating_sub(offset);
    let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    while around.filled < wanted {
        let at = offset + around.filled as u64;
        let count = PAGE_BYTES - at % PAGE_BYTES;
        let count = usize::try_from(count).unwrap_or(1);
        let end = around.filled.saturating_add(count).min(wanted);
        let part = &mut buffer[around.filled..end];
        match file.read_at(part, at) {
            Ok(filled) if filled < part.len() => {
                around.filled += filled;
                break;
            }
            Ok(_) => {}
            Err(error) if is_unreadable(&error) => {
                part.fill(0);
                note(&mut around.unreadable, at..at + part.len() as u64);
            }
            Err(error) => return Err(error),
        }
        around.filled = end;
    }
    Ok(around)
}

/// Adds what follows or lies behind the rest.
fn note(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// Whether an error says that the device, or the file system's checksum, does not give what
/// stands at a place. It says nothing of other places.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    let Some(code) = error.raw_os_error() else {
        return false;
    };
    if cfg!(target_os = "linux") {
        // EIO; what block devices and file systems say beside it: ENODATA (a medium error),
        // EILSEQ (protection information), EBADMSG and EUCLEAN (a checksum of the file system).
        matches!(code, 5 | 61 | 74 | 84 | 117)
    } else if cfg!(windows) {
        // ERROR_CRC, ERROR_SECTOR_NOT_FOUND, ERROR_READ_FAULT, ERROR_IO_DEVICE.
        matches!(code, 23 | 27 | 30 | 1117)
    } else {
        // EIO, the same number on every Unix.
        code == 5
    }
}

/// What a simulated disk answers for a place it cannot read.
pub(in crate::fs) fn unreadable() -> io::Error {
    io::Error::from_raw_os_error(if cfg!(windows) { 1117 } else { 5 })
}
