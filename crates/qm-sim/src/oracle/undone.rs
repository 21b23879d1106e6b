//! Arrivals that a node takes out of its store again before it told anybody of them.
//!
//! A batch behind one that a full disk refused may reach the disk all the same. What it stored came
//! out of order, so the node undoes it, and its sender sends it again. The books forget it as the
//! node does: it is on no disk and arrived nowhere. Once its sender is told of it, it counts.

use qm_engine::StreamId;
use qm_wire::{MessageId, QmId};

use super::{Fate, Oracle, Place, Put, STREAM};

/// What the books said before a message was stored.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    key: (QmId, MessageId),
    put: Put,
    durable: bool,
    arrived: Option<u64>,
    last: Option<((u32, Place, u8), u64)>,
}

impl Oracle {
    /// What the books say of an arrival that is about to be entered as stored.
    #[must_use]
    pub fn before(&self, node: usize, source: QmId, id: MessageId, put: Put) -> Before {
        let key = (source, id);
        let order = self.fates.get(&put).map(|fate| order_of(put, fate));
        Before {
            key,
            put,
            durable: self.durable[node].contains(&key),
            arrived: self.arrived[node].get(&key).copied(),
            last: order.map(|order| (order, self.last.get(&order).copied().unwrap_or(0))),
        }
    }

    /// It was stored at this position, and nobody was told of it.
    pub fn untold(&mut self, node: usize, stream: StreamId, position: u64, before: Before) {
        self.untold[node].insert((stream, position), before);
    }

    /// Somebody may have been told of it.
    pub fn told(&mut self, node: usize, source: QmId, id: MessageId) {
        self.untold[node].retain(|_, before| before.key != (source, id));
    }

    /// A node removed these positions.
    pub fn removed(&mut self, node: usize, stream: StreamId, first: u64, last: u64) {
        while let Some((at, before)) = self.untold[node]
            .range((stream, first)..=(stream, last))
            .next_back()
            .map(|(at, before)| (*at, *before))
        {
            self.untold[node].remove(&at);
            self.undo(node, before);
        }
    }

    fn undo(&mut self, node: usize, before: Before) {
        self.undone += 1;
        if !before.durable {
            self.durable[node].remove(&before.key);
        }
        match before.arrived {
            Some(life) => self.arrived[node].insert(before.key, life),
            None => self.arrived[node].remove(&before.key),
        };
        if let Some(fate) = self.fates.get_mut(&before.put) {
            fate.stored = fate.stored.saturating_sub(1);
            if before.arrived.is_none() {
                fate.stored_as.remove(&before.key.1);
            }
        }
        if let Some((order, number)) = before.last
            && let Some(last) = self.last.get_mut(&order)
        {
            *last = number.min(*last);
        }
    }
}

/// Among which messages a put keeps its place.
pub(super) const fn order_of(put: Put, fate: &Fate) -> (u32, Place, u8) {
    let priority = if fate.transactional {
        STREAM
    } else {
        fate.priority
    };
    (put.application, fate.towards, priority)
}
