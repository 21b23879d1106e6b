//! Taking another identity while the node runs.
//!
//! Messages that were minted keep their names for ever, so the node is two for a while. The
//! *current* identity is whom it is; the *former* one drains. For each destination, messages are
//! minted under the former identity until that destination has approved the current one; then, once
//! and for all, under the current one. What waits under the former identity is delivered under it,
//! and transactional messages of the current one wait behind those, queue by queue. When nothing
//! waits any more and every destination has switched, the former key is kept for 30 days, within
//! which the change may be taken back, and erased.
//!
//! The roles of the keys are one value in the store, so they change in one commit. The keys
//! themselves are the driver's: it has both on disk before that commit, and asks the store which is
//! which ([`Roles`]).

pub(crate) mod record;
pub(crate) mod view;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use qm_wire::{HelloFlags, Outcome, PeerFrame, QmId, QueueName, Succession};

use crate::admin::AdminReply;
use crate::commits::Then;
use crate::destination::Target;
use crate::engine::Engine;
use crate::identity::TokenKey;
use crate::io::{ConnId, Event, Lane, LinkId, Output};
use crate::outgoing::{OutQueue, Remote};
use crate::record::{QueueRecord, RemoteKey};
use crate::session::Session;
use crate::stream::record::chain_key;
use crate::time::Timestamp;

pub use self::record::Roles;
pub(crate) use self::record::{Former, is_identity_value};
use self::record::{IDENTITY, decode_mark, encode_mark, mark_key};

/// How long after its last message a former key is kept, so that the change may be taken back.
pub(crate) const FORMER_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// Bytes of the reason for a change.
const BECAUSE_BYTES_MAX: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Reidentifying {
    /// What drains.
    former: Option<Former>,
    /// What has drained and whose key is erased, of the last change.
    gone: Option<Former>,
    /// A change that is not durable yet.
    change: Option<Change>,
    /// Destinations whose switch is on its way to the disk.
    switching: BTreeSet<RemoteKey>,
    /// The former identity is on its way out: nothing is minted under it any more.
    going: bool,
    /// For the tokens of the former identity.
    former_token_key: Option<TokenKey>,
    /// Peers of an earlier version, whose sessions end when they are told of a succession.
    untold: BTreeSet<QmId>,
}

/// A change of identity that was begun.
#[derive(Debug)]
struct Change {
    because: String,
    reclaims: bool,
    /// Another machine keeps the identity that this node gives up.
    splits: bool,
    /// For the tokens of the identity that follows, once it is known.
    token_key: Option<TokenKey>,
    /// Who is told when it is done.
    asked: Option<(ConnId, u64)>,
}

fn failed(outcome: Outcome, cause: String, fix: &str) -> AdminReply {
    AdminReply::Failed {
        outcome,
        cause,
        fix: fix.to_owned(),
    }
}

impl Engine {
    /// Begins to take a new identity, because of what is said here. Whoever asked is answered when
    /// the roles of the keys are durable; nothing else changes before.
    ///
    /// # Errors
    /// The answer when it cannot be done now.
    pub(crate) fn reidentify(
        &mut self,
        because: &str,
        asked: Option<(ConnId, u64)>,
    ) -> Result<(), Box<AdminReply>> {
        self.check_reidentify()?;
        // While another live machine keeps the identity, nobody follows it: no succession is shown,
        // and what stands for it elsewhere goes on to stand for that machine.
        let splits = self.knows_own_copy();
        self.begin_change(because, asked, None, splits);
        Ok(())
    }

    fn check_reidentify(&self) -> Result<(), Box<AdminReply>> {
        self.check_change()?;
        let open = self.reidentifying.former.as_ref();
        // Not whether it is noted as drained: that is looked at once a minute.
        if let Some(former) = open.filter(|former| self.former_holds(former.qm)) {
            let cause = format!(
                "messages still wait under the former identity {}",
                former.qm
            );
            let fix = "see qm-node identity show for what it waits for; then try again";
            return Err(Box::new(failed(Outcome::BUSY, cause, fix)));
        }
        Ok(())
    }

    /// Begins to go back to the former identity.
    ///
    /// # Errors
    /// The answer when it cannot be done now.
    pub(crate) fn reclaim(&mut self, asked: Option<(ConnId, u64)>) -> Result<(), Box<AdminReply>> {
        self.check_change()?;
        let Some(former) = self.reidentifying.former.as_ref() else {
            let cause = "this node has no former identity, or its key was erased".to_owned();
            let fix = "see: qm-node identity show";
            return Err(Box::new(failed(Outcome::NOT_FOUND, cause, fix)));
        };
        let key = former.succession.old_key;
        let barred = self.outs.iter().find(|(number, out)| {
            (out.has_work() || out.in_flight > 0) && self.is_barred(**number)
        });
        if let Some((_, out)) = barred {
            let remote = self.remotes.get(&out.remote);
            let to = remote.map_or_else(String::new, |remote| remote.key.to_string());
            let cause = format!(
                "transactional messages for {to}/{} wait under both identities; going back would turn their order around",
                out.queue
            );
            let fix = "wait until those of the former identity are delivered, then try again";
            return Err(Box::new(failed(Outcome::BUSY, cause, fix)));
        }
        self.begin_change("it was taken back by the operator", asked, Some(key), false);
        Ok(())
    }

    fn check_change(&self) -> Result<(), Box<AdminReply>> {
        if self.stopping {
            let cause = "the node is stopping".to_owned();
            let reply = failed(Outcome::STOPPING, cause, "try again when it runs");
            return Err(Box::new(reply));
        }
        if self.reidentifying.change.is_some() || self.reidentifying.going {
            let cause = "another change of identity is just being made durable".to_owned();
            return Err(Box::new(failed(Outcome::BUSY, cause, "try again")));
        }
        Ok(())
    }

    fn begin_change(
        &mut self,
        because: &str,
        asked: Option<(ConnId, u64)>,
        new_key: Option<[u8; 32]>,
        splits: bool,
    ) {
        let mut cut = because.len().min(BECAUSE_BYTES_MAX);
        while !because.is_char_boundary(cut) {
            cut -= 1;
        }
        self.reidentifying.change = Some(Change {
            because: because.get(..cut).unwrap_or_default().to_owned(),
            reclaims: new_key.is_some(),
            splits,
            token_key: None,
            asked,
        });
        self.outputs.push_back(Output::Succeed {
            old_key: self.me.public_key,
            new_key,
        });
    }

    /// Both keys are on disk and have signed: the roles change in one commit.
    pub(crate) fn on_succeeded(&mut self, succession: Succession, token_key: TokenKey) {
        let Some(change) = &self.reidentifying.change else {
            return;
        };
        let reclaims = change.reclaims;
        let holds = |former: &Former| !reclaims && self.former_holds(former.qm);
        if self.reidentifying.former.as_ref().is_some_and(holds) {
            return self.on_not_succeeded("messages wait under the former identity again");
        }
        // Refused, it did not happen: nothing else is in its batch, nor what was refused before.
        self.seal();
        if self.commits.keeps_refused() {
            return self.on_not_succeeded("the disk has no room");
        }
        let Some(change) = &mut self.reidentifying.change else {
            return;
        };
        // From here on nothing is minted under a former identity that is dropped.
        change.token_key = Some(token_key);
        let mut former = Former {
            qm: self.me.qm,
            succession,
            since_us: self.now.wall_us,
            because: change.because.clone(),
            reclaimed: change.reclaims,
            split: change.splits,
            inherited_before: self
                .election
                .fork_us
                .filter(|_| change.splits)
                .map(Timestamp),
            lives: self.lives_to_leave(),
            marks: BTreeMap::new(),
            drained: None,
            gone: false,
        };
        if former.reclaimed {
            // What was switched is minted under the identity that goes until the one that comes
            // back is approved there again.
            let me = self.me.qm;
            let used = self.remotes.values().filter(|remote| {
                remote.own == me && !remote.queues.is_empty() && self.minting_own(&remote.key) == me
            });
            former.marks = used.map(|remote| (remote.key.clone(), false)).collect();
        } else {
            self.unset_former_queues();
        }
        let earlier = self.reidentifying.former.as_ref();
        let earlier = earlier.map(|earlier| earlier.marks.keys().cloned().collect::<Vec<_>>());
        for key in earlier.unwrap_or_default() {
            self.commits.unset(mark_key(&key));
        }
        for (key, mark) in &former.marks {
            self.commits.set(mark_key(key), encode_mark(*mark));
        }
        // What was decided about either identity is over with the change, not some time after it.
        let new = QmId::from_ed25519_public_key(&former.succession.new_key);
        for qm in [former.qm, new] {
            self.unset_election(qm);
        }
        self.commits
            .set(Bytes::from_static(IDENTITY), former.encode());
        self.commits
            .after_settling(Then::Reidentified(Box::new(former)));
        self.seal();
    }

    /// There is no other key, or the disk has no room for the change.
    pub(crate) fn on_not_succeeded(&mut self, text: &str) {
        let Some(change) = self.reidentifying.change.take() else {
            return;
        };
        if self.has_lost() {
            self.election.held_up = Some(text.to_owned());
        }
        if let Some((conn, request)) = change.asked {
            let cause = format!("the identity stays as it is: {text}");
            let reply = failed(Outcome::STORE_FULL, cause, "make room, then try again");
            self.outputs.push_back(Output::Admin {
                conn,
                request,
                reply,
            });
        }
    }

    /// The roles of the keys have changed.
    pub(crate) fn reidentified(&mut self, former: Former) {
        let change = self.reidentifying.change.take();
        let token_key = change.as_ref().and_then(|change| change.token_key);
        let asked = change.and_then(|change| change.asked);
        let (old, because) = (former.qm, former.because.clone());
        let before = self.reidentifying.former.take();
        if let Some(before) = before.filter(|_| !former.reclaimed) {
            self.drop_former(before.qm);
        }
        self.reidentifying.former_token_key = Some(self.me.token_key);
        self.me.token_key = token_key.unwrap_or(self.me.token_key);
        self.me.public_key = former.succession.new_key;
        self.me.qm = QmId::from_ed25519_public_key(&self.me.public_key);
        let new = self.me.qm;
        self.reidentifying.former = Some(former);
        self.reidentifying.switching.clear();
        self.forget_alarm(old);
        self.forget_election(old);
        self.forget_who_left();
        self.outputs.push_back(Output::Keys {
            current: new,
            former: Some(old),
        });
        self.event(Event::Reidentified { old, new, because });
        crate::reached!(self, Reidentified);
        #[cfg(feature = "__breaks")]
        if crate::broken!(self, relabel_queue) {
            self.relabel_queues(old);
        }
        self.quarantine_inherited();
        self.make_siblings();
        let links: Vec<LinkId> = self.sessions.keys().copied().collect();
        for link in links {
            self.tell_succession(link);
            self.tell_draining(link);
            self.tell_parted(link);
            self.look_for_approval(link);
        }
        self.connect_kept();
        if let Some((conn, request)) = asked {
            let reply = self.identity_view();
            self.outputs.push_back(Output::Admin {
                conn,
                request,
                reply,
            });
        }
    }

    /// Whether a change was begun that is not durable yet.
    pub(crate) const fn is_changing(&self) -> bool {
        self.reidentifying.change.is_some()
    }

    /// The former identity, as long as it drains or may come back.
    pub(crate) fn former(&self) -> Option<QmId> {
        self.reidentifying.former.as_ref().map(|former| former.qm)
    }

    pub(crate) fn is_own(&self, qm: QmId) -> bool {
        qm == self.me.qm || self.former() == Some(qm)
    }

    /// Whether an identity was this node's and is nobody else's: what is for it is for this node.
    /// Not where copies parted, and another machine kept it.
    pub(crate) fn was_here(&self, qm: QmId) -> bool {
        let former = self.reidentifying.former.as_ref();
        let former = former.or(self.reidentifying.gone.as_ref());
        former.is_some_and(|former| former.qm == qm && !former.split)
    }

    /// The tokens of a former identity, which a start finds draining, are made with this secret:
    /// to be said before anything else is.
    pub const fn set_former_token_key(&mut self, token_key: TokenKey) {
        self.reidentifying.former_token_key = Some(token_key);
    }

    /// With which the tokens of one of this node's identities are made.
    pub(crate) fn token_key(&self, own: QmId) -> &TokenKey {
        let former = self.reidentifying.former_token_key.as_ref();
        former
            .filter(|_| own != self.me.qm)
            .unwrap_or(&self.me.token_key)
    }

    /// This node's identities, the former one first.
    pub(crate) fn owns(&self) -> impl Iterator<Item = QmId> + use<> {
        [self.former(), Some(self.me.qm)].into_iter().flatten()
    }

    /// The identity under which messages for a destination are minted.
    pub(crate) fn minting_own(&self, key: &RemoteKey) -> QmId {
        match &self.reidentifying.former {
            Some(former) if !self.is_former_leaving() && !crate::broken!(self, switch_at_once) => {
                if former.mints(key) {
                    former.qm
                } else {
                    self.me.qm
                }
            }
            _ => self.me.qm,
        }
    }

    /// Whether the former identity is on its way out: it is erased, or another one takes its place.
    fn is_former_leaving(&self) -> bool {
        let change = self.reidentifying.change.as_ref();
        let follows = |change: &Change| !change.reclaims && change.token_key.is_some();
        self.reidentifying.going || change.is_some_and(follows)
    }

    pub(crate) fn minting_for(&self, target: &Target) -> QmId {
        match target {
            Target::Local(_) => self.me.qm,
            Target::Remote(key, _) => self.minting_own(key),
        }
    }

    /// The identity under which the messages of an outgoing queue are minted.
    pub(crate) fn own_of(&self, number: u32) -> QmId {
        let out = self.outs.get(&number);
        let remote = out.and_then(|out| self.remotes.get(&out.remote));
        remote.map_or(self.me.qm, |remote| remote.own)
    }

    /// What the record of an outgoing queue says of its identity.
    pub(crate) fn recorded_own(&self, own: QmId) -> Option<QmId> {
        self.former().map(|_| own)
    }

    /// The outgoing queue for the same queue under this node's other identity.
    pub(crate) fn sibling_of(
        &self,
        own: QmId,
        key: &RemoteKey,
        queue: &QueueName,
    ) -> Option<&OutQueue> {
        let other = self.owns().find(|other| *other != own)?;
        let remote = self.remote_keys.get(&(other, key.clone()))?;
        self.outs.get(self.remotes.get(remote)?.queues.get(queue)?)
    }

    /// Whether transactional messages of this queue wait for those of the former identity.
    pub(crate) fn is_barred(&self, number: u32) -> bool {
        if crate::broken!(self, no_barrier) || self.reidentifying.former.is_none() {
            return false;
        }
        let Some(out) = self.outs.get(&number) else {
            return false;
        };
        let Some(remote) = self.remotes.get(&out.remote) else {
            return false;
        };
        let before = self.sibling_of(remote.own, &remote.key, &out.queue);
        remote.own == self.me.qm && before.is_some_and(OutQueue::holds_stream)
    }

    pub(crate) fn hello_flags(&self, own: QmId) -> HelloFlags {
        if own != self.me.qm {
            HelloFlags::DRAINING
        } else if self.moved {
            HelloFlags::MOVED
        } else {
            HelloFlags::NONE
        }
    }

    /// Whether a peer says on this session that its identity is a former one.
    pub(crate) fn is_draining(&self, link: LinkId) -> bool {
        self.sessions.get(&link).is_some_and(|session| {
            let hello = session.hello.as_ref();
            session.succeeded || hello.is_some_and(|h| h.flags.contains(HelloFlags::DRAINING))
        })
    }

    /// What is on disk of the former identity.
    pub(crate) fn former_record(&self) -> Option<&Former> {
        self.reidentifying.former.as_ref()
    }

    /// Whether a peer has no use for frames about identities.
    pub(crate) fn is_untold(&self, peer: QmId) -> bool {
        self.reidentifying.untold.contains(&peer)
    }

    /// A peer is forgotten.
    pub(crate) fn forget_untold(&mut self, peer: QmId) {
        self.reidentifying.untold.remove(&peer);
    }

    /// Shows a peer who follows whom (W-SUC-3).
    pub(crate) fn tell_succession(&mut self, link: LinkId) {
        let former = self.reidentifying.former.as_ref();
        let Some(former) = former.filter(|former| !former.split) else {
            return;
        };
        let untold = &self.reidentifying.untold;
        let told = |session: &&mut Session| session.opened && !untold.contains(&session.peer);
        if let Some(session) = self.sessions.get_mut(&link).filter(told) {
            let frame = PeerFrame::Succession(former.succession);
            session.push(Lane::Control, &frame);
            self.busy_sessions.insert(link);
        }
    }

    /// Where no succession is shown, a session that began under the identity which now drains says
    /// so by beginning anew.
    fn tell_draining(&mut self, link: LinkId) {
        let former = self.reidentifying.former.as_ref();
        let split = former.filter(|former| former.split).map(|former| former.qm);
        let own = self.sessions.get(&link).map(|session| session.own);
        if split.is_some() && split == own {
            let text = "this machine is taking an identity of its own";
            self.end_session(link, Outcome::WRONG_IDENTITY, text);
        }
    }

    /// A peer ended a session because of a frame that it has no use for.
    pub(crate) fn understands_no_succession(&mut self, peer: QmId) {
        if self.former().is_some() && self.peers.known.contains_key(&peer) {
            self.reidentifying.untold.insert(peer);
        }
    }

    /// Whether a remote is dialled under the current identity so that its approval is heard of.
    pub(crate) fn asks_for_approval(&self, remote: &Remote) -> bool {
        let Some(former) = self.former() else {
            return false;
        };
        if remote.own != self.me.qm || self.minting_own(&remote.key) != former {
            return false;
        }
        let sibling = self.remote_keys.get(&(former, remote.key.clone()));
        let sibling = sibling.and_then(|number| self.remotes.get(number));
        sibling.is_some_and(|sibling| !sibling.queues.is_empty())
    }

    /// Whether a session stays although nothing is sent.
    pub(crate) fn is_wanted(&self, session: &Session) -> bool {
        self.remotes.values().any(|remote| {
            remote.own == session.own
                && remote.peer() == Some(session.peer)
                && (self.is_kept(remote) || self.asks_for_approval(remote))
        }) || self.awaits_finals(session.own, session.peer)
    }

    /// Whether there is a session with this peer on which messages may leave.
    pub(crate) fn is_connected(&self, peer: QmId) -> bool {
        self.owns()
            .any(|own| self.sending_session(own, peer).is_some())
    }

    /// For every destination with messages under the former identity, the other one is there, too.
    pub(crate) fn make_siblings(&mut self) {
        let Some(former) = self.former() else { return };
        let used = |remote: &&Remote| remote.own == former && !remote.queues.is_empty();
        let keys: Vec<_> = self.remotes.values().filter(used).collect();
        let keys: Vec<_> = keys.into_iter().map(|remote| remote.key.clone()).collect();
        for key in keys {
            let sibling = self.remote_as(self.me.qm, &key);
            self.want_connection(sibling);
        }
    }

    /// A peer takes messages under the current identity: what goes to it is minted so from now on.
    pub(crate) fn look_for_approval(&mut self, link: LinkId) {
        let Some(former) = self.former() else { return };
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if session.own != self.me.qm || !session.may_send() {
            return;
        }
        let peer = session.peer;
        let keys: Vec<_> = self
            .remotes
            .values()
            .filter(|remote| remote.peer() == Some(peer))
            .filter(|remote| self.minting_own(&remote.key) == former)
            .map(|remote| remote.key.clone())
            .collect();
        for key in keys {
            self.switch(key);
        }
    }

    /// A destination is spoken to under the current identity as soon as that is durable: after a
    /// restart it must not be the former one again.
    fn switch(&mut self, key: RemoteKey) {
        if self.reidentifying.switching.insert(key.clone()) {
            if !crate::broken!(self, forget_switch) {
                self.commits.set(mark_key(&key), encode_mark(true));
            }
            self.commits.after_settling(Then::Switched(key));
        }
    }

    pub(crate) fn switched(&mut self, key: &RemoteKey) {
        if !self.reidentifying.switching.remove(key) {
            return;
        }
        let Some(former) = self.reidentifying.former.as_mut() else {
            return;
        };
        former.marks.insert(key.clone(), true);
        crate::reached!(self, IdentitySwitched);
        let remote = self.find_remote(key);
        let peer = remote.and_then(|number| self.remotes.get(&number)?.peer());
        let remote = key.to_string();
        self.event(Event::IdentitySwitched { peer, remote });
    }

    /// A peer has blocked an identity of this node. When that is the former one, what waits there
    /// never arrives: dead letters at once, and nothing waits behind them.
    pub(crate) fn blocked_by(&mut self, own: QmId, peer: QmId) {
        if self.former() != Some(own) {
            return;
        }
        let towards = |remote: &&Remote| remote.own == own && remote.peer() == Some(peer);
        let remotes: Vec<_> = self.remotes.values().filter(towards).collect();
        let keys: Vec<_> = remotes.into_iter().map(|r| r.key.clone()).collect();
        for key in keys {
            if self.minting_own(&key) == own {
                self.switch(key);
            }
        }
        for number in self.all_queues_towards(own, peer) {
            self.bury_queue(number, peer);
        }
    }

    /// Once a minute: whether the former identity has drained, and whether its time is over.
    pub(crate) fn look_after_former(&mut self) {
        let Some(former) = &self.reidentifying.former else {
            return;
        };
        let (qm, known) = (former.qm, former.drained);
        let links: Vec<LinkId> = self.sessions.keys().copied().collect();
        for link in links {
            self.look_for_approval(link);
        }
        self.make_siblings();
        let peers: Vec<QmId> = self.by_peer.keys().copied().collect();
        self.busy_peers.extend(peers);
        let drains = self.former_holds(qm);
        let now = self.now.at;
        match known {
            _ if self.reidentifying.going || self.reidentifying.change.is_some() => {}
            Some(_) if drains => self.note_drained(None),
            Some(since) if now.ms_since(since) >= FORMER_KEPT_MS => self.erase_former(),
            None if !drains => {
                self.note_drained(Some(now));
                crate::reached!(self, FormerDrained);
                self.event(Event::FormerDrained { former: qm });
            }
            _ => {}
        }
    }

    /// Whether something waits under a former identity, or may come to.
    fn former_holds(&self, qm: QmId) -> bool {
        let held_back = self.journal_later.iter().map(|from| from.queue);
        let mut left = self.commits.left_queues().chain(held_back);
        if left.any(|number| self.own_of(number) == qm) {
            return true;
        }
        let mut remotes = self.remotes.values().filter(|remote| remote.own == qm);
        remotes.any(|remote| {
            let outs = remote.queues.values().filter_map(|n| self.outs.get(n));
            let waits = |out: &OutQueue| out.has_work() || out.in_flight > 0;
            let unswitched = !remote.queues.is_empty() && self.minting_own(&remote.key) == qm;
            unswitched || outs.into_iter().any(waits)
        })
    }

    fn note_drained(&mut self, at: Option<Timestamp>) {
        if let Some(former) = self.reidentifying.former.as_mut() {
            former.drained = at;
            let value = former.encode();
            self.commits.set(Bytes::from_static(IDENTITY), value);
        }
    }

    fn erase_former(&mut self) {
        let Some(former) = &self.reidentifying.former else {
            return;
        };
        let gone = Former {
            gone: true,
            ..former.clone()
        };
        let qm = former.qm;
        let marks: Vec<_> = former.marks.keys().map(mark_key).collect();
        self.reidentifying.going = true;
        self.unset_former_queues();
        for mark in marks {
            self.commits.unset(mark);
        }
        self.commits
            .set(Bytes::from_static(IDENTITY), gone.encode());
        self.commits.after_settling(Then::FormerGone(qm));
    }

    /// The disk has forgotten it.
    pub(crate) fn former_gone(&mut self, former: QmId) {
        self.reidentifying.going = false;
        self.reidentifying.gone = self.reidentifying.former.take();
        self.reidentifying.switching.clear();
        self.drop_former(former);
        self.outputs.push_back(Output::Keys {
            current: self.me.qm,
            former: None,
        });
        self.event(Event::FormerErased { former });
    }

    /// Outgoing queues of a former identity that is drained leave the disk.
    fn unset_former_queues(&mut self) {
        let Some(former) = self.former() else { return };
        let remotes = self.remotes.values().filter(|remote| remote.own == former);
        let numbers: Vec<u32> = remotes.flat_map(|r| r.queues.values().copied()).collect();
        for number in numbers {
            self.commits.unset(QueueRecord::key(number));
            self.commits.unset(chain_key(number));
        }
    }

    /// What is in memory of a former identity whose queues are off the disk.
    fn drop_former(&mut self, former: QmId) {
        self.drop_tokens(former);
        let sessions = self.sessions.values().filter(|s| s.own == former);
        let links: Vec<LinkId> = sessions.map(|session| session.link).collect();
        for link in links {
            let text = "this node has another identity now";
            self.end_session(link, Outcome::WRONG_IDENTITY, text);
        }
        let remotes = self
            .remotes
            .iter()
            .filter(|(_, remote)| remote.own == former);
        let numbers: Vec<u32> = remotes.map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(remote) = self.remotes.remove(&number) else {
                continue;
            };
            self.remote_keys.remove(&(former, remote.key));
            for queue in remote.queues.values() {
                if let Some(stream) = self.outs.remove(queue).and_then(|out| out.stream) {
                    self.stream_ids.remove(&stream.chain.id());
                }
            }
        }
        self.dials
            .retain(|_, number| self.remotes.contains_key(number));
    }

    /// Reads back who this node was; before everything else, because other values mean something
    /// by it.
    pub(crate) fn recover_identities(&mut self, state: &BTreeMap<Bytes, Bytes>) {
        let unreadable = Event::Unreadable {
            what: "a stored value of the node's identities",
        };
        if let Some(value) = state.get(IDENTITY) {
            let former = Former::decode(value);
            let mine = |f: &Former| f.succession.new_key == self.me.public_key;
            match former.filter(mine) {
                Some(former) if former.gone => self.reidentifying.gone = Some(former),
                Some(former) => self.reidentifying.former = Some(former),
                None => self.event(unreadable.clone()),
            }
        }
        let marks = state
            .iter()
            .filter_map(|(key, value)| decode_mark(key, value));
        let (marks, bad): (Vec<_>, Vec<_>) = marks.partition(Option::is_some);
        if let Some(former) = self.reidentifying.former.as_mut() {
            former.marks = marks.into_iter().flatten().collect();
        }
        for _ in 0..bad.len() + self.recover_heirs(state) {
            self.event(unreadable.clone());
        }
    }
}

#[cfg(test)]
mod switch_model;
