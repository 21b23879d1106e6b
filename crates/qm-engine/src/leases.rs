//! Messages in the hands of applications: how many an application may hold unsettled, and what
//! happens to them when it or the queue goes.

use qm_wire::Outcome;
use qm_wire::local::Verdict;

use crate::clients::Clients;
use crate::engine::Engine;
use crate::io::ConnId;
use crate::limits::{LEASE_BYTES_MAX, LEASE_BYTES_TOTAL_MAX, LEASES_MAX};

impl Clients {
    /// Whether an application may be handed another message: it settles some first when it holds
    /// as many, or as much, as it may.
    pub(crate) fn may_lease(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_none_or(|conn| {
            conn.leases < LEASES_MAX
                && conn.lease_bytes < LEASE_BYTES_MAX
                && (self.lease_bytes < LEASE_BYTES_TOTAL_MAX || conn.leases == 0)
        })
    }

    pub(crate) fn leased(&mut self, conn: ConnId, bytes: u64) {
        self.lease_bytes = self.lease_bytes.saturating_add(bytes);
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.leases += 1;
            conn.lease_bytes = conn.lease_bytes.saturating_add(bytes);
        }
    }

    /// Returns whether somebody may have waited for it.
    pub(crate) fn unleased(&mut self, conn: ConnId, bytes: u64) -> bool {
        let held_back = !self.may_lease(conn) || self.lease_bytes >= LEASE_BYTES_TOTAL_MAX;
        self.lease_bytes = self.lease_bytes.saturating_sub(bytes);
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.leases = conn.leases.saturating_sub(1);
            conn.lease_bytes = conn.lease_bytes.saturating_sub(bytes);
        }
        held_back
    }

    /// A receive request is taken.
    pub(crate) fn receive_taken(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.receives += 1;
        }
    }

    /// A receive request is answered.
    pub(crate) fn receive_answered(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.receives = conn.receives.saturating_sub(1);
        }
    }
}

impl Engine {
    /// Everything a vanished application held goes back.
    pub(crate) fn release_leases(&mut self, conn: ConnId) {
        let numbers: Vec<_> = self.locals.keys().copied().collect();
        for number in numbers {
            let Some(queue) = self.locals.get_mut(&number) else {
                continue;
            };
            queue.waiters.retain(|waiter| waiter.conn != conn);
            let held: Vec<_> = queue
                .leased
                .iter()
                .filter(|(_, leased)| leased.conn == conn && !leased.committing)
                .map(|(lookup, _)| *lookup)
                .collect();
            for lookup in held.into_iter().rev() {
                self.settle_one(number, lookup, Verdict::GiveBack);
            }
        }
    }

    /// A queue is about to be deleted: nobody waits for its messages any more, and what
    /// applications hold of it is theirs no longer.
    pub(crate) fn drop_receivers(&mut self, number: u32) {
        let Some(queue) = self.locals.get_mut(&number) else {
            return;
        };
        let name = queue.settings.name.clone();
        let waiting = queue.take_waiters();
        let leased = core::mem::take(&mut queue.leased);
        queue.leased_bytes = 0;
        for leased in leased.into_values() {
            let bytes = leased.message.credit();
            if leased.message.class.is_durable() {
                self.stored_bytes = self.stored_bytes.saturating_sub(bytes);
            }
            if !leased.committing {
                self.clients.unleased(leased.conn, bytes);
            }
        }
        for (conn, request) in waiting {
            let text = format!("queue {name} was deleted");
            self.receive_done(conn, request, 0, Some(Outcome::NOT_FOUND), text);
        }
    }

    /// Whether the sums of what applications hold are right.
    pub(crate) fn audit_leases(&self) -> Result<(), String> {
        let leased = self.locals.values().flat_map(|queue| queue.leased.values());
        let held = leased.filter(|leased| !leased.committing).count();
        let bytes: u64 = self.locals.values().map(|queue| queue.leased_bytes).sum();
        let counted = (
            self.clients
                .conns
                .values()
                .map(|conn| conn.leases)
                .sum::<usize>(),
            self.clients.lease_bytes,
        );
        if counted != (held, bytes) {
            return Err(format!(
                "applications hold {held} messages of {bytes} bytes, counted {counted:?}"
            ));
        }
        let waiting = self
            .locals
            .values()
            .map(|q| q.waiting_receivers())
            .sum::<usize>();
        let requests = self
            .clients
            .conns
            .values()
            .map(|conn| conn.receives)
            .sum::<usize>();
        if requests < waiting {
            return Err(format!(
                "{waiting} receivers wait, {requests} requests are counted"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_all_hold_so_much_only_whoever_holds_nothing_gets_one() {
        let mut clients = Clients::default();
        let [busy, idle] = [ConnId(1), ConnId(2)];
        for conn in [busy, idle] {
            clients.conns.entry(conn).or_default();
        }
        clients.leased(busy, 1);
        clients.lease_bytes = LEASE_BYTES_TOTAL_MAX - 1;
        assert!(clients.may_lease(busy) && clients.may_lease(idle));
        clients.lease_bytes = LEASE_BYTES_TOTAL_MAX;
        assert!(!clients.may_lease(busy) && clients.may_lease(idle));
        clients.leased(idle, 1);
        assert!(!clients.may_lease(idle));
        assert!(
            clients.unleased(busy, 1),
            "who was held back is looked at again"
        );
    }
}
