//! Messages of four sizes, and everything that is done with them.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use qm_wire::{
    Class, Data, Envelope, INFINITE_MS, Incarnation, MessageId, PeerFrame, Properties, QmId, Salt,
    Tag, Transit,
};

use crate::naive::{self, Message};

/// Something to measure.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Messages that one run is about.
    pub(crate) messages: usize,
    pub(crate) run: Box<dyn FnMut()>,
}

/// Size, what it means, and the cases.
pub(crate) type Group = (&'static str, &'static str, Vec<Case>);

const FRAME_LIMIT: usize = 1 << 20;

pub(crate) fn cases() -> Vec<Group> {
    let small = envelope("q");
    let mut typical = envelope("orders/till3".replace('/', ".").as_str());
    typical.label = "Order 4711 from till three, 2".into();
    typical.label = typical.label.as_str()[..28].into();
    typical.properties = Properties::new([
        ("amount", &b"12.50"[..]),
        ("currency", b"EUR"),
        ("till", b"3"),
    ])
    .expect("within the limits");
    let mut large = typical.clone();
    large.label = "x".repeat(249).as_str().into();
    large.correlation_id = Bytes::from(vec![7; 36]);
    large.response_queue = "qm://hub.example.com:1801/answers".into();
    large.admin_queue = "qm://hub.example.com:1801/admin".into();
    large.content_type = "application/json; charset=utf-8".into();
    large.trace_context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    let items = (0..32).map(|n| (format!("property-{n:02}"), [b'v'; 64]));
    large.properties = Properties::new(items).expect("within the limits");
    vec![
        (
            "small",
            "no label, no properties, body of 16 B",
            group(&small, 16, 1),
        ),
        (
            "typical",
            "queue name, label of 28 characters, 3 properties, body of 100 B",
            group(&typical, 100, 1),
        ),
        (
            "large",
            "all fields, label of 249 characters, 32 properties, body of 4 KiB",
            group(&large, 4096, 1),
        ),
        (
            "batch",
            "64 KiB of small envelopes with bodies of 100 B, per message",
            group(&small, 100, 64 * 1024 / (16 + 36 + 100 + 100)),
        ),
    ]
}

fn envelope(queue: &str) -> Envelope {
    let id = MessageId {
        incarnation: Incarnation(0x0123_4567_89ab_cdef),
        sequence: 4711,
    };
    let queue = queue.parse().expect("a queue name");
    let source = QmId::from_ed25519_public_key(&[7; 32]);
    let mut envelope = Envelope::new(source, id, Salt([9; 16]), Class::Recoverable, queue);
    envelope.sent_at_us = 1_790_000_000_000_000;
    envelope.time_to_reach_queue_ms = 345_600_000;
    envelope
}

fn group(envelope: &Envelope, body_bytes: usize, messages: usize) -> Vec<Case> {
    let mut envelope = envelope.clone();
    envelope.body_bytes = u32::try_from(body_bytes).expect("small");
    let body = Bytes::from(vec![0x5a; body_bytes]);
    let mut encoded = BytesMut::new();
    envelope.encode(&mut encoded).expect("within the limits");
    let encoded = encoded.freeze();
    let tag = Tag::compute(&encoded, &envelope.salt, &body);
    let data = Data {
        number: 1,
        tag,
        transit: Transit::direct(345_600_000, INFINITE_MS),
        envelope: encoded.clone(),
        body: body.clone(),
    };
    let mut frame = BytesMut::new();
    data.encode(&mut frame);
    let frame = frame.freeze();
    let stream = Bytes::from(frame.repeat(messages));
    let message = Message::new(&envelope, tag.0, &body);
    let mut cases = Vec::new();
    let mut add = |name, run: Box<dyn FnMut()>| {
        cases.push(Case {
            name,
            messages,
            run,
        });
    };
    ours(&mut add, &envelope, &data, &stream, &encoded, &body);
    #[cfg(feature = "__differential")]
    by_hand(&mut add, &envelope, &encoded, messages);
    others(&mut add, message, &stream, messages);
    cases
}

type Add<'a> = dyn FnMut(&'static str, Box<dyn FnMut()>) + 'a;

fn ours(
    add: &mut Add<'_>,
    envelope: &Envelope,
    data: &Data,
    stream: &Bytes,
    encoded: &Bytes,
    body: &Bytes,
) {
    let mut frame = BytesMut::new();
    data.encode(&mut frame);
    let messages = stream.len() / frame.len();
    let write = {
        let (envelope, data) = (envelope.clone(), data.clone());
        move |to: &mut BytesMut, envelopes: &mut BytesMut| {
            // A batch shares a buffer for envelopes, as the engine accepts one by one.
            envelope.encode(envelopes).expect("within the limits");
            let encoded = envelopes.split().freeze();
            let mut data = data.clone();
            data.envelope = encoded;
            data.encode(to);
        }
    };
    let mut buffers = (
        BytesMut::with_capacity(2 * stream.len()),
        BytesMut::with_capacity(1 << 20),
    );
    let encode = write.clone();
    add(
        "qm: encode envelope and frame",
        Box::new(move || {
            buffers.0.clear();
            for _ in 0..messages {
                buffers.1.reserve(1 << 16);
                encode(&mut buffers.0, &mut buffers.1);
            }
            black_box(&buffers.0);
        }),
    );
    let arrived = stream.clone();
    add("qm: decode frame and envelope", {
        Box::new(move || read(black_box(&arrived)))
    });
    let (whole, mut to, mut envelopes) = (
        write,
        BytesMut::with_capacity(2 * stream.len()),
        BytesMut::with_capacity(1 << 20),
    );
    add(
        "qm: encode and decode both",
        Box::new(move || {
            to.reserve(1 << 16);
            for _ in 0..messages {
                envelopes.reserve(1 << 16);
                whole(&mut to, &mut envelopes);
            }
            read(&to.split().freeze());
        }),
    );
    let (one, mut to) = (envelope.clone(), BytesMut::with_capacity(1 << 17));
    add(
        "qm: encode the envelope alone",
        Box::new(move || {
            to.clear();
            for _ in 0..messages {
                one.encode(&mut to).expect("within the limits");
                black_box(&to);
                to.clear();
            }
        }),
    );
    let one = encoded.clone();
    add(
        "qm: decode the envelope alone",
        Box::new(move || {
            for _ in 0..messages {
                black_box(Envelope::decode(black_box(&one)).expect("valid"));
            }
        }),
    );
    let one = encoded.clone();
    add(
        "qm: view the envelope alone",
        Box::new(move || {
            for _ in 0..messages {
                black_box(Envelope::view(black_box(&one)).expect("valid"));
            }
        }),
    );
    let arrived = stream.clone();
    add(
        "qm: decode frame, view envelope",
        Box::new(move || {
            let mut rest = black_box(arrived.clone());
            while let Some(frame) = PeerFrame::next(&mut rest, FRAME_LIMIT).expect("valid") {
                let PeerFrame::Data(data) = frame else {
                    panic!("a data frame was sent");
                };
                black_box(Envelope::view(&data.envelope).expect("valid"));
                black_box(&data);
            }
        }),
    );
    let (one, salt, body) = (encoded.clone(), envelope.salt, body.clone());
    add(
        "qm: the tag",
        Box::new(move || {
            for _ in 0..messages {
                black_box(Tag::compute(black_box(&one), &salt, black_box(&body)));
            }
        }),
    );
}

/// The codec that is not the default one.
#[cfg(feature = "__differential")]
fn by_hand(add: &mut Add<'_>, envelope: &Envelope, encoded: &Bytes, messages: usize) {
    use qm_wire::differential::{encode_by_hand, view_by_hand};

    let (one, mut to) = (envelope.clone(), BytesMut::with_capacity(1 << 17));
    add(
        "qm by hand: encode the envelope alone",
        Box::new(move || {
            for _ in 0..messages {
                one.check().expect("within the limits");
                encode_by_hand(&one, &mut to);
                black_box(&to);
                to.clear();
            }
        }),
    );
    let one = encoded.clone();
    add(
        "qm by hand: view the envelope alone",
        Box::new(move || {
            for _ in 0..messages {
                black_box(view_by_hand(black_box(&one)).expect("valid"));
            }
        }),
    );
}

fn read(stream: &Bytes) {
    let mut rest = stream.clone();
    while let Some(frame) = PeerFrame::next(&mut rest, FRAME_LIMIT).expect("valid") {
        let PeerFrame::Data(data) = frame else {
            panic!("a data frame was sent");
        };
        black_box(Envelope::decode(&data.envelope).expect("valid"));
        black_box(&data);
    }
}

fn others(add: &mut Add<'_>, message: Message, stream: &Bytes, messages: usize) {
    let (bytes, mut to) = (stream.clone(), BytesMut::with_capacity(2 * stream.len()));
    add(
        "memcpy of the frames",
        Box::new(move || {
            to.clear();
            naive::copy(black_box(&bytes), &mut to);
            black_box(&to);
        }),
    );
    let mut frame = stream.clone();
    frame.truncate(stream.len() / messages);
    add(
        "zero-copy layout: look at every field",
        Box::new(move || {
            for _ in 0..messages {
                black_box(naive::look(black_box(&frame)));
            }
        }),
    );
    let mut by_bincode = Vec::new();
    naive::bincode_encode(&message, &mut by_bincode);
    let by_postcard = naive::postcard_encode(&message, Vec::new());
    let message = std::rc::Rc::new(message);
    let mut to = Vec::with_capacity(1 << 17);
    let one = message.clone();
    add(
        "bincode, naive: encode",
        Box::new(move || {
            for _ in 0..messages {
                to.clear();
                naive::bincode_encode(black_box(&one), &mut to);
                black_box(&to);
            }
        }),
    );
    add(
        "bincode, naive: decode",
        Box::new(move || {
            for _ in 0..messages {
                black_box(naive::bincode_decode(black_box(&by_bincode)));
            }
        }),
    );
    let mut to = Vec::with_capacity(1 << 17);
    add(
        "postcard, naive: encode",
        Box::new(move || {
            for _ in 0..messages {
                to.clear();
                to = naive::postcard_encode(black_box(&message), std::mem::take(&mut to));
                black_box(&to);
            }
        }),
    );
    add(
        "postcard, naive: decode",
        Box::new(move || {
            for _ in 0..messages {
                black_box(naive::postcard_decode(black_box(&by_postcard)));
            }
        }),
    );
}
