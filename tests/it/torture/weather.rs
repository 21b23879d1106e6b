//! A way between two nodes that loses, repeats, delays and cuts.
//!
//! A relay of UDP packets, as a router with address translation is: everybody who speaks at its
//! inner address appears at the target from a socket of his own. It knows nothing of what it
//! carries.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use qm_engine::{Entropy, SeededEntropy};

/// Sources the relay keeps sockets for; more than any run makes.
const SOURCES_MAX: usize = 256;
/// How often threads look whether they are still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// What the way is like at the moment; all zero is a good day.
#[derive(Debug, Default)]
pub(crate) struct Weather {
    /// Nothing comes through towards the target.
    pub(crate) cut_there: AtomicBool,
    /// Nothing comes through from the target.
    pub(crate) cut_back: AtomicBool,
    /// Of a thousand packets this many are lost.
    pub(crate) lost_per_mille: AtomicU32,
    /// Of a thousand packets this many come twice.
    pub(crate) doubled_per_mille: AtomicU32,
    /// Packets take up to this long, each for itself, so that they overtake each other.
    pub(crate) delay_max_ms: AtomicU32,
    /// Packets that did not come through.
    pub(crate) lost: AtomicU64,
    /// Packets that did.
    pub(crate) carried: AtomicU64,
    over: AtomicBool,
}

impl Weather {
    pub(crate) fn clear(&self) {
        self.cut_there.store(false, Ordering::Relaxed);
        self.cut_back.store(false, Ordering::Relaxed);
        self.lost_per_mille.store(0, Ordering::Relaxed);
        self.doubled_per_mille.store(0, Ordering::Relaxed);
        self.delay_max_ms.store(0, Ordering::Relaxed);
    }
}

/// A packet, where it goes, and through which socket.
type Late = (Arc<UdpSocket>, SocketAddr, Vec<u8>);

/// The relay towards one target.
pub(crate) struct Way {
    /// Where one speaks to reach the target.
    pub(crate) inner: SocketAddr,
    pub(crate) weather: Arc<Weather>,
}

impl Way {
    pub(crate) fn to(target: SocketAddr, seed: u64) -> Self {
        let inner = Arc::new(socket());
        let weather = Arc::new(Weather::default());
        let (late, due) = mpsc::channel();
        std::thread::spawn(move || deliver_late(&due));
        let way = Self {
            inner: inner.local_addr().unwrap(),
            weather: Arc::clone(&weather),
        };
        let carrier = Carrier {
            weather,
            late,
            random: Arc::new(Mutex::new(SeededEntropy::new(seed))),
        };
        std::thread::spawn(move || carrier.there(&inner, target));
        way
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.weather.over.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Carrier {
    weather: Arc<Weather>,
    late: mpsc::Sender<(Instant, Late)>,
    random: Arc<Mutex<SeededEntropy>>,
}

impl Carrier {
    fn there(&self, inner: &Arc<UdpSocket>, target: SocketAddr) {
        let mut sources: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
        let mut packet = vec![0; 65_536];
        while !self.weather.over.load(Ordering::Relaxed) {
            let Ok((length, from)) = inner.recv_from(&mut packet) else {
                continue;
            };
            if sources.len() >= SOURCES_MAX && !sources.contains_key(&from) {
                continue;
            }
            let outer = sources.entry(from).or_insert_with(|| {
                let outer = Arc::new(socket());
                let (carrier, inner, back) = (self.clone(), Arc::clone(inner), Arc::clone(&outer));
                std::thread::spawn(move || carrier.back(&inner, &back, from));
                outer
            });
            let cut = self.weather.cut_there.load(Ordering::Relaxed);
            self.carry(cut, outer, target, &packet[..length]);
        }
    }

    fn back(&self, inner: &Arc<UdpSocket>, outer: &UdpSocket, to: SocketAddr) {
        let mut packet = vec![0; 65_536];
        while !self.weather.over.load(Ordering::Relaxed) {
            if let Ok((length, _)) = outer.recv_from(&mut packet) {
                let cut = self.weather.cut_back.load(Ordering::Relaxed);
                self.carry(cut, inner, to, &packet[..length]);
            }
        }
    }

    fn carry(&self, cut: bool, through: &Arc<UdpSocket>, to: SocketAddr, packet: &[u8]) {
        let weather = &self.weather;
        let (lost, doubled, delays) = {
            let mut random = self.random.lock().unwrap();
            let mut draw = || random.next_u64();
            (draw() % 1_000, draw() % 1_000, [draw(), draw()])
        };
        if cut || lost < u64::from(weather.lost_per_mille.load(Ordering::Relaxed)) {
            weather.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        weather.carried.fetch_add(1, Ordering::Relaxed);
        let twice = doubled < u64::from(weather.doubled_per_mille.load(Ordering::Relaxed));
        let most = u64::from(weather.delay_max_ms.load(Ordering::Relaxed));
        for delay in &delays[..1 + usize::from(twice)] {
            if most == 0 {
                // A packet that nobody takes is lost, as on any network.
                drop(through.send_to(packet, to));
            } else {
                let due = Instant::now() + Duration::from_micros(delay % (most * 1_000));
                let late = (Arc::clone(through), to, packet.to_vec());
                drop(self.late.send((due, late)));
            }
        }
    }
}

/// Sends what was delayed, each at its time; ends with the last carrier.
fn deliver_late(packets: &mpsc::Receiver<(Instant, Late)>) {
    let mut waiting: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
    let mut bodies: BTreeMap<u64, Late> = BTreeMap::new();
    let mut number = 0;
    loop {
        let pause = waiting.peek().map_or(LOOK, |Reverse((due, _))| {
            due.saturating_duration_since(Instant::now())
        });
        match packets.recv_timeout(pause) {
            Ok((due, late)) => {
                number += 1;
                waiting.push(Reverse((due, number)));
                bodies.insert(number, late);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        while let Some(Reverse((due, number))) = waiting.peek().copied()
            && due <= Instant::now()
        {
            waiting.pop();
            if let Some((through, to, packet)) = bodies.remove(&number) {
                drop(through.send_to(&packet, to));
            }
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    socket.set_read_timeout(Some(LOOK)).unwrap();
    socket
}
