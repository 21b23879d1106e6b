//! The order that a store keeps among its batches.

use std::collections::BTreeMap;

use qm_engine::{RefusalsKnown, Ticket};

/// Which batches a disk takes: none that knows of fewer refusals than there were.
#[derive(Default)]
pub(crate) struct Order {
    refusals: u64,
    settling_refusals: u64,
    /// Of the batches that are not answered.
    known: BTreeMap<u64, RefusalsKnown>,
}

impl Order {
    /// A batch is handed to the disk.
    pub(crate) fn handed(&mut self, ticket: Ticket, refusals_known: RefusalsKnown) {
        self.known.insert(ticket.0, refusals_known);
    }

    /// Whether the disk, which has room for this batch or not, takes it: its answer.
    pub(crate) fn takes(&mut self, ticket: Ticket, has_room: bool) -> bool {
        let known = self.known.remove(&ticket.0).expect("it was handed over");
        let (settles, in_order) = match known {
            RefusalsKnown::All(known) => (false, known >= self.refusals),
            RefusalsKnown::Settling(known) => (true, known >= self.settling_refusals),
        };
        let takes = has_room && in_order;
        self.refusals += u64::from(!takes);
        self.settling_refusals += u64::from(!takes && settles);
        takes
    }
}
