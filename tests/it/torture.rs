//! Everything at once against real processes, for a bounded time: kill -9, SIGSTOP, ways that
//! lose, repeat, delay and cut, applications that hang up, a small file system that fills up.
//! At the end every message is accounted for.
//!
//! `cargo xtask torture` runs it for five minutes; the ordinary tests for some seconds. The faults
//! are drawn from a seed, which is told; what meets what is the machine's doing.

mod books;
mod people;
pub(crate) mod weather;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use qm_engine::{Entropy, SeededEntropy};
use serde_json::json;

use crate::program::{Program, report, within};
use crate::support::free_port;

use books::{Books, Stream, Sums};
use people::{Plan, begin};
use weather::Way;

const NAMES: [&str; 3] = ["hub", "east", "west"];
/// The node whose disk is small and fills up, where a file system can be mounted.
const SMALL: usize = 2;
const SMALL_DISK: &str = "size=40m";
/// Longest time for everything to come to rest after the last fault.
const REST: Duration = Duration::from_secs(180);

#[test]
fn every_message_is_accounted_for() {
    let seconds = number("QM_TORTURE_SECONDS").unwrap_or(8);
    let seed = number("QM_TORTURE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs()
    });
    report(&format!("torture: {seconds} s of faults from seed {seed}"));
    let mut torture = Torture::start(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        torture.turn();
    }
    torture.finish();
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// Something that is put right again at its time.
#[derive(Debug)]
enum Remedy {
    Launch(usize),
    Wake(usize),
    ClearWay(usize),
    EmptyDisk,
}

#[derive(Debug, Default)]
struct Tally {
    killed: u32,
    stopped: u32,
    ended: u32,
    cut: u32,
    rough: u32,
    hung_up: u32,
    filled: u32,
    slowest_start: Duration,
}

struct Torture {
    random: SeededEntropy,
    nodes: Vec<Program>,
    asleep: Vec<bool>,
    up: Vec<bool>,
    ways: Vec<Way>,
    disk: Option<Mount>,
    books: Arc<Mutex<Books>>,
    plan: Arc<Plan>,
    senders: Vec<std::thread::JoinHandle<()>>,
    receivers: Vec<std::thread::JoinHandle<()>>,
    remedies: Vec<(Instant, Remedy)>,
    tally: Tally,
    began: Instant,
}

impl Torture {
    fn start(seed: u64) -> Self {
        let mut disk = None;
        let mut nodes = Vec::new();
        for (number, name) in NAMES.iter().enumerate() {
            let mut node = Program::prepare(name, free_port());
            if number == SMALL {
                disk = Mount::over(&node.data());
            }
            node.launch();
            node.done(&["queue", "create", "inbox"]);
            nodes.push(node);
        }
        if disk.is_none() {
            report("torture: no file system can be mounted here; no disk will be full");
        }
        let mut torture = Self {
            random: SeededEntropy::new(seed),
            asleep: vec![false; nodes.len()],
            up: vec![true; nodes.len()],
            ways: Vec::new(),
            disk,
            books: Arc::new(Mutex::new(Books::new(nodes.len()))),
            plan: Arc::default(),
            senders: Vec::new(),
            receivers: Vec::new(),
            remedies: Vec::new(),
            tally: Tally::default(),
            began: Instant::now(),
            nodes,
        };
        torture.people(seed);
        torture
    }

    fn people(&mut self, seed: u64) {
        for from in 0..self.nodes.len() {
            let socket = self.nodes[from].data().join("node.sock");
            for to in (0..self.nodes.len()).filter(|to| *to != from) {
                let number = self.ways.len() as u64;
                let way = Way::to(self.nodes[to].listen, seed ^ number);
                let destination = format!("qm://{}/inbox", way.inner);
                self.ways.push(way);
                for express in [false, true] {
                    let stream = self.books.lock().unwrap().streams.len();
                    let new = Stream::new(from, to, express);
                    self.books.lock().unwrap().streams.push(new);
                    let pause = Duration::from_millis(if express { 400 } else { 120 });
                    let (socket, destination) = (socket.clone(), destination.clone());
                    self.senders
                        .push(begin(&self.plan, &self.books, move |plan, books| {
                            people::send(plan, books, stream, &socket, &destination, pause);
                        }));
                }
            }
            self.receivers
                .push(begin(&self.plan, &self.books, move |plan, books| {
                    people::receive(plan, books, from, &socket);
                }));
        }
    }

    fn draw(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.next_u64() % (high - low + 1)
    }

    fn pick(&mut self, of: usize) -> usize {
        usize::try_from(self.draw(0, of as u64 - 1)).unwrap()
    }

    /// One more thing goes wrong, and what is due is put right.
    fn turn(&mut self) {
        let pause = Duration::from_millis(self.draw(50, 900));
        // The seed says how long what is broken stays so.
        std::thread::sleep(pause);
        self.put_right(false);
        match self.draw(0, 11) {
            0..=2 => self.kill(),
            3 | 4 => self.stop_for_a_while(),
            5 | 6 => self.cut(),
            7 | 8 => self.rough_weather(),
            9 => {
                self.tally.hung_up += 1;
                self.plan.hang_up.fetch_add(1, Ordering::Relaxed);
            }
            10 => self.restart_in_order(),
            _ => self.fill_disk(),
        }
    }

    fn later(&mut self, low_ms: u64, high_ms: u64, remedy: Remedy) {
        let due = Instant::now() + Duration::from_millis(self.draw(low_ms, high_ms));
        self.remedies.push((due, remedy));
    }

    fn put_right(&mut self, all: bool) {
        let now = Instant::now();
        let mut index = 0;
        while index < self.remedies.len() {
            if !all && self.remedies[index].0 > now {
                index += 1;
                continue;
            }
            match self.remedies.swap_remove(index).1 {
                Remedy::Launch(node) => self.launch(node),
                Remedy::Wake(node) => self.wake(node),
                Remedy::ClearWay(way) => self.ways[way].weather.clear(),
                Remedy::EmptyDisk => {
                    if let Some(disk) = &self.disk {
                        disk.empty();
                    }
                }
            }
        }
    }

    fn launch(&mut self, node: usize) {
        let began = Instant::now();
        self.nodes[node].launch();
        self.up[node] = true;
        self.tally.slowest_start = self.tally.slowest_start.max(began.elapsed());
    }

    fn wake(&mut self, node: usize) {
        if core::mem::take(&mut self.asleep[node]) && self.up[node] {
            signal(self.nodes[node].pid(), "-CONT");
        }
    }

    fn kill(&mut self) {
        let node = self.pick(self.nodes.len());
        if self.up[node] {
            self.tally.killed += 1;
            self.up[node] = false;
            self.asleep[node] = false;
            self.nodes[node].kill();
            self.later(0, 2_000, Remedy::Launch(node));
        }
    }

    fn stop_for_a_while(&mut self) {
        let node = self.pick(self.nodes.len());
        if self.up[node] && !self.asleep[node] {
            self.tally.stopped += 1;
            self.asleep[node] = true;
            signal(self.nodes[node].pid(), "-STOP");
            // Now and then longer than any handshake or idle connection may take.
            let longest = if self.draw(0, 7) == 0 { 35_000 } else { 4_000 };
            self.later(200, longest, Remedy::Wake(node));
        }
    }

    fn restart_in_order(&mut self) {
        let node = self.pick(self.nodes.len());
        if self.up[node] && !self.asleep[node] {
            self.tally.ended += 1;
            self.nodes[node].stop();
            self.up[node] = false;
            self.later(0, 1_000, Remedy::Launch(node));
        }
    }

    fn cut(&mut self) {
        let way = self.pick(self.ways.len());
        let sides = self.draw(1, 3);
        self.tally.cut += 1;
        let weather = &self.ways[way].weather;
        weather.cut_there.store(sides & 1 != 0, Ordering::Relaxed);
        weather.cut_back.store(sides & 2 != 0, Ordering::Relaxed);
        self.later(100, 8_000, Remedy::ClearWay(way));
    }

    fn rough_weather(&mut self) {
        let way = self.pick(self.ways.len());
        let (lost, doubled, delay) = (self.draw(0, 200), self.draw(0, 50), self.draw(0, 120));
        self.tally.rough += 1;
        let weather = &self.ways[way].weather;
        let small = |value: u64| u32::try_from(value).unwrap();
        weather.lost_per_mille.store(small(lost), Ordering::Relaxed);
        weather
            .doubled_per_mille
            .store(small(doubled), Ordering::Relaxed);
        weather.delay_max_ms.store(small(delay), Ordering::Relaxed);
        self.later(500, 8_000, Remedy::ClearWay(way));
    }

    fn fill_disk(&mut self) {
        if let Some(disk) = &self.disk
            && disk.fill()
        {
            self.tally.filled += 1;
            self.later(500, 5_000, Remedy::EmptyDisk);
        }
    }

    /// Everything works again, and stays so until nothing is on its way.
    fn finish(mut self) {
        self.put_right(true);
        self.plan.last_orders.store(true, Ordering::Relaxed);
        let faults = self.began.elapsed();
        let began = Instant::now();
        let rests = within(REST, Duration::from_millis(100), || {
            let told = self.senders.iter().all(|sender| sender.is_finished());
            let settled = told && self.books.lock().unwrap().open() == 0;
            (settled && self.is_empty()).then_some(())
        });
        let rest = began.elapsed();
        let waits = rests.is_none().then(|| self.what_waits());
        self.plan.over.store(true, Ordering::Relaxed);
        for person in self.senders.drain(..).chain(self.receivers.drain(..)) {
            person.join().unwrap();
        }
        self.tell(faults, rest);
        let mut broken = self.books.lock().unwrap().verdict();
        if let Some(waits) = waits {
            broken.push(format!("it does not come to rest: {waits}"));
        }
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }

    /// Whether no node holds anything any more.
    fn is_empty(&mut self) -> bool {
        self.nodes.iter_mut().all(|node| {
            let status = node.status();
            status["outgoing_messages"] == 0 && status["local_messages"] == 0
        })
    }

    fn what_waits(&mut self) -> String {
        let mut text = String::new();
        for node in &mut self.nodes {
            for request in ["status", "outgoing.list", "queue.list", "peers.list"] {
                let answer = node.ask(&json!({ "do": request }));
                writeln!(text, "{request}: {answer}").unwrap();
            }
        }
        text
    }

    fn tell(&self, faults: Duration, rest: Duration) {
        let books = self.books.lock().unwrap();
        let Tally {
            killed,
            stopped,
            ended,
            cut,
            rough,
            hung_up,
            filled,
            slowest_start,
        } = self.tally;
        let packets = |of: fn(&weather::Weather) -> u64| -> u64 {
            self.ways.iter().map(|way| of(&way.weather)).sum()
        };
        let lost = packets(|weather| weather.lost.load(Ordering::Relaxed));
        let carried = packets(|weather| weather.carried.load(Ordering::Relaxed));
        let reconnects = self.plan.reconnects.load(Ordering::Relaxed);
        let row = |class: &str, sums: Sums| {
            format!(
                "  {class:<12}{:>9}{:>9}{:>9}{:>14}{:>11}{:>9}",
                sums.accepted,
                sums.received,
                sums.missing,
                sums.stored_again,
                sums.overtaken,
                sums.untold
            )
        };
        report(&format!(
            "torture: {faults:.0?} of faults, at rest {rest:.1?} after the last\n  \
             nodes: {killed} killed, {stopped} stopped for a while, {ended} restarted in order, \
             slowest start {slowest_start:.1?}\n  \
             ways: {cut} cut, {rough} times rough, {carried} packets carried, {lost} lost\n  \
             applications: {hung_up} times all hung up, {reconnects} connections made\n  \
             disk: {filled} times full\n  \
             {:<12}{:>9}{:>9}{:>9}{:>14}{:>11}{:>9}\n{}\n{}\n  \
             handed out again by the last hop, at the same place: {}",
            "class",
            "accepted",
            "received",
            "missing",
            "stored twice",
            "overtaken",
            "untold",
            row("recoverable", books.sums(false)),
            row("express", books.sums(true)),
            books.handed_out_again(),
        ));
    }
}

fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(status.unwrap().success(), "no process {pid}");
}

/// A small file system of its own over a folder.
struct Mount {
    at: PathBuf,
}

impl Mount {
    /// `None` where it is not permitted.
    fn over(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", SMALL_DISK, "qm-test"])
            .arg(at);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mounted = command.status().is_ok_and(|status| status.success());
        mounted.then(|| Self { at: at.to_owned() })
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Takes all that is free; false when it is taken already.
    fn fill(&self) -> bool {
        use std::io::Write as _;
        if self.filler().exists() {
            return false;
        }
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let zeros = vec![0; 64 << 10];
        while file.write_all(&zeros).is_ok() {}
        true
    }

    fn empty(&self) {
        drop(std::fs::remove_file(self.filler()));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        command.arg("-l").arg(&self.at);
        drop(command.stdout(Stdio::null()).stderr(Stdio::null()).status());
    }
}
