//! Tokens in the opening of a session, in both directions, and in its course.

use std::collections::BTreeMap;

use bytes::Bytes;
use qm_wire::limits::PRIOR_INCARNATIONS_MAX;
use qm_wire::{Challenge, Confirm, Outcome, PeerFrame, QmId, Welcome, WelcomeFlags};

use super::branches::BranchEvidence;
use super::token::{BRANCHES_MAX, Given, Held, Judged, Ledger, Take, Token};
use crate::commits::Then;
use crate::engine::Engine;
use crate::io::{Lane, LinkId};
use crate::record::prefixed;
use crate::session::Allowance;
use crate::time::Timestamp;

const HELD: &[u8] = b"token/";
const LEDGER: &[u8] = b"ledger/";
/// For so long after a welcome said that this node's history branched, and a new life began, no
/// other does so; it doubles each time, up to a day.
const BRANCHED_AGAIN_MS: u64 = 60_000;
const BRANCHED_AGAIN_MAX_MS: u64 = 24 * 60 * 60 * 1_000;

/// An identity of this node, and a peer.
type Pair = (QmId, QmId);

/// The ledger of one peer, and whether the disk has it.
#[derive(Debug, Default)]
struct Kept {
    ledger: Ledger,
    /// What this process gave.
    given: Given,
    changes: u64,
    durable: u64,
}

/// What this node holds of tokens, by its own identity and the peer.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    held: BTreeMap<Pair, Held<Bytes>>,
    ledgers: BTreeMap<Pair, Kept>,
    /// Until when no new life begins because a peer says that the history of this node branched,
    /// and how long that was.
    branched_until: Timestamp,
    branched_again_ms: u64,
}

/// The tokens of one session.
#[derive(Debug, Default)]
pub(crate) struct SessionTokens {
    /// What this node presented last.
    presented: Bytes,
    /// Whether a confirm is due when what is under way is stored.
    awaits_store: bool,
    /// Whether this node has confirmed, or has nothing to confirm.
    pub(crate) confirmed: bool,
    /// Welcomes that came within an open session.
    repeated: Allowance,

    /// Names the session in this node's welcomes.
    pub(crate) nonce: [u8; 16],
    /// The protocol version chosen.
    pub(crate) protocol: u16,
    /// Whether a welcome has left for what the peer presented.
    welcomed: bool,
    /// Whether the peer has not presented anything since the last token was given: another one
    /// would be its sibling, and the peer takes one token after the other.
    unanswered: bool,
    /// Whether the peer has confirmed.
    pub(crate) peer_confirmed: bool,
    /// What the peer presented last that goes forward.
    last: Option<Token>,
    /// A question about a token that does not, and the token.
    strange: Option<([u8; 16], Token)>,
    /// Whether the next welcome says that the history branched.
    branched: bool,
    branches: usize,
    /// When the peer gets another token.
    pub(crate) rotate_at: Option<Timestamp>,
}

impl SessionTokens {
    /// On a new session on which this was presented.
    pub(crate) fn new(presented: Bytes) -> Self {
        Self {
            presented,
            ..Self::default()
        }
    }
}

impl Engine {
    /// What this node presents to a peer; empty when it has nothing.
    pub(crate) fn token_for(&self, own: QmId, peer: QmId) -> Bytes {
        let held = self.tokens.held.get(&(own, peer));
        held.map_or_else(Bytes::new, |held| held.stored().clone())
    }

    /// The peer presented a token, with its hello or a confirm.
    pub(crate) fn on_presented(&mut self, link: LinkId, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let (own, peer) = (session.own, session.peer);
        if self.is_own(peer) {
            // Copies that meet prove themselves with the key.
            return self.presented_is_known(link);
        }
        let token = Token::decode(bytes, self.token_key(own), own, peer);
        let kept = self.tokens.ledgers.entry((own, peer)).or_default();
        let made_here = token.is_some() || kept.ledger.branches() == 0;
        let token = token.unwrap_or(Token::NONE);
        let before = kept.ledger.clone();
        let (judged, changed) = if made_here {
            kept.ledger.present(&token)
        } else {
            (Judged::Strange, false)
        };
        kept.changes += u64::from(changed);
        let anothers = kept.given.is_anothers(&before, judged, &token);
        if judged == Judged::Strange && !crate::broken!(self, believe_strange_tokens) {
            return self.challenge(link, token);
        }
        // Of a stranger's history it may have forgotten more than it knows: that proves nothing.
        // And the store of a process that goes on has not gone back.
        if judged == Judged::OwnStoreWentBack && !anothers && self.is_heard(peer) {
            crate::reached!(self, OwnStoreWentBack);
            self.own_store_went_back(peer);
        }
        // Another process with this node's key lives. Copies of one memory are not told apart by
        // anybody as long as they have one life, and take each other's sessions.
        if anothers && !self.is_accompanied() {
            crate::reached!(self, GivenByAnother);
            self.on_branched(link, peer);
        }
        self.goes_on(link, token);
    }

    /// What the peer presented goes forward: once the disk has that, too, it is answered.
    fn goes_on(&mut self, link: LinkId, token: Token) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let (own, peer) = (session.own, session.peer);
        session.tokens.last = Some(token);
        session.tokens.strange = None;
        let Some(kept) = self.tokens.ledgers.get(&(own, peer)) else {
            return;
        };
        if kept.durable == kept.changes {
            return self.presented_is_known(link);
        }
        let (value, changes) = (kept.ledger.encode(), kept.changes);
        self.commits.set(pair_key(LEDGER, (own, peer)), value);
        self.commits.after_settling(Then::LedgerKept {
            link,
            ends: (own, peer),
            changes,
        });
    }

    /// The disk has the ledger of a peer.
    pub(crate) fn ledger_kept(&mut self, link: LinkId, ends: Pair, changes: u64) {
        if let Some(kept) = self.tokens.ledgers.get_mut(&ends) {
            kept.durable = kept.durable.max(changes);
        }
        self.presented_is_known(link);
    }

    fn presented_is_known(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if session.tokens.welcomed {
            session.tokens.peer_confirmed = true;
            self.try_open(link);
        } else {
            self.welcome(link);
        }
    }

    /// Answers what the peer presented with a welcome and a fresh token.
    fn welcome(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let Some(attempt) = session.hello.as_ref().map(|hello| hello.attempt) else {
            return;
        };
        let (own, peer) = (session.own, session.peer);
        let last = session.tokens.last.unwrap_or(Token::NONE);
        let token = if self.is_own(peer) {
            Bytes::new()
        } else {
            let mut random = [0; 16];
            self.entropy.fill(&mut random);
            let fresh = last.child(random);
            if let Some(kept) = self.tokens.ledgers.get_mut(&(own, peer)) {
                kept.given.gave(&fresh);
            }
            fresh.encode(self.token_key(own), own, peer)
        };
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        session.tokens.peer_confirmed |= token.is_empty();
        session.tokens.unanswered = true;
        let mut flags = WelcomeFlags::NONE;
        if session.peer_pending {
            flags = flags.with(WelcomeFlags::PENDING);
        }
        if core::mem::take(&mut session.tokens.branched) {
            flags = flags.with(WelcomeFlags::BRANCHED);
        }
        session.tokens.welcomed = true;
        session.tokens.rotate_at = Some(self.now.at.plus_ms(self.config.token_rotation_ms));
        let welcome = Welcome {
            flags,
            protocol: session.tokens.protocol,
            incarnation: self.incarnation,
            attempt,
            nonce: session.tokens.nonce,
            store_id: self.me.store_id,
            token,
        };
        session.push(Lane::Control, &PeerFrame::Welcome(welcome));
        self.busy_sessions.insert(link);
        self.try_open(link);
    }

    /// The token of an open session is old: the peer gets another one. Also when another session of
    /// the peer went further, which may have ended since: a peer that holds what was given there
    /// presents that instead, and one that does not is another one. Not while one is unanswered.
    pub(crate) fn rotate(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        session.tokens.rotate_at = Some(self.now.at.plus_ms(self.config.token_rotation_ms));
        if session.tokens.last.is_some() && !session.tokens.unanswered {
            self.welcome(link);
        }
    }

    fn challenge(&mut self, link: LinkId, token: Token) {
        crate::reached!(self, StrangeTokenAsked);
        let mut challenge = [0; 16];
        self.entropy.fill(&mut challenge);
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if let Some(attempt) = session.hello.as_ref().map(|hello| hello.attempt) {
            session.tokens.strange = Some((challenge, token));
            let frame = PeerFrame::Challenge(Challenge { attempt, challenge });
            session.push(Lane::Control, &frame);
            self.busy_sessions.insert(link);
        }
    }

    /// A sign of life. Whether it was for a strange token: then its peer lives, and has a history
    /// that branched.
    pub(crate) fn on_token_answer(&mut self, link: LinkId, answer: &Challenge) -> bool {
        let Some(session) = self.sessions.get_mut(&link) else {
            return false;
        };
        let asked = session.tokens.strange;
        let Some((_, token)) = asked.filter(|(challenge, _)| *challenge == answer.challenge) else {
            return false;
        };
        session.tokens.strange = None;
        let peer = session.peer;
        let Some(kept) = self.tokens.ledgers.get_mut(&(session.own, peer)) else {
            return true;
        };
        let (judged, changed) = kept.ledger.present(&token);
        kept.changes += u64::from(changed);
        if judged == Judged::Strange {
            session.tokens.branches += 1;
            if session.tokens.branches > BRANCHES_MAX {
                let text = "it presents one spent token after the other";
                self.misbehaved(link, text);
                return true;
            }
            kept.changes += 1;
            session.tokens.branched = kept.ledger.branch(&token);
            session.tokens.welcomed = false;
            crate::reached!(self, BranchedByToken);
            if self.is_heard(peer) {
                self.note_branch(peer, BranchEvidence::Token);
            }
        }
        self.goes_on(link, token);
        true
    }

    pub(crate) fn on_confirm(&mut self, link: LinkId, confirm: &Confirm) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if session.hello.as_ref().map(|hello| hello.attempt) == Some(confirm.attempt) {
            session.tokens.unanswered = false;
            self.on_presented(link, &confirm.token);
        }
    }

    /// The first welcome of a session, or a repeated one: its token is stored, then confirmed.
    pub(crate) fn take_token(
        &mut self,
        link: LinkId,
        fresh: &Bytes,
        branched: bool,
        repeated: bool,
    ) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let (own, peer) = (session.own, session.peer);
        if fresh.is_empty() || own == peer {
            session.tokens.confirmed = true;
            return self.try_open(link);
        }
        // Each costs a write, whether or not the session is open.
        if repeated && !session.tokens.repeated.admits(self.now.at) {
            return self.misbehaved(link, "one welcome after the other");
        }
        let held = self.tokens.held.entry((own, peer));
        let held = held.or_insert_with(|| Held::new(Bytes::new()));
        // The frame's buffer is not kept for the sake of a few bytes.
        let fresh = Bytes::copy_from_slice(fresh);
        match held.take(&session.tokens.presented, &fresh) {
            Take::Store => {
                session.tokens.awaits_store = true;
                self.commits.set(pair_key(HELD, (own, peer)), fresh);
                self.commits.after_settling(Then::TokenStored { own, peer });
                if crate::broken!(self, confirm_before_stored) {
                    self.token_stored(own, peer);
                }
            }
            Take::Wait => session.tokens.awaits_store = true,
            Take::ConfirmStored => self.confirm_stored(link),
        }
        if branched {
            self.on_branched(link, peer);
        }
    }

    /// The token of a peer is on disk.
    pub(crate) fn token_stored(&mut self, own: QmId, peer: QmId) {
        if let Some(held) = self.tokens.held.get_mut(&(own, peer)) {
            held.is_stored();
        }
        for link in self.awaiting_store(own, peer) {
            self.confirm_stored(link);
        }
    }

    /// The disk has no room for a token: without it no session opens.
    pub(crate) fn token_refused(&mut self, own: QmId, peer: QmId) {
        if let Some(held) = self.tokens.held.get_mut(&(own, peer)) {
            held.refused();
        }
        for link in self.awaiting_store(own, peer) {
            self.ledger_refused(link);
        }
    }

    /// The disk has no room for what a peer presented.
    pub(crate) fn ledger_refused(&mut self, link: LinkId) {
        self.end_session(link, Outcome::STORE_FULL, "the disk is full");
    }

    fn awaiting_store(&self, own: QmId, peer: QmId) -> Vec<LinkId> {
        let awaits = |link: &LinkId| {
            let session = self.sessions.get(link);
            session.is_some_and(|session| session.own == own && session.tokens.awaits_store)
        };
        let links = self.by_peer.get(&peer).into_iter().flatten();
        links.copied().filter(awaits).collect()
    }

    /// Presents what is stored.
    fn confirm_stored(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        session.tokens.awaits_store = false;
        session.tokens.confirmed = true;
        let held = self.tokens.held.get(&(session.own, session.peer));
        let Some(token) = held.map(Held::stored).filter(|token| !token.is_empty()) else {
            return;
        };
        session.tokens.presented = token.clone();
        let frame = PeerFrame::Confirm(Confirm {
            attempt: session.attempt,
            token: token.clone(),
        });
        session.push(Lane::Control, &frame);
        self.busy_sessions.insert(link);
        self.try_open(link);
    }

    /// Before a sign of life on a session: what is stored is presented on it, if it is not yet, or
    /// the peer would judge a live process by what it has left behind.
    pub(crate) fn present_again(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let held = self.tokens.held.get(&(session.own, session.peer));
        let Some(token) = held.map(Held::stored).filter(|token| !token.is_empty()) else {
            return;
        };
        if session.own == session.peer || session.tokens.presented == *token {
            return;
        }
        session.tokens.presented = token.clone();
        let frame = PeerFrame::Confirm(Confirm {
            attempt: session.attempt,
            token: token.clone(),
        });
        session.push(Lane::Control, &frame);
    }

    /// A peer has seen this node's history branch, or showed it: what is minted from now on bears
    /// another life's name, and what was minted before is asked for before it is sent.
    ///
    /// Nothing is lost without a new life: two messages with one name still have two tags. So a
    /// stranger's word begins none, and there is an end to how many there are at a time.
    fn on_branched(&mut self, link: LinkId, peer: QmId) {
        let now = self.now.at;
        if !self.is_heard(peer) || now < self.tokens.branched_until {
            return;
        }
        let again_ms =
            (2 * self.tokens.branched_again_ms).clamp(BRANCHED_AGAIN_MS, BRANCHED_AGAIN_MAX_MS);
        self.tokens.branched_again_ms = again_ms;
        self.tokens.branched_until = now.plus_ms(again_ms);
        self.own_history_branched(peer);
        if self.prior_incarnations.len() >= PRIOR_INCARNATIONS_MAX {
            return;
        }
        self.begin_incarnation();
        if self.sessions.get(&link).is_some_and(|s| s.opened) {
            // Its peer knows the former life only.
            let text = "this node begins a new life, because its history branched";
            self.end_session(link, Outcome::SUPERSEDED, text);
        }
    }

    /// A peer is forgotten, and with it its history.
    pub(crate) fn forget_tokens(&mut self, peer: QmId) {
        for own in self.owns() {
            let ends = (own, peer);
            if self.tokens.held.remove(&ends).is_some() {
                self.commits.unset(pair_key(HELD, ends));
            }
            if self.tokens.ledgers.remove(&ends).is_some() {
                self.commits.unset(pair_key(LEDGER, ends));
            }
        }
    }

    /// A former identity of this node is gone, and with it what it held.
    pub(crate) fn drop_tokens(&mut self, own: QmId) {
        self.tokens.held.retain(|ends, _| ends.0 != own);
        self.tokens.ledgers.retain(|ends, _| ends.0 != own);
    }

    /// Reads a token or a ledger back. Whether the value was understood, if it is one.
    pub(crate) fn recover_token(&mut self, key: &[u8], value: &Bytes) -> Option<bool> {
        let held = key.strip_prefix(HELD);
        let pair = held.or_else(|| key.strip_prefix(LEDGER))?;
        let Some((me, peer)) = pair.split_first_chunk::<16>() else {
            return Some(false);
        };
        let Ok(peer) = <[u8; 16]>::try_from(peer).map(QmId::from_bytes) else {
            return Some(false);
        };
        let own = QmId::from_bytes(*me);
        if !self.is_own(own) {
            // Of an identity that this node had before; nothing is presented under it.
            self.commits.unset(Bytes::copy_from_slice(key));
            return Some(true);
        }
        let ends = (own, peer);
        if held.is_some() {
            self.tokens.held.insert(ends, Held::new(value.clone()));
            return Some(true);
        }
        let ledger = Ledger::decode(value);
        let understood = ledger.is_some();
        if let Some(ledger) = ledger {
            let kept = Kept {
                ledger,
                ..Kept::default()
            };
            self.tokens.ledgers.insert(ends, kept);
        }
        Some(understood)
    }
}

/// Name of the token that a peer gave.
pub(crate) fn held_key(own: QmId, peer: QmId) -> Bytes {
    pair_key(HELD, (own, peer))
}

fn pair_key(prefix: &[u8], (own, peer): Pair) -> Bytes {
    prefixed(
        prefix,
        &[own.as_bytes().as_slice(), peer.as_bytes()].concat(),
    )
}
