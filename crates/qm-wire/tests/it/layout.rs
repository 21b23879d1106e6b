//! A second encoder, written row by row from the byte tables of SPEC.md and sharing no code with
//! the first: it explains each golden vector and must give the same bytes.

mod frames;

use bytes::Bytes;
use qm_wire::frame::FrameKind;
use qm_wire::limits::FRAME_HEADER_BYTES;
use qm_wire::local::{ClientFrame, Follow, NodeFrame, Put};
use qm_wire::{Data, Entry, Envelope, INFINITE_MS, Known, Outcome, PeerFrame, Text};

/// One field as it travels.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) value: String,
}

/// Fields in the order in which they travel.
#[derive(Default)]
pub(crate) struct Rows(pub(crate) Vec<Row>);

impl Rows {
    fn row(&mut self, name: &str, bytes: &[u8], value: impl ToString) {
        self.0.push(Row {
            name: name.to_owned(),
            bytes: bytes.to_vec(),
            value: value.to_string(),
        });
    }

    /// Bytes without a name, for frames that are wrong on purpose.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.row("body", bytes, "");
    }

    fn u8(&mut self, name: &str, value: u8, shown: impl ToString) {
        self.row(name, &[value], shown);
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.u8(name, u8::from(value), value);
    }

    fn u16(&mut self, name: &str, value: u16) {
        self.row(name, &value.to_le_bytes(), value);
    }

    fn u32(&mut self, name: &str, value: u32) {
        self.row(name, &value.to_le_bytes(), value);
    }

    fn u64(&mut self, name: &str, value: u64) {
        self.row(name, &value.to_le_bytes(), value);
    }

    fn ms(&mut self, name: &str, value: u64) {
        if value == INFINITE_MS {
            self.row(name, &[0xff; 8], "infinite");
        } else {
            self.u64(name, value);
        }
    }

    fn count(&mut self, name: &str, n: usize) {
        self.u16(name, u16::try_from(n).unwrap());
    }

    fn outcome(&mut self, outcome: Outcome) {
        self.row("outcome", &outcome.0.to_le_bytes(), outcome);
    }

    fn short(&mut self, name: &str, bytes: &[u8], shown: impl ToString) {
        self.count(&format!("{name}: length"), bytes.len());
        if !bytes.is_empty() {
            self.row(name, bytes, shown);
        }
    }

    fn text(&mut self, name: &str, text: &Text) {
        self.short(name, text.as_bytes(), text);
    }

    fn blob(&mut self, name: &str, bytes: &[u8]) {
        self.short(name, bytes, hex(bytes));
    }

    fn entry(&mut self, entry: &Entry) {
        self.u64_hex("incarnation", entry.id.incarnation.0);
        self.u64("sequence", entry.id.sequence);
        self.row("tag", &entry.tag.0, entry.tag);
    }

    fn u64_hex(&mut self, name: &str, value: u64) {
        self.row(name, &value.to_le_bytes(), format!("{value:016x}"));
    }

    /// The rows of an envelope that is one; its bytes as they are otherwise.
    fn encoded_envelope(&mut self, encoded: &[u8]) {
        match Envelope::decode(&Bytes::copy_from_slice(encoded)) {
            Ok(open) => self.0.extend(envelope(&open).0),
            Err(_) => self.row("envelope", encoded, hex(encoded)),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|row| row.bytes.clone()).collect()
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// CRC32C by its definition, bit by bit (RFC 3720, appendix B.4).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// Header, fields and body of a frame of any kind, with the right checksum.
pub(crate) fn sealed(kind: u8, flags: u16, covered: Rows, body: &[u8]) -> Rows {
    let meta = covered.bytes();
    let mut rows = Rows::default();
    rows.row("magic", b"QM", "QM");
    rows.u8("header version", 1, 1);
    let name =
        FrameKind::from_code(kind).map_or_else(|| "unknown".to_owned(), |kind| format!("{kind:?}"));
    rows.u8("kind", kind, name);
    rows.row("flags", &flags.to_le_bytes(), format!("{flags:016b}"));
    rows.u16("reserved", 0);
    rows.u32("length", u32::try_from(meta.len() + body.len()).unwrap());
    let sum = crc32c(&[rows.bytes(), meta].concat());
    rows.row("checksum", &sum.to_le_bytes(), format!("{sum:08x}"));
    assert_eq!(rows.bytes().len(), FRAME_HEADER_BYTES);
    rows.0.extend(covered.0);
    if !body.is_empty() {
        rows.row("body", body, String::from_utf8_lossy(body));
    }
    rows
}

/// The rows of an envelope.
pub(crate) fn envelope(envelope: &Envelope) -> Rows {
    let mut rows = Rows::default();
    rows.u8("envelope version", 1, 1);
    rows.u8("class", envelope.class.code(), envelope.class.name());
    rows.u8("priority", envelope.priority.get(), envelope.priority.get());
    let flags = envelope.flags.bits();
    rows.u8("message flags", flags, format!("{flags:08b}"));
    rows.row("source", envelope.source.as_bytes(), envelope.source);
    rows.u64_hex("incarnation", envelope.id.incarnation.0);
    rows.u64("sequence", envelope.id.sequence);
    rows.row("salt", &envelope.salt.0, hex(&envelope.salt.0));
    rows.u64("sent at, us", envelope.sent_at_us);
    rows.ms("time to reach queue, ms", envelope.time_to_reach_queue_ms);
    rows.ms("time to be received, ms", envelope.time_to_be_received_ms);
    rows.u32("body length", envelope.body_bytes);
    let wishes = envelope.ack_wishes.bits();
    rows.u8("ack wishes", wishes, format!("{wishes:08b}"));
    match envelope.report {
        Some(report) => rows.row("report", &report.0.to_le_bytes(), report),
        None => rows.row("report", &[0, 0], "none"),
    }
    rows.short("queue", envelope.queue.as_bytes(), &envelope.queue);
    properties_of_message(
        &mut rows,
        [
            &envelope.label,
            &envelope.response_queue,
            &envelope.admin_queue,
            &envelope.content_type,
            &envelope.trace_context,
        ],
        &envelope.correlation_id,
        &envelope.properties,
    );
    rows
}

fn properties_of_message(
    rows: &mut Rows,
    [label, response, admin, content, trace]: [&Text; 5],
    correlation_id: &[u8],
    properties: &qm_wire::Properties,
) {
    rows.text("label", label);
    rows.blob("correlation id", correlation_id);
    rows.text("response queue", response);
    rows.text("administration queue", admin);
    rows.text("content type", content);
    rows.text("trace context", trace);
    rows.count("properties: length", properties.as_encoded().len());
    for (name, value) in properties.iter() {
        let length = u8::try_from(name.len()).unwrap();
        rows.u8("property name: length", length, length);
        rows.row("property name", name.as_bytes(), name);
        rows.blob("property value", value);
    }
}

fn data(data: &Data) -> Rows {
    let mut rows = Rows::default();
    let flags = rows.transit(data.number, data.tag, &data.transit, &data.envelope);
    sealed(0x10, flags, rows, &data.body)
}

/// The rows of a frame between nodes.
pub(crate) fn peer(frame: &PeerFrame) -> Rows {
    let mut rows = Rows::default();
    let kind = match frame {
        PeerFrame::Data(frame) => return data(frame),
        PeerFrame::Hello(hello) => {
            rows.u16("lowest protocol version", hello.protocol_min);
            rows.u16("highest protocol version", hello.protocol_max);
            rows.u64_hex("incarnation", hello.incarnation.0);
            rows.u64("attempt", hello.attempt);
            rows.u16("listen port", hello.listen_port);
            rows.u32("largest body", hello.body_bytes_max);
            let flags = hello.flags.bits();
            rows.u8("hello flags", flags, format!("{flags:08b}"));
            rows.count("prior incarnations", hello.prior_incarnations.len());
            for prior in &hello.prior_incarnations {
                rows.u64_hex("prior incarnation", prior.0);
            }
            rows.blob("token", &hello.token);
            rows.blob("enrolment token", &hello.enrolment);
            rows.text("node name", &hello.name);
            rows.text("host name", &hello.host);
            0x01
        }
        PeerFrame::Welcome(welcome) => {
            let flags = welcome.flags.bits();
            rows.u8("welcome flags", flags, format!("{flags:08b}"));
            rows.u16("protocol version", welcome.protocol);
            rows.u64_hex("incarnation", welcome.incarnation.0);
            rows.u64("attempt", welcome.attempt);
            rows.row("session nonce", &welcome.nonce, hex(&welcome.nonce));
            rows.row("store id", &welcome.store_id, hex(&welcome.store_id));
            rows.blob("token", &welcome.token);
            0x02
        }
        PeerFrame::Credit(credit) => {
            rows.u64("messages", credit.messages);
            rows.u64("bytes", credit.bytes);
            0x06
        }
        PeerFrame::QueueState(state) => {
            rows.flag("open", state.open);
            rows.short("queue", state.queue.as_bytes(), &state.queue);
            0x07
        }
        PeerFrame::Goodbye(goodbye) => {
            rows.outcome(goodbye.reason);
            rows.text("text", &goodbye.text);
            0x08
        }
        PeerFrame::SessionAck(ack) => {
            rows.flag("duplicate", ack.duplicate);
            rows.u64_hex("tag hash", ack.tag_hash);
            rows.count("ranges", ack.ranges.len());
            for (first, last) in &ack.ranges {
                rows.u64("first number", *first);
                rows.u64("last number", *last);
            }
            0x20
        }
        PeerFrame::RoutedAck(ack) => {
            rows.row("source", ack.source.as_bytes(), ack.source);
            rows.flag("duplicate", ack.duplicate);
            rows.count("entries", ack.entries.len());
            ack.entries.iter().for_each(|entry| rows.entry(entry));
            0x21
        }
        PeerFrame::NotHeld(not_held) => {
            rows.row("source", not_held.source.as_bytes(), not_held.source);
            rows.count("entries", not_held.entries.len());
            for (entry, ever_mine) in &not_held.entries {
                rows.entry(entry);
                rows.flag("ever mine", *ever_mine);
            }
            0x22
        }
        PeerFrame::Query(query) => {
            rows.row("source", query.source.as_bytes(), query.source);
            rows.flag("void", query.void);
            rows.count("entries", query.entries.len());
            query.entries.iter().for_each(|entry| rows.entry(entry));
            0x23
        }
        PeerFrame::Answer(answer) => {
            rows.row("source", answer.source.as_bytes(), answer.source);
            rows.count("entries", answer.entries.len());
            for (entry, known) in &answer.entries {
                rows.entry(entry);
                let (code, outcome) = match known {
                    Known::Delivered => (1, Outcome(0)),
                    Known::InFlight => (2, Outcome(0)),
                    Known::Unknown => (3, Outcome(0)),
                    Known::Outcome(outcome) => (4, *outcome),
                };
                rows.u8("answer", code, format!("{known:?}"));
                rows.outcome(outcome);
            }
            0x24
        }
        PeerFrame::Reject(reject) => {
            rows.count("refusals", reject.refusals.len());
            for refusal in &reject.refusals {
                rows.u64("message number", refusal.number);
                rows.row("tag", &refusal.tag.0, refusal.tag);
                rows.outcome(refusal.outcome);
            }
            0x25
        }
        other => return frames::peer(other),
    };
    sealed(kind, 0, rows, &[])
}

fn put(put: &Put) -> Rows {
    let mut rows = Rows::default();
    let mut flags = 0;
    rows.u64("client sequence", put.sequence);
    rows.u8("class", put.class.code(), put.class.name());
    rows.u8("priority", put.priority.get(), put.priority.get());
    rows.u8("message flags", put.flags.bits(), put.flags.bits());
    rows.u8("ack wishes", put.ack_wishes.bits(), put.ack_wishes.bits());
    let follow = match put.follow {
        Follow::None => 0,
        Follow::Delivered => 1,
        Follow::Received => 2,
    };
    rows.u8("follow", follow, format!("{:?}", put.follow));
    if let Some(ms) = put.time_to_reach_queue_ms {
        flags |= 1;
        rows.ms("time to reach queue, ms", ms);
    }
    if let Some(ms) = put.time_to_be_received_ms {
        flags |= 2;
        rows.ms("time to be received, ms", ms);
    }
    if let Some(key) = &put.idempotency {
        flags |= 4;
        if let Some(number) = key.number {
            flags |= 8;
            rows.u64("idempotency number", number);
        }
        rows.blob("idempotency key", &key.key);
    }
    if let Some(transaction) = put.transaction {
        flags |= 16;
        rows.u64("transaction", transaction);
    }
    rows.text("destination", &put.destination);
    properties_of_message(
        &mut rows,
        [
            &put.label,
            &put.response_queue,
            &put.admin_queue,
            &put.content_type,
            &put.trace_context,
        ],
        &put.correlation_id,
        &put.properties,
    );
    sealed(0x42, flags, rows, &put.body)
}

fn optional(rows: &mut Rows, name: &str, value: Option<u64>) {
    rows.flag(&format!("{name}: present"), value.is_some());
    if let Some(value) = value {
        rows.u64(name, value);
    }
}

/// The rows of a frame from an application.
pub(crate) fn client(frame: &ClientFrame) -> Rows {
    let mut rows = Rows::default();
    let kind = match frame {
        ClientFrame::Put(frame) => return put(frame),
        ClientFrame::Hello(hello) => {
            rows.u16("protocol version", hello.protocol);
            rows.row("client id", &hello.client.0, hello.client);
            rows.text("program", &hello.program);
            0x40
        }
        ClientFrame::Receive(receive) => {
            rows.receive(receive);
            if let Some(transaction) = receive.transaction {
                rows.u64("transaction", transaction);
                return sealed(0x46, 1, rows, &[]);
            }
            0x46
        }
        ClientFrame::Settle(settle) => {
            rows.settle(settle);
            0x49
        }
        ClientFrame::Admin(admin) => {
            rows.u64("request", admin.request);
            rows.row("JSON", &admin.json, String::from_utf8_lossy(&admin.json));
            0x4B
        }
        ClientFrame::EndTransaction(end) => {
            rows.end_transaction(end);
            0x4D
        }
        other => panic!("no byte table for {other:?}"),
    };
    sealed(kind, 0, rows, &[])
}

fn end(rows: &mut Rows, messages: u32, outcome: Option<Outcome>, text: &Text) {
    rows.u32("messages", messages);
    why(rows, outcome, text);
}

fn why(rows: &mut Rows, outcome: Option<Outcome>, text: &Text) {
    rows.flag("outcome: present", outcome.is_some());
    if let Some(outcome) = outcome {
        rows.outcome(outcome);
    }
    rows.text("text", text);
}

/// The rows of a frame from a node to an application.
pub(crate) fn node(frame: &NodeFrame) -> Rows {
    let mut rows = Rows::default();
    let kind = match frame {
        NodeFrame::Hello(hello) => {
            rows.u16("protocol version", hello.protocol);
            rows.row("node", hello.node.as_bytes(), hello.node);
            rows.u64_hex("incarnation", hello.incarnation.0);
            rows.u32("largest body", hello.body_bytes_max);
            rows.u32("window in messages", hello.window_messages);
            rows.u32("window in bytes", hello.window_bytes);
            rows.text("node name", &hello.name);
            0x41
        }
        NodeFrame::Accepted(accepted) => {
            rows.u64("first client sequence", accepted.first_sequence);
            rows.u32("count", accepted.count);
            rows.u64_hex("first incarnation", accepted.first_id.incarnation.0);
            rows.u64("first sequence", accepted.first_id.sequence);
            rows.flag("repeated", accepted.repeated);
            0x43
        }
        NodeFrame::Refused(refused) => {
            rows.u64("client sequence", refused.sequence);
            rows.outcome(refused.outcome);
            rows.text("text", &refused.text);
            0x44
        }
        NodeFrame::Fate(fate) => {
            rows.count("runs", fate.runs.len());
            for (first, last, outcome) in &fate.runs {
                rows.u64("first client sequence", *first);
                rows.u64("last client sequence", *last);
                rows.outcome(*outcome);
            }
            0x45
        }
        NodeFrame::Delivery(delivery) => {
            rows.delivery(delivery);
            return sealed(0x47, 0, rows, &delivery.body);
        }
        NodeFrame::ReceiveDone(done) => {
            rows.u64("request", done.request);
            end(&mut rows, done.messages, done.outcome, &done.text);
            0x48
        }
        NodeFrame::Settled(settled) => {
            rows.u64("request", settled.request);
            end(&mut rows, settled.messages, settled.outcome, &settled.text);
            rows.ranges("lost ranges", &settled.lost);
            0x4A
        }
        NodeFrame::AdminReply(reply) => {
            rows.u64("request", reply.request);
            rows.flag("ok", reply.ok);
            rows.row("JSON", &reply.json, String::from_utf8_lossy(&reply.json));
            0x4C
        }
        NodeFrame::TransactionEnded(ended) => {
            rows.transaction_ended(ended);
            0x4E
        }
        other => panic!("no byte table for {other:?}"),
    };
    sealed(kind, 0, rows, &[])
}
