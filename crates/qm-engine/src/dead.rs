//! Dead letters: what could not be delivered, looked through, sent again, dropped.
//!
//! A letter is sent again as a new message of this node, in one commit with the removal of the
//! letter: a crash leaves either the letter or the message, never both and never neither.

use bytes::BytesMut;
use qm_wire::{Class, Destination, Envelope, MessageId, Outcome, Properties, QmId, QueueName, Tag};

use crate::admin::{AdminReply, DeadFilter, DeadLetterView, LetterFate};
use crate::backlog::Message;
use crate::commits::{Origin, PutAt, Then};
use crate::destination::Target;
use crate::engine::{Engine, LoadFor};
use crate::history::What;
use crate::io::{ConnId, Event, StoreOp, StoredRecord};
use crate::jobs::{JobId, Work};
use crate::queues::lookup_of;
use crate::record::{RemoteKey, StoredHead};
use crate::reports::With;
use crate::unconfirmed::Open;

/// Name of the property that says which message a resent one repeats: `<QMId>/<message id>`.
pub(crate) const RESENT_FROM: &str = "qm.resent-from";
/// Letters of one page of a listing.
const PAGE_LETTERS: usize = 256;
const PAGE_BYTES: usize = 1 << 20;
/// Letters that one request may name.
pub(crate) const LETTERS_MAX: usize = 1_024;

/// How a message ends that is not delivered or received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// Whose word it is.
    pub(crate) by: QmId,
    /// Whether it may have been delivered or received all the same.
    pub(crate) uncertain: bool,
    /// Whether its destination is being asked.
    pub(crate) unconfirmed: bool,
    /// Keep no dead letter, whatever its sender wished.
    pub(crate) discard: bool,
}

/// What is open about a message that its destination refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Nothing.
    None,
    /// An earlier transmission may have arrived: the destination is asked.
    Asks,
    /// The same, and nobody can say.
    Stays,
}

impl End {
    /// Decided here, for certain.
    pub(crate) const fn here(me: QmId, outcome: Outcome) -> Self {
        Self {
            outcome,
            by: me,
            uncertain: false,
            unconfirmed: false,
            discard: false,
        }
    }

    pub(crate) fn purged(&self) -> bool {
        [
            Outcome::PURGED_IN_TRANSIT,
            Outcome::QUEUE_PURGED,
            Outcome::QUEUE_DELETED,
        ]
        .contains(&self.outcome)
    }
}

/// A listing under way.
#[derive(Debug)]
pub(crate) struct DeadScan {
    filter: DeadFilter,
    /// What the filter's destination may be written as, in lower case.
    names: Vec<String>,
    letters: Vec<DeadLetterView>,
}

/// What shall become of a letter.
#[derive(Clone, Debug)]
pub(crate) enum LetterDo {
    Resend { force: bool, to: Option<String> },
    Drop,
}

/// A letter in the hands of a commit.
#[derive(Debug)]
pub(crate) struct Resent {
    pub(crate) job: JobId,
    pub(crate) put: PutAt,
    pub(crate) local: bool,
    pub(crate) fate: LetterFate,
    pub(crate) letter: Origin,
}

impl Engine {
    pub(crate) fn dead_list(
        &mut self,
        conn: ConnId,
        request: u64,
        filter: DeadFilter,
        after: Option<u64>,
    ) {
        let names = self.names_of_destination(filter.destination.as_deref());
        let scan = DeadScan {
            filter,
            names,
            letters: Vec::new(),
        };
        let job = self.begin_job(conn, request, Work::DeadList(scan));
        let from = after.map_or(0, |after| after.saturating_add(1));
        self.read_letters(job, from);
    }

    fn read_letters(&mut self, job: JobId, from: u64) {
        let stream = Self::stream_of(self.dead_queue(), 0);
        self.start_load(
            stream,
            from,
            PAGE_LETTERS,
            PAGE_BYTES,
            LoadFor::DeadList { job },
        );
    }

    pub(crate) fn on_letters_read(&mut self, job: JobId, records: Vec<StoredRecord>) {
        let number = self.dead_queue();
        let last = records.last().map(|record| record.position);
        let mut found = Vec::new();
        for record in records {
            let leased = self
                .locals
                .get(&number)
                .is_some_and(|queue| queue.leased.contains_key(&lookup_of(0, record.position)));
            found.extend(self.letter_view(&record, leased));
        }
        let Some(Work::DeadList(scan)) = self.job(job) else {
            return;
        };
        let mut after = None;
        for letter in found {
            if scan.letters.len() >= PAGE_LETTERS {
                break;
            }
            after = Some(letter.position);
            if scan.filter.admits(&letter, &scan.names) {
                scan.letters.push(letter);
            }
        }
        let full = scan.letters.len() >= PAGE_LETTERS;
        match last {
            Some(last) if !full => self.read_letters(job, last.saturating_add(1)),
            _ => {
                let letters = core::mem::take(&mut scan.letters);
                self.letters_found(job, letters, after.filter(|_| full));
            }
        }
    }

    /// A dead letter as it lies on disk; `None` when it is damaged.
    pub(crate) fn letter_view(
        &self,
        record: &StoredRecord,
        leased: bool,
    ) -> Option<DeadLetterView> {
        let head = StoredHead::decode(&record.head)?;
        let envelope = Envelope::decode(&head.envelope).ok()?;
        let dead = head.dead?;
        let resent_from = envelope.properties.get(RESENT_FROM);
        let open = self.open_letters.get(&record.position).copied();
        Some(DeadLetterView {
            position: record.position,
            lookup: lookup_of(0, record.position),
            id: envelope.id,
            source: envelope.source,
            outcome: dead.outcome,
            uncertain: dead.uncertain || open == Some(Open::Uncertain),
            unconfirmed: open == Some(Open::Unconfirmed),
            died_us: head.wall_us,
            age_ms: self.now.at.as_ms().saturating_sub(head.at_us / 1_000),
            by: (dead.by != QmId::from_bytes([0; 16])).then_some(dead.by),
            destination: dead.destination.as_str().to_owned(),
            class: envelope.class,
            priority: envelope.priority.get(),
            sent_us: envelope.sent_at_us,
            label: envelope.label.as_str().to_owned(),
            resent_from: resent_from.map(|from| String::from_utf8_lossy(from).into_owned()),
            body_bytes: record.body.len() as u64,
            leased,
        })
    }

    /// Resends or drops letters by their positions.
    pub(crate) fn dead_do(
        &mut self,
        conn: ConnId,
        request: u64,
        positions: &[u64],
        what: &LetterDo,
    ) -> Option<AdminReply> {
        if positions.is_empty() || positions.len() > LETTERS_MAX {
            let cause = format!("between 1 and {LETTERS_MAX} letters can be named at a time");
            return Some(AdminReply::Failed {
                outcome: Outcome::BAD_REQUEST,
                cause,
                fix: "name fewer letters".to_owned(),
            });
        }
        let mut positions = positions.to_vec();
        positions.sort_unstable();
        positions.dedup();
        let work = Work::Dead {
            open: positions.len(),
            fates: Vec::new(),
        };
        let job = self.begin_job(conn, request, work);
        let stream = Self::stream_of(self.dead_queue(), 0);
        for position in positions {
            let what = LoadFor::Dead {
                job,
                position,
                what: what.clone(),
            };
            // One record whatever its size: a store gives at least one.
            self.start_load(stream, position, 1, 1, what);
        }
        None
    }

    pub(crate) fn on_letter_read(
        &mut self,
        job: JobId,
        position: u64,
        what: LetterDo,
        records: Vec<StoredRecord>,
    ) {
        let mut fate = LetterFate {
            position,
            id: None,
            resent_as: None,
            destination: String::new(),
            outcome: None,
            text: String::new(),
        };
        let record = records.into_iter().find(|r| r.position == position);
        let done = match (record, what) {
            (None, _) => Err((
                Outcome::NOT_FOUND,
                "this dead letter is gone; list them again".to_owned(),
            )),
            (Some(record), LetterDo::Drop) => self.drop_letter(job, record, &mut fate),
            (Some(record), LetterDo::Resend { force, to }) => {
                self.resend_letter(job, record, force, to.as_deref(), &mut fate)
            }
        };
        if let Err((outcome, text)) = done {
            fate.outcome = Some(outcome);
            fate.text = text;
            self.letter_decided(job, fate);
        }
    }

    fn take_letter(&mut self, record: StoredRecord) -> Result<Message, (Outcome, String)> {
        let number = self.dead_queue();
        let gone = || {
            let text = "an application holds this dead letter, or it is gone";
            (Outcome::NOT_FOUND, text.to_owned())
        };
        let leased = self
            .locals
            .get(&number)
            .is_some_and(|queue| queue.leased.contains_key(&lookup_of(0, record.position)));
        if leased {
            return Err(gone());
        }
        let read = self.message_of(record).ok_or_else(|| {
            let text = "the record is damaged; see: qm-node store check";
            (Outcome::DAMAGED, text.to_owned())
        })?;
        let letter = self.take_at(number, 0, read).ok_or_else(gone)?;
        self.stored_bytes = self.stored_bytes.saturating_sub(letter.credit());
        Ok(letter)
    }

    fn letter_removal(&mut self, position: u64) -> StoreOp {
        StoreOp::Remove {
            stream: Self::stream_of(self.dead_queue(), 0),
            first: position,
            last: position,
        }
    }

    fn drop_letter(
        &mut self,
        job: JobId,
        record: StoredRecord,
        fate: &mut LetterFate,
    ) -> Result<(), (Outcome, String)> {
        let head = StoredHead::decode(&record.head);
        fate.destination = head
            .and_then(|head| head.dead)
            .map_or_else(String::new, |dead| dead.destination.as_str().to_owned());
        let letter = self.take_letter(record)?;
        fate.id = Some(letter.id);
        let removal = self.letter_removal(letter.position);
        self.commits.settle(removal);
        self.letter_closes(letter.position);
        self.counters.letters_dropped += 1;
        self.note(letter.source, letter.id, What::LetterDropped);
        let fate = fate.clone();
        self.commits.after_settling(Then::LetterGone { job, fate });
        Ok(())
    }

    fn resend_letter(
        &mut self,
        job: JobId,
        record: StoredRecord,
        force: bool,
        to: Option<&str>,
        fate: &mut LetterFate,
    ) -> Result<(), (Outcome, String)> {
        let damaged = || {
            let text = "the record is damaged; see: qm-node store check";
            (Outcome::DAMAGED, text.to_owned())
        };
        let head = StoredHead::decode(&record.head).ok_or_else(damaged)?;
        let old = Envelope::decode(&head.envelope).map_err(|_reason| damaged())?;
        let dead = head.dead.ok_or_else(damaged)?;
        fate.id = Some(old.id);
        to.unwrap_or(&dead.destination)
            .clone_into(&mut fate.destination);
        if self.stopping {
            return Err((Outcome::STOPPING, "the node is stopping".to_owned()));
        }
        let open = self.open_letters.get(&record.position).copied();
        if (dead.uncertain || open.is_some()) && !force {
            let text = if open == Some(Open::Unconfirmed) {
                "its destination has not confirmed yet that it will not take it; wait for that, or send it again with --force, perhaps twice"
            } else {
                "it may have been delivered all the same, and would then be there twice; --force sends it again"
            };
            return Err((Outcome::BAD_REQUEST, text.to_owned()));
        }
        if record.body.len() > self.config.body_bytes_max as usize {
            let (have, most) = (record.body.len(), self.config.body_bytes_max);
            let text = format!("the body has {have} bytes, the limit is {most}");
            return Err((Outcome::BODY_TOO_LARGE, text));
        }
        let target = self.resolve(&fate.destination)?;
        self.check_class(old.class.max(Class::Recoverable), &target)?;
        self.check_resend_room(&target)?;
        let (queue, local) = match &target {
            Target::Remote(_, queue) => (queue.clone(), false),
            Target::Local(number) => match self.locals.get(number) {
                Some(queue) => (queue.settings.name.clone(), true),
                None => return Err((Outcome::BAD_DESTINATION_QUEUE, "it is gone".to_owned())),
            },
        };
        let id = MessageId {
            incarnation: self.incarnation,
            sequence: self.next_sequence,
        };
        let own = self.minting_for(&target);
        let envelope = self.resent_envelope(&old, (own, id), queue);
        let mut encoded = BytesMut::new();
        envelope
            .encode(&mut encoded)
            .map_err(|error| (Outcome::BAD_REQUEST, error.to_string()))?;
        let encoded = encoded.freeze();
        let priority = envelope.priority.get();
        let letter = self.take_letter(record)?;
        self.next_sequence += 1;
        let message = Message {
            position: 0,
            source: own,
            id,
            tag: Tag::compute(&encoded, &envelope.salt, &letter.body),
            // The letter was on disk; what takes its place is too, also for an express message.
            class: envelope.class.max(Class::Recoverable),
            flags: envelope.flags,
            at: self.stamp(),
            wall_us: self.now.wall_us,
            reach_left_ms: envelope.time_to_reach_queue_ms,
            receive_left_ms: envelope.time_to_be_received_ms,
            aborts: 0,
            transmitted: false,
            envelope: encoded,
            body: letter.body.clone(),
        };
        if local {
            self.report_arrival_here(&message, true, With::Event);
        }
        let put = match target {
            Target::Local(number) => self.put_local(number, priority, message),
            Target::Remote(key, queue) => {
                let number = self.out_queue(own, &key, &queue);
                self.put_out(number, priority, message)
            }
        };
        let removal = self.letter_removal(letter.position);
        self.commits.put(removal);
        self.letter_leaves(letter.position);
        self.letters_resent.insert(letter.position);
        fate.resent_as = Some(id);
        let number = self.dead_queue();
        let resent = Resent {
            job,
            put,
            local,
            fate: fate.clone(),
            letter: Origin {
                local: true,
                queue: number,
                priority: 0,
                message: letter,
            },
        };
        self.commits.after_putting(Then::Resent(Box::new(resent)));
        self.seal_if_large();
        Ok(())
    }

    fn check_resend_room(&self, target: &Target) -> Result<(), (Outcome, String)> {
        if self.disk_refuses() {
            let text = "the disk is full; make room or wait until messages have left";
            return Err((Outcome::STORE_FULL, text.to_owned()));
        }
        if let Target::Local(number) = target
            && let Some(queue) = self.locals.get(number)
            && queue.is_full()
        {
            let text = format!("queue {} is at its quota", queue.settings.name);
            return Err((Outcome::QUOTA_EXCEEDED, text));
        }
        if let Target::Remote(key, queue) = target
            && !self.is_out_queue(key, queue)
            && !self.may_add_queue()
        {
            let text = "this node has as many queues as it may have; delete some that are not used";
            return Err((Outcome::BUSY, text.to_owned()));
        }
        Ok(())
    }

    /// The envelope of the new message: everything the application said, a new identity, its time
    /// to reach the queue anew, and where it comes from.
    fn resent_envelope(
        &mut self,
        old: &Envelope,
        (own, id): (QmId, MessageId),
        queue: QueueName,
    ) -> Envelope {
        let mut envelope = old.clone();
        envelope.source = own;
        envelope.id = id;
        envelope.salt = self.batch_salt();
        envelope.queue = queue;
        envelope.sent_at_us = self.now.wall_us;
        let from = format!("{}/{}", old.source, old.id);
        let items = old
            .properties
            .iter()
            .filter(|(name, _)| *name != RESENT_FROM)
            .chain([(RESENT_FROM, from.as_bytes())]);
        // An application that used up every byte of properties keeps them; the history of this
        // node and the answer to the operator tell the provenance then.
        if let Ok(properties) = Properties::new(items) {
            let with = Envelope {
                properties,
                ..envelope.clone()
            };
            if with.check().is_ok() {
                return with;
            }
        }
        envelope
    }

    /// The new message and the removal of the letter are durable together.
    pub(crate) fn resent_durable(&mut self, resent: Resent) {
        let Resent {
            job,
            put,
            local,
            fate,
            letter,
        } = resent;
        self.put_durable(local, put);
        self.letters_resent.remove(&letter.message.position);
        self.letter_closes(letter.message.position);
        self.letter_let_go(letter.message.id);
        self.counters.resent += 1;
        if let Some(id) = fate.resent_as {
            let source = letter.message.source;
            self.note(source, letter.message.id, What::ResentAs { id });
            let me = self.me.qm;
            let from = letter.message.id;
            self.note(me, id, What::ResentFrom { source, id: from });
            self.event(Event::Resent {
                source,
                id: from,
                resent_as: id,
            });
        }
        self.letter_decided(job, fate);
        self.reopen_if_room(letter.queue);
        if local {
            self.busy_queues.insert(put.queue);
        } else {
            self.nudge_out(put.queue);
        }
    }

    /// The disk is full: the letter is where it was.
    pub(crate) fn resent_refused(&mut self, resent: Resent) {
        let Resent {
            job,
            put,
            local,
            mut fate,
            letter,
        } = resent;
        let id = letter.message.id;
        self.put_refused(local, put);
        self.letters_resent.remove(&letter.message.position);
        self.put_back(letter);
        // Its destination may have said meanwhile that it has the message.
        self.letter_let_go(id);
        fate.resent_as = None;
        fate.outcome = Some(Outcome::STORE_FULL);
        fate.text = "the disk is full; the dead letter is where it was".to_owned();
        self.letter_decided(job, fate);
    }

    /// A destination as typed, and as it is written when the address book is looked up.
    fn names_of_destination(&self, typed: Option<&str>) -> Vec<String> {
        let Some(typed) = typed else {
            return Vec::new();
        };
        let mut names = vec![typed.to_lowercase()];
        let (peer, queue) = typed
            .split_once('/')
            .map_or((typed, None), |(peer, queue)| (peer, Some(queue)));
        let entry = self.peers.names.get(&peer.to_lowercase());
        let keys = entry
            .map(|entry| vec![entry.remote.clone()])
            .unwrap_or_else(|| {
                self.peers
                    .find(peer)
                    .into_iter()
                    .map(RemoteKey::Id)
                    .collect()
            });
        for key in keys {
            let queue = queue.and_then(|queue| queue.parse::<QueueName>().ok());
            names.push(match queue {
                Some(queue) => key.destination(&queue).to_lowercase(),
                None => {
                    // The node without a queue: everything before the last slash.
                    let any = key.destination(&"-".parse().expect("a dash is a queue name"));
                    any.trim_end_matches("/-").to_lowercase()
                }
            });
        }
        names
    }

    /// A queue of this node, as a destination.
    pub(crate) fn local_destination(&self, number: u32) -> String {
        self.locals.get(&number).map_or_else(String::new, |queue| {
            let queue = queue.settings.name.clone();
            Destination::Local { queue }.to_string()
        })
    }
}

impl DeadFilter {
    /// Whether a letter is one of those asked for, by what its destination may be written as.
    fn admits(&self, letter: &DeadLetterView, names: &[String]) -> bool {
        let about = |wanted: &String| {
            let has = letter.destination.to_lowercase();
            // A whole destination, its node, or its queue.
            has == *wanted
                || has
                    .strip_prefix(wanted)
                    .is_some_and(|rest| rest.starts_with('/'))
                || has
                    .rsplit_once('/')
                    .is_some_and(|(_, queue)| queue == wanted)
        };
        self.outcome.is_none_or(|wanted| letter.outcome == wanted)
            && (self.destination.is_none() || names.iter().any(about))
            && self.older_than_ms.is_none_or(|age| letter.age_ms >= age)
            && self
                .id
                .as_ref()
                .is_none_or(|begin| letter.id.to_string().starts_with(&begin.to_lowercase()))
    }
}
