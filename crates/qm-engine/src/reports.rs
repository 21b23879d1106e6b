//! Administration messages: what applications hear, in a queue of this node, of what became of
//! their messages (W-ENV-5, W-ENV-6).
//!
//! A report is decided in the commit of what it reports: there it is noted what is to be put, and
//! in which queue. It is put in the commit that removes the note: after a crash there is one of it,
//! neither none nor two, and a full disk only makes it later. The report of an express message is
//! as express as its message.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{
    AckWishes, Class, Destination, Envelope, Incarnation, MessageFlags, MessageId, Outcome,
    Priority, Tag, Text,
};

use crate::backlog::Message;
use crate::commits::{PutAt, Then};
use crate::engine::Engine;
use crate::io::StoreOp;
use crate::limits::REPORTS_MAX;
use crate::record::{prefixed, put_bytes, take_text};

const REPORT: &[u8] = b"report/";
const VERSION: u8 = 1;

/// What an application wishes to hear of a message, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    wishes: AckWishes,
    queue: Text,
    label: Text,
}

/// Which message, and what became of it.
pub(crate) type ReportKey = (MessageId, Outcome);

/// With what a report stands or falls that the disk refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum With {
    /// With what it reports: that comes again.
    Event,
    /// The same; besides, it is void when its batch turns out to have overtaken another one.
    Acceptance,
    /// What it reports has happened all the same.
    Nothing,
}

/// A report that is decided and not put.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    class: Class,
    queue: Text,
    label: Text,
    /// It is being put.
    under_way: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    open: BTreeMap<ReportKey, Report>,
    /// What the disk refused to note, or to put.
    again: Vec<(ReportKey, bool)>,
}

impl Wanted {
    /// What is wished of this message, if anything.
    pub(crate) fn of(envelope: &Bytes) -> Option<Self> {
        if Envelope::peek_ack_wishes(envelope) == AckWishes::NONE {
            return None;
        }
        let envelope = Envelope::decode(envelope).ok()?;
        (!envelope.admin_queue.is_empty()).then(|| Self {
            wishes: envelope.ack_wishes,
            queue: envelope.admin_queue.detach(),
            label: envelope.label.detach(),
        })
    }

    fn wishes(&self, outcome: Outcome) -> bool {
        let wish = match outcome {
            Outcome::REACHED_QUEUE => AckWishes::POSITIVE_ARRIVAL,
            Outcome::RECEIVED => AckWishes::POSITIVE_RECEIVE,
            outcome if outcome.is_of_arrived() || outcome == Outcome::END_UNKNOWN => {
                AckWishes::NEGATIVE_RECEIVE
            }
            _ => AckWishes::NEGATIVE_ARRIVAL,
        };
        self.wishes.contains(wish)
    }

    /// Bytes that [`Self::encode`] appends.
    pub(crate) fn encoded_len(&self) -> usize {
        5 + self.queue.as_bytes().len() + self.label.as_bytes().len()
    }

    pub(crate) fn encode(&self, to: &mut BytesMut) {
        to.put_u8(self.wishes.bits());
        put_bytes(to, self.queue.as_bytes());
        put_bytes(to, self.label.as_bytes());
    }

    pub(crate) fn decode(from: &mut Bytes) -> Option<Self> {
        let wishes = AckWishes::from_bits(from.try_get_u8().ok()?).ok()?;
        let (queue, label) = (take_text(from)?, take_text(from)?);
        Some(Self {
            wishes,
            queue: queue.detach(),
            label: label.detach(),
        })
    }
}

fn report_key((id, outcome): ReportKey) -> Bytes {
    let mut name = BytesMut::with_capacity(18);
    name.put_u64(id.incarnation.0);
    name.put_u64(id.sequence);
    name.put_u16(outcome.0);
    prefixed(REPORT, &name)
}

fn read_report_key(name: &[u8]) -> Option<ReportKey> {
    let mut name = name;
    let incarnation = Incarnation(name.try_get_u64().ok()?);
    let sequence = name.try_get_u64().ok()?;
    let outcome = Outcome(name.try_get_u16().ok()?);
    let id = MessageId {
        incarnation,
        sequence,
    };
    name.is_empty().then_some((id, outcome))
}

impl Report {
    fn encode(&self) -> Bytes {
        let mut to = BytesMut::new();
        to.put_u8(VERSION);
        to.put_u8(self.class.code());
        put_bytes(&mut to, self.queue.as_bytes());
        put_bytes(&mut to, self.label.as_bytes());
        to.freeze()
    }

    fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != VERSION {
            return None;
        }
        let class = Class::from_code(r.try_get_u8().ok()?).ok()?;
        let (queue, label) = (take_text(&mut r)?, take_text(&mut r)?);
        r.is_empty().then_some(Self {
            class,
            queue,
            label,
            under_way: false,
        })
    }
}

impl Engine {
    /// Something became of a message of this node that its application may wish to hear. With
    /// `putting` it is noted in the batch that puts, where the event is.
    pub(crate) fn report(
        &mut self,
        wanted: Option<&Wanted>,
        (id, class): (MessageId, Class),
        outcome: Outcome,
        putting: bool,
        with: With,
    ) {
        let Some(key) = self.begin_report(wanted, (id, class), outcome, putting) else {
            return;
        };
        let then = Then::Report { key, with };
        if putting {
            self.commits.after_putting(then);
        } else {
            self.commits.after_settling(then);
        }
    }

    /// The same without a word of when it is on disk: its commit says so.
    pub(crate) fn begin_report(
        &mut self,
        wanted: Option<&Wanted>,
        (id, class): (MessageId, Class),
        outcome: Outcome,
        putting: bool,
    ) -> Option<ReportKey> {
        let wanted = wanted.filter(|wanted| wanted.wishes(outcome))?;
        let key = (id, outcome);
        if self.reports.open.contains_key(&key) {
            return None;
        }
        if self.reports.open.len() >= REPORTS_MAX {
            self.counters.reports_lost += 1;
            return None;
        }
        let report = Report {
            class,
            queue: wanted.queue.clone(),
            label: wanted.label.clone(),
            under_way: false,
        };
        if class.is_durable() {
            let (name, value) = (report_key(key), report.encode());
            if putting {
                self.commits.put(StoreOp::Set { key: name, value });
            } else {
                self.commits.set(name, value);
            }
        }
        self.reports.open.insert(key, report);
        Some(key)
    }

    /// What it reports is on disk: it may be put.
    pub(crate) fn place_report(&mut self, key: ReportKey) {
        let Some(report) = self.reports.open.get_mut(&key).filter(|r| !r.under_way) else {
            return;
        };
        report.under_way = true;
        let report = report.clone();
        let put = self.put_report(key, &report);
        let durable = report.class.is_durable();
        match put {
            None => {
                // The queue was deleted since the message was accepted.
                self.counters.reports_lost += 1;
                self.reports.open.remove(&key);
                if durable {
                    self.commits.unset(report_key(key));
                }
            }
            Some(_) if !durable => {
                self.counters.reports += 1;
                self.reports.open.remove(&key);
            }
            Some(put) => {
                if !crate::broken!(self, report_apart) {
                    let name = report_key(key);
                    self.commits.put(StoreOp::Unset { key: name });
                }
                self.commits.after_putting(Then::Reported { key, put });
            }
        }
        self.seal_if_large();
    }

    fn put_report(&mut self, (id, outcome): ReportKey, report: &Report) -> Option<PutAt> {
        let destination: Destination = report.queue.as_str().parse().ok()?;
        let number = *self.local_names.get(destination.queue())?;
        let queue = self.locals.get(&number)?.settings.name.clone();
        let class = report.class.min(Class::Recoverable);
        let own = MessageId {
            incarnation: self.incarnation,
            sequence: self.next_sequence,
        };
        let salt = self.batch_salt();
        let mut envelope = Envelope::new(self.me.qm, own, salt, class, queue);
        envelope.flags = MessageFlags::NONE;
        envelope.report = Some(outcome);
        envelope.sent_at_us = self.now.wall_us;
        envelope.label = report.label.clone();
        envelope.correlation_id = Bytes::from(id.to_string());
        let priority = envelope.priority;
        let mut encoded = BytesMut::new();
        envelope.encode(&mut encoded).ok()?;
        let encoded = encoded.freeze();
        self.next_sequence += 1;
        let message = Message {
            position: 0,
            source: self.me.qm,
            id: own,
            tag: Tag::compute(&encoded, &salt, &[]),
            class,
            flags: envelope.flags,
            at: self.stamp(),
            wall_us: self.now.wall_us,
            reach_left_ms: qm_wire::INFINITE_MS,
            receive_left_ms: qm_wire::INFINITE_MS,
            aborts: 0,
            transmitted: false,
            envelope: encoded,
            body: Bytes::new(),
        };
        Some(self.put_local(number, Priority::get(priority), message))
    }

    /// It is on disk in its queue.
    pub(crate) fn reported(&mut self, key: ReportKey, put: PutAt) {
        if crate::broken!(self, report_apart) {
            self.commits.unset(report_key(key));
        }
        self.put_durable(true, put);
        self.reports.open.remove(&key);
        self.counters.reports += 1;
        self.busy_queues.insert(put.queue);
    }

    /// The disk refused the batch in which it was decided.
    pub(crate) fn report_refused(&mut self, key: ReportKey, with: With) {
        match with {
            With::Event | With::Acceptance => drop(self.reports.open.remove(&key)),
            With::Nothing => {
                crate::reached!(self, ReportHeldBack);
                self.reports.again.push((key, true));
            }
        }
    }

    /// The disk refused to put it: what was noted stands.
    pub(crate) fn report_not_put(&mut self, key: ReportKey, put: PutAt) {
        self.put_refused(true, put);
        if let Some(report) = self.reports.open.get_mut(&key) {
            report.under_way = false;
            crate::reached!(self, ReportHeldBack);
            self.reports.again.push((key, false));
        }
    }

    /// What it reports is void.
    pub(crate) fn void_report(&mut self, key: ReportKey) {
        if self.reports.open.remove(&key).is_some() {
            self.commits.unset(report_key(key));
        }
    }

    /// The messages of a transaction were not received after all.
    pub(crate) fn reports_void(&mut self, keys: &[ReportKey]) {
        for key in keys {
            self.reports.open.remove(key);
        }
    }

    /// The same, when the disk had it already.
    pub(crate) fn unset_reports(&mut self, keys: &[ReportKey]) {
        for key in keys {
            self.commits.unset(report_key(*key));
        }
    }

    /// Notes and puts again what the disk refused.
    pub(crate) fn report_again(&mut self) {
        for (key, unnoted) in core::mem::take(&mut self.reports.again) {
            let Some(report) = self.reports.open.get(&key) else {
                continue;
            };
            if unnoted {
                if report.class.is_durable() {
                    let value = report.encode();
                    self.commits.set(report_key(key), value);
                }
                let with = With::Nothing;
                self.commits.after_settling(Then::Report { key, with });
            } else {
                self.place_report(key);
            }
        }
    }

    /// Whether applications may be told in this queue, as they write it.
    pub(crate) fn check_admin_queue(&mut self, queue: &str) -> Result<(), (Outcome, String)> {
        match self.resolve(queue)? {
            crate::destination::Target::Local(number) => {
                let settings = self.locals.get(&number).map(|queue| &queue.settings);
                if settings.is_some_and(|settings| settings.transactional) {
                    let text = format!(
                        "the administration queue {queue} is transactional; acknowledgements are not"
                    );
                    return Err((Outcome::NOT_TRANSACTIONAL_MESSAGE, text));
                }
                Ok(())
            }
            crate::destination::Target::Remote(..) => {
                let text = format!(
                    "the administration queue {queue} is another node's; name a queue of this one"
                );
                Err((Outcome::BAD_REQUEST, text))
            }
        }
    }

    /// Reads a report back that was decided. Returns whether the value was understood.
    pub(crate) fn recover_report(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        let key = read_report_key(key.strip_prefix(REPORT)?);
        let Some((key, report)) = key.zip(Report::decode(value)) else {
            return Some(false);
        };
        self.reports.open.insert(key, report);
        Some(true)
    }

    /// Puts what was decided before the start.
    pub(crate) fn place_reports(&mut self) {
        let open: Vec<_> = self.reports.open.keys().copied().collect();
        for key in open {
            crate::reached!(self, ReportFound);
            self.place_report(key);
        }
    }
}

impl Engine {
    /// A message leaves a queue of this node for good: whoever sent it will hear how, if that is
    /// wished: a peer by a final, an application of this node in its administration queue.
    pub(crate) fn note_end(
        &mut self,
        number: u32,
        message: &Message,
        outcome: Outcome,
        putting: bool,
    ) {
        if !self.is_own(message.source) {
            return self.note_final(number, message, outcome, putting);
        }
        let Some(wanted) = Wanted::of(&message.envelope) else {
            return;
        };
        // What was moved ended where it was sent to.
        if self.is_destination(number, &message.envelope) {
            let with = if putting { With::Event } else { With::Nothing };
            let of = (message.id, message.class);
            self.report(Some(&wanted), of, outcome, putting, with);
        }
    }

    /// A message of this node's applications enters a queue of this node.
    pub(crate) fn report_arrival_here(&mut self, message: &Message, putting: bool, with: With) {
        let wanted = Wanted::of(&message.envelope);
        let of = (message.id, message.class);
        self.report(wanted.as_ref(), of, Outcome::REACHED_QUEUE, putting, with);
    }

    /// The same for what a transaction takes: in its commit.
    pub(crate) fn report_taken(&mut self, number: u32, message: &Message) -> Option<ReportKey> {
        if !self.is_own(message.source) || !self.is_destination(number, &message.envelope) {
            return None;
        }
        let wanted = Wanted::of(&message.envelope);
        let of = (message.id, message.class);
        self.begin_report(wanted.as_ref(), of, Outcome::RECEIVED, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(wishes: AckWishes) -> Wanted {
        Wanted {
            wishes,
            queue: "acks".into(),
            label: "three apples".into(),
        }
    }

    #[test]
    fn each_outcome_is_of_one_wish() {
        for (outcome, wish) in [
            (Outcome::REACHED_QUEUE, AckWishes::POSITIVE_ARRIVAL),
            (Outcome::RECEIVED, AckWishes::POSITIVE_RECEIVE),
            (Outcome::REACH_QUEUE_EXPIRED, AckWishes::NEGATIVE_ARRIVAL),
            (Outcome::VOIDED, AckWishes::NEGATIVE_ARRIVAL),
            (Outcome::QUEUE_PURGED, AckWishes::NEGATIVE_RECEIVE),
            (Outcome::END_UNKNOWN, AckWishes::NEGATIVE_RECEIVE),
        ] {
            for bit in 0..4 {
                let only = AckWishes::from_bits(1 << bit).unwrap();
                assert_eq!(
                    wanted(only).wishes(outcome),
                    only == wish,
                    "{outcome} {only:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_to_be_reported_comes_back_as_it_was() {
        let report = Report {
            class: Class::Transactional,
            queue: "acks".into(),
            label: "three apples".into(),
            under_way: false,
        };
        let value = report.encode();
        assert_eq!(Report::decode(&value), Some(report));
        assert_eq!(Report::decode(&value.slice(..value.len() - 1)), None);
        let id = MessageId {
            incarnation: Incarnation(7),
            sequence: 8,
        };
        let key = report_key((id, Outcome::RECEIVED));
        let name = key.strip_prefix(REPORT).unwrap();
        assert_eq!(read_report_key(name), Some((id, Outcome::RECEIVED)));
        assert_eq!(read_report_key(&name[1..]), None);
        let mut to = BytesMut::new();
        let wanted = wanted(AckWishes::POSITIVE_RECEIVE);
        wanted.encode(&mut to);
        assert_eq!(to.len(), wanted.encoded_len());
        assert_eq!(Wanted::decode(&mut to.freeze()), Some(wanted));
    }

    #[test]
    fn so_many_reports_wait_for_the_disk_and_further_ones_are_lost_and_counted() {
        let mut engine = crate::testing::engine();
        let wanted = wanted(AckWishes::POSITIVE_RECEIVE);
        let begin = |engine: &mut Engine, sequence: u64| {
            let id = crate::testing::id(sequence);
            let of = (id, Class::Recoverable);
            engine.begin_report(Some(&wanted), of, Outcome::RECEIVED, false)
        };
        for sequence in 1..=REPORTS_MAX as u64 {
            assert!(begin(&mut engine, sequence).is_some());
        }
        assert_eq!(engine.counters.reports_lost, 0);
        assert_eq!(begin(&mut engine, 0), None);
        assert_eq!(engine.counters.reports_lost, 1);
        assert_eq!(engine.reports.open.len(), REPORTS_MAX);
    }
}
