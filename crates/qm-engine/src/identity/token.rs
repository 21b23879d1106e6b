//! Tokens by which a node notices that the history of a peer, or its own, branched.
//!
//! With every handshake a node gives its peer a token that is the child of the one before, and the
//! peer stores it before it says so. The node remembers the last one that was confirmed. A peer
//! that goes forward presents that one or a child of it. One that presents an older token, or the
//! child of an older one, went back, or is a copy of one that went forward.
//!
//! A node keeps no list of tokens that it gave and that were not confirmed: a MAC that only it can
//! make says of whom a token is a child.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use qm_wire::QmId;

/// Branches of one peer that are remembered; the one used longest ago goes first.
pub(crate) const BRANCHES_MAX: usize = 8;

/// Tokens given to one peer that are remembered by the process that gave them.
const GIVEN_MAX: usize = 16;

const MARK_BYTES: usize = 24;
const TOKEN_BYTES: usize = MARK_BYTES + 16 + 16;
const VERSION: u8 = 1;
const FORGOT: u8 = 1;

/// The secret with which a node makes the MACs of its tokens: computed from its private key, so
/// that it is the same after a restart and nobody else has it. `Debug` does not print it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenKey([u8; 32]);

impl TokenKey {
    /// From 32 secret bytes that only the holder of the node's private key can compute, and that
    /// serve for nothing else.
    #[must_use]
    pub const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }
}

impl core::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TokenKey")
    }
}

/// One place in the history of a peer as its judge counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mark {
    /// How many confirmed tokens precede it.
    pub(crate) n: u64,
    /// Tells it from its siblings.
    pub(crate) random: [u8; 16],
}

impl Mark {
    /// Before the first token.
    pub(crate) const NONE: Self = Self {
        n: 0,
        random: [0; 16],
    };

    fn put(&self, to: &mut BytesMut) {
        to.put_u64_le(self.n);
        to.put_slice(&self.random);
    }

    fn read(bytes: &[u8; MARK_BYTES]) -> Self {
        let (n, rest) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let mut random = [0; 16];
        random.copy_from_slice(rest);
        Self {
            n: u64::from_le_bytes(*n),
            random,
        }
    }
}

/// A token whose MAC was right: this node made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token {
    pub(crate) mark: Mark,
    /// The random part of the mark before.
    pub(crate) parent: [u8; 16],
}

impl Token {
    /// What a peer presents that has none.
    pub(crate) const NONE: Self = Self {
        mark: Mark::NONE,
        parent: [0; 16],
    };

    /// A fresh one behind this.
    pub(crate) const fn child(&self, random: [u8; 16]) -> Self {
        Self {
            mark: Mark {
                n: self.mark.n.saturating_add(1),
                random,
            },
            parent: self.mark.random,
        }
    }

    const fn is_child_of(&self, mark: &Mark) -> bool {
        // Arrays are not compared in a constant function.
        self.mark.n > 0
            && self.mark.n - 1 == mark.n
            && u128::from_le_bytes(self.parent) == u128::from_le_bytes(mark.random)
    }

    fn mac(&self, key: &TokenKey, me: QmId, peer: QmId) -> [u8; 16] {
        let mut bytes = BytesMut::with_capacity(64 + TOKEN_BYTES);
        bytes.put_slice(b"qm-token");
        bytes.put_slice(me.as_bytes());
        bytes.put_slice(peer.as_bytes());
        self.mark.put(&mut bytes);
        bytes.put_slice(&self.parent);
        let hash = blake3::keyed_hash(&key.0, &bytes);
        let mut mac = [0; 16];
        for (to, from) in mac.iter_mut().zip(hash.as_bytes()) {
            *to = *from;
        }
        mac
    }

    /// As it travels.
    pub(crate) fn encode(&self, key: &TokenKey, me: QmId, peer: QmId) -> Bytes {
        let mut to = BytesMut::with_capacity(TOKEN_BYTES);
        self.mark.put(&mut to);
        to.put_slice(&self.parent);
        to.put_slice(&self.mac(key, me, peer));
        to.freeze()
    }

    /// What a peer presented; `None` when this node did not make it for that peer.
    pub(crate) fn decode(bytes: &[u8], key: &TokenKey, me: QmId, peer: QmId) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::NONE);
        }
        let (mark, rest) = bytes.split_first_chunk::<MARK_BYTES>()?;
        let (parent, mac) = rest.split_first_chunk::<16>()?;
        let token = Self {
            mark: Mark::read(mark),
            parent: *parent,
        };
        let right = token.mac(key, me, peer);
        // In a time that says nothing about where the difference is.
        let differs = right.iter().zip(mac).fold(0, |sum, (a, b)| sum | (a ^ b));
        (mac.len() == right.len() && differs == 0 && token.mark.n > 0).then_some(token)
    }
}

/// What a token says of the history of who presents it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It goes forward.
    Known,
    /// This node's own memory is older than the token: its store went back.
    OwnStoreWentBack,
    /// It went back, or is one of two.
    Strange,
}

/// What a node remembers of the tokens it gave to one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ledger {
    /// Of each branch the last mark that was presented; the branch used last is the last.
    marks: Vec<Mark>,
    /// Whether a branch was forgotten because there were too many.
    forgot: bool,
}

impl Ledger {
    /// Judges a token, and remembers what goes forward. Whether anything changed stands beside it.
    pub(crate) fn present(&mut self, token: &Token) -> (Judged, bool) {
        if self.marks.is_empty() {
            // Nothing is known, or not any more: whatever comes is the beginning.
            self.marks.push(token.mark);
            return (Judged::Known, true);
        }
        let fits = |mark: &Mark| *mark == token.mark || token.is_child_of(mark);
        if let Some(at) = self.marks.iter().position(fits) {
            let before = self.marks.remove(at);
            self.marks.push(token.mark);
            return (Judged::Known, before != token.mark);
        }
        // Whatever this node gave is at most one ahead of a mark, and then its child.
        if !self.forgot && self.marks.iter().all(|mark| mark.n < token.mark.n) {
            if self.marks.len() == 1 {
                self.marks.clear();
            }
            self.push(token.mark);
            return (Judged::OwnStoreWentBack, true);
        }
        (Judged::Strange, false)
    }

    /// A strange token turned out to be somebody's who lives: from now on its branch is known.
    /// False when another branch had to be forgotten for it.
    pub(crate) fn branch(&mut self, token: &Token) -> bool {
        let room = self.marks.len() < BRANCHES_MAX;
        self.push(token.mark);
        room
    }

    fn push(&mut self, mark: Mark) {
        if self.marks.len() >= BRANCHES_MAX {
            self.marks.remove(0);
            self.forgot = true;
        }
        self.marks.push(mark);
    }

    /// Branches that are known.
    pub(crate) fn branches(&self) -> usize {
        self.marks.len()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(2 + self.marks.len() * MARK_BYTES);
        to.put_u8(VERSION);
        to.put_u8(u8::from(self.forgot) * FORGOT);
        for mark in &self.marks {
            mark.put(&mut to);
        }
        to.freeze()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let ([version, flags], rest) = value.split_first_chunk::<2>()?;
        let (marks, left) = rest.as_chunks::<MARK_BYTES>();
        (*version == VERSION && *flags & !FORGOT == 0 && left.is_empty()).then(|| Self {
            marks: marks.iter().take(BRANCHES_MAX).map(Mark::read).collect(),
            forgot: *flags & FORGOT != 0,
        })
    }
}

/// What one process gave to a peer, the oldest first. It is not kept over restarts: it says what
/// *this* process did.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Given {
    marks: VecDeque<Mark>,
}

impl Given {
    /// A token leaves.
    pub(crate) fn gave(&mut self, token: &Token) {
        if self.marks.len() >= GIVEN_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back(token.mark);
    }

    /// Whether another process with this node's key lives, or lived after this one began: a peer
    /// goes on from a token that this process gave to one that it did not.
    ///
    /// Nothing else does so. A process that goes on has not gone back; what an earlier one gave
    /// stands behind other tokens; and of what this one gave the oldest is forgotten first, so
    /// whatever follows one that is remembered is remembered, too. `before` is the ledger without
    /// the token, and `judged` what it said of it.
    pub(crate) fn is_anothers(&self, before: &Ledger, judged: Judged, token: &Token) -> bool {
        let goes_on = |mark: &Mark| match judged {
            Judged::Known => token.is_child_of(mark),
            Judged::OwnStoreWentBack => true,
            Judged::Strange => false,
        };
        let given_here = |mark: &&Mark| self.marks.contains(mark);
        !self.marks.contains(&token.mark) && before.marks.iter().filter(given_here).any(goes_on)
    }
}

/// What a node holds of one peer's tokens: opaque to it, and told apart by equality alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Held<T> {
    /// On disk.
    stored: T,
    /// On its way there.
    storing: Option<T>,
}

/// What a node does with the token of a welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Store it, and confirm when that is done.
    Store,
    /// Confirm when what is under way is stored.
    Wait,
    /// Confirm what is stored: it goes further than what this welcome knows of.
    ConfirmStored,
}

impl<T: Clone + PartialEq> Held<T> {
    pub(crate) const fn new(stored: T) -> Self {
        Self {
            stored,
            storing: None,
        }
    }

    /// What is presented: nothing that is not on disk.
    pub(crate) const fn stored(&self) -> &T {
        &self.stored
    }

    /// A welcome brought a token, on a session on which `presented` was the last that was shown.
    /// Only the child of what is stored takes its place, so that the tokens stored one after
    /// another are always a chain, whatever sessions stand side by side.
    pub(crate) fn take(&mut self, presented: &T, fresh: &T) -> Take {
        if self.storing.is_some() {
            return Take::Wait;
        }
        if self.stored != *presented {
            return Take::ConfirmStored;
        }
        self.storing = Some(fresh.clone());
        Take::Store
    }

    /// What was under way is on disk.
    pub(crate) fn is_stored(&mut self) {
        if let Some(stored) = self.storing.take() {
            self.stored = stored;
        }
    }

    /// The disk refused what was under way.
    pub(crate) fn refused(&mut self) {
        self.storing = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: TokenKey = TokenKey::new([9; 32]);
    const ME: QmId = QmId::from_bytes([1; 16]);
    const PEER: QmId = QmId::from_bytes([2; 16]);

    fn chain(length: u8) -> Vec<Token> {
        let mut tokens = vec![Token::NONE];
        for n in 1..=length {
            let next = tokens[usize::from(n) - 1].child([n; 16]);
            tokens.push(next);
        }
        tokens
    }

    #[test]
    fn only_its_maker_knows_a_token_and_only_of_the_peer_it_was_for() {
        let token = chain(3)[3];
        let bytes = token.encode(&KEY, ME, PEER);
        let read = |bytes: &[u8]| Token::decode(bytes, &KEY, ME, PEER);
        assert_eq!(read(&bytes), Some(token));
        assert_eq!(read(&[]), Some(Token::NONE));
        assert_eq!(Token::decode(&bytes, &KEY, PEER, ME), None);
        assert_eq!(
            Token::decode(&bytes, &TokenKey::new([8; 32]), ME, PEER),
            None
        );
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert_eq!(read(&changed), None, "byte {at}");
            assert_eq!(read(&bytes[..at.max(1)]), None);
        }
        assert_eq!(format!("{KEY:?}"), "TokenKey", "a secret is not printed");
    }

    #[test]
    fn forward_is_known_and_back_is_strange() {
        let tokens = chain(4);
        let mut ledger = Ledger::default();
        for token in &tokens {
            assert_eq!(ledger.present(token), (Judged::Known, true));
            assert_eq!(ledger.present(token), (Judged::Known, false), "again");
        }
        for spent in &tokens[..4] {
            assert_eq!(ledger.present(spent), (Judged::Strange, false));
        }
        let sibling = tokens[3].child([77; 16]);
        assert_eq!(ledger.present(&sibling), (Judged::Strange, false));
        assert!(ledger.branch(&sibling));
        assert_eq!(ledger.present(&sibling), (Judged::Known, false));
        assert_eq!(
            ledger.present(&tokens[4].child([5; 16])),
            (Judged::Known, true),
            "the other branch goes on"
        );
        assert_eq!(Ledger::decode(&ledger.encode()), Some(ledger));
    }

    #[test]
    fn a_token_from_ones_own_future_is_ones_own_fault() {
        let tokens = chain(6);
        let mut ledger = Ledger::default();
        ledger.present(&tokens[2]);
        assert_eq!(ledger.present(&tokens[4]), (Judged::OwnStoreWentBack, true));
        assert_eq!(ledger.branches(), 1, "it takes the place of what was known");
        assert_eq!(ledger.present(&tokens[5]), (Judged::Known, true));
    }

    #[test]
    fn branches_are_bounded_and_what_was_forgotten_proves_nothing() {
        let mut ledger = Ledger::default();
        ledger.present(&chain(9)[9]);
        for n in 0..8 {
            let strange = Token::NONE.child([100 + n; 16]);
            assert_eq!(ledger.present(&strange), (Judged::Strange, false));
            assert_eq!(ledger.branch(&strange), usize::from(n) < BRANCHES_MAX - 1);
        }
        assert_eq!(ledger.branches(), BRANCHES_MAX);
        // Its branch was forgotten: that the token is from the future proves nothing.
        assert_eq!(ledger.present(&chain(9)[9]), (Judged::Strange, false));
    }

    #[test]
    fn what_follows_a_token_of_this_process_is_of_this_process_or_of_another_one() {
        let tokens = chain(40);
        let (mut ledger, mut given) = (Ledger::default(), Given::default());
        let judge = |ledger: &mut Ledger, given: &Given, token: &Token| {
            let before = ledger.clone();
            let (judged, _) = ledger.present(token);
            given.is_anothers(&before, judged, token)
        };
        // What an earlier process gave, and what this one does.
        assert!(!judge(&mut ledger, &given, &tokens[3]));
        assert!(!judge(&mut ledger, &given, &tokens[4]));
        for token in &tokens[5..] {
            given.gave(token);
            assert!(!judge(&mut ledger, &given, token));
            assert!(!judge(&mut ledger, &given, token), "again");
            let attempts = [0; 8].map(|_| token.child([99; 16]));
            for lost in &attempts {
                given.gave(lost);
            }
        }
        assert_eq!(given.marks.len(), GIVEN_MAX);
        for spent in [40, 39, 0] {
            assert!(!judge(&mut ledger, &given, &tokens[spent]), "{spent}");
        }
        let by_another = tokens[40].child([77; 16]);
        let and_on = by_another.child([78; 16]).child([79; 16]);
        for token in [by_another, and_on] {
            assert!(judge(&mut ledger.clone(), &given, &token));
        }
        // Of what went before this process nothing is said.
        assert!(!judge(&mut ledger, &Given::default(), &and_on));
        assert!(!judge(&mut ledger, &given, &and_on.child([80; 16])));
    }

    #[test]
    fn what_is_stored_grows_as_a_chain() {
        let mut held = Held::new('a');
        assert_eq!(held.take(&'a', &'b'), Take::Store);
        assert_eq!(*held.stored(), 'a', "not before it is on disk");
        assert_eq!(held.take(&'a', &'c'), Take::Wait);
        held.is_stored();
        assert_eq!(held.take(&'a', &'c'), Take::ConfirmStored);
        assert_eq!(held.take(&'b', &'d'), Take::Store);
        held.refused();
        assert_eq!(*held.stored(), 'b');
    }
}
