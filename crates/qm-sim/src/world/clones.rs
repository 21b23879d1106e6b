//! Machines that are copied, put back from a backup, or only look as if they were.

use std::collections::BTreeSet;

use qm_engine::admin::Selector;
use qm_engine::{Risen, TokenKey};
use qm_store::SimFs;
use qm_wire::Succession;

use super::*;
use crate::machine::sign;
use crate::oracle::clones::Line;
use crate::scenario::{Case, Clones};

/// One step of what a scenario does to its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloneStep {
    /// The disk of the machine is put aside.
    BackUp,
    /// What the case is about.
    Act,
    /// The name of the machine leads to another one of its family.
    Repoint,
    /// An operator begins streams anew that stand.
    Rebase { node: usize },
    /// A stranger comes and says what it overheard.
    Intrude,
    /// All machines but the one that it is about lose power.
    Topple,
}

/// A disk put aside, and what the books said of it then.
struct Image {
    disk: SimFs,
    keys: Vec<[u8; 32]>,
    line: Line,
}

/// What a world with copies remembers.
#[derive(Default)]
pub(super) struct Copying {
    backup: Option<Image>,
    /// Until the faults end these pairs do not reach each other.
    apart: Vec<(usize, usize)>,
    /// Machines that never run again.
    gone: Vec<usize>,
    /// Machines that took another identity because of a copy.
    pub(super) parted: Vec<usize>,
    /// What applications had in hand when their machine took another identity.
    pub(super) lent: BTreeSet<(ConnId, u64)>,
    /// Frames about identities that were overheard.
    pub(super) overheard: Vec<Bytes>,
    /// The identity that the stranger proved, the same at every intrusion.
    pub(super) stranger: Option<[u8; 32]>,
    pub(super) next_stranger_link: u64,
}

impl World {
    pub(super) fn clones(&self) -> Option<Clones> {
        self.scenario.clones.clone()
    }

    pub(super) fn case(&self) -> Option<Case> {
        self.scenario.clones.as_ref().map(|clones| clones.case)
    }

    /// Whether a machine is switched off for good.
    pub(super) fn is_gone(&self, node: usize) -> bool {
        self.copying.gone.contains(&node)
    }

    /// Whether two machines are kept from each other.
    pub(super) fn is_kept_apart(&self, a: usize, b: usize) -> bool {
        let pairs = &self.copying.apart;
        self.may_fail() && (pairs.contains(&(a, b)) || pairs.contains(&(b, a)))
    }

    /// Whether the applications of a machine leave in its queues what comes.
    pub(super) fn nobody_receives(&self, node: usize) -> bool {
        let clones = self.scenario.clones.as_ref();
        let here = |clones: &Clones| {
            clones.nobody_receives && self.family(node) == self.family(clones.victim)
        };
        self.may_fail() && clones.is_some_and(here)
    }

    /// Plans what a scenario does to its machine.
    pub(super) fn plan_clones(&mut self) {
        let Some(clones) = self.clones() else { return };
        let at = clones.at_ms * 1_000;
        match clones.case {
            Case::BackupBesideTheOld | Case::BackupRestored | Case::ReceiverRestored => {
                self.plan_at(at / 2, What::Clone(CloneStep::BackUp));
            }
            Case::StrangerWithoutKey => {
                for n in 0..8 {
                    self.plan_at(at + n * 300_000, What::Clone(CloneStep::Intrude));
                }
            }
            _ => {}
        }
        self.plan_at(at, What::Clone(CloneStep::Act));
    }

    pub(super) fn clone_step(&mut self, step: CloneStep) -> Result<(), String> {
        let Some(clones) = self.clones() else {
            return Ok(());
        };
        match step {
            CloneStep::BackUp => {
                self.note(&format!("the disk of node{} is backed up", clones.victim));
                self.copying.backup = Some(self.image(clones.victim));
                Ok(())
            }
            CloneStep::Act => self.act(&clones),
            CloneStep::Repoint => {
                self.repoint(&clones);
                Ok(())
            }
            CloneStep::Rebase { node } => self.rebase(node),
            CloneStep::Intrude => self.intrude(clones.victim),
            CloneStep::Topple => {
                for node in (0..self.scenario.nodes).filter(|node| *node != clones.victim) {
                    if self.machines[node].running.is_some() {
                        self.note(&format!("node{node} loses power"));
                        self.die(node, Death::Power)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn act(&mut self, clones: &Clones) -> Result<(), String> {
        let victim = clones.victim;
        let first = self.machines.len() == self.scenario.nodes;
        if clones.receives && clones.case.makes_twins() && first {
            self.plan(1_000, What::Clone(CloneStep::Repoint));
        }
        match clones.case {
            Case::StoppedDiskCopied
            | Case::BehindOneAddress
            | Case::CrashWhileParting
            | Case::AlarmOnly
            | Case::ReceiverCopied => {
                self.end_if_running(victim);
                self.copy_disk(clones, clones.copies);
            }
            Case::RunningDiskCopied | Case::LyingRelay | Case::ThreeCopies => {
                self.copy_disk(clones, 1);
                if clones.copies > 1 {
                    let more = Clones {
                        copies: clones.copies - 1,
                        ..clones.clone()
                    };
                    let left = self.scenario.fault_ms * 1_000 - self.now;
                    let delay = self.draw(1, left.max(2));
                    self.scenario.clones = Some(more);
                    self.plan(delay, What::Clone(CloneStep::Act));
                }
            }
            Case::LateCommonPeer => {
                self.copy_disk(clones, 1);
                let copy = self.machines.len() - 1;
                let mut others = (0..self.scenario.nodes).filter(|n| *n != victim);
                let (one, other) = (others.next().unwrap_or(0), others.next().unwrap_or(0));
                self.copying.apart = vec![(victim, one), (copy, other), (victim, copy)];
                for link in self.network.alive_between(victim, one) {
                    self.break_link(link);
                }
            }
            Case::GoldenImageUsed => {
                self.copying.gone.push(victim);
                self.end_if_running(victim);
                self.copy_disk(clones, clones.copies);
            }
            Case::SnapshotResumedTwice | Case::MemoryCopiedInOrder => self.copy_live(clones)?,
            Case::ExpiredAtOne => self.copy_late(clones),
            Case::BackupBesideTheOld => {
                if let Some(image) = self.copying.backup.take() {
                    self.copy_of(clones, image);
                }
            }
            Case::BackupRestored | Case::ReceiverRestored => {
                self.end_if_running(victim);
                self.restore(victim);
            }
            Case::ReceiverDiskLost => {
                self.end_if_running(victim);
                self.lose_disk(victim);
            }
            Case::DiskMoved => {
                self.end_if_running(victim);
                self.note(&format!("the disk of node{victim} is on other hardware"));
                self.machines[victim].hardware += 1;
            }
            Case::AddressesMove | Case::HandshakesCut | Case::StrangerWithoutKey => {}
        }
        Ok(())
    }

    fn end_if_running(&mut self, node: usize) {
        if self.machines[node].running.is_some() {
            let end = if self.draw(0, 1) == 0 {
                Death::Power
            } else {
                Death::Process
            };
            self.note(&format!("node{node} is switched off"));
            self.end_process(node, end);
        }
    }

    /// The disk of a machine as a copy finds it: that of a running one is what was flushed, and
    /// what else had reached the platter by then.
    fn image(&mut self, node: usize) -> Image {
        let disk = SimFs::clone(&self.machines[node].disk);
        if self.machines[node].running.is_some() {
            let seed = self.random.next_u64();
            disk.crash(seed);
        } else {
            disk.restart();
        }
        disk.heal();
        disk.set_capacity(None);
        Image {
            disk,
            keys: self.machines[node].keys.clone(),
            line: self
                .forks
                .as_ref()
                .map(|f| f.line(node))
                .unwrap_or_default(),
        }
    }

    fn copy_disk(&mut self, clones: &Clones, copies: usize) {
        for _ in 0..copies {
            let image = self.image(clones.victim);
            self.copy_of(clones, image);
        }
    }

    /// The disk of a running machine is copied while it is cut off from all others, with messages
    /// under way. Long after, when the others have died, the copy starts, and believes that it is
    /// still then.
    fn copy_late(&mut self, clones: &Clones) {
        let of = clones.victim;
        let until = self.now + self.draw(2_000_000, 5_000_000);
        for other in (0..self.scenario.nodes).filter(|other| *other != of) {
            self.part(of, other, until);
            for link in self.network.alive_between(of, other) {
                self.break_link(link);
            }
        }
        let image = self.image(of);
        let starts = self.draw(13_500_000, 15_500_000);
        let copy = self.join_with(clones, image);
        self.machines[copy].wall_offset_us = -20 * 365 * 24 * 3_600 * 1_000_000;
        self.plan(13_000_000, What::Clone(CloneStep::Topple));
        self.plan(starts, What::Start { node: copy });
    }

    /// Another machine starts with this disk.
    fn copy_of(&mut self, clones: &Clones, image: Image) {
        let copy = self.join_with(clones, image);
        let delay = self.draw(1_000, 3_000_000);
        self.plan(delay, What::Start { node: copy });
    }

    /// Another machine is there with this disk.
    fn join_with(&mut self, clones: &Clones, image: Image) -> usize {
        let copy = self.machines.len();
        let mut machine = self.machines[clones.victim].copied(copy, image.disk, image.keys);
        if clones.other_hardware {
            machine.hardware = copy as u64 + 1;
        }
        if let Some(forks) = &mut self.forks {
            let is_local = |put| self.oracle.is_durable_here(put);
            forks.disk_copied(clones.victim, copy, &image.line, is_local);
        }
        self.join(clones, machine, image.line);
        copy
    }

    /// A running machine is copied with all that it has in memory. The copy's connections lead
    /// nowhere, which it notices at some time; what it had asked its disk for goes on.
    fn copy_live(&mut self, clones: &Clones) -> Result<(), String> {
        let (of, copy) = (clones.victim, self.machines.len());
        let reseed = self.random.next_u64() | 1;
        let scenario = self.scenario.clone();
        let Some(machine) = self.machines[of].resumed(copy, &scenario, reseed)? else {
            if self.may_fail() {
                self.plan(50_000, What::Clone(CloneStep::Act));
            }
            return Ok(());
        };
        let line = self.forks.as_ref().map(|f| f.line(of)).unwrap_or_default();
        let unanswered = self.unanswered(of);
        if let Some(forks) = &mut self.forks {
            forks.may_differ(&unanswered);
        }
        self.join(clones, machine, line);
        self.words.copied(of, copy);
        if clones.slow_others {
            for other in (0..self.scenario.nodes).filter(|other| *other != of) {
                self.machines[other].slow_until = self.scenario.fault_ms * 1_000;
            }
        }
        let life = self.life(of);
        let under_way: Vec<(u64, What)> = self
            .agenda
            .iter()
            .filter_map(|((at, _), what)| Some((*at, what.at_copy(of, life, copy)?)))
            .collect();
        for (at, what) in under_way {
            self.plan_at(at, what);
        }
        // Those that broke, too: the news of that may be on its way.
        let links = self.network.links.values();
        let ends = links
            .flat_map(|link| link.ends)
            .filter(|end| end.node == of);
        for end in ends.collect::<Vec<End>>() {
            let most = if clones.slow_others {
                200_000
            } else {
                10_000_000
            };
            let delay = self.draw(1_000, most);
            let end = End { node: copy, ..end };
            let text = "nothing was heard for too long";
            self.plan(delay, What::LinkDown { end, text });
        }
        let conns = self.conns.iter().filter(|(_, c)| c.node == of);
        let conns: Vec<ConnId> = conns.map(|(conn, _)| *conn).collect();
        for conn in conns {
            if self.is_same_life(copy, life) {
                self.give(copy, Input::ClientClosed { conn })?;
            }
        }
        self.plan(1, What::Tick { node: copy, life });
        self.connect_applications(copy)
    }

    /// Another machine of a family is there; its applications begin when it runs.
    fn join(&mut self, clones: &Clones, machine: Machine, line: Line) {
        let (of, copy) = (clones.victim, self.machines.len());
        self.note(&format!("node{copy} is a copy of node{of}"));
        self.report.copies += 1;
        let identities = machine.identities();
        self.machines.push(machine);
        self.next_home += 1;
        let home = if clones.case == Case::BehindOneAddress {
            self.homes[of]
        } else {
            self.next_home
        };
        self.homes.push(home);
        if let Some(forks) = &mut self.forks {
            forks.copied(of, line);
            forks.shares(of, &identities);
        }
        let mut random = SeededEntropy::new(self.random.next_u64());
        for queue in 0..self.scenario.queues {
            self.receivers.push(Receiver::new(copy, queue, &mut random));
        }
        for _ in 0..self.scenario.senders {
            let number = u32::try_from(self.senders.len()).unwrap_or(0);
            self.senders.push(Sender::new(number, copy, &mut random));
            let delay = self.draw(20_000, 200_000);
            let sender = self.senders.len() - 1;
            self.plan(delay, What::Work { sender });
        }
    }

    /// Puts that applications of a machine wait for answers to.
    fn unanswered(&self, node: usize) -> Vec<Put> {
        let senders = self.senders.iter().filter(|s| s.node == node);
        senders
            .flat_map(|s| s.unanswered.values().map(|(put, _)| *put))
            .collect()
    }

    fn restore(&mut self, node: usize) {
        let Some(image) = self.copying.backup.take() else {
            return;
        };
        self.note(&format!("an older disk is put into node{node}"));
        self.report.restores += 1;
        let unanswered = self.unanswered(node);
        let machine = &mut self.machines[node];
        machine.disk = std::sync::Arc::new(image.disk);
        machine.keys = image.keys;
        machine.risen = Risen::default();
        let identities = machine.identities();
        if let Some(forks) = &mut self.forks {
            forks.restored(node, image.line, &unanswered, &identities);
        }
    }

    fn lose_disk(&mut self, node: usize) {
        self.note(&format!("the disk of node{node} is lost, but not its key"));
        self.report.restores += 1;
        let unanswered = self.unanswered(node);
        let seed = self.random.next_u64();
        let machine = &mut self.machines[node];
        machine.disk = std::sync::Arc::new(SimFs::new());
        machine.risen = Risen::default();
        SeededEntropy::new(seed).fill(&mut machine.identity.store_id);
        let identities = machine.identities();
        if let Some(forks) = &mut self.forks {
            forks.lost_disk(node, &unanswered, &identities);
        }
    }

    /// The name of the machine that others send to leads to one of its family and then another.
    fn repoint(&mut self, clones: &Clones) {
        let family: Vec<usize> = (0..self.machines.len())
            .filter(|node| self.family(*node) == clones.victim && !self.is_gone(*node))
            .collect();
        let to = family[self.pick(family.len())];
        self.note(&format!(
            "the name of node{} leads to node{to}",
            clones.victim
        ));
        self.resolved[clones.victim] = self.homes[to];
        if self.may_fail() {
            let delay = self.draw(200_000, 3_000_000);
            self.plan(delay, What::Clone(CloneStep::Repoint));
        }
    }

    /// The first machine of a machine's family.
    pub(super) fn family(&self, node: usize) -> usize {
        self.forks.as_ref().map_or(node, |forks| forks.root(node))
    }

    fn rebase(&mut self, node: usize) -> Result<(), String> {
        if self.machines[node].running.is_none() {
            self.plan(500_000, What::Clone(CloneStep::Rebase { node }));
            return Ok(());
        }
        self.note(&format!("node{node}: streams that stand are begun anew"));
        self.report.rebased += 1;
        let (which, dry_run) = (Selector::All, false);
        self.admin(node, AdminRequest::StreamRebase { which, dry_run })?;
        Ok(())
    }

    /// Does what an engine asks for because of identities.
    pub(super) fn obey_identity(&mut self, node: usize, output: Output) -> Result<(), String> {
        let life = self.life(node);
        let delay = self.draw(1, 3_000);
        let machine = &mut self.machines[node];
        let input = match output {
            Output::Sign {
                sign: number,
                bytes,
            } => Input::Signed {
                sign: number,
                signature: sign(&machine.identity.public_key, &bytes),
            },
            Output::Verify {
                verify,
                key,
                bytes,
                signature,
            } => Input::Verified {
                verify,
                good: signature == sign(&key, &bytes),
            },
            Output::Succeed { old_key, new_key } => {
                let new = if let Some(key) = new_key {
                    key
                } else {
                    // On disk before the engine hears of it.
                    let mut key = [0; 32];
                    self.random.fill(&mut key);
                    machine.keys.push(key);
                    key
                };
                Input::Succeeded {
                    succession: succession(old_key, new),
                    token_key: TokenKey::new(new),
                }
            }
            Output::Keys { current, former } => {
                machine.take_roles(current, former)?;
                return Ok(());
            }
            other => return Err(format!("the world does not know {other:?}")),
        };
        let input = Box::new(input);
        self.plan(delay, What::Later { node, life, input });
        Ok(())
    }
}

/// What is signed with both keys when one follows the other.
fn succession(old_key: [u8; 32], new_key: [u8; 32]) -> Succession {
    let mut succession = Succession {
        old_key,
        new_key,
        old_signature: [0; 64],
        new_signature: [0; 64],
    };
    let bytes = succession.signed_bytes();
    succession.old_signature = sign(&old_key, &bytes);
    succession.new_signature = sign(&new_key, &bytes);
    succession
}
