//! What `why` says of this node's own identities: whether another machine has one of them, who that
//! is, and what was done about it.

use qm_wire::QmId;

use super::{TwinMachine, TwinView, titles};
use crate::admin::{Cause, WhyView};
use crate::config::OnTwin;
use crate::engine::Engine;

impl Engine {
    /// Why an identity of this node, or its name, is as it is.
    pub(crate) fn why_own(&self, subject: &str) -> Option<WhyView> {
        let name = self.config.name.as_str();
        let by_name = !name.is_empty() && subject.to_lowercase() == name.to_lowercase();
        let qm = if by_name {
            self.me.qm
        } else {
            subject.parse().ok()?
        };
        if !self.is_own(qm) {
            return None;
        }
        let mut view = if qm != self.me.qm {
            self.why_former(qm)
        } else if let Some(twins) = self.own_twin_view() {
            self.why_copied(&twins)
        } else if let Some(parted) = self.own_parted_view() {
            let machines = titles(&parted.machines);
            let seen = parted.machines.iter().map(|m| self.seen(m));
            WhyView {
                subject: String::new(),
                code: Cause::CopyParted,
                cause: format!("a copy that had this identity has one of its own now: {machines}"),
                fix: Some(
                    "nothing here; its destinations approve its new identity: qm-node peers list"
                        .to_owned(),
                ),
                evidence: seen
                    .chain([
                        format!("it parted {} s ago", self.ago_s(parted.at_us)),
                        "this machine keeps the identity".to_owned(),
                    ])
                    .collect(),
            }
        } else {
            WhyView {
                subject: String::new(),
                code: Cause::Idle,
                cause: "it is this node's identity, and no other machine is known to have it"
                    .to_owned(),
                fix: None,
                evidence: Vec::new(),
            }
        };
        if qm == self.me.qm {
            view.evidence.extend(self.own_evidence());
        }
        subject.clone_into(&mut view.subject);
        Some(view)
    }

    /// Other live machines have this node's identity.
    fn why_copied(&self, twins: &TwinView) -> WhyView {
        let others = twins.machines.iter().filter(|m| !m.address.is_empty());
        let others: Vec<TwinMachine> = others.cloned().collect();
        let mut evidence: Vec<String> = others.iter().map(|m| self.seen(m)).collect();
        let by = twins.told_by.map_or_else(
            || "this node met it itself".to_owned(),
            |by| format!("it was told over {}", self.peer_title(by)),
        );
        let (first, last) = (self.ago_s(twins.first_us), self.ago_s(twins.last_us));
        evidence.push(format!(
            "{by}; proven with the key of both {first} s ago, and last {last} s ago"
        ));
        let alone = self.config.on_twin == OnTwin::AlarmOnly;
        let by_hand = "run qm-node identity remint on all machines with it but one";
        let forget = format!("if it was thrown away: qm-node peers forget {}", twins.qm);
        let (done, fix) = match twins.lost_us {
            Some(_) if alone => (
                "the other machine showed the higher rank; on_twin is alarm-only, so nothing changes by itself".to_owned(),
                by_hand.to_owned(),
            ),
            Some(at) => (
                format!(
                    "the other machine showed the higher rank {} s ago and keeps the identity; this one takes another{}",
                    self.ago_s(at),
                    twins.held_up.as_ref().map_or_else(String::new, |why| format!(", which is held up: {why}"))
                ),
                "nothing, it is tried every minute; if the other machine was thrown away: qm-node peers forget with this identity".to_owned(),
            ),
            None if alone => (
                "this machine keeps the identity as far as ranks were compared; on_twin is alarm-only here".to_owned(),
                format!("{by_hand}; {forget}"),
            ),
            None => (
                "this machine keeps the identity as far as ranks were compared; the other one takes another by itself, unless it is configured not to".to_owned(),
                forget,
            ),
        };
        evidence.push(done);
        WhyView {
            subject: String::new(),
            code: Cause::OwnTwin,
            cause: format!(
                "another live machine has this identity: {}",
                titles(&others)
            ),
            fix: Some(fix),
            evidence,
        }
    }

    fn why_former(&self, qm: QmId) -> WhyView {
        let former = self.former_view();
        let mut evidence = Vec::new();
        if let Some(former) = &former {
            let ago = self.ago_s(former.since_us);
            evidence.push(format!(
                "this node took {} instead {ago} s ago: {}",
                self.me.qm, former.because
            ));
            evidence.push(format!("{} messages wait under it", former.waiting));
            if let Some(ms) = former.erased_in_ms {
                evidence.push(format!("its key is erased in {} s", ms / 1_000));
            }
        }
        // Where it went to another machine, that one is named in the reason of the change.
        let was = if self.was_here(qm) {
            "it is a former identity of this node, and nobody else's"
        } else {
            "it is a former identity of this node, and another machine keeps it"
        };
        WhyView {
            subject: String::new(),
            code: Cause::Former,
            cause: was.to_owned(),
            fix: Some("qm-node identity show".to_owned()),
            evidence,
        }
    }

    /// What else is to be known of the present identity.
    fn own_evidence(&self) -> Vec<String> {
        let mut evidence = Vec::new();
        if let Some(former) = self.former_view() {
            evidence.push(format!(
                "this node had {} until {} s ago: {}; {} messages wait under it",
                former.qm,
                self.ago_s(former.since_us),
                former.because,
                former.waiting
            ));
        }
        let aside = self.quarantined();
        if aside > 0 {
            evidence.push(format!(
                "{aside} messages that a copy received as well are set aside; see: qm-node quarantine list"
            ));
        }
        evidence
    }

    fn seen(&self, machine: &TwinMachine) -> String {
        let since = self.ago_s(machine.since_us);
        format!("{}, known for {since} s", machine.title())
    }

    /// Whole seconds since a time of the wall clock, as far as that went evenly.
    const fn ago_s(&self, wall_us: u64) -> u64 {
        self.now.wall_us.saturating_sub(wall_us) / 1_000_000
    }
}
