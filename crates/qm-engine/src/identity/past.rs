//! Machines that shared an identity with another one and have taken one of their own.
//!
//! An alarm that ends by itself may be over before anybody looks. Who the other machine was is
//! worth knowing for some days: its operator has to approve the new identity, and whoever made the
//! copy should hear of it.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::QmId;

use super::alarms::{MACHINES_MAX, TwinMachine, put_machines, take_machines};

const VERSION: u8 = 1;

/// For how long it is told.
const REMEMBERED_US: u64 = 7 * 24 * 60 * 60 * 1_000_000;
/// Identities of which machines are remembered; the one that ended longest ago goes first.
const IDENTITIES_MAX: usize = 64;

/// Machines that had an identity beside another one, and have it no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartedView {
    /// The identity.
    pub qm: QmId,
    /// The machines, the one that parted last first.
    pub machines: Vec<TwinMachine>,
    /// Wall clock at which the last one parted, microseconds.
    pub at_us: u64,
}

#[derive(Clone, Debug)]
struct Parted {
    machines: VecDeque<TwinMachine>,
    at_us: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    of: BTreeMap<QmId, Parted>,
}

impl Past {
    /// Remembers a machine that parted. The identity that is forgotten for it, if one is: never
    /// this node's `own`.
    pub(crate) fn remember(
        &mut self,
        qm: QmId,
        own: QmId,
        machines: Vec<TwinMachine>,
        wall_us: u64,
    ) -> Option<QmId> {
        let parted = self.of.entry(qm).or_insert_with(|| Parted {
            machines: VecDeque::new(),
            at_us: wall_us,
        });
        parted.at_us = wall_us;
        for machine in machines {
            parted
                .machines
                .retain(|known| known.incarnation != machine.incarnation);
            parted.machines.push_front(machine);
        }
        parted.machines.truncate(MACHINES_MAX);
        if self.of.len() <= IDENTITIES_MAX {
            return None;
        }
        let others = self.of.iter().filter(|(of, _)| **of != own && **of != qm);
        let oldest = others.min_by_key(|(_, parted)| parted.at_us);
        let oldest = oldest.map(|(of, _)| *of)?;
        self.of.remove(&oldest);
        Some(oldest)
    }

    /// Whether something was remembered.
    pub(crate) fn forget(&mut self, qm: QmId) -> bool {
        self.of.remove(&qm).is_some()
    }

    pub(crate) fn view(&self, qm: QmId, wall_us: u64) -> Option<PartedView> {
        let parted = self.of.get(&qm)?;
        // A clock that went back shows it longer.
        (wall_us.saturating_sub(parted.at_us) < REMEMBERED_US).then(|| PartedView {
            qm,
            machines: parted.machines.iter().cloned().collect(),
            at_us: parted.at_us,
        })
    }

    pub(crate) fn views(&self, wall_us: u64) -> Vec<PartedView> {
        let known = self.of.keys();
        known.filter_map(|qm| self.view(*qm, wall_us)).collect()
    }

    /// As it is kept over restarts.
    pub(crate) fn encode(&self, qm: QmId) -> Option<Bytes> {
        let parted = self.of.get(&qm)?;
        let mut to = BytesMut::new();
        to.put_u8(VERSION);
        to.put_u64_le(parted.at_us);
        put_machines(&mut to, &parted.machines);
        Some(to.freeze())
    }

    /// Reads one back. False when it cannot be understood.
    pub(crate) fn recover(&mut self, qm: QmId, value: &Bytes) -> bool {
        let parted = decode(value);
        parted.map(|parted| self.of.insert(qm, parted)).is_some()
    }
}

fn decode(value: &Bytes) -> Option<Parted> {
    let mut r = value.clone();
    if r.try_get_u8().ok()? != VERSION {
        return None;
    }
    let at_us = r.try_get_u64_le().ok()?;
    let machines = take_machines(&mut r)?;
    Some(Parted { machines, at_us })
}

#[cfg(test)]
mod tests {
    use qm_wire::Incarnation;

    use super::*;

    fn machine(life: u64) -> TwinMachine {
        TwinMachine {
            address: format!("10.0.0.{life}:1801"),
            host: "till".to_owned(),
            incarnation: Incarnation(life),
            since_us: life,
        }
    }

    fn id(n: u8) -> QmId {
        QmId::from_bytes([n; 16])
    }

    #[test]
    fn it_is_told_for_a_week_and_survives_a_restart() {
        let (mut past, mut after) = (Past::default(), Past::default());
        past.remember(id(1), id(1), vec![machine(1)], 100);
        past.remember(id(1), id(1), vec![machine(2)], 200);
        let value = past.encode(id(1)).expect("it is there");
        assert!(after.recover(id(1), &value));
        let view = after.view(id(1), 300).expect("it is told");
        assert_eq!(view, past.view(id(1), 300).expect("it is told"));
        assert_eq!(view.machines, [machine(2), machine(1)]);
        assert_eq!(after.view(id(1), 200 + REMEMBERED_US), None);
        for damaged in [&value[..5], &[][..], &[9, 9][..]] {
            assert!(!after.recover(id(2), &Bytes::copy_from_slice(damaged)));
        }
    }

    #[test]
    fn few_are_remembered_and_this_node_s_own_always() {
        let mut past = Past::default();
        let own = id(200);
        past.remember(own, own, vec![machine(1)], 0);
        for life in 0..40 {
            past.remember(own, own, vec![machine(life)], 0);
        }
        assert_eq!(past.views(0)[0].machines.len(), MACHINES_MAX);
        for n in 0..100 {
            let gone = past.remember(id(n), own, vec![machine(1)], u64::from(n) + 1);
            assert_eq!(gone, (n >= 63).then(|| id(n - 63)));
        }
        assert_eq!(past.views(0).len(), IDENTITIES_MAX);
        assert!(past.view(own, 0).is_some());
    }
}
