//! Values of every kind, as proptest draws them: what is valid and may be sent.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use qm_wire::limits::PARTED_LIVES_MAX;
use qm_wire::local::{
    Accepted, Admin, AdminReply, ClientFrame, ClientHello, Delivery, EndTransaction, Fate, Follow,
    IdempotencyKey, NodeFrame, NodeHello, Put, Receive, ReceiveDone, ReceiveMode, Refused, Settle,
    Settled, TransactionEnded, Verdict,
};
use qm_wire::{
    AckWishes, Announce, Answer, Ask, BodyPart, BodyWanted, Challenge, Claim, Class, ClientId,
    Confirm, Credit, Data, Entry, Envelope, Evicted, Final, FinalConfirm, ForkPoint, ForkPoints,
    Goodbye, Hello, HelloFlags, Hold, Incarnation, Known, Link, LinkAt, MessageFlags, MessageId,
    Need, NotHeld, OrderAck, Outcome, Parted, PeerFrame, Place, Priority, Properties, QmId, Query,
    QueueName, QueueState, Rank, Refusal, Reject, RemoteAnswer, RemoteAsk, RemoteRequest, Route,
    RoutedAck, Run, Salt, SessionAck, Skip, Skipped, StreamId, Succession, Tag, Text, Transit,
    Twin, Wanted, Welcome, WelcomeFlags,
};

use crate::catalogue::Value;

fn text(characters: usize) -> impl Strategy<Value = Text> {
    vec(any::<char>(), 0..=characters).prop_map(|chars| {
        let line: String = chars.into_iter().filter(|c| !c.is_control()).collect();
        line.into()
    })
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=most).prop_map(Bytes::from)
}

fn queue() -> impl Strategy<Value = QueueName> {
    "[a-zA-Z0-9äÖ$._-]{1,40}(:[a-z]{1,32})?".prop_map(|name| name.parse().unwrap())
}

fn id() -> impl Strategy<Value = MessageId> {
    (any::<u64>(), any::<u64>()).prop_map(|(incarnation, sequence)| MessageId {
        incarnation: Incarnation(incarnation),
        sequence,
    })
}

fn qm_id() -> impl Strategy<Value = QmId> {
    any::<[u8; 16]>().prop_map(QmId::from_bytes)
}

fn properties() -> impl Strategy<Value = Properties> {
    let item = ("[a-zé]{1,20}", vec(any::<u8>(), 0..40));
    proptest::collection::btree_map(item.0, item.1, 0..8)
        .prop_map(|items| Properties::new(items).unwrap())
}

pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
    let fixed = (
        qm_id(),
        id(),
        any::<[u8; 16]>(),
        0..3_u8,
        0..8_u8,
        0..8_u8,
        0..16_u8,
    );
    let times = (any::<u64>(), any::<u64>(), any::<u64>());
    let texts = (
        queue(),
        text(249),
        bytes(256),
        text(200),
        text(200),
        text(60),
        text(150),
    );
    let report = option::of((1..=u16::MAX).prop_map(Outcome));
    (fixed, times, texts, properties(), report).prop_map(
        |(fixed, times, texts, properties, report)| {
            let (source, id, salt, class, priority, flags, wishes) = fixed;
            let class = Class::from_code(class).unwrap();
            let mut envelope = Envelope::new(source, id, Salt(salt), class, texts.0);
            if class != Class::Transactional {
                envelope.priority = Priority::new(priority).unwrap();
            }
            envelope.flags = MessageFlags::from_bits(flags).unwrap();
            envelope.ack_wishes = AckWishes::from_bits(wishes).unwrap();
            envelope.sent_at_us = times.0;
            envelope.time_to_reach_queue_ms = times.1;
            envelope.time_to_be_received_ms = times.2;
            envelope.label = texts.1;
            envelope.correlation_id = texts.2;
            envelope.response_queue = texts.3;
            envelope.admin_queue = texts.4;
            envelope.content_type = texts.5;
            envelope.trace_context = texts.6;
            envelope.properties = properties;
            if report.is_some() {
                envelope.report = report;
                envelope.flags = MessageFlags::NONE;
                envelope.ack_wishes = AckWishes::NONE;
                envelope.admin_queue = Text::EMPTY;
            }
            envelope
        },
    )
}

pub(crate) fn data() -> impl Strategy<Value = Data> {
    let transit = (
        any::<u64>(),
        any::<u64>(),
        0..=15_u8,
        option::of(place()),
        option::of(route()),
    );
    (1_u64.., envelope(), transit, bytes(300)).prop_map(|(number, mut envelope, transit, body)| {
        envelope.body_bytes = u32::try_from(body.len()).unwrap();
        let linked = envelope.class == Class::Transactional;
        let encoded = Value::Envelope(envelope.clone()).encode();
        Data {
            number,
            tag: Tag::compute(&encoded, &envelope.salt, &body),
            transit: Transit {
                reach_queue_left_ms: transit.0,
                be_received_left_ms: transit.1,
                hops: transit.2,
                place: transit.3.filter(|_| linked),
                route: transit.4,
            },
            envelope: encoded,
            body,
        }
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    (id(), any::<[u8; 8]>()).prop_map(|(id, tag)| Entry { id, tag: Tag(tag) })
}

fn known() -> impl Strategy<Value = Known> {
    prop_oneof![
        Just(Known::Delivered),
        Just(Known::InFlight),
        Just(Known::Unknown),
        any::<u16>().prop_map(|code| Known::Outcome(Outcome(code))),
    ]
}

/// Gaps between arrivals in a window: numbers that ascend, with their tags.
pub(crate) fn arrivals() -> impl Strategy<Value = Vec<(u64, Tag)>> {
    let start = prop_oneof![Just(1), 1..u64::MAX - 1_000_000, Just(u64::MAX - 100_000)];
    (start, vec((1..4_u64, any::<[u8; 8]>()), 1..200)).prop_map(|(start, gaps)| {
        let mut number = start;
        let step = |(gap, tag)| {
            number += gap;
            (number, Tag(tag))
        };
        gaps.into_iter().map(step).collect()
    })
}

pub(crate) fn frame() -> impl Strategy<Value = PeerFrame> {
    let hello = (
        (
            Just(1_u16),
            1..=u16::MAX,
            any::<u64>(),
            any::<u64>(),
            any::<u16>(),
            any::<u32>(),
            0..4_u8,
        ),
        (
            vec(any::<u64>(), 0..256),
            bytes(128),
            text(60),
            text(60),
            bytes(512),
        ),
    )
        .prop_map(|(fixed, rest)| {
            PeerFrame::Hello(Hello {
                protocol_min: fixed.0,
                protocol_max: fixed.1,
                incarnation: Incarnation(fixed.2),
                prior_incarnations: rest.0.into_iter().map(Incarnation).collect(),
                attempt: fixed.3,
                token: rest.1,
                listen_port: fixed.4,
                body_bytes_max: fixed.5,
                flags: HelloFlags::from_bits(fixed.6).unwrap(),
                enrolment: rest.4,
                name: rest.2,
                host: rest.3,
            })
        });
    let welcome = (
        0..4_u8,
        any::<u16>(),
        any::<[u64; 2]>(),
        any::<[[u8; 16]; 2]>(),
        bytes(128),
    )
        .prop_map(
            |(flags, protocol, [incarnation, attempt], [nonce, store_id], token)| {
                PeerFrame::Welcome(Welcome {
                    flags: WelcomeFlags::from_bits(flags).unwrap(),
                    protocol,
                    incarnation: Incarnation(incarnation),
                    attempt,
                    nonce,
                    store_id,
                    token,
                })
            },
        );
    let credit = any::<[u64; 2]>()
        .prop_map(|[messages, bytes]| PeerFrame::Credit(Credit { messages, bytes }));
    let queue_state = (queue(), any::<bool>())
        .prop_map(|(queue, open)| PeerFrame::QueueState(QueueState { queue, open }));
    let goodbye = (any::<u16>(), text(120)).prop_map(|(reason, text)| {
        PeerFrame::Goodbye(Goodbye {
            reason: Outcome(reason),
            text,
        })
    });
    let session_ack = (any::<bool>(), arrivals()).prop_map(|(duplicate, arrivals)| {
        PeerFrame::SessionAck(SessionAck::cover(duplicate, arrivals).remove(0))
    });
    let routed_ack =
        (qm_id(), any::<bool>(), vec(entry(), 1..50)).prop_map(|(source, duplicate, entries)| {
            PeerFrame::RoutedAck(RoutedAck {
                source,
                duplicate,
                entries,
            })
        });
    let not_held = (qm_id(), vec((entry(), any::<bool>()), 1..50))
        .prop_map(|(source, entries)| PeerFrame::NotHeld(NotHeld { source, entries }));
    let query =
        (qm_id(), any::<bool>(), vec(entry(), 1..50)).prop_map(|(source, void, entries)| {
            PeerFrame::Query(Query {
                source,
                void,
                entries,
            })
        });
    let answer = (qm_id(), vec((entry(), known()), 1..50))
        .prop_map(|(source, entries)| PeerFrame::Answer(Answer { source, entries }));
    let refusal =
        (1_u64.., any::<[u8; 8]>(), any::<u16>()).prop_map(|(number, tag, outcome)| Refusal {
            number,
            tag: Tag(tag),
            outcome: Outcome(outcome),
        });
    let reject = vec(refusal, 1..50).prop_map(|refusals| PeerFrame::Reject(Reject { refusals }));
    prop_oneof![
        hello,
        welcome,
        credit,
        queue_state,
        goodbye,
        data().prop_map(PeerFrame::Data),
        session_ack,
        routed_ack,
        not_held,
        query,
        answer,
        reject,
        handshake(),
        twins(),
        streams(),
        large(),
        finals(),
        remote(),
    ]
}

fn handshake() -> impl Strategy<Value = PeerFrame> {
    let token = vec(any::<u8>(), 1..=128).prop_map(Bytes::from);
    let confirm = (any::<u64>(), token)
        .prop_map(|(attempt, token)| PeerFrame::Confirm(Confirm { attempt, token }));
    let challenge = (any::<u64>(), any::<[u8; 16]>(), any::<bool>());
    let challenge = challenge.prop_map(|(attempt, challenge, answer)| {
        let challenge = Challenge { attempt, challenge };
        if answer {
            PeerFrame::ChallengeOk(challenge)
        } else {
            PeerFrame::Challenge(challenge)
        }
    });
    prop_oneof![confirm, challenge]
}

fn rank() -> impl Strategy<Value = Rank> {
    (any::<bool>(), any::<u64>(), any::<u64>()).prop_map(|(sealed, served_s, draw)| Rank {
        sealed,
        served_s,
        draw,
    })
}

fn points(least: usize) -> impl Strategy<Value = Vec<ForkPoint>> {
    proptest::collection::btree_map(any::<u64>(), any::<[u8; 16]>(), least..20).prop_map(|points| {
        let point = |(from_us, mark)| ForkPoint { from_us, mark };
        points.into_iter().map(point).collect()
    })
}

fn bytes64() -> impl Strategy<Value = [u8; 64]> {
    any::<[[u8; 32]; 2]>().prop_map(|halves| halves.concat().try_into().unwrap())
}

fn succession() -> impl Strategy<Value = Succession> {
    let drawn = (any::<[[u8; 32]; 2]>(), bytes64(), bytes64());
    drawn.prop_filter_map("two keys", |([old_key, new_key], old, new)| {
        (old_key != new_key).then_some(Succession {
            old_key,
            new_key,
            old_signature: old,
            new_signature: new,
        })
    })
}

fn twins() -> impl Strategy<Value = PeerFrame> {
    let names = (any::<[u8; 16]>(), any::<[u8; 32]>(), any::<u64>());
    let about = (any::<[u64; 2]>(), text(60), text(60));
    let twin = (any::<[u8; 16]>(), about).prop_map(|(relay, (numbers, address, host))| {
        PeerFrame::Twin(Twin {
            relay,
            incarnation: Incarnation(numbers[0]),
            known_s: numbers[1],
            address,
            host,
        })
    });
    let ask = (names, rank()).prop_map(|((relay, challenge, _), rank)| {
        PeerFrame::Ask(Ask {
            relay,
            challenge,
            rank,
        })
    });
    let claim = (
        names,
        any::<[u8; 16]>(),
        rank(),
        rank(),
        points(0),
        bytes64(),
    );
    let claim = claim.prop_map(|(names, nonce, rank, asked_rank, points, signature)| {
        PeerFrame::Claim(Claim {
            relay: names.0,
            challenge: names.1,
            incarnation: Incarnation(names.2),
            nonce,
            rank,
            asked_rank,
            points,
            signature,
        })
    });
    let fork = (names, points(1), bytes64()).prop_map(|(names, points, signature)| {
        PeerFrame::ForkPoints(ForkPoints {
            relay: names.0,
            challenge: names.1,
            points,
            signature,
        })
    });
    let lives = proptest::collection::btree_set(any::<u64>(), 1..=PARTED_LIVES_MAX);
    let parted = (succession(), lives, bytes64());
    let parted = parted.prop_map(|(succession, lives, signature)| {
        PeerFrame::Parted(Parted {
            succession,
            lives: lives.into_iter().map(Incarnation).collect(),
            signature,
        })
    });
    let succession = succession().prop_map(PeerFrame::Succession);
    prop_oneof![twin, ask, claim, fork, succession, parted]
}

fn place() -> impl Strategy<Value = Place> {
    let ids = any::<[[u8; 16]; 2]>();
    (ids, 1..=u64::MAX, any::<u64>()).prop_map(|([stream, previous], position, low)| Place {
        stream: StreamId(stream),
        position,
        low: 1 + low % position,
        previous: Link(previous),
    })
}

fn route() -> impl Strategy<Value = Route> {
    (qm_id(), "[a-z/:.]{1,40}").prop_map(|(previous_hop, destination)| Route {
        previous_hop,
        destination: destination.into(),
    })
}

fn link_at() -> impl Strategy<Value = LinkAt> {
    (any::<[[u8; 16]; 2]>(), 1..=u64::MAX).prop_map(|([stream, link], position)| LinkAt {
        stream: StreamId(stream),
        position,
        link: Link(link),
    })
}

fn streams() -> impl Strategy<Value = PeerFrame> {
    let skip = (place(), entry(), any::<u16>(), queue());
    let skip = skip.prop_map(|(place, entry, outcome, queue)| {
        PeerFrame::Skip(Skip {
            place,
            entry,
            outcome: Outcome(outcome),
            queue,
        })
    });
    let run = (link_at(), any::<u64>()).prop_map(|(at, first)| Run {
        stream: at.stream,
        first: 1 + first % at.position,
        last: at.position,
        link: at.link,
    });
    let order_ack = (any::<bool>(), vec(run, 1..20))
        .prop_map(|(duplicate, runs)| PeerFrame::OrderAck(OrderAck { duplicate, runs }));
    let skipped = vec(link_at(), 1..20).prop_map(|links| PeerFrame::Skipped(Skipped { links }));
    let need = (any::<[u8; 16]>(), vec(link_at(), 0..=8), queue());
    let need = need.prop_map(|(stream, leaves, queue)| {
        PeerFrame::Need(Need {
            stream: StreamId(stream),
            leaves: leaves
                .into_iter()
                .map(|at| (at.position, at.link))
                .collect(),
            queue,
        })
    });
    let hold = (link_at(), any::<u16>(), text(100)).prop_map(|(at, outcome, text)| {
        PeerFrame::Hold(Hold {
            stream: at.stream,
            position: at.position,
            previous: at.link,
            outcome: Outcome(outcome),
            text,
        })
    });
    prop_oneof![skip, order_ack, skipped, need, hold]
}

fn large() -> impl Strategy<Value = PeerFrame> {
    let announce = data().prop_map(|data| {
        PeerFrame::Announce(Announce {
            number: data.number,
            tag: data.tag,
            transit: data.transit,
            envelope: data.envelope,
        })
    });
    let wanted = prop_oneof![
        (0..=1_u32 << 30).prop_map(Wanted::From),
        Just(Wanted::Have),
        Just(Wanted::Wait),
    ];
    let wanted = (entry(), wanted)
        .prop_map(|(entry, wanted)| PeerFrame::BodyWanted(BodyWanted { entry, wanted }));
    let part = (entry(), 0..1_u32 << 29, vec(any::<u8>(), 1..300));
    let part = part.prop_map(|(entry, offset, part)| {
        PeerFrame::BodyPart(BodyPart {
            entry,
            offset,
            part: part.into(),
        })
    });
    prop_oneof![announce, wanted, part]
}

fn finals() -> impl Strategy<Value = PeerFrame> {
    let outcome = any::<u16>().prop_map(Outcome);
    let finals = (qm_id(), vec((entry(), outcome), 1..50))
        .prop_map(|(source, entries)| PeerFrame::Final(Final { source, entries }));
    let confirm = (qm_id(), vec(entry(), 1..50))
        .prop_map(|(source, entries)| PeerFrame::FinalConfirm(FinalConfirm { source, entries }));
    let mark = (any::<u64>().prop_map(Incarnation), any::<u64>());
    let evicted = (qm_id(), vec(mark, 1..50))
        .prop_map(|(source, marks)| PeerFrame::Evicted(Evicted { source, marks }));
    prop_oneof![finals, confirm, evicted]
}

fn remote() -> impl Strategy<Value = PeerFrame> {
    let request =
        (any::<u64>(), client_frame()).prop_filter_map("asked of others", |(channel, frame)| {
            let request = RemoteRequest::new(channel, frame)?;
            match &request.ask {
                RemoteAsk::Receive(receive) if receive.transaction.is_some() => None,
                _ => Some(PeerFrame::RemoteRequest(request)),
            }
        });
    let answer = (any::<u64>(), node_frame())
        .prop_filter_map("answered to others", |(channel, frame)| {
            RemoteAnswer::new(channel, frame).map(PeerFrame::RemoteAnswer)
        });
    prop_oneof![request, answer]
}

/// Ranges that ascend and do not touch.
fn ranges(least: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    vec((0..1000_u64, 0..1000_u64), least..20).prop_map(|steps| {
        let mut next = 0;
        let range = |(gap, more)| {
            let first = next + gap;
            let last = first + more;
            next = last + 2;
            (first, last)
        };
        steps.into_iter().map(range).collect()
    })
}

fn put() -> impl Strategy<Value = Put> {
    let fixed = (1..=u64::MAX, 0..3_u8, 0..8_u8, 0..8_u8, 0..16_u8);
    let wishes = (
        0..3_u8,
        option::of(any::<u64>()),
        option::of(any::<u64>()),
        option::of((vec(any::<u8>(), 1..=128), option::of(any::<u64>()))),
        option::of(1..=u64::MAX),
    );
    let texts = (
        "[a-z/]{1,40}",
        text(249),
        bytes(256),
        text(100),
        text(60),
        text(100),
    );
    (fixed, wishes, texts, properties(), bytes(200)).prop_map(
        |(fixed, wishes, texts, properties, body)| {
            let mut put = Put::new(fixed.0, texts.0, body);
            put.class = Class::from_code(fixed.1).unwrap();
            put.priority = match put.class {
                Class::Transactional => Priority::LOWEST,
                _ => Priority::new(fixed.2).unwrap(),
            };
            put.flags = MessageFlags::from_bits(fixed.3).unwrap();
            put.ack_wishes = AckWishes::from_bits(fixed.4).unwrap();
            put.follow = [Follow::None, Follow::Delivered, Follow::Received][usize::from(wishes.0)];
            put.time_to_reach_queue_ms = wishes.1;
            put.time_to_be_received_ms = wishes.2;
            put.idempotency = wishes.3.map(|(key, number)| IdempotencyKey {
                key: key.into(),
                number,
            });
            put.transaction = wishes.4;
            put.label = texts.1;
            put.correlation_id = texts.2;
            put.response_queue = texts.3.clone();
            put.admin_queue = texts.3;
            put.content_type = texts.4;
            put.trace_context = texts.5;
            put.properties = properties;
            put
        },
    )
}

fn receive() -> impl Strategy<Value = Receive> {
    let limits = (
        any::<u64>(),
        any::<bool>(),
        1..=u32::MAX,
        any::<u32>(),
        any::<u64>(),
    );
    let filters = (
        option::of(any::<u64>()),
        option::of(any::<u64>()),
        bytes(256),
        option::of(1..=u64::MAX),
    );
    (limits, filters, queue()).prop_map(|(limits, filters, queue)| Receive {
        request: limits.0,
        queue,
        mode: if limits.1 {
            ReceiveMode::Take
        } else {
            ReceiveMode::Peek
        },
        messages_max: limits.2,
        bytes_max: limits.3,
        wait_ms: limits.4,
        after: filters.0,
        lookup: filters.1,
        correlation_id: filters.2,
        transaction: filters.3,
    })
}

/// Any frame from an application.
pub(crate) fn client_frame() -> impl Strategy<Value = ClientFrame> {
    let hello =
        (any::<u16>(), any::<[u8; 16]>(), text(60)).prop_map(|(protocol, client, program)| {
            ClientFrame::Hello(ClientHello {
                protocol,
                client: ClientId(client),
                program,
            })
        });
    let verdict = prop_oneof![
        Just(Verdict::Consume),
        Just(Verdict::GiveBack),
        Just(Verdict::Reject),
    ];
    let settle = (any::<u64>(), queue(), verdict, ranges(1)).prop_map(
        |(request, queue, verdict, ranges)| {
            ClientFrame::Settle(Settle {
                request,
                queue,
                verdict,
                ranges,
            })
        },
    );
    let admin = (any::<u64>(), bytes(300))
        .prop_map(|(request, json)| ClientFrame::Admin(Admin { request, json }));
    let end =
        (1..=u64::MAX, 1..=u64::MAX, any::<bool>()).prop_map(|(sequence, transaction, commit)| {
            ClientFrame::EndTransaction(EndTransaction {
                sequence,
                transaction,
                commit,
            })
        });
    prop_oneof![
        hello,
        put().prop_map(ClientFrame::Put),
        receive().prop_map(ClientFrame::Receive),
        settle,
        admin,
        end,
    ]
}

/// Any frame from a node to an application.
pub(crate) fn node_frame() -> impl Strategy<Value = NodeFrame> {
    let outcome = || any::<u16>().prop_map(Outcome);
    let hello = (
        (any::<u16>(), qm_id(), any::<u64>()),
        (any::<u32>(), 1..=u32::MAX, any::<u32>(), text(60)),
    );
    let hello = hello.prop_map(|(ids, rest)| {
        NodeFrame::Hello(NodeHello {
            protocol: ids.0,
            node: ids.1,
            incarnation: Incarnation(ids.2),
            body_bytes_max: rest.0,
            window_messages: rest.1,
            window_bytes: rest.2,
            name: rest.3,
        })
    });
    let accepted = (1..1_u64 << 40, 1..=u32::MAX, id(), any::<bool>());
    let accepted = accepted.prop_map(|(first_sequence, count, mut first_id, repeated)| {
        first_id.sequence >>= 1;
        NodeFrame::Accepted(Accepted {
            first_sequence,
            count,
            first_id,
            repeated,
        })
    });
    let refused = (1..=u64::MAX, outcome(), text(100)).prop_map(|(sequence, outcome, text)| {
        NodeFrame::Refused(Refused {
            sequence,
            outcome,
            text,
        })
    });
    let run = (1..=u32::MAX, any::<u32>(), outcome()).prop_map(|(first, more, outcome)| {
        let first = u64::from(first);
        (first, first + u64::from(more), outcome)
    });
    let fate = vec(run, 1..20).prop_map(|runs| NodeFrame::Fate(Fate { runs }));
    let delivery = (data(), any::<[u64; 3]>(), any::<u32>()).prop_map(|(data, numbers, aborts)| {
        NodeFrame::Delivery(Delivery {
            request: numbers[0],
            lookup: numbers[1],
            arrived_at_us: numbers[2],
            abort_count: aborts,
            be_received_left_ms: data.transit.be_received_left_ms,
            tag: data.tag,
            envelope: data.envelope,
            body: data.body,
        })
    });
    let end = || (any::<u64>(), any::<u32>(), option::of(outcome()), text(100));
    let done = end().prop_map(|(request, messages, outcome, text)| {
        NodeFrame::ReceiveDone(ReceiveDone {
            request,
            messages,
            outcome,
            text,
        })
    });
    let settled = (end(), ranges(0)).prop_map(|((request, messages, outcome, text), lost)| {
        NodeFrame::Settled(Settled {
            request,
            messages,
            outcome,
            text,
            lost,
        })
    });
    let reply = (any::<u64>(), any::<bool>(), bytes(300))
        .prop_map(|(request, ok, json)| NodeFrame::AdminReply(AdminReply { request, ok, json }));
    let ended = (
        1..=u64::MAX,
        1..=u64::MAX,
        any::<bool>(),
        (option::of(outcome()), any::<u64>(), any::<u64>()),
        text(100),
    );
    let ended = ended.prop_map(|(sequence, transaction, repeated, how, text)| {
        let (outcome, incarnation, commit) = how;
        let id = MessageId {
            incarnation: Incarnation(incarnation),
            sequence: commit,
        };
        NodeFrame::TransactionEnded(TransactionEnded {
            sequence,
            transaction,
            committed: outcome.is_none().then_some(id),
            repeated,
            outcome,
            text,
        })
    });
    prop_oneof![
        hello, accepted, refused, fate, delivery, done, settled, reply, ended
    ]
}
