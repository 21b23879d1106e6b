//! The courses of this node's store, by which two copies find out where they parted (W-TWN-3).
//!
//! A store is written by one process after the other. Each course begins behind everything that was
//! stored before it, with a mark that nobody else draws. A copy has the courses of its original,
//! and begins one of its own.

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

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Courses {
    /// Ascending.
    list: Vec<ForkPoint>,
}

impl Courses {
    pub(crate) fn points(&self) -> &[ForkPoint] {
        &self.list
    }

    /// Begins a course at this node time, or behind the one before. Returns its beginning.
    fn begin(&mut self, from_us: u64, mark: [u8; 16]) -> u64 {
        let last = self.list.last().map(|last| last.from_us.saturating_add(1));
        let from_us = last.map_or(from_us, |last| from_us.max(last));
        if self.list.len() >= COURSES_MAX {
            self.list.remove(0);
        }
        self.list.push(ForkPoint { from_us, mark });
        from_us
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
        (ascending && r.is_empty()).then_some(Self { list })
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
        let newest = times.max().map_or(0, |newest| newest.saturating_add(1));
        self.begin_course(newest);
        understood
    }

    pub(crate) fn is_courses_value(key: &[u8]) -> bool {
        key == COURSES
    }

    /// What is stored from now on is of another course.
    pub(crate) fn begin_course(&mut self, from_us: u64) {
        let mut mark = [0; 16];
        self.entropy.fill(&mut mark);
        let from_us = self.courses.begin(from_us, mark);
        // Nothing that is stored from now on looks older.
        self.now.at = self.now.at.max(Timestamp(from_us));
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
