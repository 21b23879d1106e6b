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

/// Pairs of sessions that are being asked at a time; those beyond are not.
const CHECKS_MAX: usize = 256;
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
    open: Vec<[Side<L, C>; 2]>,
    answers: usize,
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

    /// Begins to ask two sessions; each gets its challenge. False when nothing is to be asked,
    /// because these two are asked already, or too many are.
    pub(crate) fn begin(&mut self, asked: [(L, C); 2]) -> bool {
        let links = asked.each_ref().map(|(link, _)| *link);
        let known = |pair: &[Side<L, C>; 2]| pair.iter().all(|side| links.contains(&side.link));
        if links[0] == links[1] || self.open.len() >= CHECKS_MAX || self.open.iter().any(known) {
            return false;
        }
        self.open.push(asked.map(|(link, challenge)| Side {
            link,
            challenge,
            answered: false,
        }));
        true
    }

    /// A session answered.
    pub(crate) fn answered(&mut self, link: L, challenge: &C) -> Told<L> {
        let asked = |side: &Side<L, C>| side.link == link && side.challenge == *challenge;
        let Some(at) = self.open.iter().position(|pair| pair.iter().any(asked)) else {
            return Told::Unasked;
        };
        let mut count = 0;
        if let Some(pair) = self.open.get_mut(at) {
            for side in pair.iter_mut() {
                side.answered |= side.link == link && side.challenge == *challenge;
                count += usize::from(side.answered);
            }
        }
        if count < self.answers {
            return Told::Alone;
        }
        let pair = self.open.swap_remove(at);
        Told::Both(pair.map(|side| side.link))
    }

    /// A session ended: it answers nothing any more.
    pub(crate) fn ended(&mut self, link: L) {
        self.open
            .retain(|pair| pair.iter().all(|side| side.link != link));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_must_answer_what_they_were_asked() {
        let mut checks = Checks::new();
        assert!(checks.begin([(1, 'a'), (2, 'b')]));
        assert!(
            !checks.begin([(2, 'c'), (1, 'd')]),
            "they are asked already"
        );
        assert_eq!(checks.answered(1, &'b'), Told::Unasked);
        assert_eq!(checks.answered(1, &'a'), Told::Alone);
        assert_eq!(checks.answered(1, &'a'), Told::Alone, "once is once");
        assert_eq!(checks.answered(2, &'b'), Told::Both([1, 2]));
        assert_eq!(checks.answered(2, &'b'), Told::Unasked);
        assert!(checks.begin([(1, 'e'), (3, 'f')]));
        checks.ended(3);
        assert_eq!(checks.answered(1, &'e'), Told::Unasked);
        assert!(!checks.begin([(1, 'g'), (1, 'h')]));
    }

    #[test]
    fn questions_are_bounded() {
        let mut checks = Checks::new();
        for n in 0..CHECKS_MAX {
            assert!(checks.begin([(2 * n, 0), (2 * n + 1, 0)]));
        }
        assert!(!checks.begin([(9_001, 0), (9_002, 0)]));
    }
}
