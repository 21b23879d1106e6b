//! Money goes to and fro between two nodes under kill -9 of both and of the applications, and cuts
//! of the way between them: none is lost, none is made, and order holds.
//!
//! A coin is a message. Moving one is a transaction: it is received here, sent to the other node,
//! and the move is entered into the ledger of this node, all or nothing. At the end every coin is
//! in one place, and the ledgers hold each of its moves once.
//!
//! `cargo xtask money` runs it for longer; faults are drawn from a seed, which is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use qm_client::{QueueName, ReceiveOptions, Received};
use qm_engine::{Entropy, SeededEntropy};

use crate::program::{Program, report, within};
use crate::support::free_port;
use crate::torture::weather::Way;

const COINS: usize = 40;
/// Applications of each node.
const MOVERS: u64 = 3;
/// Longest time for everything to come to rest after the last fault.
const REST: Duration = Duration::from_secs(120);

#[test]
fn every_coin_is_in_one_place_and_every_move_in_one_ledger() {
    let number = |variable: &str| std::env::var(variable).ok().map(|n| n.parse().unwrap());
    let seconds = number("QM_MONEY_SECONDS").unwrap_or(20);
    let seed = number("QM_MONEY_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs()
    });
    report(&format!("money: {seconds} s of faults from seed {seed}"));
    let mut bank = Bank::open(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        bank.turn();
    }
    bank.close();
}

/// A coin, and how often it was moved.
type Moved = (u64, u64);

fn moved_of(body: &[u8]) -> Moved {
    let text = std::str::from_utf8(body).unwrap();
    let (coin, moves) = text.split_once(' ').unwrap();
    (coin.parse().unwrap(), moves.parse().unwrap())
}

#[derive(Default)]
struct Counts {
    moves: AtomicU64,
    /// Commits whose answer never came.
    unknown: AtomicU64,
    deaths: AtomicU64,
    redelivered: AtomicU64,
}

struct Bank {
    nodes: [Program; 2],
    ways: [Way; 2],
    entropy: SeededEntropy,
    /// Dropped when all is over.
    over: Vec<mpsc::Sender<()>>,
    movers: Vec<std::thread::JoinHandle<()>>,
    counts: Arc<Counts>,
    /// What was seen at each node: lookup id and coin.
    seen: [Arc<Mutex<BTreeMap<u64, Moved>>>; 2],
    kills: u64,
    cuts: u64,
}

impl Bank {
    fn open(seed: u64) -> Self {
        let nodes = ["left", "right"].map(|name| Program::start_at(name, free_port(), None));
        let ways = [0, 1].map(|n| Way::to(nodes[n].listen, seed.wrapping_add(n as u64)));
        for node in &nodes {
            for queue in ["money", "ledger"] {
                node.done(&["queue", "create", queue, "--transactional"]);
            }
        }
        for coin in 0..COINS {
            let node = &nodes[coin % 2];
            node.done(&["send", "money", &format!("{coin} 0"), "--transactional"]);
        }
        let mut bank = Self {
            nodes,
            ways,
            entropy: SeededEntropy::new(seed),
            over: Vec::new(),
            movers: Vec::new(),
            counts: Arc::default(),
            seen: Default::default(),
            kills: 0,
            cuts: 0,
        };
        for n in 0..2 * MOVERS {
            let at = usize::try_from(n % 2).unwrap();
            let mover = Mover {
                socket: bank.nodes[at].data().join("node.sock"),
                to: format!("qm://{}/money", bank.ways[1 - at].inner),
                entropy: SeededEntropy::new(seed ^ (n + 1)),
                counts: Arc::clone(&bank.counts),
                seen: Arc::clone(&bank.seen[at]),
            };
            let (tell, over) = mpsc::channel();
            bank.over.push(tell);
            bank.movers
                .push(std::thread::spawn(move || mover.work(&over)));
        }
        bank
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.entropy.next_u64() % below
    }

    /// One fault, put right after as long as the seed says.
    fn turn(&mut self) {
        let at = usize::try_from(self.draw(2)).unwrap();
        let pause = Duration::from_millis(100 + self.draw(700));
        match self.draw(10) {
            0..4 => {
                // Both are down for a while, or one.
                let down = if self.draw(4) == 0 { 0..2 } else { at..at + 1 };
                for node in &mut self.nodes[down.clone()] {
                    node.kill();
                    self.kills += 1;
                }
                std::thread::sleep(pause / 4);
                for node in &mut self.nodes[down] {
                    node.launch();
                }
            }
            4..6 => {
                self.ways[at]
                    .weather
                    .cut_there
                    .store(true, Ordering::Relaxed);
                self.cuts += 1;
                std::thread::sleep(pause);
            }
            6 => {
                self.ways[at]
                    .weather
                    .cut_back
                    .store(true, Ordering::Relaxed);
                self.cuts += 1;
                std::thread::sleep(pause);
            }
            7 => {
                let lost = 100;
                self.ways[at]
                    .weather
                    .lost_per_mille
                    .store(lost, Ordering::Relaxed);
            }
            _ => {}
        }
        self.ways[at].weather.clear();
        std::thread::sleep(pause);
    }

    fn peek(&self, at: usize, queue: &str) -> Vec<Received> {
        let socket = self.nodes[at].data().join("node.sock");
        let client = qm_client::blocking::Client::connect(socket).unwrap();
        let queue: QueueName = queue.parse().unwrap();
        let mut all: Vec<Received> = Vec::new();
        loop {
            let mut options = ReceiveOptions::new().limit(1_000);
            if let Some(last) = all.last() {
                options = options.after(last.lookup_id());
            }
            let page = client.peek(&queue, &options).unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    /// Everybody stops; then the books are looked at.
    fn close(mut self) {
        self.over.clear();
        for mover in self.movers.drain(..) {
            mover.join().unwrap();
        }
        let mut there = 0;
        let coins = within(REST, Duration::from_millis(200), || {
            let coins = [self.peek(0, "money"), self.peek(1, "money")];
            there = coins[0].len() + coins[1].len();
            assert!(there <= COINS, "{there} coins: money was made");
            let resting =
                (0..2).all(|n| self.nodes[n].document(&["status"])["outgoing_messages"] == 0);
            (there == COINS && resting).then_some(coins)
        });
        let coins = coins
            .unwrap_or_else(|| panic!("{there} coins of {COINS}: money is missing or in doubt"));
        for node in &self.nodes {
            let status = node.document(&["status"]);
            assert_eq!(
                status["dead_letters"], 0,
                "nothing died, nothing is in doubt"
            );
        }
        let mut purse = BTreeMap::new();
        for coin in coins.iter().flatten() {
            let (coin, moves) = moved_of(coin.body());
            assert_eq!(
                purse.insert(coin, moves),
                None,
                "coin {coin} is there twice"
            );
        }
        let ledgers = [0, 1].map(|at| {
            let ledger = self.peek(at, "ledger");
            ledger
                .iter()
                .map(|entry| moved_of(entry.body()))
                .collect::<Vec<_>>()
        });
        let mut entered: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for (coin, moves) in ledgers.iter().flatten() {
            let new = entered.entry(*coin).or_default().insert(*moves);
            assert!(new, "move {moves} of coin {coin} is in the ledgers twice");
        }
        for (coin, moves) in &purse {
            let entered = entered.remove(coin).unwrap_or_default();
            assert!(
                entered.into_iter().eq(1..=*moves),
                "coin {coin} made {moves} moves"
            );
        }
        for at in 0..2 {
            self.check_order(at, &ledgers[1 - at], &coins[at]);
        }
        let counts = &self.counts;
        let [moves, unknown, deaths, redelivered] = [
            &counts.moves,
            &counts.unknown,
            &counts.deaths,
            &counts.redelivered,
        ]
        .map(|count| count.load(Ordering::Relaxed));
        let entries = ledgers[0].len() + ledgers[1].len();
        assert!(
            entries as u64 >= moves,
            "{moves} moves were answered, {entries} entered"
        );
        report(&format!(
            "money: {COINS} coins, {entries} moves ({moves} answered, {unknown} of unknown outcome), {} kills of nodes, {} cuts, {deaths} deaths of applications, {redelivered} redeliveries; every coin in one place, every move once, in order",
            self.kills, self.cuts
        ));
        assert!(entries > 0, "nothing was moved");
    }

    /// What came from the other node came in the order in which it was committed there.
    fn check_order(&self, at: usize, ledger: &[Moved], here: &[Received]) {
        let order: BTreeMap<Moved, usize> = ledger
            .iter()
            .enumerate()
            .map(|(n, moved)| (*moved, n))
            .collect();
        let mut arrivals = self.seen[at].lock().unwrap().clone();
        arrivals.extend(
            here.iter()
                .map(|coin| (coin.lookup_id(), moved_of(coin.body()))),
        );
        let mut last = None;
        for (lookup, moved) in arrivals {
            // Those that were here from the beginning came from nowhere.
            if moved.1 == 0 {
                continue;
            }
            let place = order.get(&moved).copied();
            assert!(place.is_some(), "{moved:?} was seen and is in no ledger");
            assert!(
                place > last,
                "{moved:?} came at {lookup} behind what was sent later"
            );
            last = place;
        }
    }
}

/// An application that moves coins to the other node: a process, started again whenever it was
/// killed.
struct Mover {
    socket: PathBuf,
    to: String,
    entropy: SeededEntropy,
    counts: Arc<Counts>,
    seen: Arc<Mutex<BTreeMap<u64, Moved>>>,
}

impl Mover {
    fn work(mut self, over: &mpsc::Receiver<()>) {
        let mut killed = true;
        while killed {
            let mut process = Command::new(env!("CARGO_BIN_EXE_mover"))
                .arg(&self.socket)
                .arg(&self.to)
                .arg(self.entropy.next_u64().to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let words = BufReader::new(process.stdout.take().unwrap());
            let life = Duration::from_millis(300 + self.entropy.next_u64() % 4_000);
            killed = std::thread::scope(|scope| {
                scope.spawn(|| self.listen(words));
                let killed = over.recv_timeout(life) == Err(mpsc::RecvTimeoutError::Timeout);
                if killed {
                    process.kill().unwrap();
                }
                // The others end when they read the end of their input.
                drop(process.stdin.take());
                killed
            });
            let status = process.wait().unwrap();
            let as_told = status.success() || killed && status.signal() == Some(9);
            assert!(as_told, "an application fell: {status}");
            self.counts
                .deaths
                .fetch_add(killed.into(), Ordering::Relaxed);
        }
    }

    /// Takes down what it says until it is dead.
    fn listen(&self, mut words: impl BufRead) {
        let mut line = String::new();
        while words.read_line(&mut line).unwrap() > 0 {
            // Killed while it spoke.
            let Some(said) = line.strip_suffix('\n') else {
                return;
            };
            let mut said = said.split(' ');
            match said.next() {
                Some("moved") => drop(self.counts.moves.fetch_add(1, Ordering::Relaxed)),
                Some("unknown") => drop(self.counts.unknown.fetch_add(1, Ordering::Relaxed)),
                Some("seen") => {
                    let numbers: Vec<u64> = said.map(|n| n.parse().unwrap()).collect();
                    let [lookup, coin, moves, aborts] = numbers[..] else {
                        panic!("{line:?}");
                    };
                    let before = self.seen.lock().unwrap().insert(lookup, (coin, moves));
                    assert!(
                        before.is_none_or(|before| before == (coin, moves)),
                        "one lookup id, two coins"
                    );
                    let again = u64::from(aborts > 0);
                    self.counts.redelivered.fetch_add(again, Ordering::Relaxed);
                }
                _ => panic!("an application said {line:?}"),
            }
            line.clear();
        }
    }
}
