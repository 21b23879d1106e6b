//! Links between machines: in order per lane, each lane at its own pace, until the link breaks.

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
    pub(crate) broken: bool,
}

/// All links of a world.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) links: BTreeMap<u64, Link>,
    /// Which link an end belongs to.
    ends: BTreeMap<End, u64>,
    next: u64,
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
            },
        );
        ends
    }

    pub(crate) fn id_of(&self, end: End) -> Option<u64> {
        self.ends.get(&end).copied()
    }

    /// The other end and the pace of the lanes towards it; `None` when the link is broken.
    pub(crate) fn towards(&mut self, from: End) -> Option<(End, &mut BTreeMap<Lane, u64>)> {
        let id = *self.ends.get(&from)?;
        let link = self.links.get_mut(&id).filter(|link| !link.broken)?;
        let direction = usize::from(link.ends[1] == from);
        Some((link.ends[1 - direction], &mut link.lanes[direction]))
    }

    /// Whether buffers still arrive on this link.
    pub(crate) fn is_alive(&self, id: u64) -> bool {
        self.links.get(&id).is_some_and(|link| !link.broken)
    }

    /// Breaks a link: what is under way is lost. Returns its ends.
    pub(crate) fn break_link(&mut self, id: u64) -> Option<[End; 2]> {
        let link = self.links.get_mut(&id).filter(|link| !link.broken)?;
        link.broken = true;
        Some(link.ends)
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
