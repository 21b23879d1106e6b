//! Saving what is whole of a damaged store into a new one.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{Kind, RECORD_BYTES, RecordHeader};
use crate::fs::Fs;
use crate::log::{Log, LogOptions, SaltSource};
use crate::side::{SideBody, SideReader};
use crate::survey::{Checked, Damage, Lost, LostRecord, Place, StoreLock, Survey, survey};
use crate::types::{Applied, Batch, Op, StreamId};

/// Bytes gathered for one commit of the new store.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;

/// What a repair did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Repaired {
    /// What the damaged store held: its damages are what is gone.
    pub checked: Checked,
    /// Records written to the new store.
    pub records: u64,
    /// Their bytes, heads and bodies.
    pub bytes: u64,
    /// Keys written to the new store.
    pub keys: u64,
    /// Keeps everybody out of the damaged store until this goes.
    pub lock: StoreLock,
}

/// Writes everything undamaged of the store in `dir` into a new store in `out`, with the same
/// streams, positions and keys. The damaged store is not changed.
///
/// A message is rather kept than lost: what may have been removed, because its removal may have
/// stood in a damaged place, is kept and counted in [`Checked::uncertain_records`].
///
/// `options` are for the new store; its segments become at least as large as those of the old one
/// and its size is not limited. Their `recent_puts` newest heads are carried over as well.
///
/// # Errors
/// As for [`crate::check`] and [`Log::open`]; [`StoreError::Io`] when `out` holds something
/// already or its disk is full.
pub fn repair(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    out: &Path,
    options: LogOptions,
    salt_source: SaltSource,
) -> Result<Repaired, StoreError> {
    let held = match fs.list(out) {
        Ok(names) => !names.is_empty(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(StoreError::io("list", out, error)),
    };
    if held {
        let error = io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the directory is not empty; name one that is not there yet",
        );
        return Err(StoreError::io("repair into", out, error));
    }
    let survey = survey(fs.as_ref(), dir, options.recent_puts)?;
    let sizes = survey.segments.iter().map(|s| s.header.segment_bytes);
    let options = LogOptions {
        segment_bytes: sizes.fold(options.segment_bytes, u32::max),
        disk_bytes_max: None,
        salvage: false,
        ..options
    };
    let (log, _) = Log::open(Arc::clone(fs), out, options, salt_source)?;
    let mut copying = Copying {
        log,
        fs: fs.as_ref(),
        dir,
        out,
        batches: Vec::new(),
        bytes: 0,
        gone: Vec::new(),
        done: Repaired {
            checked: Checked::default(),
            records: 0,
            bytes: 0,
            keys: 0,
            lock: survey.lock.clone(),
        },
    };
    copying.copy(&survey)?;
    copying.log.close();
    let mut done = copying.done;
    done.checked = survey.checked;
    for damage in copying.gone {
        done.checked.lose(damage);
    }
    Ok(done)
}

struct Copying<'a> {
    log: Log,
    fs: &'a dyn Fs,
    dir: &'a Path,
    out: &'a Path,
    batches: Vec<Batch>,
    bytes: usize,
    /// Whole when they were checked, and not any more: a failing disk may answer differently.
    gone: Vec<Damage>,
    done: Repaired,
}

impl Copying<'_> {
    fn copy(&mut self, survey: &Survey) -> Result<(), StoreError> {
        for (key, value) in &survey.checked.state {
            let bytes = key.len() + value.len();
            let op = Op::Set {
                key: key.clone(),
                value: value.clone(),
            };
            self.add(vec![op], bytes)?;
            self.done.keys += 1;
        }
        // Records that are gone leave their heads, for the duplicate cache, and the highest
        // position, so that it is not used again.
        let highest = survey.highest.iter();
        let mut heads: BTreeMap<(StreamId, u64), Bytes> = highest
            .map(|(stream, position)| ((*stream, *position), Bytes::new()))
            .collect();
        let recent = survey.recent.iter();
        heads.extend(recent.map(|(stream, position, head)| ((*stream, *position), head.clone())));
        for (stream, places) in &survey.live {
            let whole = places.iter().filter(|(_, place)| !place.is_damaged());
            let whole: BTreeMap<u64, Place> = whole.map(|(at, place)| (*at, *place)).collect();
            let mut gone = heads
                .range((*stream, 0)..=(*stream, u64::MAX))
                .map(|((_, position), head)| (*position, head))
                .filter(|(position, _)| !whole.contains_key(position))
                .peekable();
            for (position, place) in &whole {
                while let Some((before, head)) = gone.next_if(|(before, _)| before < position) {
                    self.leave_head(*stream, before, head)?;
                }
                match self.record(survey, *stream, *position, *place) {
                    Err(StoreError::Damaged {
                        path, offset, what, ..
                    }) => {
                        let segment = survey.segments[place.segment].header.sequence;
                        self.gone.push(Damage {
                            file: path,
                            segment: Some(segment),
                            offset,
                            bytes: place.bytes.into(),
                            what,
                            lost: Lost::Record(LostRecord {
                                stream: *stream,
                                position: *position,
                                head: Bytes::new(),
                            }),
                        });
                        self.leave_head(*stream, *position, &Bytes::new())?;
                    }
                    done => done?,
                }
            }
            for (position, head) in gone {
                self.leave_head(*stream, position, head)?;
            }
        }
        self.commit()
    }

    fn leave_head(
        &mut self,
        stream: StreamId,
        position: u64,
        head: &Bytes,
    ) -> Result<(), StoreError> {
        let put = Op::Put {
            stream,
            position,
            head: head.clone(),
            body: Bytes::new(),
        };
        let remove = Op::Remove {
            stream,
            first: position,
            last: position,
        };
        self.add(vec![put, remove], head.len())
    }

    fn record(
        &mut self,
        survey: &Survey,
        stream: StreamId,
        position: u64,
        place: Place,
    ) -> Result<(), StoreError> {
        let segment = &survey.segments[place.segment];
        let mut bytes = vec![0; place.bytes as usize];
        let filled = segment.file.read(&mut bytes, u64::from(place.offset))?;
        bytes.truncate(filled);
        let changed = || StoreError::Damaged {
            segment: segment.header.sequence,
            path: segment.file.path.clone(),
            offset: u64::from(place.offset),
            what: "a record was whole when it was checked and is not any more",
            record: Some((stream, position)),
        };
        let bytes = Bytes::from(bytes);
        let header = RecordHeader::decode(segment.seed, place.offset, &bytes)
            .filter(|header| matches!(header.kind, Kind::Put | Kind::SidePut))
            .filter(|header| header.position == position)
            .ok_or_else(changed)?;
        let body_at = RECORD_BYTES + header.head_bytes as usize;
        let end = body_at + header.body_bytes as usize;
        let payload = bytes.get(RECORD_BYTES..end).ok_or_else(changed)?;
        if !header.payload_matches(segment.seed, place.offset, payload) {
            return Err(changed());
        }
        let body = match header.kind {
            Kind::SidePut => {
                let side = SideBody::decode(&bytes[body_at..end]).ok_or_else(changed)?;
                let (sequence, record) = (segment.header.sequence, (stream, position));
                let reader = SideReader::open(self.fs, self.dir, side, sequence, record)?;
                let mut body = Vec::new();
                let reader = reader.ok_or_else(changed)?;
                reader.read(0, usize::MAX, &mut body)?;
                Bytes::from(body)
            }
            _ => bytes.slice(body_at..end),
        };
        let payload_bytes = header.head_bytes as usize + body.len();
        self.done.records += 1;
        self.done.bytes += payload_bytes as u64;
        let put = Op::Put {
            stream,
            position,
            head: bytes.slice(RECORD_BYTES..body_at),
            body,
        };
        self.add(vec![put], payload_bytes)
    }

    fn add(&mut self, ops: Vec<Op>, bytes: usize) -> Result<(), StoreError> {
        self.batches.push(Batch::from(ops));
        self.bytes += bytes + 2 * RECORD_BYTES;
        if self.bytes >= COMMIT_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        for answer in self.log.commit(&std::mem::take(&mut self.batches))? {
            let error = match answer {
                Applied::Done => continue,
                Applied::Full => io::Error::from(io::ErrorKind::StorageFull),
                Applied::Refused(why) => io::Error::other(why),
            };
            return Err(StoreError::io("repair into", self.out, error));
        }
        Ok(())
    }
}
