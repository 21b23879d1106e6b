//! Which of two copies keeps the identity: each decides for itself, by ranks.
//!
//! A copy gives up if and only if it was shown a higher rank than its own, signed over its own
//! fresh question. Both cannot give up: if A was shown b > a, and B was shown a' > b', then,
//! because ranks are on disk before they are said and only ever rise, a' <= a < b <= b' < a'.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::limits::PARTED_LIVES_MAX;
use qm_wire::{Ask, Incarnation, QmId, Rank, Twin};

use crate::commits::Then;
use crate::engine::Engine;
use crate::io::LinkId;
use crate::record::prefixed;
use crate::time::Timestamp;

const RANK: &[u8] = b"rank/";
const LOST: &[u8] = b"rank-lost/";
const FORK: &[u8] = b"rank-fork/";
const SHOWN: &[u8] = b"rank-shown/";
const VERSION: u8 = 1;
/// Without an alarm the rank is raised at most so often: each time is a write.
const RANKED_AGAIN_MS: u64 = 60 * 60 * 1_000;
/// Words that wait for the disk to have the rank.
const WAITING_MAX: usize = 64;

/// What a copy concludes from a rank that it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It keeps the identity.
    Keeps,
    /// Chance did not decide: ranks are raised, and it asks again.
    Tied,
    /// It gives the identity up.
    GivesUp,
}

/// W-TWN-1.
pub(crate) fn judge(own: Rank, other: Rank) -> Verdict {
    match other.cmp(&own) {
        core::cmp::Ordering::Less => Verdict::Keeps,
        core::cmp::Ordering::Equal => Verdict::Tied,
        core::cmp::Ordering::Greater => Verdict::GivesUp,
    }
}

/// A higher rank, by chance; the same when there is none. Of two copies with the rank of one image,
/// the one on the machine that it was made for rises higher.
pub(crate) const fn raised(rank: Rank, chance: u64, moved: bool) -> Rank {
    // A part of what is left above, so that there is room for more.
    let room = (u64::MAX - rank.draw) >> 8;
    let half = room / 2;
    let step = match chance.checked_rem(half) {
        Some(step) if moved => step + 1,
        Some(step) => half + step + 1,
        None => (rank.draw < u64::MAX) as u64,
    };
    Rank {
        draw: rank.draw.saturating_add(step),
        ..rank
    }
}

/// Something that is said when the disk has the rank.
#[derive(Clone, Debug)]
enum Waiting {
    Told(LinkId, Twin),
    Asked(LinkId, Ask),
    Again(LinkId, [u8; 16]),
}

/// The rank of this node, frozen while copies of it are known, and never lowered; and the lives by
/// which they know it.
#[derive(Debug, Default)]
pub(crate) struct Election {
    rank: Option<Rank>,
    /// Whether the disk has it, and the lives that were shown.
    durable: bool,
    /// When this process drew or raised it.
    ranked_at: Option<Timestamp>,
    waiting: Vec<Waiting>,
    /// Lives of this node in which copies of it met it, or others told it of them, the newest last:
    /// by one of them each knows it, and hears of all when it parts.
    pub(crate) shown: VecDeque<Incarnation>,
    shown_changes: u64,
    /// Whether a higher rank was shown, and when, by the wall clock.
    pub(crate) lost_us: Option<u64>,
    /// Node time before which another copy has stored what this one has: the latest of all copies
    /// that proved themselves, whoever has the higher rank, for an operator may choose otherwise.
    pub(crate) fork_us: Option<u64>,
    /// Why what follows from that has to wait.
    pub(crate) held_up: Option<String>,
}

impl Election {
    pub(crate) const fn rank(&self) -> Option<Rank> {
        if self.durable { self.rank } else { None }
    }

    /// Whether it will ask over a relay again when the disk has the rank.
    fn asks_again(&self, link: LinkId, relay: [u8; 16]) -> bool {
        let again = |waiting: &Waiting| match waiting {
            Waiting::Again(to, over) => (*to, *over) == (link, relay),
            Waiting::Told(..) | Waiting::Asked(..) => false,
        };
        self.waiting.iter().any(again)
    }

    /// A rank that is on disk is one, and few lives and words are kept.
    pub(crate) fn audit(&self, is_under_way: impl Fn(&(Rank, u64)) -> bool) -> Result<(), String> {
        let mut shown: Vec<u64> = self.shown.iter().map(|life| life.0).collect();
        shown.sort_unstable();
        shown.dedup();
        if shown.len() != self.shown.len() || shown.len() > PARTED_LIVES_MAX {
            return Err(format!("{} lives of it were shown", self.shown.len()));
        }
        if self.durable && self.rank.is_none() {
            return Err("a rank is on disk that it does not have".to_owned());
        }
        let goes = self.rank.map(|rank| (rank, self.shown_changes));
        if !self.waiting.is_empty() && !goes.is_some_and(|rank| is_under_way(&rank)) {
            return Err("words wait for a rank that is not on its way to the disk".to_owned());
        }
        Ok(())
    }
}

fn time_value(us: u64) -> Bytes {
    let mut value = BytesMut::with_capacity(9);
    value.put_u8(VERSION);
    value.put_u64_le(us);
    value.freeze()
}

fn lives_value(lives: &VecDeque<Incarnation>) -> Bytes {
    let mut value = BytesMut::with_capacity(1 + 8 * lives.len());
    value.put_u8(VERSION);
    for life in lives {
        value.put_u64_le(life.0);
    }
    value.freeze()
}

fn read_lives(mut value: Bytes) -> Option<VecDeque<Incarnation>> {
    let mut lives = VecDeque::new();
    while !value.is_empty() && lives.len() < PARTED_LIVES_MAX {
        lives.push_back(Incarnation(value.try_get_u64_le().ok()?));
    }
    Some(lives)
}

impl Engine {
    /// Told of a copy: what is to be asked waits until the disk has the rank.
    pub(super) fn ask_with_rank(&mut self, link: LinkId, twin: Twin) {
        self.when_ranked(link, Waiting::Told(link, twin));
    }

    /// Asked by a copy: the answer waits until the disk has the rank.
    pub(super) fn answer_with_rank(&mut self, link: LinkId, ask: Ask) {
        self.when_ranked(link, Waiting::Asked(link, ask));
    }

    fn when_ranked(&mut self, link: LinkId, waiting: Waiting) {
        let redraws = crate::broken!(self, redraw_rank);
        self.note_shown(link);
        let known = self.election.rank.filter(|_| !redraws);
        if known.is_none() || self.is_later_incident() {
            self.election.ranked_at = Some(self.now.at);
            let mut draw = [0; 40];
            self.entropy.fill(&mut draw);
            // Copies of a running machine may draw the same; what a peer named their sessions
            // differs.
            let nonce = self.sessions.get(&link).and_then(|s| s.welcome.as_ref());
            let nonce = nonce.map_or([0; 16], |welcome| welcome.nonce);
            let mixed = blake3::Hasher::new()
                .update(&draw)
                .update(&nonce)
                .finalize();
            let (draw, _) = mixed
                .as_bytes()
                .split_first_chunk()
                .unwrap_or((&[0; 8], &[]));
            let fresh = Rank {
                sealed: !self.moved,
                served_s: if redraws {
                    0
                } else {
                    self.now.at.ms_since(self.started) / 1_000
                },
                // The lower half: so it can be raised.
                draw: u64::from_le_bytes(*draw) >> 1,
            };
            // Never lower than what was said once: somebody may have given up because of it.
            let rank = known.map_or(fresh, |known| known.max(fresh));
            self.election.durable &= known == Some(rank);
            self.election.rank = Some(rank);
        }
        if self.election.durable {
            return self.say_ranked(waiting);
        }
        if self.election.waiting.len() < WAITING_MAX {
            self.election.waiting.push(waiting);
        }
        self.keep_rank();
    }

    /// Whether the rank is of an incident that is over: what it says of this process is old, and a
    /// copy that was made meanwhile has inherited it.
    fn is_later_incident(&self) -> bool {
        let over = !self.gives_up() && self.twins.alarms.view(self.me.qm).is_none();
        let waits = |at| self.now.at.ms_since(at) < RANKED_AGAIN_MS;
        over && !self.election.ranked_at.is_some_and(waits)
    }

    fn keep_rank(&mut self) {
        let Some(rank) = self.election.rank else {
            return;
        };
        let mut value = BytesMut::with_capacity(18);
        value.put_u8(VERSION);
        value.put_u8(u8::from(rank.sealed));
        value.put_u64_le(rank.served_s);
        value.put_u64_le(rank.draw);
        let key = prefixed(RANK, self.me.qm.as_bytes());
        self.commits.set(key, value.freeze());
        let shown = self.election.shown_changes;
        self.commits.after_settling(Then::RankKept { rank, shown });
    }

    /// Copies of this node know it by the life that it told on this session, or will: that is on
    /// disk before a word of this session about copies is said.
    pub(super) fn note_shown(&mut self, link: LinkId) {
        let Some(life) = self.sessions.get(&link).map(|session| session.told_life) else {
            return;
        };
        let election = &mut self.election;
        if election.shown.contains(&life) {
            return;
        }
        if election.shown.len() >= PARTED_LIVES_MAX {
            election.shown.pop_front();
        }
        election.shown.push_back(life);
        election.shown_changes += 1;
        election.durable = false;
        let value = lives_value(&election.shown);
        self.commits
            .set(prefixed(SHOWN, self.me.qm.as_bytes()), value);
    }

    /// The same outside of an election: who waits in one for the disk waits for this as well.
    pub(super) fn show_to_copy(&mut self, link: LinkId) {
        self.note_shown(link);
        if !self.election.waiting.is_empty() {
            self.keep_rank();
        }
    }

    /// The disk has a rank, and the lives that were shown until so many changes of them.
    pub(crate) fn rank_kept(&mut self, rank: Rank, shown: u64) {
        if self.election.rank != Some(rank) || self.election.shown_changes != shown {
            return;
        }
        self.election.durable = true;
        for waiting in core::mem::take(&mut self.election.waiting) {
            self.say_ranked(waiting);
        }
    }

    /// The disk refused the rank: nothing is said.
    pub(crate) fn rank_refused(&mut self) {
        self.election.waiting.clear();
    }

    fn say_ranked(&mut self, waiting: Waiting) {
        let Some(rank) = self.election.rank() else {
            return;
        };
        match waiting {
            Waiting::Told(link, twin) => self.ask_copy(link, twin, rank),
            Waiting::Asked(link, ask) => self.answer_copy(link, &ask, rank),
            Waiting::Again(link, relay) => self.ask_copy_again(link, relay, rank),
        }
    }

    /// A copy showed its rank, signed by the key of both. Whether this node gives the identity up.
    pub(super) fn compare_ranks(&mut self, link: LinkId, relay: [u8; 16], other: Rank) -> bool {
        let Some(own) = self.election.rank else {
            return false;
        };
        match judge(own, other) {
            Verdict::Keeps => false,
            Verdict::GivesUp => true,
            Verdict::Tied if self.gives_up() => false,
            Verdict::Tied => {
                crate::reached!(self, RankTied);
                let chance = self.entropy.next_u64();
                self.election.rank = Some(raised(own, chance, self.moved));
                self.election.durable = false;
                self.election.waiting.push(Waiting::Again(link, relay));
                self.keep_rank();
                false
            }
        }
    }

    /// Two that rise from equal ranks at once may each have answered before it rose: then each was
    /// shown a lower rank than its own, and neither gives up. The one that is asked with a higher
    /// rank than its own asks again, until it is shown that one.
    pub(super) fn ask_if_outdated(&mut self, link: LinkId, relay: [u8; 16]) {
        let Some(rank) = self.election.rank else {
            return;
        };
        if self.gives_up() || !self.twins.proofs.is_outdated(link, relay, rank) {
            return;
        }
        crate::reached!(self, RankOutdated);
        if !self.election.asks_again(link, relay) {
            self.when_ranked(link, Waiting::Again(link, relay));
        }
    }

    /// Writes down that a higher rank was shown. Whether that is news.
    pub(super) fn note_lost(&mut self) -> bool {
        if self.has_lost() {
            return false;
        }
        let at = self.now.wall_us;
        self.election.lost_us = Some(at);
        let key = prefixed(LOST, self.me.qm.as_bytes());
        self.commits.set(key, time_value(at));
        true
    }

    /// Writes down up to where a copy that proved itself has stored what this node has.
    pub(super) fn note_fork(&mut self, fork_us: Option<u64>) {
        if fork_us > self.election.fork_us
            && let Some(fork_us) = fork_us
        {
            self.election.fork_us = Some(fork_us);
            let key = prefixed(FORK, self.me.qm.as_bytes());
            self.commits.set(key, time_value(fork_us));
        }
    }

    /// Whether another copy was shown to keep the identity.
    pub(crate) const fn has_lost(&self) -> bool {
        self.election.lost_us.is_some()
    }

    /// No other machine is known to have the identity any more: this node keeps it, whatever ranks
    /// said. Whether they had said that it does not.
    ///
    /// The rank stays as it was: others may have given up because of it.
    pub(super) fn forget_lost(&mut self) -> bool {
        let lost = self.election.lost_us.take().is_some();
        let forked = self.election.fork_us.take().is_some();
        let shown = !core::mem::take(&mut self.election.shown).is_empty();
        self.election.held_up = None;
        for (name, known) in [(LOST, lost), (FORK, forked), (SHOWN, shown)] {
            if known {
                self.commits.unset(prefixed(name, self.me.qm.as_bytes()));
            }
        }
        lost
    }

    /// Whether this node gives its identity up: then its rank must not rise above that of those who
    /// were told so.
    const fn gives_up(&self) -> bool {
        self.has_lost() || self.is_changing()
    }

    /// This node has another identity than `old`: ranks are drawn anew.
    pub(crate) fn forget_election(&mut self, old: QmId) {
        self.election = Election::default();
        self.unset_election(old);
    }

    pub(crate) fn unset_election(&mut self, qm: QmId) {
        for name in [RANK, LOST, FORK, SHOWN] {
            self.commits.unset(prefixed(name, qm.as_bytes()));
        }
    }

    /// Reads the rank back. Whether the value was understood, if it is of the election.
    pub(crate) fn recover_rank(&mut self, key: &[u8], value: &Bytes) -> Option<bool> {
        let names = [RANK, LOST, FORK, SHOWN];
        let (name, qm) = names
            .into_iter()
            .find_map(|name| Some((name, key.strip_prefix(name)?)))?;
        if qm != self.me.qm.as_bytes() {
            // Of an identity that this node had before.
            return Some(true);
        }
        let mut r = value.clone();
        let version = r.try_get_u8().ok();
        if name == SHOWN {
            let shown = version.filter(|version| *version == VERSION);
            let shown = shown.and_then(|_| read_lives(r));
            let understood = shown.is_some();
            self.election.shown = shown.unwrap_or_default();
            return Some(understood);
        }
        if name != RANK {
            let time = version.filter(|version| *version == VERSION);
            let time = time.and_then(|_| r.try_get_u64_le().ok());
            if name == LOST {
                self.election.lost_us = time;
            } else {
                self.election.fork_us = time;
            }
            return Some(time.is_some());
        }
        let rank = version.filter(|version| *version == VERSION).and_then(|_| {
            Some(Rank {
                sealed: r.try_get_u8().ok()? != 0,
                served_s: r.try_get_u64_le().ok()?,
                draw: r.try_get_u64_le().ok()?,
            })
        });
        self.election.rank = rank;
        self.election.durable = rank.is_some();
        Some(rank.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::engine;

    #[test]
    fn so_many_words_wait_for_the_disk_to_have_the_rank() {
        let mut engine = engine();
        for n in 0..=WAITING_MAX {
            let link = LinkId(n as u64);
            engine.when_ranked(link, Waiting::Again(link, [0; 16]));
            let waiting = engine.election.waiting.len();
            assert_eq!(waiting, WAITING_MAX.min(n + 1));
        }
    }
}
