//! What happens when the store reports a batch durable, or refuses it because the disk is full.

use std::collections::BTreeSet;

use qm_wire::{Class, MessageKey, Outcome};

use crate::backlog::Backlog;
use crate::commits::{Origin, PutAt, Then};
use crate::engine::Engine;
use crate::io::Output;
use crate::room::STORE_RETRY_MS;
use crate::views::failed;

impl Engine {
    pub(crate) fn on_durable(&mut self, batch: Vec<Then>) {
        for then in batch {
            match then {
                Then::Accepted {
                    put,
                    id,
                    client,
                    sequence,
                    idempotency,
                    local,
                    class,
                    transaction,
                } => {
                    self.put_durable(local, put);
                    if let Some((hash, number)) = idempotency {
                        self.key_durable(hash, number);
                    }
                    self.confirm(client, id, put, local, class);
                    if let Some(conn) = self.owed(client, sequence).filter(|_| !transaction) {
                        self.answer(conn, sequence, id, false);
                    }
                }
                Then::Committed(commit) => self.committed(*commit),
                Then::Left(taken) => self.left(&taken),
                Then::Spilled { .. } => {}
                Then::Uncommitted(commit) => self.refuse_commit(commit.client, commit.end),
                Then::HandOut(hand_out) => self.hand_out(*hand_out),
                Then::Marked { stream, below } => self.mark_durable(stream, below),
                Then::Repeated {
                    client,
                    sequence,
                    id,
                    key,
                } => {
                    self.confirm_repeated(client, sequence, id, key);
                }
                Then::Arrived {
                    put,
                    link,
                    source,
                    entry,
                    acked,
                    place: Some(place),
                    ..
                } => {
                    self.put_durable(true, put);
                    self.arrived_in_stream(link, put, source, entry, place, acked);
                }
                Then::Arrived {
                    put,
                    link,
                    number,
                    source,
                    entry,
                    reservation,
                    acked,
                    place: None,
                } => {
                    self.put_durable(true, put);
                    if let Some(reservation) = reservation {
                        self.remember_arrival(reservation, source, entry.id);
                    }
                    let arrival = MessageKey { source, entry };
                    self.undone_arrivals.remove(&arrival);
                    self.recent.insert(source, entry);
                    self.list_arrival(arrival);
                    self.note_arrival(source, entry.id, Class::Recoverable);
                    self.arrived(link, put, number, source, entry, acked);
                }
                Then::DeadLetter { put, died, from } => {
                    self.put_durable(true, put);
                    let from = from.filter(|from| !from.local);
                    if let Some(died) = died {
                        self.died(died, true);
                    }
                    if let Some(from) = &from {
                        self.letter_of_stream_durable(from, put.position, died.as_ref());
                        self.left_unplaced(from.queue, from.message.position);
                    }
                    if let Some(from) = from {
                        // What was learnt meanwhile comes behind its death.
                        self.ask_durable(from.message.id);
                    }
                    self.busy_queues.insert(put.queue);
                }
                Then::SkipTaken {
                    link,
                    source,
                    place,
                } => self.skip_taken(link, source, place),
                Then::Skipping { number, position } => self.skip_durable(number, position),
                Then::Listed { number, keys } => self.arrivals.durable(number, keys),
                Then::Asking { id } => self.ask_durable(id),
                Then::Final { key } => self.final_durable(key),
                Then::Report { key, .. } => self.place_report(key),
                Then::Reported { key, put } => self.reported(key, put),
                Then::Journalled { put, from } => self.journalled(put, &from),
                Then::FinalHeard {
                    link,
                    source,
                    entry,
                    first,
                } => self.final_noted(link, source, entry, first),
                Then::Voided {
                    link,
                    source,
                    entries,
                } => self.voids_durable(link, source, &entries),
                Then::LifeBegun => self.on_life_begun(),
                Then::LedgerKept {
                    link,
                    ends,
                    changes,
                } => self.ledger_kept(link, ends, changes),
                Then::TokenStored { own, peer } => self.token_stored(own, peer),
                Then::Reidentified(former) => self.reidentified(*former),
                Then::Switched(key) => self.switched(&key),
                Then::FormerGone(former) => self.former_gone(former),
                Then::RankKept { rank, shown } => self.rank_kept(rank, shown),
                Then::Resent(resent) => self.resent_durable(*resent),
                Then::LetterGone { job, fate } => self.letter_decided(job, fate),
                Then::Emptied { local, number } => self.purge_confirmed(local, number),
                Then::Moved(number) => self.move_confirmed(number),
                Then::Undone(undone) => self.undone_durable(*undone),
                Then::Rejected { .. } => {}
                Then::Settled { conn, settled, .. } => {
                    let settled = self.settled_in_part(conn, settled);
                    let frame = qm_wire::local::NodeFrame::Settled(settled);
                    self.outputs.push_back(Output::Client { conn, frame });
                }
                Then::Ended { id, outcome } => self.tell_fate(id, outcome),
                Then::Told {
                    conn,
                    request,
                    reply,
                } => self.outputs.push_back(Output::Admin {
                    conn,
                    request,
                    reply: *reply,
                }),
            }
        }
    }

    fn backlog_of(&mut self, local: bool, put: PutAt) -> Option<&mut Backlog> {
        if local {
            self.locals
                .get_mut(&put.queue)?
                .lanes
                .get_mut(&put.priority)
        } else {
            let lane = self
                .outs
                .get_mut(&put.queue)?
                .lanes
                .get_mut(&put.priority)?;
            Some(&mut lane.backlog)
        }
    }

    pub(crate) fn put_durable(&mut self, local: bool, put: PutAt) {
        self.count_put();
        if let Some(backlog) = self.backlog_of(local, put) {
            backlog.committed(put.position + 1);
        }
    }

    /// The disk is full: nothing of the batch was done. Applications are told, peers get no ack
    /// and no credit, so they keep what they have.
    pub(crate) fn on_refused(&mut self, batch: Vec<Then>, limited: bool) {
        crate::reached!(self, BatchRefused);
        self.disk_refused(limited);
        // What is gathered goes first, with all that belongs to it: what is taken back from here on
        // must not leave for the disk before the message that it belongs to.
        self.seal();
        self.take_back(batch);
    }

    pub(crate) fn take_back(&mut self, batch: Vec<Then>) {
        let mut emptied = Vec::new();
        let mut moved = Vec::new();
        let mut cut = BTreeSet::new();
        let mut back = Vec::new();
        for then in batch {
            match then {
                Then::Accepted {
                    put,
                    id,
                    client,
                    sequence,
                    idempotency,
                    local,
                    transaction,
                    ..
                } => {
                    self.put_refused(local, put);
                    if transaction {
                        self.withdraw(client, sequence, id, idempotency);
                        // Its end is what is answered.
                        self.owed(client, sequence);
                    } else {
                        self.unaccept(client, sequence, id, idempotency);
                    }
                }
                Then::Committed(commit) => {
                    self.uncommitted(&commit);
                    self.refuse_commit(commit.client, commit.end);
                }
                Then::Spilled { local, put } => {
                    self.put_refused(local, put);
                    self.spills_refused += 1;
                }
                Then::Marked { stream, .. } => self.mark_refused(stream),
                Then::Repeated {
                    client,
                    sequence,
                    id,
                    ..
                } => {
                    self.unaccept(client, sequence, id, None);
                }
                Then::Arrived {
                    put,
                    link,
                    reservation,
                    source,
                    place,
                    ..
                } => {
                    self.put_refused(true, put);
                    if let Some(place) = place {
                        self.untake_refused(source, place);
                    }
                    if let Some(reservation) = reservation {
                        self.dedup.abort(reservation);
                    }
                    if let Some(session) = self.sessions.get_mut(&link) {
                        let unsettled = &mut session.unsettled;
                        unsettled.messages = unsettled.messages.saturating_sub(1);
                        unsettled.bytes = unsettled.bytes.saturating_sub(put.credit);
                        cut.insert(link);
                    }
                }
                Then::DeadLetter { put, from, died } => {
                    if died.is_some() {
                        let kept = &mut self.counters.dead_letters;
                        *kept = kept.saturating_sub(1);
                    }
                    // The removal was refused with it: the message is where it was.
                    self.put_refused(true, put);
                    self.letter_reverts(put.position);
                    if let Some(from) = from {
                        // Purged at the stop, it has no place on disk to go back to.
                        let spilled = self.stopping && !from.message.class.is_durable();
                        self.spills_refused += u64::from(spilled);
                        if !from.local && from.message.class == Class::Transactional {
                            back.push((from.queue, from.message.position));
                        }
                        self.put_back(from);
                    }
                }
                Then::SkipTaken {
                    link,
                    source,
                    place,
                } => {
                    self.untake_refused(source, place);
                    cut.insert(link);
                }
                Then::Listed { number, .. } => self.arrivals.refused(number),
                Then::Final { key } => self.final_refused(key),
                Then::Report { key, with } => self.report_refused(key, with),
                Then::Reported { key, put } => self.report_not_put(key, put),
                Then::Journalled { put, from } => self.not_journalled(put, *from),
                Then::LedgerKept { link, .. } => self.ledger_refused(link),
                Then::TokenStored { own, peer } => self.token_refused(own, peer),
                Then::Reidentified(_) => self.on_not_succeeded("the disk is full"),
                Then::RankKept { .. } => self.rank_refused(),
                Then::Resent(resent) => self.resent_refused(*resent),
                Then::Rejected { conn, request } => {
                    *self.back_again.entry((conn, request)).or_default() += 1;
                }
                Then::Settled {
                    conn,
                    settled,
                    putting: true,
                } => {
                    let settled = self.settled_in_part(conn, settled);
                    if self.commits.settles_under_way() {
                        // What left without a letter is among it, and the answer speaks for that.
                        self.commits.after_settling(Then::Settled {
                            conn,
                            settled,
                            putting: false,
                        });
                        continue;
                    }
                    let frame = qm_wire::local::NodeFrame::Settled(settled);
                    self.outputs.push_back(Output::Client { conn, frame });
                }
                Then::Told { conn, request, .. } => {
                    let reply = failed(
                        Outcome::STORE_FULL,
                        "the disk is full: it holds, but a crash undoes it until there is room"
                            .to_owned(),
                        "make room, then ask for it again",
                    );
                    self.outputs.push_back(Output::Admin {
                        conn,
                        request,
                        reply,
                    });
                }
                Then::Emptied { local, number } => emptied.push((local, number)),
                Then::Moved(number) => moved.push(number),
                // They wait for what gives room back, which is handed over again with them.
                Then::Left(_)
                | Then::Uncommitted(_)
                | Then::HandOut(_)
                | Then::Skipping { .. }
                | Then::Asking { .. }
                | Then::FinalHeard { .. }
                | Then::Voided { .. }
                | Then::LifeBegun
                | Then::Switched(_)
                | Then::FormerGone(_)
                | Then::LetterGone { .. }
                | Then::Settled { .. }
                | Then::Ended { .. }
                | Then::Undone(_) => {}
            }
        }
        for link in cut {
            // What is under way on the session comes after what was refused: it must not be taken
            // before that comes again. The next session begins with what is in doubt.
            self.end_session(link, Outcome::STORE_FULL, "the disk is full");
        }
        for (number, at) in back {
            self.link_again(number, at);
        }
        for (local, number) in emptied {
            self.purge_refused(local, number);
        }
        for number in moved {
            self.move_confirmed(number);
        }
    }

    /// A message that could not be moved waits where it was.
    pub(crate) fn put_back(&mut self, from: Origin) {
        let Origin {
            local,
            queue,
            priority,
            message,
        } = from;
        let durable = message.class.is_durable();
        if durable {
            self.stored_bytes = self.stored_bytes.saturating_add(message.credit());
        }
        if !local {
            self.unask(message.id);
            self.unawait(message.id);
            self.unleave_stream(queue, message.position);
            self.left_unplaced(queue, message.position);
        }
        if !local && message.transmitted {
            return self.put_in_doubt(queue, priority, message);
        }
        let at = PutAt {
            queue,
            priority,
            position: message.position,
            credit: 0,
        };
        let deadline = if local {
            message.receive_deadline()
        } else {
            message.reach_deadline()
        };
        if local {
            self.pick_again(queue, priority, &message);
        } else {
            self.puts_to_work(queue);
        }
        let cost = self
            .backlog_of(local, at)
            .map(|backlog| backlog.give_back(message));
        if let Some(cost) = cost {
            self.hold(durable, cost);
        }
        // An overdue one ends when the disk takes its letter: until then it is no news to anybody.
        self.watch_again(local, queue, priority, deadline, STORE_RETRY_MS);
        if deadline <= self.now.at {
            return;
        }
        if local {
            self.busy_queues.insert(queue);
        } else {
            self.nudge_out(queue);
        }
    }

    pub(crate) fn put_refused(&mut self, local: bool, put: PutAt) {
        let freed = self
            .backlog_of(local, put)
            .map_or(0, |b| b.refuse(put.position, put.credit));
        self.resident_bytes = self.resident_bytes.saturating_sub(freed);
        self.stored_bytes = self.stored_bytes.saturating_sub(put.credit);
        if !local {
            self.unrecord_stream(put.queue);
        }
        if local {
            self.reopen_if_room(put.queue);
            self.busy_queues.insert(put.queue);
        }
    }
}
