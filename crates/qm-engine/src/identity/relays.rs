//! The node between two copies: it passes their words on and has no part in what they say.

use std::collections::BTreeMap;

use super::shares::{Shares, Tenant};

/// Pairs of sessions between which words are passed at a time. What they have to say to each other
/// is said in less than a minute.
const SHARES: Shares = Shares {
    heard: 192,
    strangers: 64,
    peer: 32,
    kept_ms: 60_000,
};

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
    tenant: Tenant,
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
    pub(crate) fn open(&mut self, name: [u8; 16], links: [L; 2], tenant: Tenant) -> bool {
        let same = |relay: &Relay<L>| links.iter().all(|link| relay.links.contains(link));
        if self.open.contains_key(&name) || self.open.values().any(same) {
            return false;
        }
        let tenants = self.open.iter().map(|(name, relay)| (*name, relay.tenant));
        match SHARES.room(tenants, &tenant) {
            Err(_) => return false,
            Ok(Some(gone)) => drop(self.open.remove(&gone)),
            Ok(None) => {}
        }
        let relay = Relay {
            links,
            tenant,
            passed: [[0; 2]; 2],
        };
        self.open.insert(name, relay);
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
    use qm_wire::QmId;

    use super::*;

    const fn tenant(stranger: bool, at_ms: u64) -> Tenant {
        Tenant {
            peer: QmId::from_bytes([1; 16]),
            stranger,
            at_ms,
        }
    }

    #[test]
    fn each_word_is_passed_a_few_times_and_to_the_other_side_only() {
        let mut relays = Relays::new();
        let known = tenant(false, 0);
        assert!(relays.open([1; 16], [10, 20], known));
        assert!(!relays.open([2; 16], [20, 10], known), "these two have one");
        assert!(!relays.open([1; 16], [30, 40], known), "the name is taken");
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

    #[test]
    fn strangers_leave_room_and_old_relays_give_way() {
        let mut relays = Relays::new();
        let mut open = |n: u8, tenant| relays.open([n; 16], [u32::from(n), 1_000], tenant);
        let of = |n: u8, stranger, at_ms| Tenant {
            peer: QmId::from_bytes([n; 16]),
            ..tenant(stranger, at_ms)
        };
        for n in 0..64 {
            assert!(open(n, of(n, true, 0)));
        }
        assert!(!open(64, of(64, true, 59_999)));
        assert!(open(65, of(65, false, 0)));
        assert!(open(64, of(64, true, 60_000)));
        assert_eq!(relays.open.len(), 65);
    }
}
