//! What is known of identities that two live machines use.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Incarnation, QmId};

use crate::record::{put_bytes, take_array, take_text};

const VERSION: u8 = 1;

/// Identities with copies that are remembered; of others only the event tells.
const IDENTITIES_MAX: usize = 64;
/// Machines remembered of each; the one heard of longest ago goes first.
const MACHINES_MAX: usize = 8;
/// Bytes of a host name or address that are kept: names of hosts have 253.
const TEXT_BYTES_MAX: usize = 255;

/// One of several machines with one identity, so that people find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinMachine {
    /// Where it is seen, `address:port`; empty for this node.
    pub address: String,
    /// Its host name, as it says.
    pub host: String,
    /// The life of its process.
    pub incarnation: Incarnation,
    /// Wall clock since when this life is known, microseconds; of this node, since when it runs.
    pub since_us: u64,
}

/// An identity that several live machines use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinView {
    /// The identity.
    pub qm: QmId,
    /// The node over which it was proven; `None` when this node saw it itself.
    pub told_by: Option<QmId>,
    /// The machines, newest first.
    pub machines: Vec<TwinMachine>,
    /// Wall clock of the first proof, microseconds.
    pub first_us: u64,
    /// Of the last one.
    pub last_us: u64,
    /// Of this node's own identity: when it was shown that another machine keeps it, wall clock,
    /// microseconds.
    pub lost_us: Option<u64>,
}

#[derive(Clone, Debug)]
struct Alarm {
    told_by: Option<QmId>,
    machines: VecDeque<TwinMachine>,
    first_us: u64,
    last_us: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarms {
    of: BTreeMap<QmId, Alarm>,
}

impl Alarms {
    /// Two machines were proven to use an identity. Whether one of them is news.
    pub(crate) fn raise(
        &mut self,
        qm: QmId,
        told_by: Option<QmId>,
        machines: &[TwinMachine; 2],
        wall_us: u64,
    ) -> bool {
        if self.of.len() >= IDENTITIES_MAX && !self.of.contains_key(&qm) {
            return true;
        }
        let alarm = self.of.entry(qm).or_insert_with(|| Alarm {
            told_by,
            machines: VecDeque::new(),
            first_us: wall_us,
            last_us: wall_us,
        });
        alarm.told_by = told_by;
        alarm.last_us = wall_us;
        let mut news = false;
        for machine in machines {
            // A machine that begins a new life where it is stays the machine that it is.
            let known = |other: &TwinMachine| {
                other.incarnation == machine.incarnation
                    || (other.host == machine.host && other.address == machine.address)
            };
            let before = alarm.machines.iter().position(known);
            let before = before.and_then(|at| alarm.machines.remove(at));
            news |= before.is_none();
            let mut machine = machine.clone();
            cut(&mut machine.address);
            cut(&mut machine.host);
            // Of one life the oldest sighting counts.
            if let Some(before) = before {
                machine.since_us = machine.since_us.min(before.since_us);
            }
            alarm.machines.push_front(machine);
        }
        alarm.machines.truncate(MACHINES_MAX);
        news
    }

    /// It is over, or the operator forgot the peer. Whether there was an alarm.
    pub(crate) fn forget(&mut self, qm: QmId) -> bool {
        self.of.remove(&qm).is_some()
    }

    /// As it is kept over restarts.
    pub(crate) fn encode(&self, qm: QmId) -> Option<Bytes> {
        let alarm = self.of.get(&qm)?;
        let mut to = BytesMut::new();
        to.put_u8(VERSION);
        to.put_u64_le(alarm.first_us);
        to.put_u64_le(alarm.last_us);
        to.put_u8(u8::from(alarm.told_by.is_some()));
        if let Some(by) = alarm.told_by {
            to.put_slice(by.as_bytes());
        }
        for machine in &alarm.machines {
            put_bytes(&mut to, machine.address.as_bytes());
            put_bytes(&mut to, machine.host.as_bytes());
            to.put_u64_le(machine.incarnation.0);
            to.put_u64_le(machine.since_us);
        }
        Some(to.freeze())
    }

    /// Reads one back. False when it cannot be understood.
    pub(crate) fn recover(&mut self, qm: QmId, value: &Bytes) -> bool {
        let alarm = decode(value);
        let understood = alarm.is_some();
        if self.of.len() < IDENTITIES_MAX {
            self.of.extend(alarm.map(|alarm| (qm, alarm)));
        }
        understood
    }

    pub(crate) fn view(&self, qm: QmId) -> Option<TwinView> {
        let alarm = self.of.get(&qm)?;
        Some(TwinView {
            qm,
            told_by: alarm.told_by,
            machines: alarm.machines.iter().cloned().collect(),
            first_us: alarm.first_us,
            last_us: alarm.last_us,
            lost_us: None,
        })
    }

    /// How people are told of the machines that have an identity.
    pub(crate) fn titles(&self, qm: QmId) -> Option<String> {
        let machines = self.of.get(&qm)?.machines.iter();
        let titles: Vec<String> = machines.map(TwinMachine::title).collect();
        Some(titles.join(" and "))
    }

    pub(crate) fn views(&self) -> Vec<TwinView> {
        self.of.keys().filter_map(|qm| self.view(*qm)).collect()
    }
}

fn decode(value: &Bytes) -> Option<Alarm> {
    let mut r = value.clone();
    if r.try_get_u8().ok()? != VERSION {
        return None;
    }
    let (first_us, last_us) = (r.try_get_u64_le().ok()?, r.try_get_u64_le().ok()?);
    let told_by = match r.try_get_u8().ok()? {
        0 => None,
        _ => Some(QmId::from_bytes(take_array(&mut r)?)),
    };
    let mut machines = VecDeque::new();
    while !r.is_empty() && machines.len() < MACHINES_MAX {
        machines.push_back(TwinMachine {
            address: take_text(&mut r)?.as_str().to_owned(),
            host: take_text(&mut r)?.as_str().to_owned(),
            incarnation: Incarnation(r.try_get_u64_le().ok()?),
            since_us: r.try_get_u64_le().ok()?,
        });
    }
    Some(Alarm {
        told_by,
        machines,
        first_us,
        last_us,
    })
}

/// Shortens a text from elsewhere at a character.
fn cut(text: &mut String) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

impl TwinMachine {
    /// How people are told of it.
    #[must_use]
    pub fn title(&self) -> String {
        let host = if self.host.is_empty() {
            "a host without a name"
        } else {
            &self.host
        };
        let place = if self.address.is_empty() {
            "this machine"
        } else {
            &self.address
        };
        format!("{host} at {place} (life {})", self.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(life: u64) -> TwinMachine {
        TwinMachine {
            address: format!("10.0.0.{life}:1801"),
            host: "till".to_owned(),
            incarnation: Incarnation(life),
            since_us: 10 + life,
        }
    }

    #[test]
    fn a_machine_is_news_once_and_few_are_kept() {
        let mut alarms = Alarms::default();
        let qm = QmId::from_bytes([1; 16]);
        assert!(alarms.raise(qm, None, &[machine(1), machine(2)], 100));
        let mut again = [machine(1), machine(2)];
        again[0].since_us = 90;
        assert!(!alarms.raise(qm, None, &again, 200));
        let view = alarms.view(qm).expect("it is there");
        assert_eq!((view.first_us, view.last_us), (100, 200));
        assert_eq!(view.machines[1], machine(1), "the oldest sighting counts");
        for life in 3..40 {
            assert!(alarms.raise(qm, None, &[machine(1), machine(life)], 300));
        }
        let lives: Vec<u64> = alarms.view(qm).map_or_else(Vec::new, |view| {
            view.machines.iter().map(|m| m.incarnation.0).collect()
        });
        assert_eq!(lives.len(), MACHINES_MAX);
        assert_eq!(lives[..2], [39, 1]);
        for other in 2..200 {
            alarms.raise(QmId::from_bytes([other; 16]), None, &again, 1);
        }
        assert_eq!(alarms.views().len(), IDENTITIES_MAX);
        alarms.forget(qm);
        assert_eq!(alarms.view(qm), None);
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let mut text = "ä".repeat(200);
        cut(&mut text);
        assert_eq!(text.len(), 254);
    }
}
