//! Identities that several live machines use.

use qm_engine::{BranchView, PartedView, TwinMachine, TwinView, WentBackView};
use qm_wire::{Incarnation, QmId};
use serde::{Deserialize, Serialize};

use super::rfc3339;

/// An identity that several live machines use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TwinDocument {
    /// The identity.
    pub qm: QmId,
    /// The node over which it was proven; `null` when this node saw it itself.
    pub told_by: Option<QmId>,
    /// The machines, the one heard of last first.
    pub machines: Vec<TwinMachineDocument>,
    /// Time of the first proof.
    pub first_seen: String,
    /// Time of the last one.
    pub last_seen: String,
    /// Of this node's own identity: when it was proven that another machine keeps it. Missing as
    /// long as that is not so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<String>,
    /// Why this node, having lost, cannot take another identity now. Missing when nothing holds it
    /// up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_up: Option<String>,
}

/// Machines that had an identity beside another one, and have one of their own now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartedDocument {
    /// The identity.
    pub qm: QmId,
    /// The machines, the one that parted last first.
    pub machines: Vec<TwinMachineDocument>,
    /// When the last one parted.
    pub parted_at: String,
}

impl PartedDocument {
    pub(super) fn new(view: &PartedView) -> Self {
        Self {
            qm: view.qm,
            machines: view.machines.iter().map(TwinMachineDocument::new).collect(),
            parted_at: rfc3339(view.at_us),
        }
    }

    /// What people are told.
    #[must_use]
    pub fn sentence(&self) -> String {
        let machines = self.machines.iter().map(TwinMachineDocument::title);
        let machines: Vec<String> = machines.collect();
        format!(
            "had this identity, too, and has one of its own since {}: {}",
            self.parted_at,
            machines.join("; ")
        )
    }
}

/// One of the machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TwinMachineDocument {
    /// Where it is seen; `null` for the node that was asked.
    pub address: Option<String>,
    /// Its host name, as it says.
    pub host: String,
    /// The life of its process.
    pub incarnation: Incarnation,
    /// Since when this life is known.
    pub since: String,
}

impl TwinDocument {
    pub(super) fn new(view: &TwinView) -> Self {
        Self {
            qm: view.qm,
            told_by: view.told_by,
            machines: view.machines.iter().map(TwinMachineDocument::new).collect(),
            first_seen: rfc3339(view.first_us),
            last_seen: rfc3339(view.last_us),
            lost_at: view.lost_us.map(rfc3339),
            held_up: view.held_up.clone(),
        }
    }

    /// What people are told.
    #[must_use]
    pub fn sentence(&self) -> String {
        let machines: Vec<String> = self
            .machines
            .iter()
            .map(TwinMachineDocument::title)
            .collect();
        let lost = match &self.lost_at {
            Some(at) => format!(
                "; another one keeps it, as is proven since {at}, and this one has not taken another"
            ),
            None => String::new(),
        };
        let held_up = match &self.held_up {
            Some(cause) => format!("; it cannot yet: {cause}"),
            None => String::new(),
        };
        format!(
            "{} live machines have this identity: {}{lost}{held_up}",
            self.machines.len(),
            machines.join("; ")
        )
    }
}

impl TwinMachineDocument {
    fn new(machine: &TwinMachine) -> Self {
        Self {
            address: (!machine.address.is_empty()).then(|| machine.address.clone()),
            host: machine.host.clone(),
            incarnation: machine.incarnation,
            since: rfc3339(machine.since_us),
        }
    }

    fn title(&self) -> String {
        let host = if self.host.is_empty() {
            "a host without a name"
        } else {
            &self.host
        };
        let place = self.address.as_deref().unwrap_or("this machine");
        format!(
            "{host} at {place}, life {} since {}",
            self.incarnation, self.since
        )
    }
}

/// A history that was seen to branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BranchDocument {
    /// Whose; this node's own when a peer said so.
    pub qm: QmId,
    /// How often a spent token said so.
    pub tokens: u64,
    /// How often two messages with one id did.
    pub tags: u64,
    /// How often two transactional messages behind one link did.
    pub links: u64,
    /// The first time.
    pub first_seen: String,
    /// The last time.
    pub last_seen: String,
}

/// A peer that holds a token which this node made and does not remember.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WentBackDocument {
    /// The peer.
    pub peer: QmId,
    /// The first time.
    pub first_seen: String,
    /// The last time.
    pub last_seen: String,
}

impl BranchDocument {
    pub(super) fn new(view: &BranchView) -> Self {
        Self {
            qm: view.qm,
            tokens: view.tokens,
            tags: view.tags,
            links: view.links,
            first_seen: rfc3339(view.first_us),
            last_seen: rfc3339(view.last_us),
        }
    }

    /// What people are told.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!(
            "its history branched, seen {} times since {}, last {}: it was copied, or went back to a backup",
            self.tokens
                .saturating_add(self.tags)
                .saturating_add(self.links),
            self.first_seen,
            self.last_seen
        )
    }
}

impl WentBackDocument {
    pub(super) fn new(view: &WentBackView) -> Self {
        Self {
            peer: view.peer,
            first_seen: rfc3339(view.first_us),
            last_seen: rfc3339(view.last_us),
        }
    }

    /// What people are told.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!(
            "this node's own store went back to an earlier state: {} knows more of it, seen at {}",
            self.peer, self.last_seen
        )
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn an_alarm_names_every_machine() {
        let machine = |address: &str, life| TwinMachine {
            address: address.to_owned(),
            host: "till".to_owned(),
            incarnation: Incarnation(life),
            since_us: 1_700_000_000_000_000,
        };
        let document = TwinDocument::new(&TwinView {
            qm: QmId::from_bytes([0x11; 16]),
            told_by: Some(QmId::from_bytes([0x22; 16])),
            machines: vec![machine("", 0x51), machine("192.0.2.8:1801", 0x52)],
            first_us: 1_700_000_001_000_000,
            last_us: 1_700_000_002_000_000,
            lost_us: None,
            held_up: None,
        });
        expect![[r#"
            {
              "qm": "11111111-1111-1111-1111-111111111111",
              "told_by": "22222222-2222-2222-2222-222222222222",
              "machines": [
                {
                  "address": null,
                  "host": "till",
                  "incarnation": "0000000000000051",
                  "since": "2023-11-14T22:13:20.000000Z"
                },
                {
                  "address": "192.0.2.8:1801",
                  "host": "till",
                  "incarnation": "0000000000000052",
                  "since": "2023-11-14T22:13:20.000000Z"
                }
              ],
              "first_seen": "2023-11-14T22:13:21.000000Z",
              "last_seen": "2023-11-14T22:13:22.000000Z"
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&document).expect("it is JSON"));
        expect!["2 live machines have this identity: till at this machine, life 0000000000000051 since 2023-11-14T22:13:20.000000Z; till at 192.0.2.8:1801, life 0000000000000052 since 2023-11-14T22:13:20.000000Z"]
            .assert_eq(&document.sentence());
    }
}
