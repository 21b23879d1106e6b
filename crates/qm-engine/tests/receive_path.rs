//! What a message costs on the engine's receive path before anything is kept of it: a frame is cut
//! off what arrived, its envelope is looked at where it lies, its tag is computed. None of that
//! allocates, whatever the envelope holds.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use qm_engine::admin::AdminRequest;
use qm_engine::{
    Engine, EngineConfig, Identity, Input, LinkId, LocalSettings, Now, Output, Recovered,
    SeededEntropy, Timestamp, Trust,
};
use qm_wire::{
    Class, Confirm, Data, Envelope, Hello, HelloFlags, INFINITE_MS, Incarnation, MessageId,
    PROTOCOL_MAX, PROTOCOL_MIN, PeerFrame, Properties, QmId, Salt, Tag, Transit, Welcome,
    WelcomeFlags,
};

const LINK: LinkId = LinkId(1);
const PEER_KEY: [u8; 32] = [9; 32];

fn now() -> Now {
    Now {
        at: Timestamp(1_000),
        wall_us: 1,
    }
}

/// Carries out everything the engine asks for, and gives the attempt of a hello it said.
fn drain(engine: &mut Engine) -> Option<u64> {
    let mut attempt = None;
    let mut confirm = None;
    while let Some(output) = engine.poll(now()) {
        match output {
            Output::Persist { ticket, .. } => engine.handle(now(), Input::Persisted { ticket }),
            Output::Send { mut frames, .. } => {
                while !frames.is_empty() {
                    let frame = PeerFrame::next(&mut frames, 1 << 20).unwrap().unwrap();
                    assert!(!matches!(frame, PeerFrame::Goodbye(_)), "{frame:?}");
                    if let PeerFrame::Hello(hello) = frame {
                        attempt = Some(hello.attempt);
                    } else if let PeerFrame::Welcome(welcome) = frame {
                        confirm = Some(Confirm {
                            attempt: welcome.attempt,
                            token: welcome.token,
                        });
                    }
                }
            }
            Output::Close { text, .. } => panic!("the session ended: {text}"),
            _ => {}
        }
    }
    if let Some(confirm) = confirm {
        let mut bytes = BytesMut::new();
        PeerFrame::Confirm(confirm).encode(&mut bytes);
        receive(engine, bytes);
        drain(engine);
    }
    attempt
}

/// An engine with a queue and an open session with a peer.
fn open() -> Engine {
    let public_key = [1; 32];
    let me = Identity {
        qm: QmId::from_ed25519_public_key(&public_key),
        public_key,
        store_id: [1; 16],
        token_key: qm_engine::TokenKey::new(public_key),
    };
    let mut config = EngineConfig::default();
    config.trust = Trust::Any;
    let entropy = Box::new(SeededEntropy::new(1));
    let mut engine = Engine::new(config, me, Recovered::default(), entropy, now());
    let settings = LocalSettings::new("orders".parse().unwrap());
    engine.handle(
        now(),
        Input::Admin {
            conn: qm_engine::ConnId(1),
            request: 1,
            what: AdminRequest::QueueCreate(settings),
        },
    );
    drain(&mut engine);
    engine.handle(
        now(),
        Input::Connected {
            link: LINK,
            peer: QmId::from_ed25519_public_key(&PEER_KEY),
            public_key: PEER_KEY,
            own: engine.qm_id(),
            remote: "10.0.0.9:1801".parse().unwrap(),
            dial: None,
        },
    );
    let attempt = drain(&mut engine).unwrap();
    let hello = Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        incarnation: Incarnation(7),
        prior_incarnations: Vec::new(),
        attempt: 1,
        token: Bytes::new(),
        listen_port: 1801,
        body_bytes_max: 4 << 20,
        flags: HelloFlags::NONE,
        enrolment: Bytes::new(),
        name: "peer".into(),
        host: "".into(),
    };
    let welcome = Welcome {
        flags: WelcomeFlags::NONE,
        protocol: PROTOCOL_MAX,
        incarnation: Incarnation(7),
        attempt,
        nonce: [5; 16],
        store_id: [6; 16],
        token: Bytes::new(),
    };
    let mut bytes = BytesMut::new();
    PeerFrame::Hello(hello).encode(&mut bytes);
    PeerFrame::Welcome(welcome).encode(&mut bytes);
    receive(&mut engine, bytes);
    drain(&mut engine);
    engine
}

fn receive(engine: &mut Engine, bytes: BytesMut) {
    let frames = bytes.freeze();
    engine.handle(now(), Input::Received { link: LINK, frames });
}

/// Messages behind each other in one buffer, with every field or with none that may be absent.
fn batch(first_number: u64, messages: u64, rich: bool) -> BytesMut {
    let source = QmId::from_ed25519_public_key(&PEER_KEY);
    let (salt, body) = (Salt([3; 16]), Bytes::from_static(b"body"));
    let mut lane = BytesMut::new();
    for n in 0..messages {
        let id = MessageId {
            incarnation: Incarnation(7),
            sequence: n + 1,
        };
        let queue = "ORDERS".parse().unwrap();
        let mut envelope = Envelope::new(source, id, salt, Class::Express, queue);
        envelope.body_bytes = 4;
        if rich {
            envelope.label = "Order 4711 from till three, 2".into();
            envelope.correlation_id = Bytes::from_static(b"0123456789abcdef-42");
            envelope.response_queue = "qm://hub.example.com/answers".into();
            envelope.admin_queue = "qm://hub.example.com/admin".into();
            envelope.content_type = "application/json".into();
            envelope.trace_context = "00-0af7651916cd43dd8448eb211c80319c-b7ad-01".into();
            let items = [("amount", "12.50"), ("currency", "EUR"), ("till", "3")];
            envelope.properties = Properties::new(items).unwrap();
        }
        let mut encoded = BytesMut::new();
        envelope.encode(&mut encoded).unwrap();
        let encoded = encoded.freeze();
        let data = Data {
            number: first_number + n,
            tag: Tag::compute(&encoded, &salt, &body),
            transit: Transit::direct(INFINITE_MS, INFINITE_MS),
            envelope: encoded,
            body: body.clone(),
        };
        data.encode(&mut lane);
    }
    lane
}

/// Allocations while the engine takes messages for the first time, and then their duplicates.
fn allocations(messages: u64, rich: bool) -> (u64, u64) {
    let mut engine = open();
    let fresh = batch(1, messages, rich);
    let first = measure(|| receive(&mut engine, fresh)).count_total;
    drain(&mut engine);
    let again = batch(messages + 1, messages, rich);
    let second = measure(|| receive(&mut engine, again)).count_total;
    drain(&mut engine);
    let counters = engine.counters();
    assert_eq!(counters.delivered, messages);
    assert_eq!(counters.duplicates, messages);
    (first, second)
}

#[test]
fn reading_a_message_allocates_nothing_whatever_its_envelope_holds() {
    let (plain, plain_again) = allocations(512, false);
    let (rich, rich_again) = allocations(512, true);
    assert_eq!((plain, plain_again), (rich, rich_again));
}

/// Of a duplicate nothing is kept, so nothing but lists that grow by doubling is allocated.
#[test]
fn a_duplicate_allocates_nothing() {
    let (_, few) = allocations(256, true);
    let (_, many) = allocations(1_024, true);
    assert!(
        many < few + 48,
        "{few} allocations for 256 and {many} for 1,024"
    );
}
