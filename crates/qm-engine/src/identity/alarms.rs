//! What is known of identities that two live machines use.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Incarnation, QmId};

use crate::record::{put_bytes, take_array, take_text};

const VERSION: u8 = 1;

/// Peers with copies that are remembered; the one proven longest ago goes first.
const IDENTITIES_MAX: usize = 64;
/// The same of strangers, who take no room from others.
const STRANGERS_MAX: usize = 16;
/// Machines remembered of each; the one heard of longest ago goes first.
pub(super) const MACHINES_MAX: usize = 8;
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
    /// Why this node, having lost, cannot take another identity now; it is tried every minute.
    pub held_up: Option<String>,
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
        let alarm = self.of.entry(qm).or_insert_with(|| Alarm {
            told_by,
            machines: VecDeque::new(),
            first_us: wall_us,
            last_us: wall_us,
        });
        alarm.told_by = told_by;
        alarm.last_us = wall_us;
        let mut news = false;
        let proven = machines.each_ref().map(|machine| {
            let mut machine = machine.clone();
            cut(&mut machine.address);
            cut(&mut machine.host);
            // A machine that begins a new life where it is stays the machine that it is, and so
            // does one that is elsewhere in the same life.
            let known = &alarm.machines;
            let before = known.iter().position(|other| other.is_at(&machine));
            let before = before.or_else(|| known.iter().position(|other| other.lives_as(&machine)));
            let before = before.and_then(|at| alarm.machines.remove(at));
            news |= before.is_none();
            // Of one life the oldest sighting counts.
            if let Some(before) = before {
                machine.since_us = machine.since_us.min(before.since_us);
            }
            machine
        });
        // Both are looked up before one is put there: copies of the memory of a machine have one
        // life, and are two.
        for machine in proven {
            alarm.machines.push_front(machine);
        }
        alarm.machines.truncate(MACHINES_MAX);
        news
    }

    /// Who is forgotten for a new alarm about an identity. Strangers make as many as they have
    /// keys, so only their own are forgotten for theirs; an alarm of the `own` identity stays.
    pub(crate) fn makes_room(
        &self,
        qm: QmId,
        own: QmId,
        is_stranger: impl Fn(QmId) -> bool,
    ) -> Option<QmId> {
        if qm == own || self.of.contains_key(&qm) {
            return None;
        }
        let (stranger, most) = if is_stranger(qm) {
            (true, STRANGERS_MAX)
        } else {
            (false, IDENTITIES_MAX)
        };
        let same = |of: &QmId| *of != own && is_stranger(*of) == stranger;
        let known = self.of.iter().filter(|(of, _)| same(of));
        if known.clone().count() < most {
            return None;
        }
        known
            .min_by_key(|(_, alarm)| alarm.last_us)
            .map(|(of, _)| *of)
    }

    /// One machine has the identity no longer: the one of this life, or that was where this one is.
    /// Who it was, and whether the alarm is over with it, if it was one of those that are known.
    pub(crate) fn parted(
        &mut self,
        qm: QmId,
        is_it: impl Fn(&TwinMachine) -> bool,
    ) -> Option<(Vec<TwinMachine>, bool)> {
        let alarm = self.of.get_mut(&qm)?;
        let mut gone = Vec::new();
        alarm.machines.retain(|machine| {
            let parts = is_it(machine);
            gone.extend(parts.then(|| machine.clone()));
            !parts
        });
        // One machine alone is no alarm.
        let over = alarm.machines.len() < 2;
        (!gone.is_empty()).then_some((gone, over))
    }

    /// It is over, or the operator forgot the peer. Whether there was an alarm.
    pub(crate) fn forget(&mut self, qm: QmId) -> bool {
        self.of.remove(&qm).is_some()
    }

    /// Every alarm is about two machines at least, and few are kept.
    pub(crate) fn audit(&self) -> Result<(), String> {
        if self.of.len() > IDENTITIES_MAX + STRANGERS_MAX + 1 {
            return Err(format!("{} alarms are kept", self.of.len()));
        }
        let few = |alarm: &Alarm| (2..=MACHINES_MAX).contains(&alarm.machines.len());
        match self.of.iter().find(|(_, alarm)| !few(alarm)) {
            Some((qm, alarm)) => Err(format!(
                "the alarm about {qm} is about {} machines",
                alarm.machines.len()
            )),
            None => Ok(()),
        }
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
        put_machines(&mut to, &alarm.machines);
        Some(to.freeze())
    }

    /// Reads one back. False when it cannot be understood.
    pub(crate) fn recover(&mut self, qm: QmId, value: &Bytes) -> bool {
        let alarm = decode(value);
        alarm.map(|alarm| self.of.insert(qm, alarm)).is_some()
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
            held_up: None,
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
    Some(Alarm {
        told_by,
        machines: take_machines(&mut r)?,
        first_us,
        last_us,
    })
}

/// Writes machines to the end of a value that is kept over restarts.
pub(super) fn put_machines(to: &mut BytesMut, machines: &VecDeque<TwinMachine>) {
    for machine in machines {
        put_bytes(to, machine.address.as_bytes());
        put_bytes(to, machine.host.as_bytes());
        to.put_u64_le(machine.incarnation.0);
        to.put_u64_le(machine.since_us);
    }
}

/// Reads the machines at the end of such a value, those that are remembered at most.
pub(super) fn take_machines(from: &mut Bytes) -> Option<VecDeque<TwinMachine>> {
    let mut machines = VecDeque::new();
    while !from.is_empty() && machines.len() < MACHINES_MAX {
        machines.push_back(take_machine(from)?);
    }
    Some(machines)
}

fn take_machine(from: &mut Bytes) -> Option<TwinMachine> {
    Some(TwinMachine {
        address: take_text(from)?.as_str().to_owned(),
        host: take_text(from)?.as_str().to_owned(),
        incarnation: Incarnation(from.try_get_u64_le().ok()?),
        since_us: from.try_get_u64_le().ok()?,
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
    fn is_at(&self, other: &Self) -> bool {
        (&self.host, &self.address) == (&other.host, &other.address)
    }

    fn lives_as(&self, other: &Self) -> bool {
        self.incarnation == other.incarnation
    }

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
        alarms.forget(qm);
        assert_eq!(alarms.view(qm), None);
    }

    /// They were proven to be two: neither is taken for the other.
    #[test]
    fn copies_of_the_memory_of_a_machine_are_two_and_so_are_two_behind_one_address() {
        let qm = QmId::from_bytes([1; 16]);
        let (one, mut same_life, mut same_place) = (machine(1), machine(2), machine(3));
        same_life.incarnation = one.incarnation;
        same_place.address = one.address.clone();
        for other in [same_life, same_place] {
            let mut alarms = Alarms::default();
            let both = [one.clone(), other.clone()];
            for n in 0..3 {
                assert_eq!(alarms.raise(qm, None, &both, 100), n == 0);
                assert_eq!(alarms.audit(), Ok(()));
                let view = alarms.view(qm).expect("it is there");
                let addresses = |of: &[TwinMachine]| {
                    let mut all: Vec<_> = of.iter().map(|m| m.address.clone()).collect();
                    all.sort();
                    all
                };
                assert_eq!(addresses(&view.machines), addresses(&both));
            }
        }
    }

    /// However many keys strangers make, and whoever was there first.
    #[test]
    fn strangers_take_no_room_from_others() {
        let id = |n: u8| QmId::from_bytes([n; 16]);
        let own = id(255);
        let is_stranger = |qm: QmId| qm.as_bytes()[0] < 100;
        let mut alarms = Alarms::default();
        let mut raise = |qm: QmId, at: u64| {
            let gone = alarms.makes_room(qm, own, is_stranger);
            if let Some(gone) = gone {
                alarms.forget(gone);
            }
            alarms.raise(qm, None, &[machine(1), machine(2)], at);
            gone
        };
        for n in 0..100 {
            let gone = (n >= 16).then(|| id(n - 16));
            assert_eq!(raise(id(n), u64::from(n)), gone, "the oldest one goes");
        }
        assert_eq!(raise(own, 1), None);
        for n in 100..164 {
            assert_eq!(raise(id(n), 1_000 + u64::from(n)), None);
        }
        assert_eq!(raise(id(100), 1_000), None, "it is known");
        assert_eq!(raise(id(164), 1_000), Some(id(100)));
        assert_eq!(
            raise(id(1), 2_000),
            Some(id(84)),
            "and not one of the others"
        );
        assert_eq!(alarms.views().len(), 16 + 64 + 1);
    }

    #[test]
    fn an_alarm_ends_when_one_machine_is_left() {
        let mut alarms = Alarms::default();
        let qm = QmId::from_bytes([1; 16]);
        alarms.raise(qm, None, &[machine(1), machine(2)], 100);
        alarms.raise(qm, None, &[machine(1), machine(3)], 100);
        let life = |life| move |m: &TwinMachine| m.incarnation == Incarnation(life);
        assert_eq!(alarms.parted(qm, life(4)), None);
        assert!(alarms.parted(qm, life(3)).is_some_and(|(_, over)| !over));
        assert!(alarms.parted(qm, life(2)).is_some_and(|(_, over)| over));
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let mut text = "ä".repeat(200);
        cut(&mut text);
        assert_eq!(text.len(), 254);
    }
}
