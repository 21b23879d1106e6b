//! Hints: what a scan of a complete segment finds, in a file a hundredth of its size, so that
//! opening need not read the bodies of what waits.
//!
//! A hint is a cache. It is not flushed; it counts only if it has the length and the hash that
//! the segment's seal, which was flushed, has of it. Otherwise the segment is scanned.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{DATA_AT, Kind, RECORD_BYTES, STEP, narrow};
use crate::fs::Fs;
use crate::index::{Index, Location, Slot, put_varint, take_varint};
use crate::side::SideBody;
use crate::types::{KEY_BYTES_MAX, StreamId};

/// What a seal says of the hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HintMark {
    pub(crate) bytes: u32,
    /// The first bytes of its BLAKE3 hash.
    pub(crate) hash: [u8; 12],
}

impl HintMark {
    fn of(content: &[u8]) -> Option<Self> {
        let hash = blake3::hash(content);
        let mut first = [0; 12];
        first.copy_from_slice(&hash.as_bytes()[..12]);
        Some(Self {
            bytes: u32::try_from(content.len()).ok()?,
            hash: first,
        })
    }
}

const MAGIC: &[u8] = b"qmhint\0\x01";
const KIND: u8 = 7;
const PUT: u8 = 0;
const SIDE_PUT: u8 = 1;
const REMOVE: u8 = 2;
const SET: u8 = 3;
const UNSET: u8 = 4;
const CARRIED: u8 = 8;
/// The stream is another than before.
const STREAM: u8 = 16;
/// The position does not follow the one before.
const POSITION: u8 = 32;
/// Something stands between it and the record before.
const GAP: u8 = 64;
/// The length is another than before.
const LENGTH: u8 = 128;

/// What a record does to the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Put {
        stream: StreamId,
        position: u64,
        carried: bool,
        side: Option<SideBody>,
    },
    Remove {
        stream: StreamId,
        first: u64,
        last: u64,
    },
    Set {
        key: Bytes,
        carried: bool,
    },
    Unset {
        key: Bytes,
    },
}

impl Effect {
    /// What stands before `at` in its segment was applied. The segment's end says so until the
    /// caller sets it: were a cold part of the index read out of the log again on the way, it must
    /// show what memory shows, and not what comes next.
    pub(crate) fn apply(self, index: &mut Index, at: Location) -> Result<(), StoreError> {
        index.segments.get_mut(at.slot).end = at.offset;
        match self {
            Self::Put {
                stream,
                position,
                carried,
                side,
            } => {
                index.segments.get_mut(at.slot).puts += u64::from(!carried);
                index.put(stream, position, at, side)?;
            }
            Self::Remove {
                stream,
                first,
                last,
            } => index.remove(stream, first, last, at.slot)?,
            Self::Set { key, .. } => index.set(key, at),
            Self::Unset { key } => index.unset(&key, at.slot),
        }
        Ok(())
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Before {
    end: u32,
    length: u32,
    stream: u32,
    position: u64,
}

/// Gathers the hint of the segment being written.
#[derive(Debug, Default)]
pub(crate) struct HintWriter {
    /// Whose hint it is; none has the number 0.
    sequence: u64,
    out: Vec<u8>,
    before: Before,
    /// Something was not told: there will be no hint.
    broken: bool,
}

impl HintWriter {
    /// For the segment of this number, of which nothing was told so far.
    pub(crate) fn new(sequence: u64) -> Self {
        Self {
            sequence,
            ..Self::default()
        }
    }

    /// There will be no hint.
    pub(crate) fn broken() -> Self {
        Self {
            broken: true,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, effect: &Effect, at: Location) {
        if self.broken {
            return;
        }
        let before = self.before;
        let at_flags = self.out.len();
        self.out.push(0);
        let carried_flag = |carried: bool| if carried { CARRIED } else { 0 };
        let mut flags = match effect {
            Effect::Put {
                side: None,
                carried,
                ..
            } => PUT | carried_flag(*carried),
            Effect::Put { carried, .. } => SIDE_PUT | carried_flag(*carried),
            Effect::Remove { .. } => REMOVE,
            Effect::Set { carried, .. } => SET | carried_flag(*carried),
            Effect::Unset { .. } => UNSET,
        };
        if at.offset != before.end {
            flags |= GAP;
            let gap = at.offset.wrapping_sub(before.end) / STEP;
            put_varint(&mut self.out, u64::from(gap));
        }
        if at.bytes != before.length {
            flags |= LENGTH;
            put_varint(&mut self.out, u64::from(at.bytes / STEP));
        }
        self.before.end = at.offset.wrapping_add(at.bytes);
        self.before.length = at.bytes;
        if let Effect::Put {
            stream, position, ..
        }
        | Effect::Remove {
            stream,
            first: position,
            ..
        } = effect
        {
            if stream.0 != before.stream {
                flags |= STREAM;
                put_varint(&mut self.out, u64::from(stream.0));
            }
            let expected = before.position.wrapping_add(1);
            if *position != expected {
                flags |= POSITION;
                put_varint(&mut self.out, fold(position.wrapping_sub(expected)));
            }
            self.before.stream = stream.0;
            // Removals run beside the puts: each kind would break the other's run.
            if matches!(effect, Effect::Put { .. }) {
                self.before.position = *position;
            }
        }
        match effect {
            Effect::Put {
                side: Some(side), ..
            } => {
                put_varint(&mut self.out, side.number);
                put_varint(&mut self.out, side.bytes);
                put_varint(&mut self.out, side.salt);
            }
            Effect::Put { .. } => {}
            Effect::Remove { first, last, .. } => {
                put_varint(&mut self.out, last.wrapping_sub(*first));
            }
            Effect::Set { key, .. } | Effect::Unset { key } => {
                put_varint(&mut self.out, key.len() as u64);
                self.out.extend_from_slice(key);
            }
        }
        self.out[at_flags] = flags;
    }

    /// Writes the hint of a segment and returns what the seal shall say of it; `None` when there
    /// is none, or what was gathered is another's.
    pub(crate) fn write(self, sequence: u64, fs: &dyn Fs, path: &Path) -> Option<HintMark> {
        if self.broken || self.sequence != sequence {
            return None;
        }
        let mut content = MAGIC.to_vec();
        content.extend_from_slice(&self.out);
        let mark = HintMark::of(&content)?;
        let file = fs.open(path, true).ok()?;
        file.write_at(&content, 0).ok()?;
        Some(mark)
    }
}

/// Small differences, up or down, become small numbers.
pub(crate) const fn fold(difference: u64) -> u64 {
    (difference << 1) ^ (0u64.wrapping_sub(difference >> 63))
}

pub(crate) const fn unfold(folded: u64) -> u64 {
    (folded >> 1) ^ (0u64.wrapping_sub(folded & 1))
}

/// The hint of a segment file.
pub(crate) fn hint_path(segment: &Path) -> PathBuf {
    segment.with_extension("hint")
}

/// Reads the hint a seal vouches for. `None` when there is none, or another, unless a test of
/// the tests wants it to be believed.
pub(crate) fn read(fs: &dyn Fs, path: &Path, mark: HintMark, credulous: bool) -> Option<Vec<u8>> {
    let file = fs.open(path, false).ok()?;
    let mut content = vec![0; mark.bytes as usize];
    let filled = file.read_at(&mut content, 0).ok()?;
    let whole = filled == content.len() && HintMark::of(&content) == Some(mark);
    (whole || credulous).then_some(content)
}

/// Takes what a hint says apart; `None` ends it early: it is not one.
pub(crate) struct HintReader<'a> {
    rest: &'a [u8],
    before: Before,
    slot: Slot,
    /// Where the segment ends.
    end: u32,
}

impl<'a> HintReader<'a> {
    pub(crate) fn new(content: &'a [u8], slot: Slot, end: u32) -> Option<Self> {
        Some(Self {
            rest: content.strip_prefix(MAGIC)?,
            before: Before::default(),
            slot,
            end,
        })
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next effect and where its record is.
    pub(crate) fn next(&mut self) -> Option<(Effect, Location)> {
        let (flags, rest) = self.rest.split_first()?;
        self.rest = rest;
        let before = self.before;
        let offset = match self.field(*flags, GAP)? {
            Some(gap) => before
                .end
                .wrapping_add(u32::try_from(gap).ok()?.wrapping_mul(STEP)),
            None => before.end,
        };
        let bytes = match self.field(*flags, LENGTH)? {
            Some(units) => u32::try_from(units).ok()?.checked_mul(STEP)?,
            None => before.length,
        };
        let end = offset.checked_add(bytes)?;
        if offset < DATA_AT || bytes < narrow(RECORD_BYTES) || end > self.end {
            return None;
        }
        self.before.end = end;
        self.before.length = bytes;
        let at = Location {
            slot: self.slot,
            offset,
            bytes,
        };
        let carried = flags & CARRIED != 0;
        let effect = match flags & KIND {
            kind @ (PUT | SIDE_PUT | REMOVE) => {
                let stream = match self.field(*flags, STREAM)? {
                    Some(stream) => u32::try_from(stream).ok()?,
                    None => before.stream,
                };
                let expected = before.position.wrapping_add(1);
                let position = match self.field(*flags, POSITION)? {
                    Some(folded) => expected.wrapping_add(unfold(folded)),
                    None => expected,
                };
                self.before.stream = stream;
                let stream = StreamId(stream);
                if kind == REMOVE {
                    let last = position.checked_add(take_varint(&mut self.rest)?)?;
                    Effect::Remove {
                        stream,
                        first: position,
                        last,
                    }
                } else {
                    self.before.position = position;
                    let side = match kind {
                        SIDE_PUT => Some(SideBody {
                            number: take_varint(&mut self.rest)?,
                            bytes: take_varint(&mut self.rest)?,
                            salt: take_varint(&mut self.rest)?,
                        }),
                        _ => None,
                    };
                    Effect::Put {
                        stream,
                        position,
                        carried,
                        side,
                    }
                }
            }
            SET => Effect::Set {
                key: self.key()?,
                carried,
            },
            UNSET => Effect::Unset { key: self.key()? },
            _ => return None,
        };
        Some((effect, at))
    }

    /// `None` when it is not there whole, `Some(None)` when the flag says it is left out.
    fn field(&mut self, flags: u8, flag: u8) -> Option<Option<u64>> {
        if flags & flag == 0 {
            return Some(None);
        }
        take_varint(&mut self.rest).map(Some)
    }

    fn key(&mut self) -> Option<Bytes> {
        let bytes = usize::try_from(take_varint(&mut self.rest)?).ok()?;
        if bytes > KEY_BYTES_MAX || bytes > self.rest.len() {
            return None;
        }
        let (key, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        Some(Bytes::copy_from_slice(key))
    }
}

/// The kind of record an effect comes from.
impl Effect {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Put { side: None, .. } => Kind::Put,
            Self::Put { .. } => Kind::SidePut,
            Self::Remove { .. } => Kind::Remove,
            Self::Set { .. } => Kind::Set,
            Self::Unset { .. } => Kind::Unset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects() -> Vec<(Effect, Location)> {
        let put = |stream, position, carried, side| Effect::Put {
            stream: StreamId(stream),
            position,
            carried,
            side,
        };
        let side = SideBody {
            number: 9,
            bytes: 1 << 30,
            salt: u64::MAX,
        };
        let effects = [
            put(0, 1, false, None),
            put(0, 2, false, None),
            put(7, 0, true, None),
            put(7, u64::MAX, false, Some(side)),
            Effect::Remove {
                stream: StreamId(7),
                first: 0,
                last: u64::MAX,
            },
            Effect::Set {
                key: Bytes::from_static(b"key"),
                carried: true,
            },
            Effect::Unset {
                key: Bytes::from_static(b""),
            },
            put(7, 5, false, None),
        ];
        let mut offset = DATA_AT;
        let place = |(at, effect)| {
            offset += 32 * (at % 2);
            let bytes = 40 + 8 * (at / 3);
            let location = Location {
                slot: 4,
                offset,
                bytes,
            };
            offset += bytes;
            (effect, location)
        };
        (0u32..).zip(effects).map(place).collect()
    }

    fn content(effects: &[(Effect, Location)]) -> Vec<u8> {
        let mut writer = HintWriter::default();
        for (effect, at) in effects {
            writer.add(effect, *at);
        }
        [MAGIC, &writer.out].concat()
    }

    fn decode(content: &[u8]) -> Option<Vec<(Effect, Location)>> {
        let mut reader = HintReader::new(content, 4, 1 << 20)?;
        let mut found = Vec::new();
        while !reader.is_done() {
            found.push(reader.next()?);
        }
        Some(found)
    }

    #[test]
    fn what_is_told_is_what_was_found() {
        let effects = effects();
        assert_eq!(decode(&content(&effects)).unwrap(), effects);
        for difference in [0, 1, 2, u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1] {
            assert_eq!(unfold(fold(difference)), difference);
        }
    }

    #[test]
    fn a_run_of_like_records_takes_a_byte_each() {
        let mut writer = HintWriter::default();
        for position in 0..1000u32 {
            let at = Location {
                slot: 0,
                offset: DATA_AT + 32 + position * 272,
                bytes: 272,
            };
            let effect = Effect::Put {
                stream: StreamId(3),
                position: position.into(),
                carried: false,
                side: None,
            };
            writer.add(&effect, at);
        }
        assert!(writer.out.len() < 1020, "{}", writer.out.len());
    }

    #[test]
    fn whatever_bytes_a_hint_has_they_cannot_do_harm() {
        let whole = content(&effects());
        for cut in 0..whole.len() {
            decode(&whole[..cut]);
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[cut] ^= 1 << bit;
                let places = decode(&changed).unwrap_or_default();
                let inside =
                    |at: &Location| at.offset >= DATA_AT && at.offset + at.bytes <= 1 << 20;
                assert!(places.iter().all(|(_, at)| inside(at)));
            }
        }
    }
}
