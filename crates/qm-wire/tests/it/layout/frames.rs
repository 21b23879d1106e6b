//! The byte tables of the frames that govern identities, streams, large bodies and requests.

use qm_wire::local::{Delivery, EndTransaction, Receive, Settle, TransactionEnded};
use qm_wire::{
    Announce, BodyPart, BodyWanted, Challenge, Claim, Evicted, Final, FinalConfirm, ForkPoint,
    ForkPoints, Hold, LinkAt, Need, OrderAck, PeerFrame, Place, Rank, RemoteAnswer, RemoteAsk,
    RemoteReply, RemoteRequest, Skip, Skipped, Transit, Wanted,
};

use super::{Rows, hex};

impl Rows {
    fn hex(&mut self, name: &str, bytes: &[u8]) {
        self.row(name, bytes, hex(bytes));
    }

    fn rank(&mut self, whose: &str, rank: Rank) {
        self.flag(&format!("{whose}: sealed"), rank.sealed);
        self.u64(&format!("{whose}: served, s"), rank.served_s);
        self.u64(&format!("{whose}: draw"), rank.draw);
    }

    fn points(&mut self, points: &[ForkPoint]) {
        self.count("points", points.len());
        for point in points {
            self.u64("from", point.from_us);
            self.hex("mark", &point.mark);
        }
    }

    fn place(&mut self, place: &Place) {
        self.hex("stream id", &place.stream.0);
        self.u64("position", place.position);
        self.u64("low", place.low);
        self.hex("previous link", &place.previous.0);
    }

    fn challenge(&mut self, challenge: &Challenge) {
        self.u64("attempt", challenge.attempt);
        self.hex("challenge", &challenge.challenge);
    }

    fn claim(&mut self, claim: &Claim) {
        self.hex("relay", &claim.relay);
        self.hex("challenge", &claim.challenge);
        self.u64_hex("incarnation", claim.incarnation.0);
        self.hex("session nonce", &claim.nonce);
        self.rank("rank", claim.rank);
        self.rank("asked rank", claim.asked_rank);
        self.points(&claim.points);
        self.hex("signature", &claim.signature);
    }

    fn fork_points(&mut self, points: &ForkPoints) {
        self.hex("relay", &points.relay);
        self.hex("challenge", &points.challenge);
        self.points(&points.points);
        self.hex("signature", &points.signature);
    }

    fn skip(&mut self, skip: &Skip) {
        self.place(&skip.place);
        self.entry(&skip.entry);
        self.outcome(skip.outcome);
        self.short("queue", skip.queue.as_bytes(), &skip.queue);
    }

    fn order_ack(&mut self, ack: &OrderAck) {
        self.flag("duplicate", ack.duplicate);
        self.count("runs", ack.runs.len());
        for run in &ack.runs {
            self.hex("stream id", &run.stream.0);
            self.u64("first position", run.first);
            self.u64("last position", run.last);
            self.hex("link of the last", &run.link.0);
        }
    }

    fn skipped(&mut self, skipped: &Skipped) {
        self.count("links", skipped.links.len());
        for LinkAt {
            stream,
            position,
            link,
        } in &skipped.links
        {
            self.hex("stream id", &stream.0);
            self.u64("position", *position);
            self.hex("link", &link.0);
        }
    }

    fn need(&mut self, need: &Need) {
        self.hex("stream id", &need.stream.0);
        self.count("leaves", need.leaves.len());
        for (position, link) in &need.leaves {
            self.u64("position", *position);
            self.hex("link", &link.0);
        }
        self.short("queue", need.queue.as_bytes(), &need.queue);
    }

    fn hold(&mut self, hold: &Hold) {
        self.hex("stream id", &hold.stream.0);
        self.u64("position", hold.position);
        self.hex("previous link", &hold.previous.0);
        self.outcome(hold.outcome);
        self.text("text", &hold.text);
    }

    fn finals(&mut self, finals: &Final) {
        self.row("source", finals.source.as_bytes(), finals.source);
        self.count("entries", finals.entries.len());
        for (entry, outcome) in &finals.entries {
            self.entry(entry);
            self.outcome(*outcome);
        }
    }

    fn final_confirm(&mut self, confirm: &FinalConfirm) {
        self.row("source", confirm.source.as_bytes(), confirm.source);
        self.count("entries", confirm.entries.len());
        for entry in &confirm.entries {
            self.entry(entry);
        }
    }

    fn evicted(&mut self, evicted: &Evicted) {
        self.row("source", evicted.source.as_bytes(), evicted.source);
        self.count("marks", evicted.marks.len());
        for (incarnation, sequence) in &evicted.marks {
            self.u64_hex("incarnation", incarnation.0);
            self.u64("sequence", *sequence);
        }
    }

    fn body_wanted(&mut self, wanted: &BodyWanted) {
        self.entry(&wanted.entry);
        let (answer, offset) = match wanted.wanted {
            Wanted::From(offset) => (1, offset),
            Wanted::Have => (2, 0),
            Wanted::Wait => (3, 0),
        };
        self.u8("answer", answer, format!("{:?}", wanted.wanted));
        self.u64("offset", u64::from(offset));
    }

    fn body_part(&mut self, part: &BodyPart) {
        self.entry(&part.entry);
        self.u64("offset", u64::from(part.offset));
        self.row("part", &part.part, String::from_utf8_lossy(&part.part));
    }

    fn remote_request(&mut self, request: &RemoteRequest) {
        self.u64("channel", request.channel);
        match &request.ask {
            RemoteAsk::Receive(receive) => {
                self.u8("kind", 0x46, "Receive");
                self.receive(receive);
            }
            RemoteAsk::Settle(settle) => {
                self.u8("kind", 0x49, "Settle");
                self.settle(settle);
            }
            RemoteAsk::Admin(admin) => {
                self.u8("kind", 0x4b, "Admin");
                self.u64("request", admin.request);
                self.row("JSON", &admin.json, String::from_utf8_lossy(&admin.json));
            }
            other => panic!("no byte table for {other:?}"),
        }
    }

    fn remote_answer(&mut self, answer: &RemoteAnswer) {
        self.u64("channel", answer.channel);
        match &answer.reply {
            RemoteReply::Delivery(delivery) => {
                self.u8("kind", 0x47, "Delivery");
                self.delivery(delivery);
                self.row(
                    "body",
                    &delivery.body,
                    String::from_utf8_lossy(&delivery.body),
                );
            }
            RemoteReply::ReceiveDone(done) => {
                self.u8("kind", 0x48, "ReceiveDone");
                self.u64("request", done.request);
                super::end(self, done.messages, done.outcome, &done.text);
            }
            RemoteReply::Settled(settled) => {
                self.u8("kind", 0x4a, "Settled");
                self.u64("request", settled.request);
                super::end(self, settled.messages, settled.outcome, &settled.text);
                self.ranges("lost ranges", &settled.lost);
            }
            RemoteReply::AdminReply(reply) => {
                self.u8("kind", 0x4c, "AdminReply");
                self.u64("request", reply.request);
                self.flag("ok", reply.ok);
                self.row("JSON", &reply.json, String::from_utf8_lossy(&reply.json));
            }
            other => panic!("no byte table for {other:?}"),
        }
    }

    pub(super) fn receive(&mut self, receive: &Receive) {
        use qm_wire::local::ReceiveMode;

        self.u64("request", receive.request);
        let mode = match receive.mode {
            ReceiveMode::Take => 0,
            ReceiveMode::Peek => 1,
        };
        self.u8("mode", mode, format!("{:?}", receive.mode));
        self.u32("most messages", receive.messages_max);
        self.u32("most bytes", receive.bytes_max);
        self.ms("wait, ms", receive.wait_ms);
        super::optional(self, "after lookup id", receive.after);
        super::optional(self, "lookup id", receive.lookup);
        self.short("queue", receive.queue.as_bytes(), &receive.queue);
        self.blob("correlation id", &receive.correlation_id);
    }

    pub(super) fn settle(&mut self, settle: &Settle) {
        use qm_wire::local::Verdict;

        self.u64("request", settle.request);
        let verdict = match settle.verdict {
            Verdict::Consume => 0,
            Verdict::GiveBack => 1,
            Verdict::Reject => 2,
        };
        self.u8("verdict", verdict, format!("{:?}", settle.verdict));
        self.short("queue", settle.queue.as_bytes(), &settle.queue);
        self.ranges("ranges", &settle.ranges);
    }

    pub(super) fn ranges(&mut self, name: &str, ranges: &[(u64, u64)]) {
        self.count(name, ranges.len());
        for (first, last) in ranges {
            self.u64("first lookup id", *first);
            self.u64("last lookup id", *last);
        }
    }

    /// Everything but the body.
    pub(super) fn delivery(&mut self, delivery: &Delivery) {
        self.u64("request", delivery.request);
        self.u64("lookup id", delivery.lookup);
        self.u64("arrived at, us", delivery.arrived_at_us);
        self.u32("abort count", delivery.abort_count);
        self.ms("be received left, ms", delivery.be_received_left_ms);
        self.row("tag", &delivery.tag.0, delivery.tag);
        self.count("envelope: length", delivery.envelope.len());
        self.encoded_envelope(&delivery.envelope);
    }

    pub(super) fn end_transaction(&mut self, end: &EndTransaction) {
        self.u64("client sequence", end.sequence);
        self.u64("transaction", end.transaction);
        let verdict = if end.commit { "commit" } else { "abort" };
        self.u8("verdict", u8::from(!end.commit), verdict);
    }

    pub(super) fn transaction_ended(&mut self, ended: &TransactionEnded) {
        self.u64("client sequence", ended.sequence);
        self.u64("transaction", ended.transaction);
        self.flag("committed: present", ended.committed.is_some());
        if let Some(id) = ended.committed {
            self.u64_hex("incarnation of the commit", id.incarnation.0);
            self.u64("sequence of the commit", id.sequence);
        }
        self.flag("repeated", ended.repeated);
        super::why(self, ended.outcome, &ended.text);
    }

    /// What stands before the envelope in data and announce; and the header's flags for it.
    pub(super) fn transit(
        &mut self,
        number: u64,
        tag: qm_wire::Tag,
        transit: &Transit,
        envelope: &[u8],
    ) -> u16 {
        let mut flags = 0;
        self.u64("message number", number);
        self.row("tag", &tag.0, tag);
        self.ms("reach queue left, ms", transit.reach_queue_left_ms);
        self.ms("be received left, ms", transit.be_received_left_ms);
        self.u8("hops", transit.hops, transit.hops);
        self.u8("reserved", 0, 0);
        self.count("envelope length", envelope.len());
        if let Some(place) = &transit.place {
            flags |= 1;
            self.place(place);
        }
        if let Some(route) = &transit.route {
            flags |= 2;
            let hop = route.previous_hop;
            self.row("previous hop", hop.as_bytes(), hop);
            self.text("final destination", &route.destination);
        }
        self.encoded_envelope(envelope);
        flags
    }
}

fn announce(announce: &Announce) -> Rows {
    let mut rows = Rows::default();
    let flags = rows.transit(
        announce.number,
        announce.tag,
        &announce.transit,
        &announce.envelope,
    );
    super::sealed(0x12, flags, rows, &[])
}

/// The rows of a frame that the parent does not lay out.
pub(super) fn peer(frame: &PeerFrame) -> Rows {
    let mut rows = Rows::default();
    let kind = match frame {
        PeerFrame::Announce(frame) => return announce(frame),
        PeerFrame::Confirm(confirm) => {
            rows.u64("attempt", confirm.attempt);
            rows.blob("token", &confirm.token);
            0x03
        }
        PeerFrame::Challenge(challenge) => {
            rows.challenge(challenge);
            0x04
        }
        PeerFrame::ChallengeOk(challenge) => {
            rows.challenge(challenge);
            0x05
        }
        PeerFrame::Twin(twin) => {
            rows.hex("relay", &twin.relay);
            rows.u64_hex("incarnation", twin.incarnation.0);
            rows.u64("known for seconds", twin.known_s);
            rows.text("address", &twin.address);
            rows.text("host name", &twin.host);
            0x09
        }
        PeerFrame::Ask(ask) => {
            rows.hex("relay", &ask.relay);
            rows.hex("challenge", &ask.challenge);
            rows.rank("rank", ask.rank);
            0x0a
        }
        PeerFrame::Claim(claim) => {
            rows.claim(claim);
            0x0b
        }
        PeerFrame::ForkPoints(points) => {
            rows.fork_points(points);
            0x0c
        }
        PeerFrame::Succession(succession) => {
            rows.hex("old public key", &succession.old_key);
            rows.hex("new public key", &succession.new_key);
            rows.hex("signature by the old key", &succession.old_signature);
            rows.hex("signature by the new key", &succession.new_signature);
            0x0d
        }
        PeerFrame::Parted(parted) => {
            rows.hex("old public key", &parted.succession.old_key);
            rows.hex("new public key", &parted.succession.new_key);
            rows.hex("signature by the old key", &parted.succession.old_signature);
            rows.hex("signature by the new key", &parted.succession.new_signature);
            rows.count("lives", parted.lives.len());
            for life in &parted.lives {
                rows.u64_hex("left incarnation", life.0);
            }
            rows.hex("signature", &parted.signature);
            0x0e
        }
        PeerFrame::Skip(skip) => {
            rows.skip(skip);
            0x11
        }
        PeerFrame::BodyWanted(wanted) => {
            rows.body_wanted(wanted);
            0x13
        }
        PeerFrame::BodyPart(part) => {
            rows.body_part(part);
            0x14
        }
        PeerFrame::OrderAck(ack) => {
            rows.order_ack(ack);
            0x26
        }
        PeerFrame::Need(need) => {
            rows.need(need);
            0x27
        }
        PeerFrame::Skipped(skipped) => {
            rows.skipped(skipped);
            0x28
        }
        PeerFrame::Hold(hold) => {
            rows.hold(hold);
            0x29
        }
        PeerFrame::Final(finals) => {
            rows.finals(finals);
            0x2a
        }
        PeerFrame::FinalConfirm(confirm) => {
            rows.final_confirm(confirm);
            0x2b
        }
        PeerFrame::Evicted(evicted) => {
            rows.evicted(evicted);
            0x2c
        }
        PeerFrame::RemoteRequest(request) => {
            rows.remote_request(request);
            0x30
        }
        PeerFrame::RemoteAnswer(answer) => {
            rows.remote_answer(answer);
            0x31
        }
        other => panic!("no byte table for {other:?}"),
    };
    super::sealed(kind, 0, rows, &[])
}
