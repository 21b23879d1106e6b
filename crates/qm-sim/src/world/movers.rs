//! Applications that move tokens in transactions, and what they are told of them.

use qm_wire::local::{Delivery, EndTransaction, ReceiveDone, TransactionEnded};

use super::*;
use crate::application::{Moved, Stage};
use crate::oracle::Token;

impl World {
    /// An application begins a transaction, or ends the one that it has open.
    pub(super) fn trade(&mut self, mover: usize) -> Result<(), String> {
        // Some wait longer with a transaction open than one may be.
        let pause = if self.draw(0, 15) == 0 {
            6_000_000
        } else {
            300_000
        };
        let delay = self.draw(500, pause);
        self.plan(delay, What::Trade { mover });
        if self.movers[mover].conn.is_none() {
            return Ok(());
        }
        match self.movers[mover].open.as_ref().map(|open| open.stage) {
            None => self.begin_deal(mover),
            Some(Stage::Holds) => self.end_deal(mover),
            Some(Stage::Receives(_) | Stage::Ends(_)) => {}
        }
        Ok(())
    }

    fn begin_deal(&mut self, mover: usize) {
        let mut random = SeededEntropy::new(self.random.next_u64());
        let deal = self.oracle.deal_begins();
        if self.may_fail()
            && let Some(moved) = self.movers[mover].mint(deal, &self.scenario, &mut random)
        {
            return self.put_in_deal(mover, deal, moved);
        }
        let frame = self.movers[mover].receive(deal, &self.scenario, &mut random);
        self.mover_asks(mover, frame);
    }

    fn put_in_deal(&mut self, mover: usize, deal: usize, moved: Vec<Moved>) {
        for (put, token, mut fate, frame) in moved {
            fate.put_at = self.now;
            self.oracle.deal_puts(deal, put, token, fate);
            self.mover_asks(mover, frame);
        }
        if self.draw(0, 1) == 0 {
            self.end_deal(mover);
        }
    }

    /// Most transactions are committed, some are not; all those that only take are.
    fn end_deal(&mut self, mover: usize) {
        let takes_only = self.movers[mover]
            .open
            .as_ref()
            .is_some_and(|open| open.puts == 0);
        let commit = takes_only || self.draw(0, 6) > 0;
        if let Some(frame) = self.movers[mover].end(commit) {
            self.mover_asks(mover, frame);
        }
    }

    fn mover_asks(&mut self, mover: usize, frame: ClientFrame) {
        if let Some(conn) = self.movers[mover].conn {
            self.request(conn, frame);
        }
    }

    /// The wish to end a transaction reaches the node.
    pub(super) fn end_is_asked(&mut self, mover: usize, end: EndTransaction) {
        if end.commit
            && let Some(open) = &self.movers[mover].open
            && open.stage == Stage::Ends(end)
        {
            self.oracle.deal_asked(open.deal);
        }
    }

    pub(super) fn mover_answered(&mut self, mover: usize, frame: NodeFrame) -> Result<(), String> {
        match frame {
            NodeFrame::Delivery(delivery) => self.mover_gets(mover, &delivery),
            NodeFrame::ReceiveDone(done) => self.mover_has_all(mover, &done),
            NodeFrame::TransactionEnded(ended) => self.deal_ended(mover, &ended),
            NodeFrame::Accepted(_) | NodeFrame::Refused(_) => Err(format!(
                "rule 13: application {mover} of transactions was answered a put: {frame:?}"
            )),
            _ => Ok(()),
        }
    }

    fn mover_gets(&mut self, mover: usize, delivery: &Delivery) -> Result<(), String> {
        let node = self.movers[mover].node;
        let found = Put::from_body(&delivery.body).zip(Token::from_body(&delivery.body));
        let Some((put, token)) = found else {
            return Err(format!("rule 11: node{node} delivered a body nobody sent"));
        };
        self.oracle.handed_out(put)?;
        match &mut self.movers[mover].open {
            Some(open) if open.stage == Stage::Receives(delivery.request) => {
                open.taken.push((put, token));
                let deal = open.deal;
                self.oracle.deal_takes(deal, put, token);
                Ok(())
            }
            _ => Err(format!("rule 11: node{node} delivered {put:?} unasked")),
        }
    }

    fn mover_has_all(&mut self, mover: usize, done: &ReceiveDone) -> Result<(), String> {
        let Some(open) = &mut self.movers[mover].open else {
            return Ok(());
        };
        if open.stage != Stage::Receives(done.request) {
            return Ok(());
        }
        let known = matches!(
            done.outcome,
            None | Some(Outcome::NOT_FOUND | Outcome::TRANSACTION_ABORTED | Outcome::BUSY)
        );
        if !known {
            return Err(format!(
                "rule 11: application {mover} cannot receive in a transaction: {done:?}"
            ));
        }
        open.stage = Stage::Holds;
        let deal = open.deal;
        if open.taken.is_empty() || done.outcome.is_some() {
            if let Some(frame) = self.movers[mover].end(false) {
                self.mover_asks(mover, frame);
            }
            return Ok(());
        }
        if !self.may_fail() {
            // The last transaction of a token.
            self.end_deal(mover);
            return Ok(());
        }
        let mut random = SeededEntropy::new(self.random.next_u64());
        let moved = self.movers[mover].send_on(&self.scenario, &mut random);
        self.put_in_deal(mover, deal, moved);
        Ok(())
    }

    fn deal_ended(&mut self, mover: usize, ended: &TransactionEnded) -> Result<(), String> {
        let node = self.movers[mover].node;
        let source = self.machines[node].identity.qm;
        let is_it =
            |stage: Stage| matches!(stage, Stage::Ends(end) if end.sequence == ended.sequence);
        let open = self.movers[mover].open.take_if(|open| is_it(open.stage));
        let Some(open) = open else {
            return Err(format!(
                "rule 5: application {mover}: the end {} was answered twice",
                ended.sequence
            ));
        };
        let wished = matches!(open.stage, Stage::Ends(end) if end.commit);
        self.note(&format!(
            "application {mover}: transaction {} is {:?}, {:?}",
            open.deal, ended.committed, ended.outcome
        ));
        if ended.committed.is_some() {
            let ids = ended.ids(open.puts);
            return self.oracle.deal_committed(open.deal, node, source, ids);
        }
        if wished && ended.outcome.is_none() {
            return Err(format!(
                "rule 13: transaction {} was aborted without a reason",
                open.deal
            ));
        }
        self.oracle.deal_aborted(open.deal)
    }

    /// The connection of an application ended: so did a transaction whose end it had not asked for.
    pub(super) fn mover_is_alone(&mut self, mover: usize) {
        if let Some(deal) = self.movers[mover].disconnect() {
            self.oracle.deal_dropped(deal);
        }
    }

    /// An application forgets what it asked for, and whether that happened.
    pub(super) fn crash_mover(&mut self, mover: usize) -> Result<(), String> {
        let mut random = SeededEntropy::new(self.random.next_u64());
        let conn = self.movers[mover].conn;
        if let Some(conn) = conn {
            self.break_client(conn)?;
        }
        self.movers[mover].crash(&mut random);
        Ok(())
    }
}
