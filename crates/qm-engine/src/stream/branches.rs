//! The receiver's side of one stream: the links that were taken, in branches.
//!
//! A stream is a line, unless its sender was cloned or went back to a backup: then two messages
//! follow one link, and each begins a branch that is in order in itself. What follows no known link
//! is never taken. Links that are being stored are known as well, because what follows them is
//! stored behind them; they are answered for when the disk has them.

mod audit;

use std::collections::{BTreeMap, VecDeque};

use qm_wire::{Entry, Link, MessageId, Outcome};

/// Whatever stands at a link is known by its id so far back at least: as much as two windows.
const NAMED_MAX: usize = 8_192;
/// A run on disk that is shorter is written anew with what follows it.
const RUN_LINKS_MIN: usize = 32;
/// Links of one run on disk.
const RUN_LINKS_MAX: usize = 512;

/// What to do with a message or skip that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It was delivered before; a run of delivered messages that ends with it begins here.
    Delivered {
        /// First position of that run, not before the sender's oldest unsettled one.
        first: u64,
    },
    /// Its place was taken by a skip.
    Skipped(Outcome),
    /// It is being stored: that will be answered.
    InFlight,
    /// It is next.
    Next {
        /// Whether something else followed the same link: the sender's history has branched.
        branches: bool,
    },
    /// The link before it is not known.
    Need,
}

/// What stands at a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Taken {
    /// The message.
    pub entry: Entry,
    /// The reason when a skip stands there; [`Outcome`] 0 for a message.
    pub skipped: Outcome,
}

/// A run as it lies on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// First position.
    pub first: u64,
    /// The link before it.
    pub before: Link,
    /// Node time of its last change, microseconds.
    pub at_us: u64,
    /// What stands there.
    pub taken: Vec<Taken>,
}

/// Name of a run on disk within its stream: first position, and its first link.
pub type RunName = (u64, Link);

/// A change to what is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunChange {
    /// Write a run.
    Set(RunName, StoredRun),
    /// It is gone.
    Unset(RunName),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    link: Link,
    skipped: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Branch {
    /// Position of the first node.
    first: u64,
    before: Link,
    nodes: VecDeque<Node>,
    /// Names of the newest nodes.
    named: VecDeque<Entry>,
    /// Nodes below this position are on disk.
    stored_to: u64,
    /// Nodes below this position were handed to the disk.
    written_to: u64,
    /// The names of nodes below this position are in the index.
    indexed_to: u64,
    /// Runs on disk: name, number of links, time.
    runs: VecDeque<(RunName, usize, u64)>,
}

impl Branch {
    const fn new(first: u64, before: Link) -> Self {
        Self {
            first,
            before,
            nodes: VecDeque::new(),
            named: VecDeque::new(),
            indexed_to: first,
            stored_to: first,
            written_to: first,
            runs: VecDeque::new(),
        }
    }

    fn end(&self) -> u64 {
        self.first.saturating_add(self.nodes.len() as u64)
    }

    fn node(&self, position: u64) -> Option<&Node> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.nodes.get(index)
    }

    fn link_before(&self, position: u64) -> Option<Link> {
        if position == self.first {
            return Some(self.before);
        }
        self.node(position.checked_sub(1)?).map(|node| node.link)
    }

    /// The run from a position up to another, as it is written.
    fn run(&self, from: u64, to: u64, at_us: u64) -> Option<(RunName, StoredRun)> {
        let taken: Vec<Taken> = (from..to)
            .map_while(|position| {
                let entry = self.entry(position)?;
                let skipped = self.node(position)?.skipped;
                Some(Taken { entry, skipped })
            })
            .collect();
        let name = (from, self.node(from)?.link);
        let before = self.link_before(from)?;
        let run = StoredRun {
            first: from,
            before,
            at_us,
            taken,
        };
        (!run.taken.is_empty()).then_some((name, run))
    }

    fn entry(&self, position: u64) -> Option<Entry> {
        let index = usize::try_from(position.checked_sub(self.named_from())?).ok()?;
        self.named.get(index).copied()
    }

    /// Position of the oldest node whose name is known.
    fn named_from(&self) -> u64 {
        self.end().saturating_sub(self.named.len() as u64)
    }

    /// Forgets the oldest name.
    fn forget_name(&mut self, index: &mut Index) {
        let position = self.named_from();
        if let Some(old) = self.named.pop_front()
            && position < self.indexed_to
        {
            index.remove(&old.id);
        }
    }
}

/// Position and link of what is known by its id.
type Index = BTreeMap<MessageId, (u64, Link)>;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Branches {
    root: Link,
    branches: Vec<Branch>,
    /// Whether something of the stream was forgotten: its beginning is not known any more.
    dropped: bool,
    /// Made when it is asked for the first time, and only then carried on: a peer asks when an
    /// answer is overdue or after an interruption, and every message would have to pay for it.
    index: Index,
    /// Whether something came since.
    unindexed: bool,
}

impl Branches {
    /// Nothing is known of the stream but the link before its first position.
    #[must_use]
    pub const fn new(root: Link) -> Self {
        Self {
            root,
            branches: Vec::new(),
            dropped: false,
            index: BTreeMap::new(),
            unindexed: false,
        }
    }

    /// As the disk has it. Runs whose link before is not known are those whose ancestors were
    /// forgotten; when nothing was forgotten they were never part of the stream and are returned.
    #[must_use]
    pub fn recovered(
        root: Link,
        dropped: bool,
        mut runs: Vec<StoredRun>,
    ) -> (Self, Vec<StoredRun>) {
        runs.sort_by_key(|run| run.first);
        let mut all = Self::new(root);
        all.dropped = dropped;
        let mut orphans = Vec::new();
        for run in runs {
            let known = run.first == 1 && run.before == root
                || run.first > 1 && all.find(run.first - 1, run.before).is_some();
            if !known && !dropped {
                orphans.push(run);
                continue;
            }
            let mut position = run.first;
            let mut before = run.before;
            let count = run.taken.len();
            let mut name = None;
            for taken in run.taken {
                let link = before.next(taken.entry.tag, position);
                name.get_or_insert((run.first, link));
                let at = all.put(position, before, link, taken);
                if let Some(branch) = all.branches.get_mut(at) {
                    branch.stored_to = position.saturating_add(1);
                    branch.written_to = branch.stored_to;
                }
                (position, before) = (position.saturating_add(1), link);
            }
            let last = all.find(position.saturating_sub(1), before);
            if let Some((name, (at, _))) = name.zip(last)
                && let Some(branch) = all.branches.get_mut(at)
            {
                branch.runs.push_back((name, count, run.at_us));
            }
        }
        (all, orphans)
    }

    /// Whether nothing is known.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.branches.is_empty()
    }

    /// Whether ancestors were forgotten.
    #[must_use]
    pub const fn has_dropped(&self) -> bool {
        self.dropped
    }

    /// Number of branches.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.branches.len()
    }

    /// Links that are known.
    #[must_use]
    pub fn links(&self) -> usize {
        self.branches.iter().map(|branch| branch.nodes.len()).sum()
    }

    fn find(&self, position: u64, link: Link) -> Option<(usize, &Node)> {
        // The newest branch is the likely one.
        let mut branches = self.branches.iter().enumerate().rev();
        branches.find_map(|(at, branch)| {
            let node = branch.node(position)?;
            (node.link == link).then_some((at, node))
        })
    }

    fn knows(&self, position: u64, previous: Link) -> bool {
        if position == 1 {
            return previous == self.root && !self.dropped;
        }
        self.find(position - 1, previous).is_some()
    }

    /// What to do with what arrives under this link at this position. `low` is the sender's oldest
    /// unsettled position.
    #[must_use]
    pub fn judge(&self, position: u64, previous: Link, link: Link, low: u64) -> Judged {
        if let Some((at, node)) = self.find(position, link) {
            let Some(branch) = self.branches.get(at) else {
                return Judged::Need;
            };
            if position >= branch.stored_to {
                return Judged::InFlight;
            }
            if node.skipped.0 != 0 {
                return Judged::Skipped(node.skipped);
            }
            let mut first = position;
            while first > low.max(branch.first)
                && position - first < qm_wire::limits::WINDOW_MESSAGES_MAX
                && branch.node(first - 1).is_some_and(|n| n.skipped.0 == 0)
            {
                first -= 1;
            }
            return Judged::Delivered { first };
        }
        if position == 0 || !self.knows(position, previous) {
            return Judged::Need;
        }
        let follows = |branch: &Branch| branch.link_before(position) == Some(previous);
        let branches = self
            .branches
            .iter()
            .any(|branch| branch.node(position).is_some() && follows(branch));
        Judged::Next { branches }
    }

    /// The link before one that was taken.
    #[must_use]
    pub fn link_before(&self, position: u64, link: Link) -> Option<Link> {
        let (at, _) = self.find(position, link)?;
        self.branches.get(at)?.link_before(position)
    }

    /// What a receiver would do that went by the number alone: for a test that must notice.
    #[cfg(feature = "__breaks")]
    #[must_use]
    pub fn judge_by_number(&self, position: u64, low: u64) -> Judged {
        let end = self.branches.iter().map(Branch::end).max().unwrap_or(1);
        let _ = low;
        match position.cmp(&end) {
            core::cmp::Ordering::Less => Judged::Delivered { first: position },
            core::cmp::Ordering::Equal => Judged::Next { branches: false },
            core::cmp::Ordering::Greater => Judged::Need,
        }
    }

    /// Takes what was judged to be next.
    pub fn take(&mut self, position: u64, previous: Link, link: Link, taken: Taken) {
        self.put(position, previous, link, taken);
    }

    fn put(&mut self, position: u64, previous: Link, link: Link, taken: Taken) -> usize {
        let extends = |branch: &Branch| {
            branch.end() == position && branch.link_before(position) == Some(previous)
        };
        let at = match self.branches.iter().rposition(extends) {
            Some(at) => at,
            None => {
                self.branches.push(Branch::new(position, previous));
                self.branches.len() - 1
            }
        };
        self.unindexed = true;
        if let Some(branch) = self.branches.get_mut(at) {
            let skipped = taken.skipped;
            branch.nodes.push_back(Node { link, skipped });
            branch.named.push_back(taken.entry);
            if branch.named.len() > NAMED_MAX {
                branch.forget_name(&mut self.index);
            }
        }
        at
    }

    /// The disk has everything up to this link.
    pub fn stored(&mut self, position: u64, link: Link) -> bool {
        let Some((at, _)) = self.find(position, link) else {
            return false;
        };
        if let Some(branch) = self.branches.get_mut(at) {
            branch.stored_to = branch.stored_to.max(position.saturating_add(1));
        }
        true
    }

    /// The disk refused what stands at this link: it and what follows it were never taken.
    pub fn refused(&mut self, position: u64, link: Link) -> Vec<RunChange> {
        let Some((at, _)) = self.find(position, link) else {
            return Vec::new();
        };
        let mut changes = Vec::new();
        self.cut(at, position, &mut changes);
        // What hangs on it goes with it.
        while let Some(at) = self.branches.iter().position(|branch| {
            branch.first > position && !self.dropped && !self.knows(branch.first, branch.before)
        }) {
            let first = self.branches.get(at).map_or(0, |branch| branch.first);
            self.cut(at, first, &mut changes);
        }
        changes
    }

    fn cut(&mut self, at: usize, position: u64, changes: &mut Vec<RunChange>) {
        let Some(branch) = self.branches.get_mut(at) else {
            return;
        };
        while branch.end() > position.max(branch.first) {
            branch.nodes.pop_back();
            if let Some(entry) = branch.named.pop_back()
                && branch.end() < branch.indexed_to
            {
                self.index.remove(&entry.id);
            }
        }
        branch.indexed_to = branch.indexed_to.min(branch.end());
        branch.stored_to = branch.stored_to.min(position);
        branch.written_to = branch.written_to.min(position);
        while let Some((name, links, at_us)) = branch.runs.back().copied() {
            if name.0.saturating_add(links as u64) <= position {
                break;
            }
            branch.runs.pop_back();
            // What is left of it is written anew, at once.
            changes.push(match branch.run(name.0, position, at_us) {
                Some((name, run)) => {
                    branch.runs.push_back((name, run.taken.len(), at_us));
                    RunChange::Set(name, run)
                }
                None => RunChange::Unset(name),
            });
        }
        if branch.nodes.is_empty() {
            self.branches.remove(at);
        }
    }

    /// What must be written so that the disk has all that was taken.
    pub fn save(&mut self, at_us: u64) -> Vec<RunChange> {
        let mut changes = Vec::new();
        for branch in &mut self.branches {
            let mut from = branch.written_to.max(branch.first);
            if let Some((name, links, _)) = branch.runs.back().copied()
                && branch.end() > from
                && links < RUN_LINKS_MIN
                && branch.entry(name.0).is_some()
                // A batch never speaks for what an earlier one puts: that may be refused.
                && name.0.saturating_add(links as u64) <= branch.stored_to
            {
                branch.runs.pop_back();
                from = name.0;
            }
            while from < branch.end() {
                let to = branch.end().min(from + RUN_LINKS_MAX as u64);
                let Some((name, run)) = branch.run(from, to, at_us) else {
                    break;
                };
                branch.runs.push_back((name, run.taken.len(), at_us));
                changes.push(RunChange::Set(name, run));
                from = to;
            }
            branch.written_to = branch.end();
        }
        changes
    }

    /// Positions and links of the newest of each branch, the newest first, at most `most`. What is
    /// being stored counts: its sender need not send it again.
    #[must_use]
    pub fn leaves(&self, most: usize) -> Vec<(u64, Link)> {
        let leaf = |branch: &Branch| {
            let position = branch.end().checked_sub(1)?;
            branch.node(position).map(|node| (position, node.link))
        };
        let mut leaves: Vec<_> = self.branches.iter().filter_map(leaf).collect();
        leaves.sort_by_key(|(position, _)| core::cmp::Reverse(*position));
        leaves.truncate(most);
        leaves
    }

    /// Puts into the index what came since it was asked last: each name once. Returns how many
    /// branches were looked through for that.
    fn bring_up_index(&mut self) -> usize {
        if !core::mem::take(&mut self.unindexed) {
            return 0;
        }
        for branch in &mut self.branches {
            let from = branch.indexed_to.max(branch.named_from());
            for position in from..branch.end() {
                if let Some((entry, node)) = branch.entry(position).zip(branch.node(position)) {
                    self.index.insert(entry.id, (position, node.link));
                }
            }
            branch.indexed_to = branch.end();
        }
        self.branches.len()
    }

    /// What is known of a message by its name; `None` when nothing is, or not any more.
    #[must_use]
    pub fn known(&mut self, entry: &Entry) -> Option<Judged> {
        self.bring_up_index();
        let (position, link) = *self.index.get(&entry.id)?;
        let (at, node) = self.find(position, link)?;
        let branch = self.branches.get(at)?;
        // The link vouches for the tag.
        if branch.link_before(position)?.next(entry.tag, position) != link {
            return None;
        }
        Some(if position >= branch.stored_to {
            Judged::InFlight
        } else if node.skipped.0 != 0 {
            Judged::Skipped(node.skipped)
        } else {
            Judged::Delivered { first: position }
        })
    }

    /// Forgets ancestors below `low` that are beyond the newest `keep` links or were stored before
    /// `before_us`. The newest link of every branch stays (W-STR-4).
    pub fn prune(&mut self, low: u64, keep: usize, before_us: u64) -> Vec<RunName> {
        let mut over = self.links().saturating_sub(keep);
        let mut gone = Vec::new();
        for branch in &mut self.branches {
            while branch.runs.len() > 1
                && let Some((name, links, at_us)) = branch.runs.front().copied()
            {
                let end = name.0.saturating_add(links as u64);
                let due = over >= links || at_us < before_us;
                if end > low || end > branch.stored_to || !due {
                    break;
                }
                branch.runs.pop_front();
                gone.push(name);
                for _ in 0..links {
                    if let Some(node) = branch.nodes.pop_front() {
                        branch.before = node.link;
                        branch.first = branch.first.saturating_add(1);
                    }
                }
                while branch.named.len() > branch.nodes.len() {
                    branch.forget_name(&mut self.index);
                }
                over = over.saturating_sub(links);
                self.dropped = true;
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::{Incarnation, Tag};

    use super::*;

    const ROOT: Link = Link([0; 16]);

    fn taken(n: u8) -> Taken {
        let id = MessageId {
            incarnation: Incarnation(1),
            sequence: u64::from(n),
        };
        let tag = Tag([n; 8]);
        let entry = Entry { id, tag };
        let skipped = Outcome(0);
        Taken { entry, skipped }
    }

    fn skip(n: u8) -> Taken {
        Taken {
            skipped: Outcome::PURGED_IN_TRANSIT,
            ..taken(n)
        }
    }

    /// Takes these behind a link; returns all links.
    fn take(all: &mut Branches, position: u64, previous: Link, these: &[Taken]) -> Vec<Link> {
        let (mut position, mut previous) = (position, previous);
        let mut links = Vec::new();
        for taken in these {
            let link = previous.next(taken.entry.tag, position);
            let judged = all.judge(position, previous, link, 1);
            assert!(matches!(judged, Judged::Next { .. }), "{judged:?}");
            all.take(position, previous, link, *taken);
            links.push(link);
            (position, previous) = (position + 1, link);
        }
        links
    }

    fn store(all: &mut Branches) -> BTreeMap<RunName, StoredRun> {
        let mut disk = BTreeMap::new();
        keep(&mut disk, all.save(1));
        for branch in &mut all.branches {
            branch.stored_to = branch.end();
        }
        disk
    }

    fn keep(disk: &mut BTreeMap<RunName, StoredRun>, changes: Vec<RunChange>) {
        for change in changes {
            match change {
                RunChange::Set(name, run) => disk.insert(name, run),
                RunChange::Unset(name) => disk.remove(&name),
            };
        }
    }

    #[test]
    fn a_message_is_taken_once_and_only_behind_what_is_known() {
        let mut all = Branches::new(ROOT);
        let links = take(&mut all, 1, ROOT, &[taken(1), taken(2)]);
        let [one, two] = [links[0], links[1]];
        assert_eq!(all.judge(2, one, two, 1), Judged::InFlight);
        assert!(all.stored(1, one));
        assert_eq!(all.judge(1, ROOT, one, 1), Judged::Delivered { first: 1 });
        assert_eq!(all.judge(2, one, two, 1), Judged::InFlight);
        assert!(all.stored(2, two));
        assert_eq!(all.judge(2, one, two, 1), Judged::Delivered { first: 1 });
        assert_eq!(all.judge(2, one, two, 2), Judged::Delivered { first: 2 });
        let far = two.next(taken(3).entry.tag, 3).next(taken(4).entry.tag, 4);
        assert_eq!(all.judge(4, far, far, 1), Judged::Need);
        // The right link at the wrong position.
        assert_eq!(all.judge(4, two, far, 1), Judged::Need);
        assert_eq!(all.leaves(8), [(2, two)]);
    }

    #[test]
    fn siblings_make_branches_that_are_each_in_order() {
        let mut all = Branches::new(ROOT);
        let trunk = take(&mut all, 1, ROOT, &[taken(1), taken(2)]);
        let other = trunk[0].next(taken(9).entry.tag, 2);
        assert_eq!(
            all.judge(2, trunk[0], other, 1),
            Judged::Next { branches: true }
        );
        let branch = take(&mut all, 2, trunk[0], &[taken(9), taken(10)]);
        take(&mut all, 3, trunk[1], &[taken(3)]);
        let disk = store(&mut all);
        assert_eq!(all.leaves(8).len(), 2);
        let (mut again, orphans) = Branches::recovered(ROOT, false, disk.into_values().collect());
        assert!(orphans.is_empty());
        assert_eq!(
            again.judge(3, branch[0], branch[1], 1),
            Judged::Delivered { first: 2 }
        );
        assert_eq!(again.leaves(8), all.leaves(8));
        assert_eq!(
            again.known(&taken(10).entry),
            Some(Judged::Delivered { first: 3 })
        );
        let mut false_tag = taken(10).entry;
        false_tag.tag = Tag([77; 8]);
        assert_eq!(again.known(&false_tag), None);
    }

    #[test]
    fn a_skip_ends_the_run_before_it() {
        let mut all = Branches::new(ROOT);
        let links = take(&mut all, 1, ROOT, &[taken(1), skip(2), taken(3), taken(4)]);
        store(&mut all);
        assert_eq!(
            all.judge(2, links[0], links[1], 1),
            Judged::Skipped(Outcome::PURGED_IN_TRANSIT)
        );
        assert_eq!(
            all.judge(4, links[2], links[3], 1),
            Judged::Delivered { first: 3 }
        );
    }

    #[test]
    fn what_the_disk_refuses_was_never_taken() {
        let mut all = Branches::new(ROOT);
        let first = take(&mut all, 1, ROOT, &[taken(1)]);
        let mut disk = store(&mut all);
        let links = take(&mut all, 2, first[0], &[taken(2), taken(3)]);
        keep(&mut disk, all.save(2));
        keep(&mut disk, all.refused(2, links[0]));
        keep(&mut disk, all.save(3));
        assert!(matches!(
            all.judge(2, first[0], links[0], 1),
            Judged::Next { branches: false }
        ));
        assert_eq!(all.judge(3, links[0], links[1], 1), Judged::Need);
        let (mut again, _) = Branches::recovered(ROOT, false, disk.into_values().collect());
        assert_eq!(again.leaves(8), [(1, first[0])]);
        assert_eq!(again.known(&taken(2).entry), None);
    }

    /// What is known by name does not depend on when it was asked before, whatever was taken, taken
    /// back and forgotten meanwhile.
    #[test]
    fn names_are_known_whenever_they_are_asked() {
        let entries: Vec<_> = (1..=120).map(|n| taken(n).entry).collect();
        let (mut often, mut once) = (Branches::new(ROOT), Branches::new(ROOT));
        let mut answers = |step: &str, change: &mut dyn FnMut(&mut Branches)| {
            change(&mut often);
            change(&mut once);
            let mut asked = once.clone();
            let late: Vec<_> = entries.iter().map(|entry| asked.known(entry)).collect();
            let soon: Vec<_> = entries.iter().map(|entry| often.known(entry)).collect();
            assert_eq!(soon, late, "{step}");
            assert!(once.index.is_empty(), "nobody asked it");
            late.iter().filter(|judged| judged.is_some()).count()
        };
        let trunk: Vec<_> = (1..=100).map(taken).collect();
        let mut links = Vec::new();
        let found = answers("taken", &mut |all| {
            links = Vec::new();
            for (n, taken) in trunk.iter().enumerate() {
                let previous = links.last().copied().unwrap_or(ROOT);
                let at = n as u64 + 1;
                links.extend(take(all, at, previous, &[*taken]));
                all.stored(at, links[n]);
                all.save(at);
            }
        });
        assert_eq!(found, 100);
        let sibling: Vec<_> = (101..=110).map(taken).collect();
        let found = answers("branched", &mut |all| {
            take(all, 91, links[89], &sibling);
        });
        assert_eq!(found, 110);
        let found = answers("taken back, and others taken", &mut |all| {
            all.refused(96, links[95]);
            take(all, 96, links[94], &[taken(111), taken(112)]);
        });
        assert_eq!(found, 107);
        let found = answers("forgotten", &mut |all| {
            all.prune(60, 0, u64::MAX);
        });
        assert_eq!(found, 75);
    }

    /// A query asks for thousands of names, in streams that have hundreds of branches.
    #[test]
    fn branches_are_looked_through_only_when_something_came() {
        let mut all = Branches::new(ROOT);
        let trunk = take(&mut all, 1, ROOT, &[taken(1)]);
        for n in 2..=200 {
            take(&mut all, 2, trunk[0], &[taken(n)]);
        }
        assert_eq!(all.bring_up_index(), 199);
        assert!(all.known(&taken(200).entry).is_some());
        assert_eq!(all.bring_up_index(), 0);
        let late = take(&mut all, 2, trunk[0], &[taken(201)]);
        assert!(all.known(&taken(201).entry).is_some());
        assert_eq!(all.bring_up_index(), 0);
        // What is taken back is not known, and is when it comes again.
        all.refused(2, late[0]);
        assert!(all.known(&taken(201).entry).is_none());
        take(&mut all, 2, trunk[0], &[taken(201)]);
        assert!(all.known(&taken(201).entry).is_some());
        let disk = store(&mut all);
        let (mut again, _) = Branches::recovered(ROOT, false, disk.into_values().collect());
        assert_eq!(again.bring_up_index(), 200);
    }

    /// A later batch may be on disk although an earlier one was refused.
    #[test]
    fn a_run_without_its_ancestors_is_no_part_of_the_stream() {
        let mut all = Branches::new(ROOT);
        take(&mut all, 1, ROOT, &[taken(1), taken(2)]);
        let run = |change: &RunChange| match change {
            RunChange::Set(_, run) => run.clone(),
            RunChange::Unset(_) => unreachable!("nothing was taken back"),
        };
        let mut whole = all.save(1).iter().map(run).next().unwrap();
        let second = whole.taken.split_off(1);
        let late = StoredRun {
            first: 2,
            before: ROOT.next(taken(1).entry.tag, 1),
            at_us: 1,
            taken: second,
        };
        let (again, orphans) = Branches::recovered(ROOT, false, vec![late.clone()]);
        assert!(again.is_empty());
        assert_eq!(orphans, std::slice::from_ref(&late));
        let (kept, orphans) = Branches::recovered(ROOT, true, vec![late]);
        assert!(orphans.is_empty());
        assert_eq!(kept.leaves(8).len(), 1);
    }

    /// W-STR-4.
    #[test]
    fn ancestors_are_forgotten_and_leaves_are_not() {
        let mut all = Branches::new(ROOT);
        let many: Vec<_> = (0..100).map(taken).collect();
        let mut disk = BTreeMap::new();
        let mut previous = ROOT;
        let mut links = Vec::new();
        for (n, taken) in many.iter().enumerate() {
            let at = n as u64 + 1;
            previous = take(&mut all, at, previous, &[*taken])[0];
            links.push(previous);
            all.stored(at, previous);
            keep(&mut disk, all.save(at));
        }
        assert_eq!(disk.len(), 4, "runs grow to 32 links");
        assert!(all.prune(10, 0, u64::MAX).is_empty(), "nothing from low on");
        for name in all.prune(1_000, 40, 0) {
            disk.remove(&name);
        }
        assert_eq!(all.links(), 68);
        for name in all.prune(1_000, 1_000, u64::MAX) {
            disk.remove(&name);
        }
        assert_eq!(all.links(), 4, "the last run stays");
        assert_eq!(all.leaves(8), [(100, links[99])]);
        assert_eq!(all.judge(1, ROOT, links[0], 1), Judged::Need);
        assert_eq!(
            all.judge(100, links[98], links[99], 90),
            Judged::Delivered { first: 97 }
        );
        let runs = disk.into_values().collect();
        let (again, _) = Branches::recovered(ROOT, true, runs);
        assert_eq!(again.leaves(8), all.leaves(8));
        assert_eq!(again.links(), 4);
    }
}
