//! The node between two copies: it passes their words on and has no part in what they say.

use std::collections::BTreeMap;

/// Pairs of sessions between which words are passed at a time.
const RELAYS_MAX: usize = 256;

/// How often each word of each side is passed on: once, and again when ranks were equal.
const WORDS_MAX: u8 = 4;

/// Which word of a copy it is; each is passed on a few times, so that nobody can flood another
/// over this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The question.
    Ask,
    /// The answer.
    Claim,
}

#[derive(Clone, Copy, Debug)]
struct Relay<L> {
    links: [L; 2],
    /// Of each side, how often its question and its answer were passed on.
    passed: [[u8; 2]; 2],
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Relays<L> {
    open: BTreeMap<[u8; 16], Relay<L>>,
}

impl<L: Copy + PartialEq> Relays<L> {
    pub(crate) const fn new() -> Self {
        Self {
            open: BTreeMap::new(),
        }
    }

    /// Opens a relay; false when there are too many, or these two have one.
    pub(crate) fn open(&mut self, name: [u8; 16], links: [L; 2]) -> bool {
        let same = |relay: &Relay<L>| links.iter().all(|link| relay.links.contains(link));
        if self.open.len() >= RELAYS_MAX
            || self.open.contains_key(&name)
            || self.open.values().any(same)
        {
            return false;
        }
        let passed = [[0; 2]; 2];
        self.open.insert(name, Relay { links, passed });
        true
    }

    /// To whom a word goes that came on this session.
    pub(crate) fn pass(&mut self, name: &[u8; 16], from: L, word: Word) -> Option<L> {
        let relay = self.open.get_mut(name)?;
        let [one, other] = relay.links;
        let (side, to) = if from == one {
            (0, other)
        } else if from == other {
            (1, one)
        } else {
            return None;
        };
        let number = match word {
            Word::Ask => 0,
            Word::Claim => 1,
        };
        let passed = relay.passed.get_mut(side)?.get_mut(number)?;
        *passed = passed.saturating_add(1);
        (*passed <= WORDS_MAX).then_some(to)
    }

    /// A session ended.
    pub(crate) fn ended(&mut self, link: L) {
        self.open.retain(|_, relay| !relay.links.contains(&link));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_passed_a_few_times_and_to_the_other_side_only() {
        let mut relays = Relays::new();
        assert!(relays.open([1; 16], [10, 20]));
        assert!(!relays.open([2; 16], [20, 10]), "these two have one");
        assert!(!relays.open([1; 16], [30, 40]), "the name is taken");
        for _ in 0..WORDS_MAX {
            assert_eq!(relays.pass(&[1; 16], 10, Word::Ask), Some(20));
        }
        assert_eq!(relays.pass(&[1; 16], 10, Word::Ask), None);
        assert_eq!(relays.pass(&[1; 16], 20, Word::Ask), Some(10));
        assert_eq!(relays.pass(&[1; 16], 20, Word::Claim), Some(10));
        assert_eq!(relays.pass(&[1; 16], 30, Word::Claim), None, "a stranger");
        assert_eq!(relays.pass(&[9; 16], 10, Word::Claim), None);
        relays.ended(20);
        assert_eq!(relays.pass(&[1; 16], 10, Word::Claim), None);
    }
}
