//! Receive, settle and administrative requests that the node has not answered.
//!
//! Pure state, like the puts. Numbers rise over the life of the client, so that a request keeps
//! its number when a new connection carries it again.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use qm_wire::limits::{ACK_RANGES_MAX, CLIENT_REQUESTS_MAX};
use qm_wire::local::{
    Admin, AdminReply, ClientFrame, Delivery, Receive, ReceiveDone, ReceiveMode, Settle, Settled,
    Verdict,
};
use qm_wire::{INFINITE_MS, Outcome, QueueName};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::{AdminError, ClientError, ReceiveError, SettleError, Violation};

pub(crate) type SettleAnswer = Result<(), SettleError>;
pub(crate) type AdminAnswer = Result<Vec<u8>, AdminError>;

/// A message as handed out on one connection; a later connection has no lease on it.
#[derive(Debug)]
pub(crate) struct HandedOut {
    pub(crate) connection: u64,
    pub(crate) delivery: Delivery,
}

#[derive(Debug)]
struct Receiving {
    frame: Receive,
    deadline: Option<Instant>,
    sent: bool,
    /// Nobody waits for messages any more: what still comes is given back.
    abandoned: bool,
    /// It was for a transaction that is aborted: the node takes back by itself what it brings.
    aborted: bool,
    /// Messages that came so far on this connection.
    came: u32,
    got: VecDeque<HandedOut>,
    end: Option<Result<(), ReceiveError>>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct SettleItem {
    lookup: u64,
    answer: Option<oneshot::Sender<SettleAnswer>>,
}

#[derive(Debug)]
enum Request {
    Receive(Box<Receiving>),
    Settle {
        queue: QueueName,
        items: Vec<SettleItem>,
    },
    Admin {
        json: Bytes,
        sent: bool,
        answer: oneshot::Sender<AdminAnswer>,
    },
}

#[derive(Debug)]
pub(crate) struct Requests {
    /// Number of the present connection, or of the last one while there is none.
    connection: u64,
    online: bool,
    last: u64,
    open: BTreeMap<u64, Request>,
    /// Receive requests to be taken back.
    cancels: VecDeque<u64>,
    /// Receive requests to be sent, in the order of their numbers.
    receives: VecDeque<u64>,
    /// Administrative requests to be sent.
    admins: VecDeque<u64>,
    /// Receive requests that this connection carried and that are unanswered. Others are answered
    /// without waiting for anything that an application does, so the node does not limit them.
    unanswered: usize,
    /// Verdicts that wait to be sent together.
    verdicts: BTreeMap<(QueueName, Verdict), Vec<SettleItem>>,
    /// Transactions that receive, by number: the connection that carried the first request of each.
    begun: BTreeMap<u64, u64>,
}

impl Requests {
    pub(crate) const fn new() -> Self {
        Self {
            connection: 0,
            online: false,
            last: 0,
            open: BTreeMap::new(),
            cancels: VecDeque::new(),
            receives: VecDeque::new(),
            admins: VecDeque::new(),
            unanswered: 0,
            verdicts: BTreeMap::new(),
            begun: BTreeMap::new(),
        }
    }

    /// Whether nothing is to be sent and no answer is awaited, apart from messages to come.
    pub(crate) fn is_idle(&self) -> bool {
        let waits = |request: &Request| match request {
            Request::Receive(receiving) => receiving.abandoned,
            Request::Settle { .. } | Request::Admin { .. } => true,
        };
        self.verdicts.is_empty() && !self.open.values().any(waits)
    }

    pub(crate) fn has_outgoing(&self) -> bool {
        let waiting = [&self.cancels, &self.receives, &self.admins];
        waiting.iter().any(|numbers| !numbers.is_empty()) || !self.verdicts.is_empty()
    }

    /// Number of the present connection, if there is one.
    pub(crate) fn connection(&self) -> Option<u64> {
        self.online.then_some(self.connection)
    }

    pub(crate) const fn is_online(&self) -> bool {
        self.online
    }

    /// The connection on which the node learned of a transaction by a receive, if it did.
    pub(crate) fn begun_on(&self, transaction: u64) -> Option<u64> {
        self.begun.get(&transaction).copied()
    }

    /// A transaction is another one on another connection, and that is the one to be aborted.
    pub(crate) fn begun_anew(&mut self, transaction: u64, connection: u64) {
        self.begun.insert(transaction, connection);
    }

    /// A transaction is over.
    pub(crate) fn forget_begun(&mut self, transaction: u64) {
        self.begun.remove(&transaction);
    }

    /// The abort of a transaction gives back whatever it was handed, also what is still on its way
    /// here: by then somebody else may have it.
    pub(crate) fn aborted(&mut self, transaction: u64) {
        for request in self.open.values_mut() {
            if let Request::Receive(receiving) = request {
                receiving.aborted |= receiving.frame.transaction == Some(transaction);
            }
        }
    }

    // ---- what the application asks ----

    /// Opens a receive request. `frame.request` is filled in; so is its wait when it is sent.
    pub(crate) fn receive(&mut self, mut frame: Receive, deadline: Option<Instant>) -> u64 {
        let number = self.number();
        frame.request = number;
        let receiving = Receiving {
            frame,
            deadline,
            sent: false,
            abandoned: false,
            aborted: false,
            came: 0,
            got: VecDeque::new(),
            end: None,
            waker: None,
        };
        self.open
            .insert(number, Request::Receive(Box::new(receiving)));
        self.receives.push_back(number);
        number
    }

    /// The next message of a receive request, `None` at its end.
    pub(crate) fn poll_next(
        &mut self,
        number: u64,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<HandedOut, ReceiveError>>> {
        let Some(Request::Receive(receiving)) = self.open.get_mut(&number) else {
            return Poll::Ready(None);
        };
        if let Some(handed_out) = receiving.got.pop_front() {
            return Poll::Ready(Some(Ok(handed_out)));
        }
        match receiving.end.take() {
            Some(end) => {
                self.open.remove(&number);
                Poll::Ready(end.err().map(Err))
            }
            None => {
                receiving.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// All messages of a receive request, once it has ended: until then a lost connection may
    /// take them back.
    pub(crate) fn poll_all(
        &mut self,
        number: u64,
        cx: &Context<'_>,
    ) -> Poll<Result<VecDeque<HandedOut>, ReceiveError>> {
        let Some(Request::Receive(receiving)) = self.open.get_mut(&number) else {
            return Poll::Ready(Ok(VecDeque::new()));
        };
        match receiving.end.take() {
            Some(end) => {
                let got = mem::take(&mut receiving.got);
                self.open.remove(&number);
                // Messages are worth more than the reason why there are no further ones.
                Poll::Ready(if got.is_empty() {
                    end.map(|()| got)
                } else {
                    Ok(got)
                })
            }
            None => {
                receiving.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Messages of a receive request that wait to be taken.
    pub(crate) fn waiting(&self, number: u64) -> usize {
        match self.open.get(&number) {
            Some(Request::Receive(receiving)) => receiving.got.len(),
            _ => 0,
        }
    }

    /// Nobody waits for a receive request any more.
    pub(crate) fn abandon(&mut self, number: u64) {
        let Some(Request::Receive(receiving)) = self.open.get_mut(&number) else {
            return;
        };
        let unclaimed = mem::take(&mut receiving.got);
        let queue = receiving.frame.queue.clone();
        let leased = receiving.frame.mode == ReceiveMode::Take;
        if receiving.end.is_some() || !receiving.sent {
            self.open.remove(&number);
        } else {
            receiving.abandoned = true;
            receiving.waker = None;
            if receiving.came < receiving.frame.messages_max {
                self.cancels.push_back(number);
            }
        }
        if leased {
            for handed_out in unclaimed {
                let (connection, lookup) = (handed_out.connection, handed_out.delivery.lookup);
                self.settle(connection, &queue, lookup, Verdict::GiveBack, None);
            }
        }
    }

    /// Ready when no abandoned request can bring a transaction anything more. What was brought is
    /// given back by what is written before the transaction's end.
    pub(crate) fn poll_abandoned(&mut self, transaction: u64, cx: &Context<'_>) -> Poll<()> {
        for request in self.open.values_mut() {
            if let Request::Receive(receiving) = request
                && receiving.abandoned
                && receiving.frame.transaction == Some(transaction)
            {
                receiving.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Says what shall become of a message that was handed out on `connection`.
    pub(crate) fn settle(
        &mut self,
        connection: u64,
        queue: &QueueName,
        lookup: u64,
        verdict: Verdict,
        answer: Option<oneshot::Sender<SettleAnswer>>,
    ) {
        if !self.online || connection != self.connection {
            // On another connection the same lookup id may be leased anew.
            answer_settle(answer, Err(lease_lost(queue, lookup)));
            return;
        }
        let item = SettleItem { lookup, answer };
        match self.verdicts.get_mut(&(queue.clone(), verdict)) {
            Some(items) => items.push(item),
            None => {
                self.verdicts.insert((queue.clone(), verdict), vec![item]);
            }
        }
    }

    pub(crate) fn admin(&mut self, json: Bytes, answer: oneshot::Sender<AdminAnswer>) {
        let number = self.number();
        let sent = false;
        let request = Request::Admin { json, sent, answer };
        self.open.insert(number, request);
        self.admins.push_back(number);
    }

    fn number(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    // ---- what the connection carries ----

    /// Appends the next frame, if there is one and the node may be asked more.
    pub(crate) fn write_next(&mut self, now: Instant, to: &mut BytesMut) -> bool {
        if let Some(number) = self.cancels.pop_front() {
            if let Some(Request::Receive(receiving)) = self.open.get(&number) {
                let mut frame = receiving.frame.clone();
                frame.wait_ms = 0;
                ClientFrame::Receive(frame).encode(to);
            }
            return true;
        }
        let may_ask = self.unanswered < CLIENT_REQUESTS_MAX;
        let receives = may_ask.then_some(&mut self.receives);
        let receive = receives.and_then(VecDeque::pop_front);
        let Some(number) = receive.or_else(|| self.admins.pop_front()) else {
            return self.write_settle(to);
        };
        match self.open.get_mut(&number) {
            Some(Request::Receive(receiving)) => {
                receiving.sent = true;
                if let Some(transaction) = receiving.frame.transaction {
                    self.begun.entry(transaction).or_insert(self.connection);
                }
                let mut frame = receiving.frame.clone();
                frame.wait_ms = receiving.deadline.map_or(INFINITE_MS, |deadline| {
                    let left = deadline.saturating_duration_since(now).as_millis();
                    u64::try_from(left).unwrap_or(INFINITE_MS)
                });
                ClientFrame::Receive(frame).encode(to);
                self.unanswered = self.unanswered.saturating_add(1);
            }
            Some(Request::Admin { json, sent, .. }) => {
                *sent = true;
                ClientFrame::Admin(Admin {
                    request: number,
                    json: json.clone(),
                })
                .encode(to);
            }
            // Abandoned before it was sent.
            Some(Request::Settle { .. }) | None => {}
        }
        true
    }

    /// Whether a receive request is not sent, and will not be before others are answered that wait
    /// for messages as it does.
    pub(crate) fn is_held_back(&self, number: u64) -> bool {
        let Some(Request::Receive(receiving)) = self.open.get(&number) else {
            return false;
        };
        let waits = |request: &Request| match request {
            Request::Receive(before) => before.end.is_none() && !before.abandoned,
            Request::Settle { .. } | Request::Admin { .. } => false,
        };
        let before = self.open.range(..number);
        !receiving.sent
            && before.filter(|(_, request)| waits(request)).count() >= CLIENT_REQUESTS_MAX
    }

    fn write_settle(&mut self, to: &mut BytesMut) -> bool {
        let Some(entry) = self.verdicts.first_entry() else {
            return false;
        };
        let (queue, verdict) = entry.key().clone();
        let mut items = entry.remove();
        items.sort_unstable_by_key(|item| item.lookup);
        if items.len() > ACK_RANGES_MAX {
            let later = items.split_off(ACK_RANGES_MAX);
            self.verdicts.insert((queue.clone(), verdict), later);
        }
        let request = self.number();
        let settle = Settle {
            request,
            queue: queue.clone(),
            verdict,
            ranges: ranges(items.iter().map(|item| item.lookup)),
        };
        ClientFrame::Settle(settle).encode(to);
        self.open.insert(request, Request::Settle { queue, items });
        true
    }

    pub(crate) fn on_delivery(&mut self, delivery: Delivery) -> Result<(), Violation> {
        let request = delivery.request;
        let connection = self.connection;
        let Some(Request::Receive(receiving)) = self.open.get_mut(&request) else {
            return Err(Violation::UnknownRequest { request });
        };
        if !receiving.sent
            || receiving.end.is_some()
            || receiving.came >= receiving.frame.messages_max
        {
            return Err(Violation::UnknownRequest { request });
        }
        receiving.came = receiving.came.saturating_add(1);
        if receiving.abandoned {
            if receiving.frame.mode == ReceiveMode::Take && !receiving.aborted {
                let queue = receiving.frame.queue.clone();
                self.settle(connection, &queue, delivery.lookup, Verdict::GiveBack, None);
            }
            return Ok(());
        }
        receiving.got.push_back(HandedOut {
            connection,
            delivery,
        });
        receiving.wake();
        Ok(())
    }

    pub(crate) fn on_receive_done(&mut self, done: &ReceiveDone) -> Result<(), Violation> {
        let request = done.request;
        let Some(Request::Receive(receiving)) = self.open.get_mut(&request) else {
            return Err(Violation::UnknownRequest { request });
        };
        if !receiving.sent || receiving.end.is_some() {
            return Err(Violation::UnknownRequest { request });
        }
        self.unanswered = self.unanswered.saturating_sub(1);
        if receiving.abandoned {
            receiving.wake();
            self.open.remove(&request);
            return Ok(());
        }
        receiving.end = Some(match done.outcome {
            None => Ok(()),
            Some(outcome) => Err(ReceiveError::Refused {
                outcome,
                text: done.text.detach(),
            }),
        });
        receiving.wake();
        Ok(())
    }

    pub(crate) fn on_settled(&mut self, settled: &Settled) -> Result<(), Violation> {
        let request = settled.request;
        let Some(Request::Settle { queue, items }) = self.open.remove(&request) else {
            return Err(Violation::UnknownRequest { request });
        };
        let named = items.len();
        let kept = usize::try_from(settled.messages).unwrap_or(usize::MAX);
        for item in items {
            let is_lost = |(first, last): &(u64, u64)| (*first..=*last).contains(&item.lookup);
            let answer = match settled.outcome {
                _ if settled.lost.iter().any(is_lost) => Err(lease_lost(&queue, item.lookup)),
                // Some were settled: which is told by `lost`, why not by the outcome, unless that
                // is another one than theirs.
                Some(outcome)
                    if kept < named
                        && (settled.lost.is_empty() || outcome != Outcome::LEASE_LOST) =>
                {
                    Err(SettleError::Refused {
                        outcome,
                        text: settled.text.detach(),
                    })
                }
                _ => Ok(()),
            };
            answer_settle(item.answer, answer);
        }
        Ok(())
    }

    pub(crate) fn on_admin_reply(&mut self, reply: &AdminReply) -> Result<(), Violation> {
        let request = reply.request;
        let Some(Request::Admin { sent: true, .. }) = self.open.get(&request) else {
            return Err(Violation::UnknownRequest { request });
        };
        if let Some(Request::Admin { answer, .. }) = self.open.remove(&request) {
            let json = reply.json.to_vec();
            let result = if reply.ok {
                Ok(json)
            } else {
                Err(AdminError::Failed { json })
            };
            let _nobody = answer.send(result);
        }
        Ok(())
    }

    fn forget_outgoing(&mut self) {
        self.cancels.clear();
        self.receives.clear();
        self.admins.clear();
    }

    // ---- how connections come and go ----

    pub(crate) fn on_online(&mut self) {
        self.connection = self.connection.saturating_add(1);
        self.online = true;
    }

    /// The connection ended, and with it every lease. Receive requests are asked again on the
    /// next one, others cannot be: they may have been done.
    pub(crate) fn on_lost(&mut self, reason: &ClientError) {
        self.online = false;
        self.unanswered = 0;
        self.forget_outgoing();
        for ((queue, _), items) in mem::take(&mut self.verdicts) {
            for item in items {
                answer_settle(item.answer, Err(lease_lost(&queue, item.lookup)));
            }
        }
        for (number, request) in mem::take(&mut self.open) {
            let again = match request {
                Request::Receive(receiving) => receiving.again().map(Request::Receive),
                Request::Admin { sent: false, .. } => Some(request),
                Request::Admin { answer, .. } => {
                    let _nobody = answer.send(Err(AdminError::OutcomeUnknown(reason.clone())));
                    None
                }
                Request::Settle { queue, items } => {
                    for item in items {
                        let unknown = SettleError::OutcomeUnknown {
                            queue: queue.clone(),
                            lookup: item.lookup,
                            reason: reason.clone(),
                        };
                        answer_settle(item.answer, Err(unknown));
                    }
                    None
                }
            };
            if let Some(request) = again {
                let ended =
                    matches!(&request, Request::Receive(receiving) if receiving.end.is_some());
                match &request {
                    Request::Admin { .. } => self.admins.push_back(number),
                    _ if !ended => self.receives.push_back(number),
                    _ => {}
                }
                self.open.insert(number, request);
            }
        }
    }

    /// There will be no connection to ask on, at least not soon.
    pub(crate) fn fail_all(&mut self, reason: &ClientError) {
        self.forget_outgoing();
        let mut kept = BTreeMap::new();
        for (number, request) in mem::take(&mut self.open) {
            match request {
                Request::Receive(mut receiving) => {
                    if receiving.end.is_none() {
                        receiving.end = Some(Err(ReceiveError::Disconnected(reason.clone())));
                    }
                    receiving.wake();
                    kept.insert(number, Request::Receive(receiving));
                }
                Request::Admin { answer, .. } => {
                    let _nobody = answer.send(Err(AdminError::Disconnected(reason.clone())));
                }
                Request::Settle { .. } => {}
            }
        }
        self.open = kept;
    }
}

impl Receiving {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The request as it is to be asked on the next connection; it keeps what is still good.
    fn again(mut self: Box<Self>) -> Option<Box<Self>> {
        if self.abandoned {
            self.wake();
            return None;
        }
        let ended_well = self.end.is_some();
        if self.frame.mode == ReceiveMode::Take && !self.got.is_empty() {
            self.got.clear();
            self.end = None;
        } else if !ended_well {
            self.got.clear();
        }
        if self.end.is_none() {
            self.came = 0;
            self.sent = false;
        }
        Some(self)
    }
}

fn lease_lost(queue: &QueueName, lookup: u64) -> SettleError {
    SettleError::LeaseLost {
        queue: queue.clone(),
        lookup,
    }
}

fn answer_settle(answer: Option<oneshot::Sender<SettleAnswer>>, result: SettleAnswer) {
    if let Some(answer) = answer {
        let _nobody = answer.send(result);
    }
}

/// Ascending ids, possibly repeated, as ranges that do not touch.
fn ranges(lookups: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for lookup in lookups {
        match ranges.last_mut() {
            Some((_, last)) if lookup <= last.saturating_add(1) => *last = lookup,
            _ => ranges.push((lookup, lookup)),
        }
    }
    ranges
}
