//! Noticing that two live machines have one identity, and telling everybody whom it concerns.
//!
//! Three places, each a small state machine of its own: the node between finds out that two of its
//! sessions are two processes ([`check`]), passes their words on ([`relays`]), and each copy proves
//! to itself that the other holds its key ([`proof`]). What was proven is kept for people
//! ([`alarms`]). The same words tell all copies but one that another keeps the identity
//! ([`election`]); whoever is told so takes another, unless its operator wants to do that.

mod alarms;
pub(crate) mod branches;
mod check;
pub(crate) mod courses;
#[cfg(test)]
mod crossing_model;
#[cfg(test)]
mod digest;
pub(crate) mod election;
#[cfg(test)]
mod election_model;
#[cfg(test)]
mod fork_model;
pub(crate) mod handshake;
#[cfg(test)]
mod model;
mod own;
pub(crate) mod parted;
pub(crate) mod past;
mod proof;
mod relays;
mod resumed;
#[cfg(test)]
mod rivals_model;
mod seal;
mod shares;
pub(crate) mod token;
#[cfg(test)]
mod token_model;
#[cfg(test)]
pub(crate) mod visit;

use std::collections::BTreeMap;

use bytes::Bytes;
use qm_wire::{Ask, Challenge, Claim, Hello, PeerFrame, QmId, Rank, Twin};

pub use self::alarms::{TwinMachine, TwinView};
pub use self::branches::{BranchEvidence, BranchView, WentBackView};
pub use self::past::PartedView;
pub use self::seal::Seal;
pub use self::token::TokenKey;

use self::alarms::Alarms;
use self::check::{Begun, Checks, Current, Told};
use self::past::Past;
use self::proof::{Proofs, Unverified, Voice};
use self::relays::{Relays, Word};
use self::shares::Tenant;
use crate::admin::AdminReply;
use crate::config::OnTwin;
use crate::connections::With;
use crate::engine::Engine;
use crate::io::{Event, Lane, LinkId, Output};
use crate::record::prefixed;
use crate::session::Session;

/// Other sessions of a peer that are asked because of a new one.
const ASKED_MAX: usize = 8;
/// Names of the values that keep alarms.
const ALARM: &[u8] = b"twin/";
/// Names of the values that keep who parted.
const PARTED: &[u8] = b"parted/";
/// Signatures that are under way: to be made, and to be verified.
const UNDER_WAY_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Twins {
    /// By the identity of this node and the peer.
    current: Current<(QmId, QmId), LinkId>,
    checks: Checks<LinkId, [u8; 16]>,
    relays: Relays<LinkId>,
    proofs: Proofs<LinkId>,
    pub(crate) alarms: Alarms,
    past: Past,
    signing: BTreeMap<u64, (LinkId, Claim)>,
    verifying: BTreeMap<u64, (LinkId, Unverified)>,
    next_number: u64,
}

impl Default for Twins {
    fn default() -> Self {
        Self {
            current: Current::new(),
            checks: Checks::new(),
            relays: Relays::new(),
            proofs: Proofs::new(),
            alarms: Alarms::default(),
            past: Past::default(),
            signing: BTreeMap::new(),
            verifying: BTreeMap::new(),
            next_number: 0,
        }
    }
}

impl Twins {
    /// What must hold at any time; for audits.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let (signing, verifying) = (self.signing.len(), self.verifying.len());
        if signing.max(verifying) > UNDER_WAY_MAX {
            return Err(format!(
                "{signing} signatures are being made, {verifying} verified"
            ));
        }
        self.alarms.audit()
    }
}

impl Engine {
    /// A session begins: on older ones with this peer no sign of life is given any more.
    pub(crate) fn twins_session_began(&mut self, link: LinkId, (own, peer): (QmId, QmId)) {
        self.twins.current.began((own, peer), link);
    }

    pub(crate) fn twins_session_ended(&mut self, link: LinkId, (own, peer): (QmId, QmId)) {
        self.twins.checks.ended(link);
        self.twins.relays.ended(link);
        self.twins.proofs.ended(link);
        self.twins.current.ended(&(own, peer), &link);
        if !self.has_session(own, peer) {
            self.twins.current.none_left(&(own, peer));
        }
    }

    /// Whoever proved this node's own key and is another life is a copy: no more proof is needed.
    pub(crate) fn look_for_own_copy(&mut self, link: LinkId, hello: &Hello) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if session.peer != self.me.qm || hello.incarnation == self.incarnation {
            return;
        }
        let other = TwinMachine {
            address: session.remote.to_string(),
            host: hello.host.as_str().to_owned(),
            incarnation: hello.incarnation,
            since_us: self.wall_at(session.began),
        };
        crate::reached!(self, MetOwnCopy);
        self.show_to_copy(link);
        self.raise_own(None, other);
    }

    /// A session is open: asks it, and older ones of the same identity and another life, whether
    /// they live.
    pub(crate) fn look_for_twins(&mut self, newest: LinkId, peer: QmId) {
        let life = |link: &LinkId| {
            let session = self.sessions.get(link).filter(|session| session.opened);
            session.and_then(|session| session.incarnation())
        };
        let Some(newest_life) = life(&newest) else {
            return;
        };
        // A former identity drains: that the copy which keeps it lives is known.
        if self.is_draining(newest) {
            self.twin_parts(newest);
            return;
        }
        // A process answers once for each identity that it speaks to, so it is asked under one.
        let own = self.sessions.get(&newest).map(|session| session.own);
        let spoken_to = |link: &LinkId| self.sessions.get(link).map(|session| session.own);
        let others: Vec<LinkId> = self
            .by_peer
            .get(&peer)
            .into_iter()
            .flatten()
            .rev()
            .copied()
            .filter(|link| *link != newest && spoken_to(link) == own)
            .filter(|link| life(link).is_some_and(|other| other != newest_life))
            .filter(|link| !self.is_draining(*link))
            .take(ASKED_MAX)
            .collect();
        #[cfg(feature = "__breaks")]
        if crate::broken!(self, believe_one_answer) && !others.is_empty() {
            self.twins.checks = Checks::believing(1);
        }
        for older in others {
            let asked = [newest, older].map(|link| {
                let mut challenge = [0; 16];
                self.entropy.fill(&mut challenge);
                (link, challenge)
            });
            match self.twins.checks.begin(asked, self.tenant(peer)) {
                Begun::Asks => {}
                Begun::Known => continue,
                Begun::Full => {
                    self.counters.twins_unasked += 1;
                    self.event(Event::TwinUnasked { peer });
                    continue;
                }
            }
            for (link, challenge) in asked {
                if let Some(session) = self.sessions.get_mut(&link)
                    && let Some(attempt) = session.hello.as_ref().map(|hello| hello.attempt)
                {
                    let frame = PeerFrame::Challenge(Challenge { attempt, challenge });
                    session.push(Lane::Control, &frame);
                    self.busy_sessions.insert(link);
                }
            }
        }
    }

    /// Room for what is said about copies is taken for this peer.
    fn tenant(&self, peer: QmId) -> Tenant {
        Tenant {
            peer,
            stranger: peer != self.me.qm && !self.is_heard(peer),
            at_ms: self.now.at.as_ms(),
        }
    }

    /// The machine at the other end of a session takes an identity of its own. It speaks for itself
    /// and for no other with that key: the alarm is over when one machine is left.
    pub(crate) fn twin_parts(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let (peer, address) = (session.peer, session.remote.to_string());
        let Some(hello) = session.hello.as_ref() else {
            return;
        };
        let (life, host) = (hello.incarnation, hello.host.as_str().to_owned());
        let is_it = |machine: &TwinMachine| {
            machine.incarnation == life || (machine.host == host && machine.address == address)
        };
        self.machine_parted(peer, is_it);
    }

    /// A machine has an identity no longer. Others that have it at this moment stay, whatever is
    /// said of them.
    fn machine_parted(&mut self, qm: QmId, is_it: impl Fn(&TwinMachine) -> bool) {
        let links = self.by_peer.get(&qm).into_iter().flatten();
        let lives: Vec<_> = links
            .filter(|link| !self.is_draining(**link))
            .filter_map(|link| self.sessions.get(link))
            .filter(|session| session.opened && !session.ends)
            .filter_map(Session::incarnation)
            .collect();
        let parts = |machine: &TwinMachine| is_it(machine) && !lives.contains(&machine.incarnation);
        let Some((gone, over)) = self.twins.alarms.parted(qm, parts) else {
            return;
        };
        let title = titles(&gone);
        self.remember_parted(qm, gone);
        if over {
            self.forget_alarm(qm);
        } else {
            self.save_alarm(qm);
        }
        let text = format!("{title} takes an identity of its own");
        if qm != self.me.qm {
            self.note_connection(With::Peer(qm), "parted", &text);
        }
        self.event(Event::TwinParted { qm, title, over });
    }

    /// A frame about identities.
    pub(crate) fn on_identity_frame(&mut self, link: LinkId, frame: PeerFrame) {
        match frame {
            PeerFrame::Confirm(confirm) => self.on_confirm(link, &confirm),
            PeerFrame::Challenge(challenge) => self.on_challenge(link, challenge),
            PeerFrame::ChallengeOk(answer) => self.on_challenge_ok(link, answer),
            PeerFrame::Twin(twin) => self.on_twin(link, twin),
            PeerFrame::Ask(ask) => self.on_ask(link, ask),
            PeerFrame::Claim(claim) => self.on_claim(link, claim),
            PeerFrame::Succession(succession) => self.on_succession(link, succession),
            PeerFrame::Parted(parted) => self.on_parted(link, parted),
            // Their histories are not compared in this version.
            _ => {}
        }
    }

    /// W-SES-8.
    fn on_challenge(&mut self, link: LinkId, challenge: Challenge) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let current = self
            .twins
            .current
            .may_answer(&(session.own, session.peer), &link);
        if current && challenge.attempt == session.attempt {
            let ends = (session.own, session.peer);
            self.twins.current.answered(&ends, &link);
            self.present_again(link);
            let Some(session) = self.sessions.get_mut(&link) else {
                return;
            };
            session.push(Lane::Control, &PeerFrame::ChallengeOk(challenge));
            self.busy_sessions.insert(link);
        }
    }

    fn on_challenge_ok(&mut self, link: LinkId, answer: Challenge) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let peer = session.peer;
        if session.hello.as_ref().map(|hello| hello.attempt) != Some(answer.attempt) {
            return;
        }
        if self.on_token_answer(link, &answer) {
            return;
        }
        let links = match self.twins.checks.answered(link, &answer.challenge) {
            Told::Both(links) => links,
            Told::Alone => {
                crate::reached!(self, OneAnswered);
                return;
            }
            Told::Unasked => return,
        };
        crate::reached!(self, BothAnswered);
        let Some(machines) = self.machines_of(links) else {
            return;
        };
        let wall_us = self.now.wall_us;
        self.make_room_for_alarm(peer);
        let news = self.twins.alarms.raise(peer, None, &machines, wall_us);
        if news {
            self.counters.twins_seen += 1;
            self.save_alarm(peer);
            let [one, other] = machines.each_ref().map(TwinMachine::title);
            let text = format!("two live machines have this identity: {one} and {other}");
            self.note_connection(With::Peer(peer), "twin", &text);
            let machines = Box::new(machines.clone());
            self.event(Event::TwinSeen { peer, machines });
        }
        self.introduce(peer, links, &machines);
    }

    fn machines_of(&self, links: [LinkId; 2]) -> Option<[TwinMachine; 2]> {
        let machine = |link: LinkId| {
            let session = self.sessions.get(&link)?;
            let hello = session.hello.as_ref()?;
            Some(TwinMachine {
                address: session.remote.to_string(),
                host: hello.host.as_str().to_owned(),
                incarnation: hello.incarnation,
                since_us: self.wall_at(session.began),
            })
        };
        Some([machine(links[0])?, machine(links[1])?])
    }

    /// Tells two copies of each other, and from now on passes their words on.
    fn introduce(&mut self, peer: QmId, links: [LinkId; 2], machines: &[TwinMachine; 2]) {
        let mut relay = [0; 16];
        self.entropy.fill(&mut relay);
        if !self.twins.relays.open(relay, links, self.tenant(peer)) {
            return;
        }
        let [one, other] = machines;
        for (link, about) in [(links[0], other), (links[1], one)] {
            let known_us = self.now.wall_us.saturating_sub(about.since_us);
            let twin = Twin {
                relay,
                incarnation: about.incarnation,
                known_s: known_us / 1_000_000,
                address: about.address.as_str().into(),
                host: about.host.as_str().into(),
            };
            if let Some(session) = self.sessions.get_mut(&link) {
                session.push(Lane::Control, &PeerFrame::Twin(twin));
                self.busy_sessions.insert(link);
            }
        }
    }

    /// A node between tells this one of a copy: only a signature over a fresh challenge makes that
    /// believable.
    fn on_twin(&mut self, link: LinkId, twin: Twin) {
        if self.may_tell_of_copies(link) {
            self.ask_with_rank(link, twin);
        }
    }

    /// Whether words about copies of this node count that come on a session. The rank is frozen by
    /// the first of them: not by a stranger's. And of a former identity nothing is left to decide.
    fn may_tell_of_copies(&self, link: LinkId) -> bool {
        self.sessions.get(&link).is_some_and(|session| {
            let peer = session.peer;
            session.own == self.me.qm && (peer == self.me.qm || self.is_heard(peer))
        })
    }

    fn ask_copy(&mut self, link: LinkId, twin: Twin, rank: Rank) {
        let Some(peer) = self.sessions.get(&link).map(|session| session.peer) else {
            return;
        };
        let mut challenge = [0; 32];
        self.entropy.fill(&mut challenge);
        let tenant = self.tenant(peer);
        let ask = self.twins.proofs.told(link, twin, challenge, rank, tenant);
        if let Some((ask, session)) = ask.zip(self.sessions.get_mut(&link)) {
            session.push(Lane::Control, &PeerFrame::Ask(ask));
            self.busy_sessions.insert(link);
        }
    }

    /// The last answer decided nothing: asks the same copy once more.
    fn ask_copy_again(&mut self, link: LinkId, relay: [u8; 16], rank: Rank) {
        let mut challenge = [0; 32];
        self.entropy.fill(&mut challenge);
        if let Some(ask) = self.twins.proofs.again(link, relay, challenge, rank) {
            self.pass_on(link, &PeerFrame::Ask(ask));
        }
    }

    /// This process on a session with a node between.
    fn voice_on(&self, link: LinkId) -> Option<Voice> {
        let session = self.sessions.get(&link)?;
        Some((session.told_life, session.welcome.as_ref()?.nonce))
    }

    fn on_ask(&mut self, link: LinkId, ask: Ask) {
        if let Some(to) = self.twins.relays.pass(&ask.relay, link, Word::Ask) {
            crate::reached!(self, WordRelayed);
            return self.pass_on(to, &PeerFrame::Ask(ask));
        }
        if self.may_tell_of_copies(link) {
            self.answer_with_rank(link, ask);
        }
    }

    fn answer_copy(&mut self, link: LinkId, ask: &Ask, rank: Rank) {
        let Some(me) = self.voice_on(link) else {
            return;
        };
        let ends = self.sessions.get(&link).map(|s| (s.own, s.peer));
        let current = ends.is_some_and(|ends| self.twins.current.may_answer(&ends, &link));
        if !current || self.twins.signing.len() >= UNDER_WAY_MAX {
            return;
        }
        let Some(mut claim) = self.twins.proofs.asked(link, ask, me, rank) else {
            return;
        };
        if let Some(ends) = ends {
            self.twins.current.answered(&ends, &link);
        }
        self.ask_if_outdated(link, ask.relay);
        claim.points = self.courses.points().to_vec();
        let bytes = claim.signed_bytes().freeze();
        let sign = self.next_identity_number();
        self.twins.signing.insert(sign, (link, claim));
        self.outputs.push_back(Output::Sign { sign, bytes });
    }

    /// The key's holder has signed.
    pub(crate) fn on_signed(&mut self, sign: u64, signature: [u8; 64]) {
        if self.on_parted_signed(sign, signature) {
            return;
        }
        let Some((link, mut claim)) = self.twins.signing.remove(&sign) else {
            return;
        };
        claim.signature = signature;
        self.pass_on(link, &PeerFrame::Claim(claim));
    }

    fn on_claim(&mut self, link: LinkId, claim: Claim) {
        if let Some(to) = self.twins.relays.pass(&claim.relay, link, Word::Claim) {
            return self.pass_on(to, &PeerFrame::Claim(claim));
        }
        if !self.may_tell_of_copies(link) {
            return;
        }
        let own: Vec<Voice> = self
            .sessions
            .keys()
            .filter_map(|link| self.voice_on(*link))
            .collect();
        if self.twins.verifying.len() >= UNDER_WAY_MAX {
            return;
        }
        let Some(unverified) = self.twins.proofs.claimed(link, &claim, &own) else {
            return;
        };
        let bytes: Bytes = unverified.bytes.clone();
        let signature = unverified.signature;
        let verify = self.next_identity_number();
        self.twins.verifying.insert(verify, (link, unverified));
        let key = self.me.public_key;
        self.outputs.push_back(Output::Verify {
            verify,
            key,
            bytes,
            signature,
        });
    }

    /// Whether a signature was by this node's own key.
    pub(crate) fn on_verified(&mut self, verify: u64, good: bool) {
        if self.on_parted_verified(verify, good) {
            return;
        }
        let Some((link, claim)) = self.twins.verifying.remove(&verify) else {
            return self.on_succession_verified(verify, good);
        };
        let Some(peer) = self.sessions.get(&link).map(|session| session.peer) else {
            return;
        };
        if !good {
            crate::reached!(self, ClaimForged);
            return self.misbehaved(link, "it tells of a copy of this node that has no such key");
        }
        crate::reached!(self, ClaimVerified);
        let twin = claim.twin;
        let known_us = twin.known_s.saturating_mul(1_000_000);
        let other = TwinMachine {
            address: twin.address.as_str().to_owned(),
            host: twin.host.as_str().to_owned(),
            incarnation: twin.incarnation,
            since_us: self.now.wall_us.saturating_sub(known_us),
        };
        let told_by = (peer != self.me.qm).then_some(peer);
        self.raise_own(told_by, other.clone());
        self.note_fork(self.courses.fork(&claim.points));
        self.twins.proofs.judged(link, twin.relay);
        if self.compare_ranks(link, twin.relay, claim.rank) {
            self.lost_the_election(told_by, other);
        } else {
            self.ask_if_outdated(link, twin.relay);
        }
    }

    /// This node was shown, with proof, that another copy keeps the identity: it is the one that
    /// has to take another. Here, and nowhere else, begins what follows from that.
    fn lost_the_election(&mut self, told_by: Option<QmId>, winner: TwinMachine) {
        let because = format!("another live machine keeps it: {}", winner.title());
        if self.note_lost() {
            crate::reached!(self, ElectionLost);
            let on_twin = self.config.on_twin;
            self.event(Event::ElectionLost {
                told_by,
                winner: Box::new(winner),
                on_twin,
            });
        }
        self.follow_election(&because);
    }

    /// Whether another live machine is known to have this node's identity.
    pub(crate) fn knows_own_copy(&self) -> bool {
        let own = |view: &TwinView| view.qm == self.me.qm;
        self.has_lost() || self.twins.alarms.views().iter().any(own)
    }

    /// Whoever lost takes another identity, unless it is configured to wait for its operator: now,
    /// or at the next look, when an earlier change still drains or the disk was full.
    pub(crate) fn follow_election(&mut self, because: &str) {
        if !self.has_lost() || self.config.on_twin != OnTwin::Reidentify {
            return;
        }
        // Refused, it is tried again; until then the alarm stands, and says why.
        let refused = self.reidentify(because, None).err();
        self.election.held_up = match refused.map(|reply| *reply) {
            Some(AdminReply::Failed { cause, .. }) => Some(cause),
            _ => None,
        };
    }

    /// An open session with a copy of this node: both ask directly, without a node between.
    pub(crate) fn ask_own_copy(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let Some(hello) = session
            .hello
            .as_ref()
            .filter(|_| session.peer == self.me.qm)
        else {
            return;
        };
        let known_us = self.now.wall_us.saturating_sub(self.wall_at(session.began));
        let twin = Twin {
            relay: [0; 16],
            incarnation: hello.incarnation,
            known_s: known_us / 1_000_000,
            address: session.remote.to_string().as_str().into(),
            host: hello.host.clone(),
        };
        self.ask_with_rank(link, twin);
    }

    /// Another live machine has this node's identity: that is proven.
    fn raise_own(&mut self, told_by: Option<QmId>, other: TwinMachine) {
        let me = TwinMachine {
            address: String::new(),
            host: self.config.host.clone(),
            incarnation: self.incarnation,
            since_us: self.wall_at(self.started),
        };
        let (qm, wall_us) = (self.me.qm, self.now.wall_us);
        let machines = [me, other.clone()];
        self.make_room_for_alarm(qm);
        if self.twins.alarms.raise(qm, told_by, &machines, wall_us) {
            self.counters.own_twins += 1;
            self.save_alarm(qm);
            if let Some(by) = told_by {
                let text = format!("it tells of a copy of this node: {}", other.title());
                self.note_connection(With::Peer(by), "twin", &text);
            }
            self.event(Event::OwnTwin {
                told_by,
                other: Box::new(other),
            });
        }
    }

    /// Whether what a peer says about identities counts: one that was approved or dialled.
    pub(crate) fn is_heard(&self, peer: QmId) -> bool {
        let record = self.peers.known.get(&peer);
        record.is_some_and(|record| record.approval.is_heard())
    }

    fn make_room_for_alarm(&mut self, qm: QmId) {
        let is_stranger = |qm: QmId| !self.is_heard(qm);
        if let Some(gone) = self.twins.alarms.makes_room(qm, self.me.qm, is_stranger) {
            self.forget_alarm(gone);
        }
    }

    fn save_alarm(&mut self, qm: QmId) {
        if let Some(value) = self.twins.alarms.encode(qm) {
            self.commits.set(prefixed(ALARM, qm.as_bytes()), value);
        }
    }

    /// Who parted is told for some time after the alarm is over.
    fn remember_parted(&mut self, qm: QmId, gone: Vec<TwinMachine>) {
        let (own, wall_us) = (self.me.qm, self.now.wall_us);
        if let Some(oldest) = self.twins.past.remember(qm, own, gone, wall_us) {
            self.commits.unset(prefixed(PARTED, oldest.as_bytes()));
        }
        if let Some(value) = self.twins.past.encode(qm) {
            self.commits.set(prefixed(PARTED, qm.as_bytes()), value);
        }
    }

    /// The operator forgot a peer, or knows of what parted.
    pub(crate) fn forget_parted(&mut self, qm: QmId) -> bool {
        let known = self.twins.past.forget(qm);
        if known {
            self.commits.unset(prefixed(PARTED, qm.as_bytes()));
        }
        known
    }

    /// The alarm about an identity is over, or not to be kept. About this node's own, what followed
    /// from it is over with it.
    pub(crate) fn forget_alarm(&mut self, qm: QmId) -> bool {
        let known = self.twins.alarms.forget(qm);
        if known {
            self.commits.unset(prefixed(ALARM, qm.as_bytes()));
        }
        let lost = qm == self.me.qm && self.forget_lost();
        known || lost
    }

    /// Reads an alarm back. Whether the value was understood, if it is one.
    pub(crate) fn recover_alarm(&mut self, key: &[u8], value: &Bytes) -> Option<bool> {
        let id_of = |rest: &[u8]| <[u8; 16]>::try_from(rest).ok().map(QmId::from_bytes);
        if let Some(rest) = key.strip_prefix(PARTED) {
            let qm = id_of(rest);
            return Some(qm.is_some_and(|qm| self.twins.past.recover(qm, value)));
        }
        let qm = id_of(key.strip_prefix(ALARM)?);
        Some(qm.is_some_and(|qm| self.twins.alarms.recover(qm, value)))
    }

    /// Whether this node keeps its identity, as far as ranks were compared.
    pub(crate) fn twin_views(&self) -> Vec<TwinView> {
        let mut views = self.twins.alarms.views();
        for view in views.iter_mut().filter(|view| view.qm == self.me.qm) {
            view.lost_us = self.election.lost_us;
            view.held_up.clone_from(&self.election.held_up);
        }
        views
    }

    /// The same of this node's own identity alone.
    pub(crate) fn own_twin_view(&self) -> Option<TwinView> {
        self.twin_views()
            .into_iter()
            .find(|view| view.qm == self.me.qm)
    }

    /// Machines that had an identity beside another one until lately.
    pub(crate) fn parted_views(&self) -> Vec<PartedView> {
        self.twins.past.views(self.now.wall_us)
    }

    /// The same of this node's own identity alone.
    pub(crate) fn own_parted_view(&self) -> Option<PartedView> {
        self.twins.past.view(self.me.qm, self.now.wall_us)
    }

    fn pass_on(&mut self, link: LinkId, frame: &PeerFrame) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.push(Lane::Control, frame);
            self.busy_sessions.insert(link);
        }
    }

    pub(crate) fn next_identity_number(&mut self) -> u64 {
        self.twins.next_number += 1;
        self.twins.next_number
    }

    /// Wall clock at an earlier node time, as far as the clocks went alike.
    fn wall_at(&self, at: crate::time::Timestamp) -> u64 {
        let ago_us = self.now.at.0.saturating_sub(at.0);
        self.now.wall_us.saturating_sub(ago_us)
    }

    /// Evidence of copies for `why`.
    pub(crate) fn twin_evidence(&self, qm: QmId) -> Option<String> {
        if let Some(machines) = self.twins.alarms.titles(qm) {
            return Some(format!(
                "several live machines have this identity: {machines}; see: qm-node doctor"
            ));
        }
        let parted = self.twins.past.view(qm, self.now.wall_us)?;
        let machines = titles(&parted.machines);
        Some(format!(
            "a copy that had this identity has one of its own now: {machines}"
        ))
    }
}

fn titles(machines: &[TwinMachine]) -> String {
    let titles: Vec<String> = machines.iter().map(TwinMachine::title).collect();
    titles.join(" and ")
}

#[cfg(test)]
mod tests;
