//! Whether two sessions with one identity are two live processes.
//!
//! The node between asks on both sessions, with fresh randomness, after it has heard the beginning
//! of the newer one. A process answers only on the session with this peer that it began last of
//! those that it still has, and on none that is older than one on which it ever answered
//! ([`Current`]). One process had begun the newer session before it could hear a question on the
//! older one. While it has the newer one, it is silent on the older one; once it answered on the
//! newer one, it stays silent there; and it answers nothing on one that it has ended. So it never
//! answers both; two processes do. One answer proves nothing.

use std::collections::BTreeMap;

use super::shares::{Shares, Tenant};

/// Pairs of sessions that are being asked at a time; those beyond are not, unless one was not
/// answered for ten seconds.
const SHARES: Shares = Shares {
    heard: 192,
    strangers: 64,
    peer: 32,
    kept_ms: 10_000,
};
/// Answers that make a proof: one of each.
const ANSWERS: usize = 2;

/// For a process: on which of its sessions with a peer it gives signs of life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Current<P, L> {
    /// The sessions with each peer on which an answer may be due, in the order of their beginning.
    begun: BTreeMap<P, Vec<L>>,
}

impl<P: Ord, L: PartialEq> Current<P, L> {
    pub(crate) const fn new() -> Self {
        Self {
            begun: BTreeMap::new(),
        }
    }

    /// A session begins: while it lasts nothing is answered on older ones.
    pub(crate) fn began(&mut self, peer: P, link: L) {
        self.begun.entry(peer).or_default().push(link);
    }

    /// A session ended: nothing is answered on it any more.
    pub(crate) fn ended(&mut self, peer: &P, link: &L) {
        if let Some(begun) = self.begun.get_mut(peer) {
            begun.retain(|other| other != link);
        }
    }

    /// An answer is given on a session: on older ones none is, not even when it has ended.
    pub(crate) fn answered(&mut self, peer: &P, link: &L) {
        if let Some(begun) = self.begun.get_mut(peer) {
            let at = begun.iter().position(|other| other == link);
            begun.drain(..at.unwrap_or(0));
        }
    }

    /// No session with this peer is left, so there is none on which to be silent.
    pub(crate) fn none_left(&mut self, peer: &P) {
        self.begun.remove(peer);
    }

    pub(crate) fn may_answer(&self, peer: &P, link: &L) -> bool {
        self.begun.get(peer).and_then(|begun| begun.last()) == Some(link)
    }
}

/// For the node between: the questions that are open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Checks<L, C> {
    open: Vec<(Tenant, [Side<L, C>; 2])>,
    answers: usize,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Each of the two gets its challenge.
    Asks,
    /// They are one, or are asked already.
    Known,
    /// Too many are being asked.
    Full,
}

/// One of two sessions that are being asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Side<L, C> {
    link: L,
    challenge: C,
    answered: bool,
}

/// What an answer told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told<L> {
    /// Nothing was asked that this answers.
    Unasked,
    /// The other session has not answered.
    Alone,
    /// Two live processes.
    Both([L; 2]),
}

impl<L: Copy + PartialEq, C: PartialEq> Checks<L, C> {
    pub(crate) const fn new() -> Self {
        Self {
            open: Vec::new(),
            answers: ANSWERS,
        }
    }

    /// The rule broken: so many answers are believed to be a proof.
    #[cfg(any(test, feature = "__breaks"))]
    pub(super) const fn believing(answers: usize) -> Self {
        Self {
            open: Vec::new(),
            answers,
        }
    }

    /// Begins to ask two sessions of a peer.
    pub(crate) fn begin(&mut self, asked: [(L, C); 2], tenant: Tenant) -> Begun {
        let links = asked.each_ref().map(|(link, _)| *link);
        let known = |pair: &[Side<L, C>; 2]| pair.iter().all(|side| links.contains(&side.link));
        if links[0] == links[1] || self.open.iter().any(|(_, pair)| known(pair)) {
            return Begun::Known;
        }
        let tenants = self.open.iter().map(|(tenant, _)| *tenant).enumerate();
        match SHARES.room(tenants, &tenant) {
            Err(_) => return Begun::Full,
            Ok(Some(gone)) => drop(self.open.swap_remove(gone)),
            Ok(None) => {}
        }
        let sides = asked.map(|(link, challenge)| Side {
            link,
            challenge,
            answered: false,
        });
        self.open.push((tenant, sides));
        Begun::Asks
    }

    /// A session answered.
    pub(crate) fn answered(&mut self, link: L, challenge: &C) -> Told<L> {
        let asked = |side: &Side<L, C>| side.link == link && side.challenge == *challenge;
        let Some(at) = self
            .open
            .iter()
            .position(|(_, pair)| pair.iter().any(asked))
        else {
            return Told::Unasked;
        };
        let mut count = 0;
        if let Some((_, pair)) = self.open.get_mut(at) {
            for side in pair.iter_mut() {
                side.answered |= side.link == link && side.challenge == *challenge;
                count += usize::from(side.answered);
            }
        }
        if count < self.answers {
            return Told::Alone;
        }
        let (_, pair) = self.open.swap_remove(at);
        Told::Both(pair.map(|side| side.link))
    }

    /// A session ended: it answers nothing any more.
    pub(crate) fn ended(&mut self, link: L) {
        self.open
            .retain(|(_, pair)| pair.iter().all(|side| side.link != link));
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::QmId;

    use super::*;

    const fn tenant(peer: u8, stranger: bool, at_ms: u64) -> Tenant {
        Tenant {
            peer: QmId::from_bytes([peer; 16]),
            stranger,
            at_ms,
        }
    }

    #[test]
    fn both_must_answer_what_they_were_asked() {
        let mut checks = Checks::new();
        let begin = |checks: &mut Checks<_, _>, asked| checks.begin(asked, tenant(1, false, 0));
        assert_eq!(begin(&mut checks, [(1, 'a'), (2, 'b')]), Begun::Asks);
        assert_eq!(begin(&mut checks, [(2, 'c'), (1, 'd')]), Begun::Known);
        assert_eq!(checks.answered(1, &'b'), Told::Unasked);
        assert_eq!(checks.answered(1, &'a'), Told::Alone);
        assert_eq!(checks.answered(1, &'a'), Told::Alone, "once is once");
        assert_eq!(checks.answered(2, &'b'), Told::Both([1, 2]));
        assert_eq!(checks.answered(2, &'b'), Told::Unasked);
        assert_eq!(begin(&mut checks, [(1, 'e'), (3, 'f')]), Begun::Asks);
        checks.ended(3);
        assert_eq!(checks.answered(1, &'e'), Told::Unasked);
        assert_eq!(begin(&mut checks, [(1, 'g'), (1, 'h')]), Begun::Known);
    }

    /// Nobody switches the question off for others, and what is not answered blocks for a while.
    #[test]
    fn questions_are_bounded() {
        let mut checks = Checks::new();
        let mut link = 0;
        let mut begin = |tenant| {
            link += 2;
            checks.begin([(link, 0), (link + 1, 0)], tenant)
        };
        for peer in 0..64 {
            assert_eq!(begin(tenant(peer, true, 0)), Begun::Asks);
        }
        assert_eq!(begin(tenant(64, true, 0)), Begun::Full);
        for peer in 100..106 {
            for _ in 0..32 {
                assert_eq!(begin(tenant(peer, false, 0)), Begun::Asks, "{peer}");
            }
            assert_eq!(begin(tenant(peer, false, 0)), Begun::Full, "{peer}");
        }
        assert_eq!(begin(tenant(106, false, 9_999)), Begun::Full);
        assert_eq!(begin(tenant(106, false, 10_000)), Begun::Asks);
        assert_eq!(begin(tenant(64, true, 10_000)), Begun::Asks);
        assert_eq!(checks.open.len(), 64 + 192);
    }
}
