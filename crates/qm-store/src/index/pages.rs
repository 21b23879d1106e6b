//! Where cold parts of the index are while nobody asks for them: a scratch file.
//!
//! It is a cache: begun anew by every process, never flushed, and nothing relies on it. What is
//! read back counts only if it has the keyed hash that memory kept; otherwise the segments are
//! read again, which hold the same.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::fs::{File, Fs};

use super::stream::Entry;

/// Pages start and end at multiples of this.
const UNIT: u32 = 64;
/// Pages kept decoded for whoever asks next.
const MEMO: usize = 8;
/// How many chunks are completed before a disk that gave no room is asked again.
const PATIENCE: u32 = 4096;
/// Name of the file.
pub(crate) const PAGES_NAME: &str = "index.pages";

/// Where a page is, and what tells it from anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    hash: u64,
    unit: u32,
    bytes: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Pages {
    place: Option<Place>,
    key: [u8; 32],
    /// Chunks in memory.
    pub(super) hot: usize,
    /// How many of them may be, beside the newest of each stream.
    hot_max: usize,
    waiting: u32,
    free: std::collections::BTreeMap<u32, Vec<u32>>,
    used_units: u64,
    next_unit: u32,
    memo: Mutex<Memo>,
    /// Whether a test of the tests wants whatever is read to be believed.
    credulous: bool,
}

#[derive(Debug)]
struct Place {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    file: Option<Arc<dyn File>>,
}

#[derive(Debug, Default)]
struct Memo {
    pages: [Option<(Page, Arc<[Entry]>)>; MEMO],
    next: usize,
}

impl Pages {
    /// Pages beyond `hot_max` chunks go to a file at `path`; `salts` are unpredictable.
    pub(crate) fn new(
        fs: Arc<dyn Fs>,
        path: PathBuf,
        salts: [u64; 4],
        hot_max: usize,
        credulous: bool,
    ) -> Self {
        let mut key = [0; 32];
        for (part, salt) in key.chunks_exact_mut(8).zip(salts) {
            part.copy_from_slice(&salt.to_le_bytes());
        }
        let place = Some(Place {
            fs,
            path,
            file: None,
        });
        Self {
            place,
            key,
            hot_max,
            credulous,
            ..Self::default()
        }
    }

    /// Whether something should leave memory. `newest` chunks must stay.
    pub(super) fn is_crowded(&mut self, newest: usize) -> bool {
        if self.place.is_none() || self.hot <= self.hot_max + newest {
            return false;
        }
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting == 0
    }

    /// Writes a page; `None` when that did not work and it has to stay in memory.
    pub(super) fn store(&mut self, entries: &[Entry]) -> Option<Page> {
        let mut bytes = Vec::with_capacity(4 * entries.len());
        encode(entries, &mut bytes);
        let units = u32::try_from(bytes.len()).ok()?.div_ceil(UNIT);
        let hash = self.hash(&bytes);
        let reused = self.free.get_mut(&units).and_then(Vec::pop);
        let unit = reused.unwrap_or(self.next_unit);
        let after = unit.checked_add(units);
        let written = after.is_some() && self.write(&bytes, unit);
        if !written {
            if reused.is_some() {
                self.free.entry(units).or_default().push(unit);
            }
            self.waiting = PATIENCE;
            return None;
        }
        if reused.is_none() {
            self.next_unit = after.unwrap_or(u32::MAX);
        }
        self.used_units += u64::from(units);
        Some(Page {
            hash,
            unit,
            bytes: u32::try_from(bytes.len()).ok()?,
        })
    }

    fn write(&mut self, bytes: &[u8], unit: u32) -> bool {
        let Some(place) = &mut self.place else {
            return false;
        };
        let file = match &place.file {
            Some(file) => Arc::clone(file),
            None => match place.fs.open(&place.path, true) {
                Ok(file) => {
                    place.file = Some(Arc::clone(&file));
                    file
                }
                Err(_) => return false,
            },
        };
        file.write_at(bytes, u64::from(unit) * u64::from(UNIT))
            .is_ok()
    }

    /// The room of a page may be used for another.
    pub(super) fn release(&mut self, page: Page) {
        let units = page.bytes.div_ceil(UNIT);
        self.free.entry(units).or_default().push(page.unit);
        self.used_units = self.used_units.saturating_sub(u64::from(units));
        if self.used_units == 0 {
            self.free.clear();
            self.next_unit = 0;
        }
    }

    /// What a page holds; `None` when it is not what was written.
    pub(super) fn load(&self, page: Page) -> Option<Arc<[Entry]>> {
        {
            let memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
            let mut known = memo.pages.iter().flatten();
            if let Some((_, entries)) = known.find(|(known, _)| *known == page) {
                return Some(Arc::clone(entries));
            }
        }
        let file = self.place.as_ref()?.file.as_ref()?;
        let mut bytes = vec![0; page.bytes as usize];
        let filled = file
            .read_at(&mut bytes, u64::from(page.unit) * u64::from(UNIT))
            .ok()?;
        let whole = filled == bytes.len() && self.hash(&bytes) == page.hash;
        if !whole && !self.credulous {
            return None;
        }
        let entries: Arc<[Entry]> = decode(&bytes)?.into();
        let mut memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
        let at = memo.next % MEMO;
        memo.pages[at] = Some((page, Arc::clone(&entries)));
        memo.next = at + 1;
        Some(entries)
    }

    /// Gives the file back when nothing is in it; returns whether it was there.
    pub(crate) fn trim(&mut self) -> bool {
        if self.used_units > 0 {
            return false;
        }
        let Some(place) = &mut self.place else {
            return false;
        };
        // A file that cannot be removed is emptied by the next process.
        place.file.take().is_some() && place.fs.remove(&place.path).is_ok()
    }

    /// Bytes of the file.
    pub(crate) const fn disk_bytes(&self) -> u64 {
        self.next_unit as u64 * UNIT as u64
    }

    /// Bytes in memory, chunks apart.
    pub(super) fn memory_bytes(&self) -> usize {
        let free: usize = self.free.values().map(|free| 4 * free.capacity()).sum();
        let memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
        let known = memo.pages.iter().flatten();
        let known: usize = known
            .map(|(_, entries)| entries.len() * size_of::<Entry>())
            .sum();
        free + known
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.key, bytes);
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

const STEPS: u8 = 1;
const MOVES: u8 = 2;
const JUMPS: u8 = 4;
const RESIZES: u8 = 8;

/// Live entries only; what is as after the entry before takes no bytes.
fn encode(entries: &[Entry], out: &mut Vec<u8>) {
    let mut last = Entry::default();
    for entry in entries.iter().filter(|entry| entry.is_live()) {
        let flags_at = out.len();
        let mut flags = 0;
        out.push(0);
        let step = entry.delta.wrapping_sub(last.delta);
        if step != 1 {
            flags |= STEPS;
            put_varint(out, u64::from(step));
        }
        if entry.slot != last.slot {
            flags |= MOVES;
            put_varint(out, u64::from(entry.slot));
        }
        if entry.offset != last.offset.wrapping_add(last.length) {
            flags |= JUMPS;
            put_varint(out, u64::from(entry.offset));
        }
        if entry.length != last.length {
            flags |= RESIZES;
            put_varint(out, u64::from(entry.length));
        }
        out[flags_at] = flags;
        last = *entry;
    }
}

fn decode(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::with_capacity(super::stream::CHUNK);
    let mut last = Entry::default();
    while let Some((flags, rest)) = bytes.split_first() {
        bytes = rest;
        let mut field = |bit: u8, default: u32| -> Option<u32> {
            if flags & bit == 0 {
                return Some(default);
            }
            u32::try_from(take_varint(&mut bytes)?).ok()
        };
        let step = u16::try_from(field(STEPS, 1)?).ok()?;
        let slot = u16::try_from(field(MOVES, u32::from(last.slot))?).ok()?;
        let offset = field(JUMPS, last.offset.wrapping_add(last.length))?;
        let length = field(RESIZES, last.length)?;
        last = Entry {
            offset,
            length,
            delta: last.delta.wrapping_add(step),
            slot,
        };
        entries.push(last);
    }
    Some(entries)
}

/// Seven bits a byte, the lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Takes what [`put_varint`] put; `None` when it is not that.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimFs;

    fn entries() -> Vec<Entry> {
        (0u16..600)
            .map(|n| Entry {
                offset: 1600 + u32::from(n) * 40 + u32::from(n / 100) * 4,
                length: 36 + u32::from(n % 7 == 0) * 100_000,
                delta: n * 3,
                slot: n / 300,
            })
            .collect()
    }

    fn pages(fs: &Arc<SimFs>) -> Pages {
        let fs: Arc<dyn Fs> = Arc::clone(fs) as Arc<dyn Fs>;
        Pages::new(fs, "/p".into(), [1, 2, 3, 4], 0, false)
    }

    #[test]
    fn pages_come_back_as_they_went_and_their_room_is_used_again() {
        let fs = Arc::new(SimFs::new());
        let mut pages = pages(&fs);
        let all = entries();
        let one = pages.store(&all).unwrap();
        let other = pages.store(&all[..9]).unwrap();
        assert_eq!(*pages.load(one).unwrap(), all);
        assert_eq!(*pages.load(other).unwrap(), all[..9]);
        let size = pages.disk_bytes();
        pages.release(one);
        let again = pages.store(&all).unwrap();
        assert_eq!(pages.disk_bytes(), size);
        assert_eq!(*pages.load(again).unwrap(), all);
        assert!(!pages.trim());
        pages.release(again);
        pages.release(other);
        assert!(pages.trim());
        assert!(fs.content(std::path::Path::new("/p")).is_none());
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let fs = Arc::new(SimFs::new());
        let path = std::path::Path::new("/p");
        let mut pages = pages(&fs);
        let page = pages.store(&entries()[..40]).unwrap();
        let bytes = fs.content(path).unwrap().len() as u64;
        for offset in 0..bytes {
            for bit in 0..8 {
                assert!(fs.flip(path, offset, bit));
                assert!(pages.load(page).is_none(), "offset {offset} bit {bit}");
                assert!(fs.flip(path, offset, bit));
            }
        }
        assert!(pages.load(page).is_some());
    }

    #[test]
    fn whatever_bytes_are_decoded_they_cannot_do_harm() {
        let mut random = 9u64;
        for _ in 0..20_000 {
            let mut bytes = [0u8; 24];
            for byte in &mut bytes {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = (random >> 56) as u8;
            }
            if let Some(entries) = decode(&bytes) {
                assert!(entries.len() <= bytes.len());
            }
        }
    }
}
