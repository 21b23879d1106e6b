//! The bytes of a segment, as `FORMAT.md` states them.

use crate::hint::HintMark;
use crate::side::{SIDE_REF_BYTES, SideBody};
use crate::types::{Op, StreamId};

pub(crate) const MAGIC: [u8; 8] = *b"qmstore\0";
pub(crate) const VERSION: u32 = 3;
/// From this version on a segment is one that the manifest lists.
pub(crate) const LISTED_VERSION: u32 = 3;

/// Where the two copies of the header, the seal and the first record stand. Each is in a 4 KiB
/// block of its own, so that writing one cannot tear another on drives with such sectors.
pub(crate) const HEADER_AT: [usize; 2] = [0, 4096];
pub(crate) const SEAL_AT: usize = 8192;
pub(crate) const DATA_AT: u32 = 12288;

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const SEAL_BYTES: usize = 32;
pub(crate) const RECORD_BYTES: usize = 32;
pub(crate) const ALIGN: usize = 8;
/// The same in the width of offsets.
pub(crate) const RECORD: u32 = 32;
pub(crate) const STEP: u32 = 8;

/// Records start and end at multiples of 8.
pub(crate) const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u32,
    pub(crate) segment_bytes: u32,
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) store: u64,
    pub(crate) previous_end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderState {
    Valid(SegmentHeader),
    Newer(u32),
    /// Zeros: the segment holds nothing.
    Void,
    Unreadable,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&self.segment_bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.salt.to_le_bytes());
        out[32..40].copy_from_slice(&self.store.to_le_bytes());
        out[40..44].copy_from_slice(&self.previous_end.to_le_bytes());
        out[44..48].copy_from_slice(&DATA_AT.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> HeaderState {
        if bytes.iter().all(|byte| *byte == 0) {
            return HeaderState::Void;
        }
        if bytes[..8] != MAGIC || u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return HeaderState::Unreadable;
        }
        let version = u32_at(bytes, 8);
        if version > VERSION {
            return HeaderState::Newer(version);
        }
        if version == 0 || u32_at(bytes, 44) != DATA_AT {
            return HeaderState::Unreadable;
        }
        HeaderState::Valid(Self {
            version,
            segment_bytes: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            store: u64_at(bytes, 32),
            previous_end: u32_at(bytes, 40),
        })
    }

    pub(crate) fn seed(&self) -> Seed {
        let crc = crc32c::crc32c(&self.salt.to_le_bytes());
        let [.., a, b, c, d] = self.salt.to_le_bytes();
        Seed {
            crc: crc32c::crc32c_append(crc, &self.sequence.to_le_bytes()),
            tag: u32::from_le_bytes([a, b, c, d]),
        }
    }
}

/// Where the checksums of one segment start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed {
    crc: u32,
    /// Makes groups recognisable by 64 random bits: the search for one behind a torn tail looks
    /// at everything an earlier life of the file left there.
    tag: u32,
}

impl Seed {
    /// For tests of the tests only.
    pub(crate) const CONSTANT: Self = Self { crc: 1, tag: 1 };

    /// The offset takes part, so a copy of a record elsewhere in the segment is not a record.
    const fn at(self, offset: u32) -> u32 {
        self.crc ^ offset
    }

    pub(crate) fn encode_seal(self, seal: Seal) -> [u8; SEAL_BYTES] {
        let mut out = [0; SEAL_BYTES];
        out[..8].copy_from_slice(b"qmsealed");
        out[8..12].copy_from_slice(&seal.end.to_le_bytes());
        if let Some(hint) = seal.hint {
            out[12..16].copy_from_slice(&hint.bytes.to_le_bytes());
            out[16..28].copy_from_slice(&hint.hash);
        }
        let crc = crc32c::crc32c_append(self.crc, &out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode_seal(self, bytes: &[u8; SEAL_BYTES]) -> Option<Seal> {
        let valid = bytes[..8] == *b"qmsealed"
            && u32_at(bytes, 28) == crc32c::crc32c_append(self.crc, &bytes[..28]);
        let mut hash = [0; 12];
        hash.copy_from_slice(&bytes[16..28]);
        let hint = HintMark {
            bytes: u32_at(bytes, 12),
            hash,
        };
        valid.then(|| Seal {
            end: u32_at(bytes, 8),
            hint: Some(hint).filter(|hint| hint.bytes > 0),
        })
    }
}

/// What is said of a complete segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Where its last whole batch ends.
    pub(crate) end: u32,
    /// The hint file that tells the same as its records.
    pub(crate) hint: Option<HintMark>,
}

/// Kinds of records; `FORMAT.md` reserves more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Starts one write; everything before it was durable when it was written.
    Group = 1,
    Put = 2,
    Remove = 3,
    Set = 5,
    Unset = 6,
    /// A put with its body in a file of its own.
    SidePut = 7,
}

impl Kind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Group,
            2 => Self::Put,
            3 => Self::Remove,
            5 => Self::Set,
            6 => Self::Unset,
            7 => Self::SidePut,
            _ => return None,
        })
    }
}

/// The record ends its batch.
pub(crate) const FLAG_LAST: u8 = 1;
/// The record is a copy of a live one of an older segment.
pub(crate) const FLAG_CARRIED: u8 = 2;
/// On a group: the store was closed in order, nothing follows but another group.
pub(crate) const FLAG_CLEAN: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) head_bytes: u32,
    pub(crate) body_bytes: u32,
    /// The stream of a put or removal; the bytes of the whole group of a [`Kind::Group`].
    pub(crate) stream: u32,
    /// Of head and body; of a group the tag of the segment and the offset.
    pub(crate) payload_crc: u32,
    /// The position of a put, the first of a removal, the number of a group.
    pub(crate) position: u64,
}

impl RecordHeader {
    pub(crate) fn decode(seed: Seed, offset: u32, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_BYTES] = bytes.get(..RECORD_BYTES)?.try_into().ok()?;
        let kind = Kind::from_byte(bytes[4])?;
        if bytes[6..8] != [0, 0] {
            return None;
        }
        if u32_at(bytes, 0) != crc32c::crc32c_append(seed.at(offset), &bytes[4..]) {
            return None;
        }
        Some(Self {
            kind,
            flags: bytes[5],
            head_bytes: u32_at(bytes, 8),
            body_bytes: u32_at(bytes, 12),
            stream: u32_at(bytes, 16),
            payload_crc: u32_at(bytes, 20),
            position: u64_at(bytes, 24),
        })
    }

    /// Bytes of the record with its padding.
    pub(crate) const fn record_bytes(&self) -> u64 {
        RECORD_BYTES as u64
            + (self.head_bytes as u64 + self.body_bytes as u64).next_multiple_of(ALIGN as u64)
    }

    pub(crate) const fn is_last(&self) -> bool {
        self.flags & FLAG_LAST != 0
    }

    pub(crate) const fn is_carried(&self) -> bool {
        self.flags & FLAG_CARRIED != 0
    }

    /// Where the group ends that starts here, if one does.
    pub(crate) fn group_end(&self, seed: Seed, offset: u32, segment_bytes: u32) -> Option<u32> {
        let end = offset.checked_add(self.stream)?;
        let sound = self.kind == Kind::Group
            && self.payload_crc == seed.tag ^ offset
            && self.head_bytes == 0
            && self.body_bytes == 0
            && self.stream as usize >= RECORD_BYTES
            && (self.stream as usize).is_multiple_of(ALIGN)
            && end <= segment_bytes;
        sound.then_some(end)
    }

    /// Whether the payload (head, body) is what was written.
    pub(crate) fn payload_matches(&self, seed: Seed, offset: u32, payload: &[u8]) -> bool {
        self.payload_crc == crc32c::crc32c_append(seed.at(offset), payload)
    }
}

/// Bytes an operation takes when it is encoded alone. Bodies of `side_from` bytes or more are in
/// files of their own.
pub(crate) fn encoded_bytes(op: &Op, side_from: usize) -> usize {
    match op {
        Op::Put { head, body, .. } if body.len() >= side_from => {
            RECORD_BYTES + padded(head.len().saturating_add(SIDE_REF_BYTES))
        }
        Op::Put { head, body, .. } => RECORD_BYTES + padded(head.len().saturating_add(body.len())),
        Op::Remove { .. } => RECORD_BYTES + 8,
        Op::Set { key, value } => RECORD_BYTES + padded(key.len().saturating_add(value.len())),
        Op::Unset { key } => RECORD_BYTES + padded(key.len()),
    }
}

/// Writes records into a buffer that will stand at a known place of a segment.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    seed: Seed,
    /// Offset in the segment of the buffer's first byte.
    base: u32,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, seed: Seed, base: u32) -> Self {
        Self { out, seed, base }
    }

    /// Where the next record goes.
    pub(crate) fn offset(&self) -> u32 {
        self.base + narrow(self.out.len())
    }

    pub(crate) fn group(&mut self, number: u64, group_bytes: usize, flags: u8) {
        self.record(Kind::Group, flags, narrow(group_bytes), number, &[], &[]);
    }

    pub(crate) fn put(&mut self, flags: u8, stream: StreamId, at: u64, head: &[u8], body: &[u8]) {
        self.record(Kind::Put, flags, stream.0, at, head, body);
    }

    pub(crate) fn side_put(
        &mut self,
        flags: u8,
        stream: StreamId,
        at: u64,
        head: &[u8],
        side: &[u8],
    ) {
        self.record(Kind::SidePut, flags, stream.0, at, head, side);
    }

    pub(crate) fn remove(&mut self, flags: u8, stream: StreamId, first: u64, last: u64) {
        self.record(
            Kind::Remove,
            flags,
            stream.0,
            first,
            &[],
            &last.to_le_bytes(),
        );
    }

    pub(crate) fn set(&mut self, flags: u8, key: &[u8], value: &[u8]) {
        self.record(Kind::Set, flags, 0, 0, key, value);
    }

    pub(crate) fn unset(&mut self, flags: u8, key: &[u8]) {
        self.record(Kind::Unset, flags, 0, 0, key, &[]);
    }

    /// `side` is where the body of a put is, if it is not here.
    pub(crate) fn op(&mut self, flags: u8, op: &Op, side: Option<SideBody>) {
        match op {
            Op::Put {
                stream,
                position,
                head,
                ..
            } if side.is_some() => {
                let side = side.map(|side| side.encode()).unwrap_or_default();
                self.side_put(flags, *stream, *position, head, &side);
            }
            Op::Put {
                stream,
                position,
                head,
                body,
            } => {
                self.put(flags, *stream, *position, head, body);
            }
            Op::Remove {
                stream,
                first,
                last,
            } => self.remove(flags, *stream, *first, *last),
            Op::Set { key, value } => self.set(flags, key, value),
            Op::Unset { key } => self.unset(flags, key),
        }
    }

    fn record(
        &mut self,
        kind: Kind,
        flags: u8,
        stream: u32,
        position: u64,
        head: &[u8],
        body: &[u8],
    ) {
        let offset = self.offset();
        let seed = self.seed.at(offset);
        let payload_crc = match kind {
            Kind::Group => self.seed.tag ^ offset,
            _ => crc32c::crc32c_append(crc32c::crc32c_append(seed, head), body),
        };
        let mut header = [0; RECORD_BYTES];
        header[4] = kind as u8;
        header[5] = flags;
        header[8..12].copy_from_slice(&narrow(head.len()).to_le_bytes());
        header[12..16].copy_from_slice(&narrow(body.len()).to_le_bytes());
        header[16..20].copy_from_slice(&stream.to_le_bytes());
        header[20..24].copy_from_slice(&payload_crc.to_le_bytes());
        header[24..].copy_from_slice(&position.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &header[4..]);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        self.out.extend_from_slice(&header);
        self.out.extend_from_slice(head);
        self.out.extend_from_slice(body);
        self.out.resize(padded(self.out.len()), 0);
    }
}

/// Everything that is written fits a segment, and segments are smaller than 4 GiB.
pub(crate) fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("invariant: sizes were checked against the segment")
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("invariant: four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(
        bytes[at..at + 8]
            .try_into()
            .expect("invariant: eight bytes"),
    )
}
