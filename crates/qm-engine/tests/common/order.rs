//! The order that a store keeps among batches that puts are in.

use std::collections::BTreeMap;

use qm_engine::Ticket;

/// Which batches a disk takes: none that knows of fewer refusals than there were.
#[derive(Default)]
pub(crate) struct Order {
    refusals: u64,
    /// Of the batches that have a place in the order, and that are not answered.
    known: BTreeMap<u64, u64>,
}

impl Order {
    /// A batch is handed to the disk.
    pub(crate) fn handed(&mut self, ticket: Ticket, refusals_known: Option<u64>) {
        self.known
            .extend(refusals_known.map(|known| (ticket.0, known)));
    }

    /// Whether the disk, which has room for this batch or not, takes it: its answer.
    pub(crate) fn takes(&mut self, ticket: Ticket, has_room: bool) -> bool {
        let known = self.known.remove(&ticket.0);
        let takes = has_room && known.is_none_or(|known| known >= self.refusals);
        self.refusals += u64::from(!takes);
        takes
    }
}
