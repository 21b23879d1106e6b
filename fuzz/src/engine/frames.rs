//! What a peer may say at any time, fitting or not.

use bytes::{Bytes, BytesMut};
use qm_engine::LinkId;
use qm_wire::local::{Admin, AdminReply, ReceiveDone};
use qm_wire::{
    AckWishes, Announce, Answer, BodyPart, BodyWanted, Challenge, Class, Confirm, Credit, Data,
    Entry, Envelope, Evicted, Final, FinalConfirm, Goodbye, Hello, HelloFlags, Incarnation, Known,
    MessageFlags, MessageId, NotHeld, Outcome, PeerFrame, QmId, Query, QueueState, Refusal, Reject,
    RemoteAnswer, RemoteAsk, RemoteReply, RemoteRequest, RoutedAck, Salt, SessionAck, Tag, Transit,
    Wanted, Welcome, WelcomeFlags, tag_hash,
};

use super::{Cut, PEERS, World, id_of, life_of, queue};

impl World {
    pub(super) fn entry(&self, cut: &mut Cut<'_>) -> Entry {
        let which = cut.byte();
        if let Some(entry) = self.known_entry(which).filter(|_| which < 192) {
            return entry;
        }
        let incarnation = match cut.below(3) {
            0 => self.engine.incarnation(),
            1 => life_of(cut.below(PEERS), cut.byte()),
            _ => Incarnation(cut.number()),
        };
        Entry {
            id: MessageId {
                incarnation,
                sequence: cut.number(),
            },
            tag: Tag([cut.byte(); 8]),
        }
    }

    pub(super) fn entries(&self, cut: &mut Cut<'_>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = (0..=cut.below(6)).map(|_| self.entry(cut)).collect();
        entries.sort_unstable();
        entries.dedup();
        entries
    }

    pub(super) fn outcome(cut: &mut Cut<'_>) -> Outcome {
        [
            Outcome::REACHED_QUEUE,
            Outcome::BAD_DESTINATION_QUEUE,
            Outcome::RECEIVED,
            Outcome::RECEIVE_EXPIRED,
            Outcome::VOIDED,
            Outcome::DAMAGED,
            Outcome(0),
            Outcome(u16::MAX),
        ][usize::from(cut.below(8))]
    }

    pub(super) fn hello(peer: u8, cut: &mut Cut<'_>) -> Hello {
        let life = cut.byte();
        let priors = (0..cut.below(4)).map(|n| life_of(peer, life.wrapping_add(n + 1)));
        Hello {
            protocol_min: if cut.byte() == 255 { 9 } else { 1 },
            protocol_max: if cut.byte() == 255 { 0 } else { 1 },
            incarnation: life_of(peer, life),
            prior_incarnations: priors.collect(),
            attempt: cut.number(),
            token: Bytes::new(),
            listen_port: u16::from(cut.byte()),
            body_bytes_max: u32::MAX,
            flags: HelloFlags::NONE,
            enrolment: Bytes::new(),
            name: ["", "hub", "a/b"][usize::from(cut.below(3))].into(),
            host: "".into(),
        }
    }

    pub(super) fn data(&mut self, link: LinkId, peer: u8, cut: &mut Cut<'_>) -> Data {
        let source = if cut.byte() == 255 {
            id_of(cut.below(PEERS))
        } else {
            id_of(peer)
        };
        let id = MessageId {
            incarnation: life_of(peer, cut.byte()),
            sequence: u64::from(cut.byte()),
        };
        let class = Class::from_code(cut.below(3)).unwrap_or(Class::Express);
        let to = if class == Class::Transactional && cut.byte() < 224 {
            super::TRANSACTIONAL
        } else {
            cut.below(4)
        };
        let queue = queue(to);
        let salt = Salt([cut.below(2); 16]);
        let mut envelope = Envelope::new(source, id, salt, class, queue);
        let body = Bytes::from(vec![cut.byte(); usize::from(cut.byte()) * 12]);
        envelope.body_bytes = u32::try_from(body.len()).unwrap_or(0);
        envelope.flags = MessageFlags::from_bits(cut.below(8)).unwrap_or_default();
        if cut.below(2) == 1 {
            envelope.ack_wishes = AckWishes::POSITIVE_RECEIVE;
        }
        let mut encoded = BytesMut::new();
        envelope.encode(&mut encoded).expect("within the limits");
        let encoded = encoded.freeze();
        let mut tag = Tag::compute(&encoded, &salt, &body);
        if cut.byte() == 255 {
            tag.0[0] ^= 1;
        }
        let number = self.number(link, cut);
        let left = |cut: &mut Cut<'_>| match cut.below(4) {
            0 => u64::from(cut.byte()) * 100,
            _ => qm_wire::INFINITE_MS,
        };
        self.told.insert((link, number), tag);
        if class == Class::Express {
            self.durable.insert(tag);
        }
        self.told_entries.push(Entry { id, tag });
        // Only a message of a stream has a place, and it has one: but for what is wrong.
        let placed = (class == Class::Transactional) != (cut.byte() == 255);
        let place = placed.then(|| self.streams.place(peer, cut));
        let data = Data {
            number,
            tag,
            transit: Transit {
                reach_queue_left_ms: left(cut),
                be_received_left_ms: left(cut),
                hops: 0,
                place,
                route: None,
            },
            envelope: encoded,
            body,
        };
        self.tell_in_stream(peer, &data);
        data
    }

    /// Mostly the next one; none comes twice on a link, or nobody could say what an ack names.
    pub(super) fn number(&mut self, link: LinkId, cut: &mut Cut<'_>) -> u64 {
        let any = (cut.byte() > 250).then(|| cut.number());
        if let Some(any) = any.filter(|any| !self.told.contains_key(&(link, *any))) {
            return any;
        }
        let next = self.numbers.entry(link).or_insert(0);
        *next += 1;
        while self.told.contains_key(&(link, *next)) {
            *next += 1;
        }
        *next
    }

    /// Whether the engine granted credit for another message.
    fn has_credit(&self, link: LinkId) -> bool {
        let granted = self.granted.get(&link).copied().unwrap_or(0);
        self.numbers.get(&link).copied().unwrap_or(0) < granted
    }

    /// A frame that a peer may say at any time, fitting or not.
    pub(super) fn frame(&mut self, link: LinkId, peer: u8, cut: &mut Cut<'_>) -> PeerFrame {
        let me = self.engine.qm_id();
        let someone = |cut: &mut Cut<'_>, right: QmId| match cut.byte() {
            255 => id_of(cut.below(PEERS)),
            _ => right,
        };
        match cut.below(28) {
            0 => PeerFrame::Hello(Self::hello(peer, cut)),
            1 => PeerFrame::Welcome(self.welcome(link, peer, cut)),
            2 => PeerFrame::Credit(Credit {
                messages: cut.number(),
                bytes: cut.number().saturating_mul(1_000),
            }),
            3 => PeerFrame::QueueState(QueueState {
                queue: queue(cut.below(4)),
                open: cut.below(2) == 0,
            }),
            4..=6 | 25 if self.has_credit(link) || cut.byte() > 240 => {
                PeerFrame::Data(self.data(link, peer, cut))
            }
            4..=7 | 25 | 26 => self.session_ack(link, cut),
            8 => PeerFrame::RoutedAck(RoutedAck {
                source: someone(cut, me),
                duplicate: cut.below(2) == 0,
                entries: self.entries(cut),
            }),
            9 => PeerFrame::NotHeld(NotHeld {
                source: someone(cut, id_of(peer)),
                entries: self.entries(cut).into_iter().map(|e| (e, true)).collect(),
            }),
            10 => PeerFrame::Query(Query {
                source: someone(cut, id_of(peer)),
                void: cut.byte() == 255,
                entries: self.entries(cut),
            }),
            11 => {
                let known = match cut.below(4) {
                    0 => Known::Delivered,
                    1 => Known::InFlight,
                    2 => Known::Unknown,
                    _ => Known::Outcome(Self::outcome(cut)),
                };
                PeerFrame::Answer(Answer {
                    source: someone(cut, me),
                    entries: self.entries(cut).into_iter().map(|e| (e, known)).collect(),
                })
            }
            12 => {
                let (number, tag) = match self.seen.last() {
                    Some((_, number, entry)) if cut.below(2) == 0 => (*number, entry.tag),
                    _ => (cut.number(), Tag([cut.byte(); 8])),
                };
                PeerFrame::Reject(Reject {
                    refusals: vec![Refusal {
                        number,
                        tag,
                        outcome: Self::outcome(cut),
                    }],
                })
            }
            13 | 14 => self.on_stream(peer, cut),
            17 if self.has_credit(link) => match self.told_again(link, peer, cut) {
                Some(data) => {
                    self.told.insert((link, data.number), data.tag);
                    PeerFrame::Data(data)
                }
                None => self.skip(peer, cut),
            },
            15..=17 => self.skip(peer, cut),
            18 => PeerFrame::Final(Final {
                source: someone(cut, me),
                entries: {
                    let entries = self.entries(cut).into_iter();
                    entries.map(|e| (e, Self::outcome(cut))).collect()
                },
            }),
            19 => PeerFrame::FinalConfirm(FinalConfirm {
                source: someone(cut, id_of(peer)),
                entries: self.entries(cut),
            }),
            20 => PeerFrame::Evicted(Evicted {
                source: someone(cut, me),
                marks: (0..=cut.below(3))
                    .map(|_| (self.entry(cut).id.incarnation, cut.number()))
                    .collect(),
            }),
            21 | 22 => self.on_copies(link, peer, cut),
            23 => self.on_handshake(link, cut),
            24 => self.unoffered(link, peer, cut),
            _ => PeerFrame::Goodbye(Goodbye {
                reason: Self::outcome(cut),
                text: "enough".into(),
            }),
        }
    }

    pub(super) fn welcome(&self, link: LinkId, peer: u8, cut: &mut Cut<'_>) -> Welcome {
        let right = self.attempts.get(&link).copied().unwrap_or(0);
        Welcome {
            flags: if cut.byte() == 255 {
                WelcomeFlags::PENDING
            } else {
                WelcomeFlags::NONE
            },
            protocol: 1,
            incarnation: life_of(peer, cut.byte()),
            attempt: if cut.byte() == 255 {
                cut.number()
            } else {
                right
            },
            nonce: [0; 16],
            store_id: [peer; 16],
            // Any but none is confirmed.
            token: Bytes::from(vec![cut.byte(); 8]),
        }
    }

    pub(super) fn session_ack(&self, link: LinkId, cut: &mut Cut<'_>) -> PeerFrame {
        let on_link: Vec<_> = self.seen.iter().filter(|(at, _, _)| *at == link).collect();
        let right = cut.below(3) > 0;
        let (mut ranges, mut tags) = (Vec::new(), Vec::new());
        for (_, number, entry) in on_link
            .iter()
            .rev()
            .take(usize::from(cut.below(5)) + 1)
            .rev()
        {
            ranges.push((*number, *number));
            tags.push(entry.tag);
        }
        ranges.dedup();
        if !right || ranges.is_empty() {
            let first = cut.number().clamp(1, u64::MAX - 5_000);
            ranges = vec![(first, first + cut.number().min(4_095))];
        }
        PeerFrame::SessionAck(SessionAck {
            duplicate: cut.below(2) == 0,
            tag_hash: tag_hash(tags),
            ranges,
        })
    }

    /// Proofs of the handshake, as asked for or not.
    fn on_handshake(&self, link: LinkId, cut: &mut Cut<'_>) -> PeerFrame {
        let right = self.answers.get(&link);
        match (cut.below(4), right) {
            (0, Some(answer)) => answer.clone(),
            (1, _) => PeerFrame::Challenge(Challenge {
                attempt: self.attempts.get(&link).copied().unwrap_or(1),
                challenge: [cut.byte(); 16],
            }),
            (2, _) => PeerFrame::ChallengeOk(Challenge {
                attempt: cut.number(),
                challenge: [cut.byte(); 16],
            }),
            _ => PeerFrame::Confirm(Confirm {
                attempt: cut.number(),
                token: Bytes::from(vec![cut.byte(); 8]),
            }),
        }
    }

    /// Kinds for what the engine does not offer.
    fn unoffered(&mut self, link: LinkId, peer: u8, cut: &mut Cut<'_>) -> PeerFrame {
        let channel = cut.number();
        match cut.below(8) {
            0 => {
                let data = self.data(link, peer, cut);
                PeerFrame::Announce(Announce {
                    number: data.number,
                    tag: data.tag,
                    transit: data.transit,
                    envelope: data.envelope,
                })
            }
            1 => PeerFrame::BodyWanted(BodyWanted {
                entry: self.entry(cut),
                wanted: [Wanted::From(7), Wanted::Have, Wanted::Wait][usize::from(cut.below(3))],
            }),
            2 => PeerFrame::BodyPart(BodyPart {
                entry: self.entry(cut),
                offset: u32::from(cut.byte()),
                part: Bytes::from(vec![7; usize::from(cut.byte())]),
            }),
            3 => {
                let mut receive = self.receive(cut);
                receive.transaction = None;
                PeerFrame::RemoteRequest(RemoteRequest {
                    channel,
                    ask: RemoteAsk::Receive(receive),
                })
            }
            4 => PeerFrame::RemoteRequest(RemoteRequest {
                channel,
                ask: RemoteAsk::Settle(self.settle(cut)),
            }),
            5 => PeerFrame::RemoteRequest(RemoteRequest {
                channel,
                ask: RemoteAsk::Admin(Admin {
                    request: cut.number(),
                    json: Bytes::from_static(b"{}"),
                }),
            }),
            6 => PeerFrame::RemoteAnswer(RemoteAnswer {
                channel,
                reply: RemoteReply::ReceiveDone(ReceiveDone {
                    request: cut.number(),
                    messages: 0,
                    outcome: None,
                    text: "".into(),
                }),
            }),
            _ => PeerFrame::RemoteAnswer(RemoteAnswer {
                channel,
                reply: RemoteReply::AdminReply(AdminReply {
                    request: cut.number(),
                    ok: true,
                    json: Bytes::from_static(b"{}"),
                }),
            }),
        }
    }
}
