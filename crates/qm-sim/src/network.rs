//! Links between machines: in order per lane, each lane at its own pace, until the link breaks.
//!
//! A link may break at once, with all that is under way, or fade: then what was sent before still
//! arrives until each end notices, which they do at times of their own.

use std::collections::BTreeMap;

use qm_engine::{Lane, LinkId};

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pub(crate) node: usize,
    pub(crate) link: LinkId,
}

/// A link between two machines.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [End; 2],
    /// When the last buffer of a lane arrives, per direction.
    pub(crate) lanes: [BTreeMap<Lane, u64>; 2],
    /// Nothing more leaves.
    pub(crate) broken: bool,
    /// Which ends hear nothing any more.
    deaf: [bool; 2],
    /// Which ends have sent what cannot arrive before the link is given up: what they send after it
    /// cannot arrive either.
    mute: [bool; 2],
}

/// All links of a world.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) links: BTreeMap<u64, Link>,
    /// Which link an end belongs to.
    ends: BTreeMap<End, u64>,
    next: u64,
    /// Directions in which nothing gets through, since when and until when.
    blocked: BTreeMap<(usize, usize), (u64, u64)>,
    /// Machines that read nothing from another one, and until when.
    stalled: BTreeMap<(usize, usize), u64>,
}

impl Network {
    /// Connects two machines; returns the ends in the order given.
    pub(crate) fn connect(&mut self, a: usize, b: usize) -> [End; 2] {
        self.next += 1;
        let id = self.next;
        let ends = [
            End {
                node: a,
                link: LinkId(id * 2),
            },
            End {
                node: b,
                link: LinkId(id * 2 + 1),
            },
        ];
        for end in ends {
            self.ends.insert(end, id);
        }
        let lanes = [BTreeMap::new(), BTreeMap::new()];
        self.links.insert(
            id,
            Link {
                ends,
                lanes,
                broken: false,
                deaf: [false; 2],
                mute: [false; 2],
            },
        );
        ends
    }

    pub(crate) fn id_of(&self, end: End) -> Option<u64> {
        self.ends.get(&end).copied()
    }

    /// The end at the other side, of a broken link, too.
    pub(crate) fn other(&self, end: End) -> Option<End> {
        let link = self.links.get(self.ends.get(&end)?)?;
        link.ends.iter().copied().find(|other| *other != end)
    }

    /// The other end and the pace of the lanes towards it; `None` when the link is broken.
    pub(crate) fn towards(&mut self, from: End) -> Option<(End, &mut BTreeMap<Lane, u64>)> {
        let id = *self.ends.get(&from)?;
        let link = self.links.get_mut(&id).filter(|link| !link.broken)?;
        let direction = usize::from(link.ends[1] == from);
        Some((link.ends[1 - direction], &mut link.lanes[direction]))
    }

    /// Nothing that an end sends arrives from now on. Tells whether that is new.
    pub(crate) fn mute(&mut self, end: End) -> bool {
        self.ends
            .get(&end)
            .and_then(|id| self.links.get_mut(id))
            .is_some_and(|link| {
                let which = usize::from(link.ends[1] == end);
                !core::mem::replace(&mut link.mute[which], true)
            })
    }

    /// Whether that was so.
    pub(crate) fn is_mute(&self, end: End) -> bool {
        self.id_of(end)
            .and_then(|id| self.links.get(&id))
            .is_some_and(|link| link.mute[usize::from(link.ends[1] == end)])
    }

    /// Whether buffers still arrive at this end.
    pub(crate) fn hears(&self, id: u64, end: End) -> bool {
        self.links.get(&id).is_some_and(|link| {
            let which = usize::from(link.ends[1] == end);
            !link.deaf[which]
        })
    }

    /// Breaks a link: nothing more leaves. What is under way arrives until an end notices, when
    /// the link is `fading`, or is lost. Returns its ends.
    pub(crate) fn break_link(&mut self, id: u64, fading: bool) -> Option<[End; 2]> {
        let link = self.links.get_mut(&id).filter(|link| !link.broken)?;
        link.broken = true;
        link.deaf = [!fading; 2];
        Some(link.ends)
    }

    /// An end notices that its link is gone.
    pub(crate) fn deafen(&mut self, end: End) {
        if let Some(link) = self.ends.get(&end).and_then(|id| self.links.get_mut(id)) {
            link.deaf[usize::from(link.ends[1] == end)] = true;
        }
    }

    /// Lets nothing through from one machine to another until then. Returns since when and until
    /// when that is so.
    pub(crate) fn block(&mut self, from: usize, to: usize, now: u64, until: u64) -> (u64, u64) {
        let at = self.blocked.entry((from, to)).or_insert((now, now));
        if at.1 <= now {
            *at = (now, until);
        }
        at.1 = until.max(at.1);
        *at
    }

    /// For how long nothing has got through between two machines, in one direction at least.
    pub(crate) fn silent_for(&self, a: usize, b: usize, now: u64) -> u64 {
        let of = |pair| match self.blocked.get(&pair) {
            Some((since, until)) if *until > now => now.saturating_sub(*since),
            _ => 0,
        };
        of((a, b)).max(of((b, a)))
    }

    /// A machine reads nothing from another one until then.
    pub(crate) fn stall(&mut self, from: usize, to: usize, until: u64) {
        let at = self.stalled.entry((from, to)).or_insert(0);
        *at = until.max(*at);
    }

    /// When what one machine sends to another can arrive at the earliest.
    pub(crate) fn opens_at(&self, from: usize, to: usize) -> u64 {
        let blocked = self.blocked.get(&(from, to)).map_or(0, |at| at.1);
        let stalled = self.stalled.get(&(from, to)).copied().unwrap_or(0);
        blocked.max(stalled)
    }

    /// Until when two machines cannot hear each other, in one direction at least.
    pub(crate) fn apart_until(&self, a: usize, b: usize) -> u64 {
        let of = |pair| self.blocked.get(&pair).map_or(0, |at| at.1);
        of((a, b)).max(of((b, a)))
    }

    /// The faults are over.
    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
        self.stalled.clear();
    }

    /// Links that live between two machines.
    pub(crate) fn alive_between(&self, a: usize, b: usize) -> Vec<u64> {
        self.links
            .iter()
            .filter(|(_, link)| {
                let [x, y] = [link.ends[0].node, link.ends[1].node];
                !link.broken && ((x, y) == (a, b) || (x, y) == (b, a))
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// Links that live, in the order of their making.
    pub(crate) fn alive(&self) -> Vec<u64> {
        self.links
            .iter()
            .filter(|(_, link)| !link.broken)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Links that live at a machine.
    pub(crate) fn alive_at(&self, node: usize) -> Vec<u64> {
        let at = |link: &Link| link.ends.iter().any(|end| end.node == node);
        self.links
            .iter()
            .filter(|(_, l)| !l.broken && at(l))
            .map(|(id, _)| *id)
            .collect()
    }
}
