//! Peers and applications that mean harm, against a running node over real sockets: it goes on, its
//! memory stays bounded, and a good peer keeps its throughput.
//!
//! In ordinary runs short, and without a verdict about speed: machines of others are busy. With
//! `QM_SLOW_TESTS=1` at full length, the table that `cargo xtask hostile` prints; `QM_ATTACK` names
//! one of them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use qm_client::blocking::Client;
use qm_transport::{Endpoint, EndpointConfig, Event, Held, Lane, LinkId, NodeKey};
use qm_wire::local::{Admin, ClientFrame, ClientHello};
use qm_wire::{
    Class, ClientId, Credit, Data, Entry, Envelope, Hello, HelloFlags, Incarnation, MessageId,
    PROTOCOL_MAX, PROTOCOL_MIN, PeerFrame, QmId, Query, RoutedAck, Salt, SessionAck, Tag, Transit,
    Welcome, WelcomeFlags,
};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::support::{TestNode, numbered, receive, slow_tests};

/// Share of its throughput that a good peer keeps.
const KEPT_MIN: f64 = 0.8;
/// How often an attack comes and goes. The middle one of the rounds' shares is what counts: a
/// machine that does something else for two seconds spoils one round.
const ROUNDS: usize = 5;
/// What the whole process, attackers included, may grow by during one attack.
const GROWTH_BYTES_MAX: u64 = 512 << 20;

/// What an attacker knows of its victim.
#[derive(Clone)]
struct Target {
    at: SocketAddr,
    qm: QmId,
    socket: PathBuf,
    over: Arc<AtomicBool>,
}

impl Target {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A peer of its own making.
struct Attacker {
    endpoint: Endpoint,
    events: mpsc::UnboundedReceiver<Event>,
    link: Option<LinkId>,
    qm: QmId,
    life: u64,
    /// With this it takes what it was sent and never gives it back: it does not read on.
    hoard: Option<Vec<Held>>,
    credit: u64,
    number: u64,
}

fn key(number: u64) -> NodeKey {
    let mut seed = [0xaa; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    NodeKey::generate(seed)
}

impl Attacker {
    async fn new(number: u64) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let config = EndpointConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            received_bytes_max: 64 << 10,
            steering_bytes_max: 64 << 10,
            ..EndpointConfig::default()
        };
        let key = key(number);
        Self {
            endpoint: Endpoint::bind(config, &key, tell).await.unwrap(),
            events,
            link: None,
            qm: key.qm_id(),
            life: 1,
            hoard: None,
            credit: 0,
            number: 0,
        }
    }

    async fn event(&mut self) -> Option<Event> {
        let event = timeout(Duration::from_millis(500), self.events.recv()).await;
        match event.ok().flatten()? {
            Event::Received {
                frames,
                held,
                link,
                lane,
            } => {
                if let Some(hoard) = &mut self.hoard {
                    hoard.push(held);
                    return None;
                }
                Some(Event::Received {
                    frames,
                    held,
                    link,
                    lane,
                })
            }
            Event::Closed { link, .. } => {
                if self.link == Some(link) {
                    self.link = None;
                }
                None
            }
            other => Some(other),
        }
    }

    async fn connect(&mut self, target: &Target) -> bool {
        self.endpoint
            .dial(1, &target.at.to_string(), Some(target.qm));
        match self.event().await {
            Some(Event::Connected { link, .. }) => {
                self.link = Some(link);
                true
            }
            _ => false,
        }
    }

    fn send(&self, lane: Lane, frames: &[PeerFrame]) {
        let mut bytes = BytesMut::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        self.send_bytes(lane, bytes.freeze());
    }

    fn send_bytes(&self, lane: Lane, bytes: Bytes) {
        if let Some(link) = self.link {
            self.endpoint.send(link, lane, bytes);
        }
    }

    fn hello(&self) -> PeerFrame {
        PeerFrame::Hello(Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            incarnation: Incarnation(self.life),
            prior_incarnations: (2..50).map(|n| Incarnation(self.life * 100 + n)).collect(),
            attempt: 1,
            token: Bytes::new(),
            listen_port: 0,
            body_bytes_max: 4 << 20,
            flags: HelloFlags::NONE,
            enrolment: Bytes::new(),
            name: "hub".into(),
            host: "".into(),
        })
    }

    /// Opens a session as a good peer does.
    async fn open(&mut self, target: &Target) -> bool {
        if self.link.is_none() && !self.connect(target).await {
            return false;
        }
        self.send(Lane::Control, &[self.hello()]);
        let mut welcomed = false;
        for _ in 0..20 {
            let Some(Event::Received { mut frames, .. }) = self.event().await else {
                break;
            };
            while let Ok(Some(frame)) = PeerFrame::next(&mut frames, 8 << 20) {
                match frame {
                    PeerFrame::Hello(hello) => {
                        let welcome = Welcome {
                            flags: WelcomeFlags::NONE,
                            protocol: PROTOCOL_MAX,
                            incarnation: Incarnation(self.life),
                            attempt: hello.attempt,
                            nonce: [0; 16],
                            store_id: [9; 16],
                            token: Bytes::new(),
                        };
                        self.send(Lane::Control, &[PeerFrame::Welcome(welcome)]);
                        welcomed = true;
                    }
                    PeerFrame::Credit(credit) => self.credit = credit.messages,
                    _ => {}
                }
            }
            if welcomed && self.credit > 0 {
                return true;
            }
        }
        false
    }

    /// Takes in what came, without waiting.
    async fn look(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.take_in(event);
        }
        tokio::task::yield_now().await;
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Received {
                mut frames, held, ..
            } => {
                if let Some(hoard) = &mut self.hoard {
                    return hoard.push(held);
                }
                while let Ok(Some(frame)) = PeerFrame::next(&mut frames, 8 << 20) {
                    if let PeerFrame::Credit(credit) = frame {
                        self.credit = credit.messages;
                    }
                }
            }
            Event::Closed { .. } => self.link = None,
            _ => {}
        }
    }

    /// Sends the same over and over, as fast as the victim takes it; comes back when shut out.
    async fn repeat(&mut self, target: &Target, lane: Lane, frames: &[PeerFrame]) {
        let mut bytes = BytesMut::new();
        while bytes.len() < 32 << 10 {
            for frame in frames {
                frame.encode(&mut bytes);
            }
        }
        let bytes = bytes.freeze();
        while !target.is_over() {
            let Some(link) = self.link else {
                // Shut out: it comes back as often as an attacker that saves its own processor.
                sleep(Duration::from_millis(50)).await;
                self.credit = 0;
                self.open(target).await;
                continue;
            };
            if self.endpoint.queued_bytes(link) < 256 << 10 {
                self.send_bytes(lane, bytes.clone());
            } else {
                // Enough is queued: the attack is as fast as the victim takes it.
                sleep(Duration::from_millis(1)).await;
            }
            self.look().await;
        }
    }

    fn data(&mut self, sequence: u64, queue: &str) -> Data {
        self.number += 1;
        let id = MessageId {
            incarnation: Incarnation(self.life),
            sequence,
        };
        let salt = Salt([3; 16]);
        let queue = queue.parse().unwrap();
        let mut envelope = Envelope::new(self.qm, id, salt, Class::Express, queue);
        envelope.body_bytes = 4;
        let mut encoded = BytesMut::new();
        envelope.encode(&mut encoded).unwrap();
        let (encoded, body) = (encoded.freeze(), Bytes::from_static(b"body"));
        Data {
            number: self.number,
            tag: Tag::compute(&encoded, &salt, &body),
            transit: Transit {
                reach_queue_left_ms: qm_wire::INFINITE_MS,
                be_received_left_ms: qm_wire::INFINITE_MS,
                hops: 0,
                place: None,
                route: None,
            },
            envelope: encoded,
            body,
        }
    }

    /// Sends messages as credit allows; `sequence` names each.
    async fn messages(&mut self, target: &Target, queue: &str, sequence: fn(u64) -> u64) {
        while !target.is_over() {
            if self.link.is_none() {
                self.life += 1;
                (self.credit, self.number) = (0, 0);
                self.open(target).await;
                continue;
            }
            let mut bytes = BytesMut::new();
            while self.number < self.credit && bytes.len() < 32 << 10 {
                let sequence = sequence(self.number);
                self.data(sequence, queue).encode(&mut bytes);
            }
            if !bytes.is_empty() {
                self.send_bytes(Lane::Priority(3), bytes.freeze());
            } else if let Some(event) = self.event().await {
                // More credit, or the end.
                self.take_in(event);
            }
            self.look().await;
        }
    }
}

fn entries(count: u64) -> Vec<Entry> {
    let entry = |sequence| Entry {
        id: MessageId {
            incarnation: Incarnation(77),
            sequence,
        },
        tag: Tag([5; 8]),
    };
    (1..=count).map(entry).collect()
}

/// Runs an attack's future on the calling thread.
fn with_runtime(attack: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(attack);
}

/// Keys without number, each with a greeting.
fn strangers(target: &Target) {
    with_runtime(async {
        let mut kept = Vec::new();
        for number in 1_000.. {
            if target.is_over() {
                return;
            }
            let mut attacker = Attacker::new(number).await;
            if attacker.connect(target).await {
                attacker.send(Lane::Control, &[attacker.hello()]);
            }
            kept.push(attacker);
            if kept.len() > 100 {
                kept.remove(0);
            }
        }
    });
}

/// Packets that begin handshakes and never end them.
fn initials(target: &Target) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut packet = vec![0x5c; 1_200];
    // Long header, Initial, version 1, eight bytes of connection id each way.
    packet[..7].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8, 0]);
    packet[14] = 8;
    let mut number = 0_u64;
    while !target.is_over() {
        for _ in 0..20 {
            number += 1;
            packet[6..14]
                .copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            drop(socket.send_to(&packet, target.at));
        }
        // Ten thousand a second.
        thread::sleep(Duration::from_millis(2));
    }
}

fn garbage(target: &Target) {
    with_runtime(async {
        let mut attacker = Attacker::new(1).await;
        while !target.is_over() {
            if attacker.open(target).await {
                attacker.send_bytes(Lane::Ack, Bytes::from(vec![0xee; 5_000]));
            }
            attacker.event().await;
            attacker.link = None;
            attacker.life += 1;
        }
    });
}

fn greetings(target: &Target) {
    with_runtime(async {
        let mut attacker = Attacker::new(2).await;
        while !target.is_over() {
            if attacker.open(target).await {
                let hello = attacker.hello();
                attacker.send(Lane::Control, &[hello.clone(), hello]);
            }
            attacker.event().await;
            attacker.link = None;
            attacker.life += 1;
        }
    });
}

fn tiny_frames(target: &Target) {
    with_runtime(async {
        let mut attacker = Attacker::new(3).await;
        attacker.open(target).await;
        let credit = PeerFrame::Credit(Credit {
            messages: 1,
            bytes: 1,
        });
        attacker.repeat(target, Lane::Control, &[credit]).await;
    });
}

fn questions_unread(target: &Target) {
    with_runtime(async {
        let mut attacker = Attacker::new(4).await;
        attacker.open(target).await;
        attacker.hoard = Some(Vec::new());
        let query = PeerFrame::Query(Query {
            source: attacker.qm,
            void: false,
            entries: entries(4_096),
        });
        attacker.repeat(target, Lane::Control, &[query]).await;
    });
}

fn forged_acks(target: &Target) {
    with_runtime(async {
        let mut attacker = Attacker::new(5).await;
        attacker.open(target).await;
        let frames = [
            PeerFrame::RoutedAck(RoutedAck {
                source: target.qm,
                duplicate: false,
                entries: entries(1),
            }),
            PeerFrame::SessionAck(SessionAck {
                duplicate: false,
                tag_hash: 1,
                ranges: vec![(1, 4_096)],
            }),
        ];
        attacker.repeat(target, Lane::Ack, &frames).await;
    });
}

fn unknown_queue(target: &Target) {
    with_runtime(async {
        let mut attacker = Attacker::new(6).await;
        attacker.messages(target, "nowhere", |number| number).await;
    });
}

fn duplicates(target: &Target) {
    with_runtime(async {
        let mut attacker = Attacker::new(7).await;
        attacker.messages(target, "spam", |_| 1).await;
    });
}

fn churn(target: &Target) {
    with_runtime(async {
        let mut attacker = Attacker::new(8).await;
        while !target.is_over() {
            attacker.life += 1;
            attacker.open(target).await;
            if let Some(link) = attacker.link.take() {
                attacker.endpoint.close(link, 0, "");
            }
            attacker.look().await;
        }
    });
}

fn slowloris(target: &Target) {
    let mut open: Vec<UnixStream> = Vec::new();
    while !target.is_over() {
        if open.len() < 200
            && let Ok(mut stream) = UnixStream::connect(&target.socket)
        {
            drop(stream.write_all(b"Q"));
            open.push(stream);
        }
        // A thousand a second until it holds enough.
        thread::sleep(Duration::from_millis(1));
    }
}

fn admin_flood(target: &Target) {
    let mut stream = UnixStream::connect(&target.socket).unwrap();
    let mut bytes = BytesMut::new();
    ClientFrame::Hello(ClientHello {
        protocol: 1,
        client: ClientId([0xad; 16]),
        program: "flood".into(),
    })
    .encode(&mut bytes);
    stream.write_all(&bytes).unwrap();
    let mut reading = stream.try_clone().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while reading.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut bytes = BytesMut::new();
    for request in 1..=500 {
        ClientFrame::Admin(Admin {
            request,
            json: Bytes::from_static(br#"{"do":"status"}"#),
        })
        .encode(&mut bytes);
    }
    let mut left = &bytes[..];
    while !target.is_over() {
        match stream.write(left) {
            Ok(0) => break,
            Ok(written) => left = &left[written..],
            Err(_) => {}
        }
        if left.is_empty() {
            left = &bytes;
        }
    }
    drop(stream.shutdown(std::net::Shutdown::Both));
}

type Attack = (&'static str, fn(&Target));

const ATTACKS: &[Attack] = &[
    ("forged acks without end", forged_acks),
    ("questions whose answers are not read", questions_unread),
    ("messages to a queue that is not there", unknown_queue),
    ("administrative requests without end", admin_flood),
    ("keys without number", strangers),
    ("handshakes never finished", initials),
    ("garbage in an open session", garbage),
    ("a second greeting", greetings),
    ("tiny frames without end", tiny_frames),
    ("the same message without end", duplicates),
    ("new lives and sessions without end", churn),
    ("local connections that say nothing", slowloris),
];

/// An attacker has a machine of its own: what is measured is what it costs its victim, not what it
/// takes from it by running here. What it does is done in the time that the others leave.
#[expect(
    clippy::print_stdout,
    reason = "it belongs beside the table it explains"
)]
fn leave_the_processor_to_others() {
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        println!("the attacker runs as everybody: {error}");
    }
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string(Path::new("/proc/self/statm")).unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4_096
}

/// Messages a second that a good peer gets through in this span.
fn throughput(sender: &Client, receiver: &Client, to: &str, span: Duration) -> f64 {
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < span {
        for result in sender.send_batch(numbered(to, 0..200)) {
            result.unwrap();
        }
        receive(receiver, "orders", 200);
        count += 200;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

/// What a good peer got through around an attack and during it, in messages a second.
#[derive(Clone, Copy)]
struct Round {
    quiet: f64,
    during: f64,
}

impl Round {
    fn kept(self) -> f64 {
        self.during / self.quiet
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is what it is run for")]
fn a_good_peer_keeps_its_throughput_under_attack() {
    let (victim, good) = (TestNode::start("victim"), TestNode::start("good"));
    victim.create_queue("orders");
    victim.create_queue("spam");
    let (sender, receiver) = (good.client(), victim.client());
    let to = victim.queue("orders");
    let slow = slow_tests();
    let (span, attacks) = if slow {
        (Duration::from_secs(2), ATTACKS)
    } else {
        (Duration::from_millis(500), &ATTACKS[..4])
    };
    throughput(&sender, &receiver, &to, span);
    let mut too_slow = Vec::new();
    let only = std::env::var("QM_ATTACK").unwrap_or_default();
    for (name, attack) in attacks.iter().filter(|(name, _)| name.contains(&only)) {
        let mut rounds = Vec::new();
        let mut growth = 0;
        let mut before = throughput(&sender, &receiver, &to, span);
        for _ in 0..if slow { ROUNDS } else { 1 } {
            let target = Target {
                at: victim.node().listen(),
                qm: victim.node().info().qm,
                socket: victim.node().socket().to_owned(),
                over: Arc::default(),
            };
            let resident = resident_bytes();
            let attacking = thread::spawn({
                let (attack, target) = (*attack, target.clone());
                move || {
                    leave_the_processor_to_others();
                    attack(&target);
                }
            });
            // An attack that is under way is measured; what tells that it is differs from one to
            // the next.
            thread::sleep(span / 4);
            let during = throughput(&sender, &receiver, &to, span);
            growth = growth.max(resident_bytes().saturating_sub(resident));
            target.over.store(true, Ordering::Relaxed);
            attacking.join().unwrap();
            let after = throughput(&sender, &receiver, &to, span);
            rounds.push(Round {
                quiet: f64::midpoint(before, after),
                during,
            });
            before = after;
        }
        rounds.sort_by(|a, b| a.kept().total_cmp(&b.kept()));
        let Round { quiet, during } = rounds[rounds.len() / 2];
        let kept = during / quiet;
        let (low, high) = (rounds[0].kept(), rounds[rounds.len() - 1].kept());
        println!(
            "| {name} | {quiet:.0} | {during:.0} | {kept:.2} ({low:.2} to {high:.2}) | {} MiB |",
            growth >> 20
        );
        assert!(growth < GROWTH_BYTES_MAX, "{name}: {growth} bytes");
        // The verdict is for a quiet machine; beside other tests it is enough that the peer was
        // served at all.
        if (slow && kept < KEPT_MIN) || during <= 0.0 {
            too_slow.push(format!("{name}: {kept:.2} of its throughput"));
        }
    }
    assert!(too_slow.is_empty(), "{too_slow:?}");
}
