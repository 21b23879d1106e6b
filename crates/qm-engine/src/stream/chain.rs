//! The sender's side of one stream: places in the chain, and what an answer settles.
//!
//! Two orders run side by side and always agree: `at` is where a message lies in the outgoing queue
//! on disk, `position` counts the stream. A message gets its position and link when it is first
//! transmitted, or when it may have been transmitted by an earlier life: from the last message
//! before it. What leaves before it was ever transmitted gets its place then: a copy of this node
//! may transmit it, and what is behind it must have the same links there and here.
//!
//! What is settled leaves the queue, and a [`Mark`] takes over as that from which the next links
//! follow. What leaves otherwise than by delivery becomes a [`Skipping`], which stands in the
//! chain until the receiver has answered for it.

mod audit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qm_wire::{Entry, Link, Outcome, Place, Run, StreamId, Tag};

/// A known point of the chain: the next place follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// Where the message lay in the outgoing queue; nothing that lies there or before waits for a
    /// place.
    pub at: u64,
    /// Its position in the stream, 0 for the beginning.
    pub position: u64,
    /// Its link.
    pub link: Link,
}

/// A message that has a place and is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placed<F> {
    /// Its place.
    pub mark: Mark,
    /// The link before it.
    pub previous: Link,
    /// Where it is in flight, if it is.
    pub flight: Option<F>,
}

/// A message that left otherwise than by delivery and whose place is not answered for yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Skipping<F> {
    /// Its place.
    pub mark: Mark,
    /// The link before it.
    pub previous: Link,
    /// The message.
    pub entry: Entry,
    /// Why it left.
    pub outcome: Outcome,
    /// Its dead letter, if there is one: position and bytes.
    pub letter: Option<(u64, u64)>,
    /// Where the skip was sent, if it was.
    pub sent: Option<F>,
    /// Whether it is on disk: it is not sent before.
    pub durable: bool,
}

/// What an answer of the receiver means for a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settles {
    /// These positions are settled: messages that are placed, and skips that were overtaken by a
    /// delivery.
    These(Vec<u64>),
    /// It concerns only what was settled before.
    Nothing,
    /// It names a link that this chain does not have there.
    NotHeld,
}

/// Where a sender may go on after a receiver said which links it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoOn {
    /// Behind this position.
    Behind(u64),
    /// Nowhere: what the receiver lacks is not here any more.
    Hold,
}

/// See the module. `F` says where something is in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chain<F> {
    id: StreamId,
    root: Link,
    /// Durable points, by `at`: one, which moves on, unless answers come out of order.
    marks: Vec<Mark>,
    /// The last place that was given in this life.
    cursor: Mark,
    placed: VecDeque<Placed<F>>,
    /// Where those lie that are not in flight: looking for the first of them among a window of
    /// others, for each message that leaves, would take longer than to send them.
    resting: BTreeSet<u64>,
    skips: BTreeMap<u64, Skipping<F>>,
    /// Positions of the skips, by `at`.
    skips_at: BTreeMap<u64, u64>,
    /// Every skip below this position is sent: a purge leaves so many that looking past the sent
    /// ones for each to be sent would take longer than a session lives.
    unsent_from: u64,
    /// How many skips are sent and not answered for.
    sent: usize,
}

impl<F: Copy> Chain<F> {
    /// A chain that begins: `root` is the link before position 1.
    #[must_use]
    pub fn new(id: StreamId, root: Link) -> Self {
        Self::recovered(id, root, [], [])
    }

    /// A chain as the disk has it: the marks in any order, and skips not answered for.
    #[must_use]
    pub fn recovered(
        id: StreamId,
        root: Link,
        marks: impl IntoIterator<Item = Mark>,
        skips: impl IntoIterator<Item = Skipping<F>>,
    ) -> Self {
        let marks: BTreeMap<u64, Mark> = marks.into_iter().map(|m| (m.at, m)).collect();
        let mut marks: Vec<Mark> = marks.into_values().collect();
        let skips: BTreeMap<_, _> = skips.into_iter().map(|s| (s.mark.position, s)).collect();
        let skips_at = skips
            .values()
            .map(|s| (s.mark.at, s.mark.position))
            .collect();
        let start = Mark {
            at: 0,
            position: 0,
            link: root,
        };
        if marks.is_empty() {
            marks.push(start);
        }
        let cursor = marks.first().copied().unwrap_or(start);
        let sent = skips.values().filter(|skip| skip.sent.is_some()).count();
        Self {
            id,
            root,
            marks,
            cursor,
            placed: VecDeque::new(),
            resting: BTreeSet::new(),
            skips,
            skips_at,
            unsent_from: 0,
            sent,
        }
    }

    /// The stream's id.
    #[must_use]
    pub const fn id(&self) -> StreamId {
        self.id
    }

    /// The link before position 1.
    #[must_use]
    pub const fn root(&self) -> Link {
        self.root
    }

    /// Begins anew under another id: everything not settled is linked again, and the skips are
    /// given up and returned.
    pub fn reroot(&mut self, id: StreamId, root: Link) -> Vec<Skipping<F>> {
        let skips = core::mem::take(&mut self.skips);
        *self = Self::new(id, root);
        skips.into_values().collect()
    }

    /// What must be on disk beside the queue and the skips.
    pub fn marks(&self) -> impl ExactSizeIterator<Item = &Mark> {
        self.marks.iter()
    }

    /// The place of the message that lies at `at`, given now when it has none. Messages are asked
    /// for in the order in which they lie there. `None`: it was settled before, and only its
    /// removal was lost.
    pub fn place(&mut self, at: u64, tag: Tag) -> Option<&Placed<F>> {
        if at <= self.cursor.at {
            let index = self.index_at(at)?;
            return self.placed.get(index);
        }
        let above = self.marks.partition_point(|mark| mark.at < at);
        if let Some(mark) = self.marks.get(above).filter(|mark| mark.at == at) {
            self.cursor = *mark;
            return None;
        }
        let mark = above.checked_sub(1).and_then(|below| self.marks.get(below));
        let mark = mark.copied();
        let skip = self.skips_at.range(..at).next_back();
        let skip = skip.and_then(|(_, position)| self.skips.get(position));
        for known in mark.into_iter().chain(skip.map(|skip| skip.mark)) {
            if known.at > self.cursor.at {
                self.cursor = known;
            }
        }
        let previous = self.cursor.link;
        let position = self.cursor.position.checked_add(1)?;
        let link = previous.next(tag, position);
        self.cursor = Mark { at, position, link };
        self.resting.insert(at);
        self.placed.push_back(Placed {
            mark: self.cursor,
            previous,
            flight: None,
        });
        self.placed.back()
    }

    /// Up to here everything that waits has its place, or never gets one: [`Self::place`] changes
    /// nothing at or before it.
    #[must_use]
    pub const fn placed_to(&self) -> u64 {
        self.cursor.at
    }

    /// The message at `at` if it has a place.
    #[must_use]
    pub fn placed_at(&self, at: u64) -> Option<&Placed<F>> {
        self.placed.get(self.index_at(at)?)
    }

    /// Whether what lies at `at` has no place and is given none any more: something behind it has
    /// one.
    #[must_use]
    pub fn has_passed(&self, at: u64) -> bool {
        at <= self.cursor.at && self.index_at(at).is_none() && !self.skips_at.contains_key(&at)
    }

    /// The message at a position of the stream.
    #[must_use]
    pub fn placed(&self, position: u64) -> Option<&Placed<F>> {
        self.placed.get(self.index_of(position)?)
    }

    /// All messages that have a place and are not settled, in order.
    pub fn unsettled(&self) -> impl ExactSizeIterator<Item = &Placed<F>> {
        self.placed.iter()
    }

    /// All skips not answered for, in order.
    pub fn skips(&self) -> impl ExactSizeIterator<Item = &Skipping<F>> {
        self.skips.values()
    }

    /// The skip at a position.
    #[must_use]
    pub fn skip(&self, position: u64) -> Option<&Skipping<F>> {
        self.skips.get(&position)
    }

    /// The same, to be changed; that it is sent, [`Self::send_skip`] says.
    pub fn skip_mut(&mut self, position: u64) -> Option<&mut Skipping<F>> {
        self.skips.get_mut(&position)
    }

    /// A skip is sent.
    pub fn send_skip(&mut self, position: u64, flight: F) {
        if let Some(skip) = self.skips.get_mut(&position)
            && skip.sent.replace(flight).is_none()
        {
            self.sent += 1;
        }
    }

    /// Skips that are sent and not answered for.
    #[must_use]
    pub const fn sent_skips(&self) -> usize {
        self.sent
    }

    /// The newest link that was given to anything.
    #[must_use]
    pub fn head(&self) -> Mark {
        let last = self.marks.last().copied().unwrap_or(self.cursor);
        let skip = self.skips.last_key_value().map_or(last, |(_, s)| s.mark);
        [last, skip].into_iter().fold(self.cursor, |newest, mark| {
            if mark.position > newest.position {
                mark
            } else {
                newest
            }
        })
    }

    /// The oldest position that is not settled; the next one when all are.
    #[must_use]
    pub fn low(&self) -> u64 {
        let placed = self.placed.front().map(|placed| placed.mark.position);
        let skip = self.skips.first_key_value().map(|(position, _)| *position);
        // Behind the first mark there may be what has no place in this life yet.
        let settled = self.marks.first().map_or(0, |mark| mark.position);
        let next = settled.saturating_add(1);
        placed
            .into_iter()
            .chain(skip)
            .fold(next, |low, position| low.min(position))
    }

    /// A place as it travels.
    #[must_use]
    pub fn travels(&self, mark: Mark, previous: Link) -> Place {
        Place {
            stream: self.id,
            position: mark.position,
            low: self.low().min(mark.position).max(1),
            previous,
        }
    }

    /// Notes where a message is in flight, or that it is no longer.
    pub fn set_flight(&mut self, at: u64, flight: Option<F>) {
        if let Some(placed) = self
            .index_at(at)
            .and_then(|index| self.placed.get_mut(index))
        {
            placed.flight = flight;
            if placed.flight.is_some() {
                self.resting.remove(&at);
            } else {
                self.resting.insert(at);
            }
        }
    }

    /// The message at `at` was delivered: its place is a mark from now on.
    pub fn settle(&mut self, at: u64) -> bool {
        let Some(placed) = self
            .index_at(at)
            .and_then(|index| self.placed.remove(index))
        else {
            return false;
        };
        self.resting.remove(&at);
        self.mark(placed.mark);
        true
    }

    /// The message at `at` left otherwise than by delivery: a skip stands in its place.
    pub fn leave(
        &mut self,
        at: u64,
        entry: Entry,
        outcome: Outcome,
        letter: Option<(u64, u64)>,
    ) -> Option<&Skipping<F>> {
        let index = self.index_at(at)?;
        let placed = self.placed.remove(index)?;
        self.resting.remove(&at);
        let position = placed.mark.position;
        let skip = Skipping {
            mark: placed.mark,
            previous: placed.previous,
            entry,
            outcome,
            letter,
            sent: None,
            durable: false,
        };
        self.skips.insert(position, skip);
        self.skips_at.insert(at, position);
        self.unsent_from = self.unsent_from.min(position);
        self.skips.get(&position)
    }

    /// A skip that did not reach the disk: the message is where it was.
    pub fn unleave(&mut self, position: u64) -> bool {
        let Some(skip) = self.skips.remove(&position) else {
            return false;
        };
        self.sent -= usize::from(skip.sent.is_some());
        self.skips_at.remove(&skip.mark.at);
        let index = self.placed.partition_point(|p| p.mark.position < position);
        let placed = Placed {
            mark: skip.mark,
            previous: skip.previous,
            flight: None,
        };
        self.placed.insert(index, placed);
        self.resting.insert(skip.mark.at);
        true
    }

    /// A skip was answered for: its place is a mark from now on.
    pub fn settle_skip(&mut self, position: u64) -> Option<Skipping<F>> {
        let skip = self.skips.remove(&position)?;
        self.sent -= usize::from(skip.sent.is_some());
        self.skips_at.remove(&skip.mark.at);
        self.mark(skip.mark);
        Some(skip)
    }

    /// What an order ack settles (W-STR-6): exactly the run it names, and only if its last link is
    /// the one this chain has there.
    #[must_use]
    pub fn acked(&self, run: &Run) -> Settles {
        if run.stream != self.id {
            return Settles::NotHeld;
        }
        match self.link_at(run.last) {
            Some(link) if link == run.link => {}
            Some(_) => return Settles::NotHeld,
            None if run.last < self.low() => return Settles::Nothing,
            None => return Settles::NotHeld,
        }
        let positions = self.within(run.first, run.last);
        if positions.is_empty() {
            Settles::Nothing
        } else {
            Settles::These(positions)
        }
    }

    /// Unsettled positions of a range, skips among them.
    #[must_use]
    pub fn within(&self, first: u64, last: u64) -> Vec<u64> {
        let from = self.placed.partition_point(|p| p.mark.position < first);
        let placed = self.placed.range(from..).map(|p| p.mark.position);
        let placed = placed.take_while(|position| *position <= last);
        let skips = self.skips.range(first..=last).map(|(at, _)| *at);
        let mut positions: Vec<u64> = placed.chain(skips).collect();
        positions.sort_unstable();
        positions
    }

    /// Where to go on when the receiver has these leaves of the stream (W-STR-8).
    ///
    /// `floor`: everything below this position was settled before the session of this answer
    /// opened. A receiver that lacks some of it has lost it. One that lacks what was settled since
    /// may have spoken before it was: another answer was quicker.
    #[must_use]
    pub fn needed(&self, leaves: &[(u64, Link)], floor: u64) -> GoOn {
        let low = self.low();
        let settled = low.saturating_sub(1);
        let known = leaves
            .iter()
            .filter(|(position, link)| self.link_at(*position) == Some(*link))
            .map(|(position, _)| *position)
            .max();
        let known = known.or_else(|| leaves.is_empty().then_some(0));
        if let Some(position) = known.filter(|position| position.saturating_add(1) >= floor) {
            return GoOn::Behind(position.max(settled));
        }
        // The links of what was settled since are not kept.
        let since = floor.saturating_sub(1)..settled;
        if leaves.iter().any(|(position, _)| since.contains(position)) {
            return GoOn::Behind(settled);
        }
        GoOn::Hold
    }

    /// Whether the receiver of these leaves took something else than this chain where nothing is
    /// settled here: who has the chain went back, or is a copy. Else the receiver did.
    #[must_use]
    pub fn is_behind(&self, leaves: &[(u64, Link)]) -> bool {
        let low = self.low();
        let mut leaves = leaves.iter();
        leaves.any(|(position, link)| *position >= low && self.link_at(*position) != Some(*link))
    }

    /// The next skip that may be sent now: everything before it is in flight or settled. `waits`
    /// is where the first message lies that has no place yet or waits to be sent again.
    #[must_use]
    pub fn sendable_skip(&mut self, waits: u64) -> Option<&Skipping<F>> {
        let mut unsent = self.skips.range(self.unsent_from..);
        let Some((position, skip)) = unsent.find(|(_, skip)| skip.sent.is_none()) else {
            self.unsent_from = u64::MAX;
            return None;
        };
        self.unsent_from = *position;
        let waits = self.resting.first().map_or(waits, |at| waits.min(*at));
        (skip.durable && skip.mark.at < waits).then_some(skip)
    }

    /// The skip of the message that lay at `at`.
    #[must_use]
    pub fn skip_at(&self, at: u64) -> Option<&Skipping<F>> {
        self.skips.get(self.skips_at.get(&at)?)
    }

    /// Everything that was sent on a session that is gone, or that the receiver needs again,
    /// waits: skips behind this position are sent anew.
    pub fn unsend_skips(&mut self, behind: u64) {
        for (_, skip) in self.skips.range_mut(behind.saturating_add(1)..) {
            self.sent -= usize::from(skip.sent.take().is_some());
        }
        self.unsent_from = self.unsent_from.min(behind.saturating_add(1));
    }

    fn link_at(&self, position: u64) -> Option<Link> {
        if position == 0 {
            return Some(self.root);
        }
        let placed = self.placed(position).map(|placed| placed.mark.link);
        let skip = || self.skips.get(&position).map(|skip| skip.mark.link);
        let mark = || {
            let mut marks = self.marks.iter();
            marks.find(|m| m.position == position).map(|m| m.link)
        };
        placed.or_else(skip).or_else(mark)
    }

    fn index_at(&self, at: u64) -> Option<usize> {
        // Nearly always it is the oldest, which is answered for, or the newest, which goes out.
        let last = self.placed.len().checked_sub(1)?;
        for likely in [0, last] {
            if self.placed.get(likely).is_some_and(|p| p.mark.at == at) {
                return Some(likely);
            }
        }
        self.placed.binary_search_by_key(&at, |p| p.mark.at).ok()
    }

    fn index_of(&self, position: u64) -> Option<usize> {
        let position_of = |p: &Placed<F>| p.mark.position;
        self.placed
            .binary_search_by_key(&position, position_of)
            .ok()
    }

    fn is_open_between(&self, low: u64, high: u64) -> bool {
        let oldest = self.placed.front().map(|p| p.mark.position);
        let placed = oldest.is_some_and(|oldest| oldest < high) && {
            let from = self.placed.partition_point(|p| p.mark.position <= low);
            let next = self.placed.get(from);
            next.is_some_and(|p| p.mark.position < high)
        };
        placed || low < high && self.skips.range(low + 1..high).next().is_some()
    }

    /// Adds a mark and forgets those from which nothing follows any more.
    fn mark(&mut self, mark: Mark) {
        let mut index = self.marks.partition_point(|m| m.at < mark.at);
        let before = index
            .checked_sub(1)
            .and_then(|before| self.marks.get(before));
        match before.map(|before| before.position) {
            Some(before) if !self.is_open_between(before, mark.position) => {
                index -= 1;
                if let Some(before) = self.marks.get_mut(index) {
                    *before = mark;
                }
            }
            _ => self.marks.insert(index, mark),
        }
        let behind = self.marks.get(index + 1).map(|behind| behind.position);
        if let Some(behind) = behind
            && !self.is_open_between(mark.position, behind)
        {
            self.marks.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::{Incarnation, MessageId};

    use super::*;

    fn chain() -> Chain<u8> {
        Chain::new(StreamId([1; 16]), Link([0; 16]))
    }

    const fn tag(n: u8) -> Tag {
        Tag([n; 8])
    }

    fn entry(n: u8) -> Entry {
        let id = MessageId {
            incarnation: Incarnation(1),
            sequence: u64::from(n),
        };
        Entry { id, tag: tag(n) }
    }

    fn run(chain: &Chain<u8>, first: u64, last: u64) -> Run {
        Run {
            stream: chain.id(),
            first,
            last,
            link: chain.placed(last).unwrap().mark.link,
        }
    }

    fn given(chain: &mut Chain<u8>, ats: impl IntoIterator<Item = u64>) -> Vec<Mark> {
        ats.into_iter()
            .map(|at| {
                let n = u8::try_from(at % 251).unwrap();
                chain.place(at, tag(n)).unwrap().mark
            })
            .collect()
    }

    fn marks(chain: &Chain<u8>) -> Vec<Mark> {
        chain.marks().copied().collect()
    }

    #[test]
    fn a_crash_derives_the_same_places_whatever_was_settled() {
        let mut one = chain();
        let places = given(&mut one, [10, 11, 12, 14, 15, 16]);
        // 11 leaves, 12 and 15 are delivered before what is older.
        one.leave(11, entry(11), Outcome::PURGED_IN_TRANSIT, None);
        one.settle(12);
        one.settle(15);
        let skips: Vec<_> = one.skips().cloned().collect();
        let mut two = Chain::recovered(one.id(), one.root(), marks(&one), skips);
        let again = given(&mut two, [10, 14, 16]);
        assert_eq!(again, [places[0], places[3], places[5]]);
        assert_eq!(two.low(), 1);
        // Everything else is answered for: one mark is left.
        for at in [10, 14, 16] {
            assert!(two.settle(at));
        }
        assert_eq!(two.settle_skip(2).map(|skip| skip.entry), Some(entry(11)));
        assert_eq!(marks(&two), [places[5]]);
        assert_eq!(two.low(), 7);
    }

    /// In whatever order what has a place is settled, a crash derives the places of the rest, and
    /// there are no more marks than gaps ask for.
    #[test]
    fn a_crash_derives_the_same_places_in_whatever_order_they_were_settled() {
        fn all(rest: &[u64], order: &mut Vec<u64>, look: &mut impl FnMut(&[u64])) {
            look(order);
            for at in rest {
                order.push(*at);
                let others: Vec<_> = rest.iter().copied().filter(|other| other != at).collect();
                all(&others, order, look);
                order.pop();
            }
        }
        let ats = [10, 12, 13, 17, 18];
        let mut looked = 0;
        all(&ats, &mut Vec::new(), &mut |order| {
            let mut one = chain();
            let places = given(&mut one, ats);
            for at in order {
                assert!(one.settle(*at));
            }
            let left = |at: &u64| !order.contains(at);
            let mut two = Chain::<u8>::recovered(one.id(), one.root(), marks(&one), []);
            let again = given(&mut two, ats.into_iter().filter(left));
            let same: Vec<_> = places
                .iter()
                .filter(|mark| left(&mark.at))
                .copied()
                .collect();
            assert_eq!(again, same, "{order:?}");
            // One, and one more behind each gap.
            let ends = ats.windows(2).filter(|two| left(&two[0]) && !left(&two[1]));
            assert_eq!(marks(&one).len(), 1 + ends.count(), "{order:?}");
            looked += 1;
        });
        assert_eq!(looked, 1 + 5 + 20 + 60 + 120 + 120);
    }

    #[test]
    fn nothing_up_to_where_places_were_given_gets_another() {
        let mut chain = chain();
        given(&mut chain, [3, 5]);
        assert_eq!(chain.placed_to(), 5);
        let before = marks(&chain);
        for at in 0..=5 {
            chain.place(at, tag(9));
        }
        assert_eq!(marks(&chain), before);
        given(&mut chain, [6]);
        assert_eq!(chain.placed_to(), 6);
    }

    #[test]
    fn what_was_never_given_a_place_leaves_no_trace() {
        let mut chain = chain();
        let one = given(&mut chain, [10])[0];
        // 11 expired unsent.
        let two = given(&mut chain, [12])[0];
        assert_eq!((one.position, two.position), (1, 2));
        assert_eq!(two.link, one.link.next(tag(12), 2));
    }

    #[test]
    fn a_zombie_whose_removal_was_lost_is_known_as_settled() {
        let mut one = chain();
        given(&mut one, [10, 11]);
        one.settle(10);
        let mut two = Chain::<u8>::recovered(one.id(), one.root(), marks(&one), []);
        assert!(two.place(10, tag(10)).is_none());
        assert_eq!(two.place(11, tag(11)).unwrap().mark.position, 2);
    }

    /// W-STR-6.
    #[test]
    fn an_ack_settles_exactly_its_run_and_only_by_its_link() {
        let mut chain = chain();
        given(&mut chain, 10..16);
        assert_eq!(chain.acked(&run(&chain, 2, 3)), Settles::These(vec![2, 3]));
        let other = Run {
            link: Link([9; 16]),
            ..run(&chain, 2, 3)
        };
        assert_eq!(chain.acked(&other), Settles::NotHeld);
        let beyond = Run {
            last: 99,
            ..run(&chain, 2, 3)
        };
        assert_eq!(chain.acked(&beyond), Settles::NotHeld);
        for at in 10..13 {
            chain.settle(at);
        }
        let old = Run {
            stream: chain.id(),
            first: 1,
            last: 2,
            link: Link([9; 16]),
        };
        assert_eq!(chain.acked(&old), Settles::Nothing);
    }

    /// W-STR-8.
    #[test]
    fn a_need_is_met_from_a_leaf_that_is_held_or_holds() {
        let mut chain = chain();
        let places = given(&mut chain, 10..16);
        let leaf = |n: usize| (places[n].position, places[n].link);
        assert_eq!(chain.needed(&[], 1), GoOn::Behind(0));
        let wrong = (4, Link([9; 16]));
        assert_eq!(chain.needed(&[leaf(1), wrong], 1), GoOn::Behind(2));
        for at in 10..13 {
            chain.settle(at);
        }
        // All of it was settled before the session.
        assert_eq!(chain.needed(&[leaf(2)], 4), GoOn::Behind(3));
        assert_eq!(chain.needed(&[leaf(1)], 4), GoOn::Hold);
        assert_eq!(chain.needed(&[], 4), GoOn::Hold);
        assert_eq!(chain.needed(&[wrong], 4), GoOn::Hold);
        // Some of it since: the receiver may have spoken before.
        assert_eq!(chain.needed(&[leaf(1)], 3), GoOn::Behind(3));
        assert_eq!(chain.needed(&[leaf(0)], 3), GoOn::Hold);
        assert_eq!(chain.needed(&[], 1), GoOn::Behind(3));
    }

    /// Skips that are sent are passed over for good, until they are unsent, and one that comes
    /// before them is found all the same.
    #[test]
    fn skips_are_sent_in_order_again_and_again() {
        let mut chain = chain();
        given(&mut chain, 10..16);
        chain.set_flight(10, Some(7));
        let send_all = |chain: &mut Chain<u8>| {
            let mut sent = Vec::new();
            while let Some(skip) = chain.sendable_skip(u64::MAX) {
                let position = skip.mark.position;
                chain.send_skip(position, 7);
                sent.push(position);
            }
            sent
        };
        let leave = |chain: &mut Chain<u8>, at: u64| {
            let entry = entry(u8::try_from(at).unwrap());
            let skip = chain.leave(at, entry, Outcome::PURGED_IN_TRANSIT, None);
            let position = skip.unwrap().mark.position;
            chain.skip_mut(position).unwrap().durable = true;
        };
        for at in 11..16 {
            leave(&mut chain, at);
        }
        assert_eq!(send_all(&mut chain), [2, 3, 4, 5, 6]);
        leave(&mut chain, 10);
        assert_eq!(
            send_all(&mut chain),
            [1],
            "it came last and lies before them"
        );
        chain.unsend_skips(3);
        assert_eq!(send_all(&mut chain), [4, 5, 6]);
        assert_eq!(chain.skip_at(12).map(|skip| skip.mark.position), Some(3));
        assert!(chain.settle_skip(3).is_some());
        assert!(chain.skip_at(12).is_none());
    }

    #[test]
    fn what_rests_is_what_has_a_place_and_is_not_in_flight() {
        fn is_right(chain: &Chain<u8>) {
            let rests = chain.placed.iter().filter(|p| p.flight.is_none());
            let rests: BTreeSet<u64> = rests.map(|p| p.mark.at).collect();
            assert_eq!(chain.resting, rests);
            let sent = chain.skips.values().filter(|skip| skip.sent.is_some());
            assert_eq!(chain.sent_skips(), sent.count());
        }
        let mut chain = chain();
        given(&mut chain, 1..=6);
        is_right(&chain);
        for at in 1..=4 {
            chain.set_flight(at, Some(1));
            is_right(&chain);
        }
        chain.set_flight(2, None);
        is_right(&chain);
        for at in [1, 2] {
            assert!(chain.settle(at));
            is_right(&chain);
        }
        for at in [3, 5] {
            let skip = chain.leave(at, entry(1), Outcome::PURGED_IN_TRANSIT, None);
            let position = skip.unwrap().mark.position;
            is_right(&chain);
            chain.send_skip(position, 1);
            chain.send_skip(position, 2);
            assert_eq!(chain.sent_skips(), 1);
            is_right(&chain);
            assert!(chain.unleave(position));
            is_right(&chain);
        }
        let skip = chain.leave(6, entry(1), Outcome::PURGED_IN_TRANSIT, None);
        let position = skip.unwrap().mark.position;
        chain.send_skip(position, 1);
        chain.unsend_skips(0);
        is_right(&chain);
        chain.send_skip(position, 1);
        chain.settle_skip(position);
        is_right(&chain);
        chain.reroot(StreamId([9; 16]), Link([9; 16]));
        is_right(&chain);
    }

    #[test]
    fn a_skip_waits_for_what_is_before_it_and_for_the_disk() {
        let mut chain = chain();
        given(&mut chain, 10..13);
        chain.leave(11, entry(11), Outcome::PURGED_IN_TRANSIT, None);
        assert!(chain.sendable_skip(99).is_none(), "not on disk");
        chain.skip_mut(2).unwrap().durable = true;
        assert!(chain.sendable_skip(99).is_none(), "10 is not in flight");
        chain.set_flight(10, Some(7));
        assert_eq!(chain.sendable_skip(99).unwrap().mark.position, 2);
        assert!(
            chain.sendable_skip(10).is_none(),
            "10 waits to be sent again"
        );
        assert!(chain.unleave(2));
        let order: Vec<_> = chain.unsettled().map(|p| p.mark.position).collect();
        assert_eq!(order, [1, 2, 3]);
    }
}
