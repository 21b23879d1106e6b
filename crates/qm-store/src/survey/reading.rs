//! What lives, brought up from the segments in their order.

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{DATA_AT, Kind, RECORD, RecordHeader, SegmentHeader, u64_at};
use crate::scan::{Found, Scan, Sink};
use crate::segment::Window;
use crate::side::SideBody;
use crate::types::StreamId;

use super::unverified::unverified;
use super::{Damage, Lost, LostRecord, Place, Survey, Surveyed};

/// Brings a survey up from what the scans find.
pub(super) struct Reading<'a> {
    pub(super) survey: &'a mut Survey,
    pub(super) segments: &'a [Surveyed],
    pub(super) recent_max: usize,
    /// The segment being read.
    pub(super) at: usize,
    /// The last place whose content nobody knows.
    pub(super) last_doubt: Option<(usize, u32)>,
}

impl Reading<'_> {
    /// Returns where the log ends in it, unless it is known that nothing was written behind that.
    pub(super) fn segment(&mut self, at: usize) -> Result<Option<u32>, StoreError> {
        let segments = self.segments;
        let segment = &segments[at];
        let SegmentHeader {
            sequence,
            segment_bytes,
            ..
        } = segment.header;
        let follower = segments.get(at + 1).map(|next| next.header);
        let told = follower
            .filter(|next| next.sequence == sequence + 1)
            .map(|next| next.previous_end);
        let known_end = segment.seal.or(told).map(|end| end.min(segment_bytes));
        self.at = at;
        let tail = Scan {
            window: Window::new(&segment.file),
            seed: segment.seed,
            segment_bytes,
            known_end,
            sink: self,
            ignore_batch_end: false,
        }
        .run()?;
        self.survey.checked.bytes += u64::from(tail.end.saturating_sub(DATA_AT));
        if known_end.is_none() && follower.is_some() {
            self.damage(
                tail.end,
                segment_bytes.saturating_sub(tail.end),
                "nothing says where the segment ends",
            )?;
        } else if tail.torn {
            let path = segment.file.path.clone();
            self.survey.checked.unfinished = Some((path, u64::from(tail.end)));
        }
        // A group that begins in a place that cannot be read, or lies across one.
        let next = tail.end..tail.end.saturating_add(RECORD);
        let may_go_on = tail.torn || segment.file.is_unreadable(next);
        Ok((known_end.is_none() && may_go_on).then_some(tail.end))
    }

    fn record(&mut self, found: &Found, window: &mut Window<'_>) -> Result<(), StoreError> {
        let Found {
            header,
            offset,
            damaged,
        } = *found;
        let (head_bytes, body_bytes) = (header.head_bytes as usize, header.body_bytes as usize);
        let payload_at = offset + RECORD;
        let stream = StreamId(header.stream);
        match header.kind {
            Kind::Group => {}
            Kind::Put | Kind::SidePut => self.put(&header, offset, damaged, window)?,
            Kind::Remove => {
                let payload = window.bytes(payload_at, 8)?;
                if head_bytes == 0
                    && body_bytes == 8
                    && payload.len() == 8
                    && let Some(places) = self.survey.live.get_mut(&stream)
                {
                    let (first, last) = (header.position, u64_at(payload, 0));
                    if first <= last {
                        let gone: Vec<u64> =
                            places.range(first..=last).map(|(at, _)| *at).collect();
                        for position in gone {
                            self.removed(stream, position)?;
                        }
                    }
                }
            }
            Kind::Set => {
                let payload = window.bytes(payload_at, head_bytes + body_bytes)?;
                let (key, value) = payload.split_at(head_bytes.min(payload.len()));
                let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                self.survey.checked.state.insert(key, value);
            }
            Kind::Unset => {
                let key = window.bytes(payload_at, head_bytes)?;
                self.survey.checked.state.remove(key);
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        header: &RecordHeader,
        offset: u32,
        damaged: bool,
        window: &mut Window<'_>,
    ) -> Result<(), StoreError> {
        let (stream, position) = (StreamId(header.stream), header.position);
        let place = Place {
            segment: self.at,
            offset,
            bytes: u32::try_from(header.record_bytes()).unwrap_or(u32::MAX),
            damaged,
        };
        let highest = self.survey.highest.entry(stream).or_insert(position);
        *highest = position.max(*highest);
        let places = self.survey.live.entry(stream).or_default();
        let before = places.get(&position).copied();
        if damaged && header.is_carried() && before.is_some_and(|before| !before.damaged) {
            return self.note_harmless(place, "a copy is damaged; what it was made from is whole");
        }
        places.insert(position, place);
        let side = match header.kind {
            Kind::SidePut if !damaged => {
                let at = offset.saturating_add(RECORD.saturating_add(header.head_bytes));
                SideBody::decode(window.bytes(at, header.body_bytes as usize)?)
            }
            _ => None,
        };
        match side {
            Some(side) => self.survey.side.insert((stream, position), side),
            None => self.survey.side.remove(&(stream, position)),
        };
        if let Some(before) = before.filter(|before| before.damaged) {
            self.note_harmless(before, "a damaged record was replaced")?;
        }
        if !damaged && self.recent_max > 0 {
            let head = window.bytes(offset + RECORD, header.head_bytes as usize)?;
            let recent = &mut self.survey.recent;
            if recent.len() >= self.recent_max {
                recent.pop_front();
            }
            recent.push_back((stream, position, Bytes::copy_from_slice(head)));
        }
        Ok(())
    }

    fn removed(&mut self, stream: StreamId, position: u64) -> Result<(), StoreError> {
        let places = self.survey.live.get_mut(&stream);
        match places.and_then(|places| places.remove(&position)) {
            Some(place) if place.damaged => {
                self.note_harmless(place, "a damaged record was removed already")
            }
            _ => Ok(()),
        }
    }

    fn note_harmless(&mut self, place: Place, what: &'static str) -> Result<(), StoreError> {
        let segment = &self.segments[place.segment];
        self.survey.damage(Damage {
            file: segment.file.path.clone(),
            segment: Some(segment.header.sequence),
            offset: u64::from(place.offset),
            bytes: u64::from(place.bytes),
            what,
            lost: Lost::Nothing,
        });
        Ok(())
    }
}

impl Sink for Reading<'_> {
    fn batch(&mut self, records: &[Found], window: &mut Window<'_>) -> Result<(), StoreError> {
        records
            .iter()
            .try_for_each(|found| self.record(found, window))
    }

    fn damage(&mut self, offset: u32, bytes: u32, what: &'static str) -> Result<(), StoreError> {
        self.last_doubt = Some((self.at, offset));
        let segment = &self.segments[self.at];
        let likely = unverified(&segment.file, offset)?
            .filter(|(record, _)| {
                [Kind::Put as u8, Kind::SidePut as u8].contains(&record.kind)
                    && record.record_bytes() == u64::from(bytes)
            })
            .map(|(record, head)| LostRecord {
                stream: record.stream,
                position: record.position,
                head,
            });
        self.survey.damage(Damage {
            file: segment.file.path.clone(),
            segment: Some(segment.header.sequence),
            offset: u64::from(offset),
            bytes: u64::from(bytes),
            what,
            lost: Lost::Unknown { likely },
        });
        Ok(())
    }
}
