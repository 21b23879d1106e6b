//! The courses of this node's store, by which two copies find out where they parted (W-TWN-3).
//!
//! A store is written by one process after the other. Each course begins behind everything that was
//! stored before it, with a mark that nobody else draws. A copy has the courses of its original,
//! and begins one of its own. A machine that was resumed from a snapshot begins one, too, which
//! reaches back to where it may have been resumed at the earliest.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::ForkPoint;

use crate::engine::Engine;
use crate::io::Recovered;
use crate::record::{StoredHead, take_array};
use crate::time::Timestamp;

const COURSES: &[u8] = b"courses";
const VERSION: u8 = 1;
/// Courses that are remembered, the newest: a node that was started more often since it was copied
/// cannot say any more when that was.
const COURSES_MAX: usize = 128;
/// How late a sign of having been resumed is noticed: where there is traffic, it is looked for once
/// a second.
const SIGN_LATE_US: u64 = 2_000_000;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Courses {
    /// Ascending.
    list: Vec<ForkPoint>,
    /// Of what is stored next, the earliest node time.
    next_us: u64,
}

/// Whether a message that was stored at this node time, on a disk, is one that was stored by both
/// copies when these parted at `fork_us`.
pub(crate) const fn is_inherited(at: Timestamp, durable: bool, fork_us: Timestamp) -> bool {
    durable && at.0 < fork_us.0
}

impl Courses {
    /// Messages were stored under this node time, or before it. What a queue stores after them has
    /// a later one: a copy of the disk may have been made in between.
    pub(crate) fn stored(&mut self, at: Timestamp) {
        self.next_us = self.next_us.max(at.0.saturating_add(1));
    }

    /// The node time for what is stored now.
    pub(crate) fn stamp(&self, now: Timestamp) -> Timestamp {
        now.max(Timestamp(self.next_us))
    }

    /// Begins the course of a process that starts, behind everything in its store.
    pub(crate) fn begin_at_start(&mut self, mark: [u8; 16]) {
        self.begin(self.next_us, mark);
    }

    /// Begins a course because this process may have been resumed from a snapshot, together with
    /// others. Whatever these have stored since is later than its beginning: before the sign was
    /// looked for last, nobody was resumed, and nobody looks for it where nothing is stored.
    pub(crate) fn begin_at_sign(&mut self, now: Timestamp, mark: [u8; 16]) {
        let looked_us = now.0.saturating_sub(SIGN_LATE_US);
        self.begin(self.next_us.min(looked_us), mark);
    }

    pub(crate) fn points(&self) -> &[ForkPoint] {
        &self.list
    }

    /// Begins a course at this node time, or behind the one before. What is stored in it is later
    /// than its beginning, behind which a copy begins if nothing is.
    fn begin(&mut self, from_us: u64, mark: [u8; 16]) {
        let last = self.list.last().map(|last| last.from_us.saturating_add(1));
        let from_us = last.map_or(from_us, |last| from_us.max(last));
        if self.list.len() >= COURSES_MAX {
            self.list.remove(0);
        }
        self.list.push(ForkPoint { from_us, mark });
        self.stored(Timestamp(from_us));
    }

    /// What is from before this node time was stored by both: this node and a copy with these
    /// courses. `None` when there is no course in common.
    pub(crate) fn fork(&self, others: &[ForkPoint]) -> Option<u64> {
        let in_common = |point: &ForkPoint| others.iter().position(|other| other == point);
        let mut own = self.list.iter().enumerate().rev();
        let (at, other_at) = own.find_map(|(at, point)| Some((at, in_common(point)?)))?;
        let next = |of: &[ForkPoint], at: usize| of.get(at + 1).map(|next| next.from_us);
        let parted = [next(&self.list, at), next(others, other_at)];
        // Copies of a running machine that have not begun another course: since its beginning
        // they may have parted at any time.
        let begun = self.list.get(at).map(|point| point.from_us);
        parted.into_iter().flatten().min().or(begun)
    }

    fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(1 + 24 * self.list.len());
        to.put_u8(VERSION);
        for point in &self.list {
            to.put_u64_le(point.from_us);
            to.put_slice(&point.mark);
        }
        to.freeze()
    }

    fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut list = Vec::new();
        while !r.is_empty() && list.len() < COURSES_MAX {
            list.push(ForkPoint {
                from_us: r.try_get_u64_le().ok()?,
                mark: take_array(&mut r)?,
            });
        }
        let ascending = list.is_sorted_by(|one, next| one.from_us < next.from_us);
        let next_us = 0;
        (ascending && r.is_empty()).then_some(Self { list, next_us })
    }
}

impl Engine {
    /// Begins the course of this process, behind everything that recovery found. Returns whether
    /// what was known of earlier ones was understood.
    pub(crate) fn recover_courses(&mut self, recovered: &Recovered) -> bool {
        let value = recovered.state.get(COURSES);
        let courses = value.map(Courses::decode);
        let understood = !matches!(courses, Some(None));
        self.courses = courses.flatten().unwrap_or_default();
        let heads = recovered.recent.iter();
        let times = heads.filter_map(|(_, head)| Some(StoredHead::decode(head)?.at_us));
        self.courses.stored(Timestamp(times.max().unwrap_or(0)));
        let mark = self.draw_mark();
        self.courses.begin_at_start(mark);
        self.save_courses();
        understood
    }

    pub(crate) fn is_courses_value(key: &[u8]) -> bool {
        key == COURSES
    }

    /// This process may have been resumed from a snapshot.
    pub(crate) fn begin_course_at_sign(&mut self) {
        let mark = self.draw_mark();
        self.courses.begin_at_sign(self.now.at, mark);
        self.save_courses();
    }

    /// Machines that were resumed from one snapshot may draw the same; the time tells them apart.
    fn draw_mark(&mut self) -> [u8; 16] {
        let mut draw = [0; 16];
        self.entropy.fill(&mut draw);
        let mixed = blake3::Hasher::new()
            .update(&draw)
            .update(&self.now.wall_us.to_le_bytes())
            .finalize();
        let mixed = mixed.as_bytes().first_chunk();
        mixed.copied().unwrap_or(draw)
    }

    /// The node time of a message that is stored now.
    pub(crate) fn stamp(&self) -> Timestamp {
        self.courses.stamp(self.now.at)
    }

    fn save_courses(&mut self) {
        let value = self.courses.encode();
        self.commits.set(Bytes::from_static(COURSES), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn courses(list: &[(u64, u8)]) -> Courses {
        let mut courses = Courses::default();
        for (from_us, mark) in list {
            courses.begin(*from_us, [*mark; 16]);
        }
        courses
    }

    #[test]
    fn the_fork_is_where_the_first_of_both_began_another_course() {
        let fork = |one: &[(u64, u8)], other: &[(u64, u8)]| {
            let (one, other) = (courses(one), courses(other));
            let found = one.fork(other.points());
            assert_eq!(other.fork(one.points()), found, "both find the same");
            found
        };
        let before = [(0, 1), (100, 2)];
        let with = |more: &[(u64, u8)]| [&before, more].concat();
        // A copy of a machine that runs on: the copy began at 150.
        assert_eq!(fork(&before, &with(&[(150, 3)])), Some(150));
        // It was started again later.
        assert_eq!(
            fork(&with(&[(400, 4)]), &with(&[(150, 3), (160, 5)])),
            Some(150)
        );
        // Copied while it was stopped.
        assert_eq!(fork(&with(&[(150, 4)]), &with(&[(150, 3)])), Some(150));
        // Copies of a running machine that did not notice.
        assert_eq!(fork(&before, &before), Some(100));
        assert_eq!(fork(&before, &[(0, 9), (150, 3)]), None);
        assert_eq!(fork(&before, &[]), None);
    }

    #[test]
    fn courses_ascend_come_back_and_are_bounded() {
        let mut many = courses(&[(50, 1), (50, 2), (10, 3)]);
        let starts: Vec<u64> = many.points().iter().map(|p| p.from_us).collect();
        assert_eq!(starts, [50, 51, 52]);
        let value = many.encode();
        let read = Courses::decode(&value).unwrap();
        assert_eq!(read.points(), many.points());
        for cut in (0..value.len()).filter(|cut| (cut + 23) % 24 != 0) {
            assert!(Courses::decode(&value.slice(..cut)).is_none(), "{cut}");
        }
        for n in 0..300 {
            many.begin(n, [7; 16]);
        }
        assert_eq!(many.points().len(), COURSES_MAX);
        assert_eq!(
            Courses::decode(&many.encode()).unwrap().points(),
            many.points()
        );
    }
}
