//! A branch behind address translation: the hub cannot dial it, and sends over the connection
//! that the branch made.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::lines::assert_same;
use crate::program::{Program, eventually, report};
use crate::support::{free_port, slow_tests};

#[test]
fn a_branch_behind_a_relay_for_replies_only() {
    let hub = Program::start("hub");
    let relay = Relay::start(hub.listen);
    // The hub hears of the port and sees the relay's address: nobody listens at that combination.
    let listen = SocketAddr::from(([127, 0, 0, 2], free_port().port()));
    let branch = Program::start_at("branch", listen, None);
    let mut pair = Pair { hub, branch };
    pair.connect(relay.inner);
    pair.exchange("relay: at first", From::Hub);

    relay.rebind();
    pair.exchange("relay: the branch has another port", after_a_move());
    pair.restart_hub();
    pair.exchange("relay: the hub was restarted", From::Hub);
    assert_eq!(pair.hub.status()["sessions"], 1);

    pair.branch.kill();
    relay.rebind();
    pair.branch.launch();
    if !slow_tests() {
        // What the hub sends before, it sends to where the branch was, and waits for that
        // connection to be given up, for thirty seconds.
        pair.until_sessions(2);
    }
    pair.exchange("relay: the branch was restarted at another port", From::Hub);
    let (to_hub, to_branch) = relay.carried();
    assert!(to_hub > 0 && to_branch > 0, "the relay carried nothing");
}

#[test]
fn a_branch_behind_a_masquerading_router() {
    let Some(net) = Network::build() else {
        report("nat: no network namespaces here; only the relay is tested");
        return;
    };
    let at = SocketAddr::from(([203, 0, 113, 2], 1801));
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 1801));
    let hub = Program::start_at("hub", at, Some(net.name("hub")));
    let branch = Program::start_at("branch", anywhere, Some(net.name("branch")));
    let mut pair = Pair { hub, branch };
    // It never gets anywhere, whatever the branch does.
    pair.hub
        .done(&["send", "qm://192.168.77.2/replies", "dialled"]);
    pair.connect(at);
    pair.exchange("router: at first", From::Hub);

    net.readdress("router", "outer", "203.0.113.1/24", "203.0.113.77/24");
    pair.exchange("router: it has another address", after_a_move());
    net.readdress("branch", "uplink", "192.168.77.2/24", "192.168.77.3/24");
    net.run(
        &["-n", &net.name("branch"), "route", "replace"],
        "default via 192.168.77.1",
    );
    pair.exchange("router: the branch has another address", after_a_move());
    pair.restart_hub();
    pair.exchange("router: the hub was restarted", From::Hub);
    assert_eq!(pair.hub.status()["sessions"], 1);
    assert_eq!(pair.hub.status()["outgoing_messages"], 1);
}

/// Who speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Hub,
    Branch,
}

/// Who speaks first after the branch has moved without noticing it. The hub can reach it again
/// when it has spoken, at the latest when it looks after a quiet connection: after ten seconds.
fn after_a_move() -> From {
    if slow_tests() {
        From::Hub
    } else {
        From::Branch
    }
}

struct Pair {
    hub: Program,
    branch: Program,
}

impl Pair {
    /// The branch alone is told where the other is; it has nothing to send.
    fn connect(&mut self, hub: SocketAddr) {
        self.hub.done(&["queue", "create", "orders"]);
        self.branch.done(&["queue", "create", "replies"]);
        let hub = hub.to_string();
        self.branch
            .done(&["peers", "add", "hub", &hub, "--keep-connected"]);
        self.until_sessions(1);
    }

    /// Waits until the hub has so many sessions.
    fn until_sessions(&mut self, count: usize) {
        eventually("the branch connects", || {
            (self.hub.status()["sessions"] == count).then_some(())
        });
    }

    /// Sends both ways; who speaks second waits until the first was heard.
    fn exchange(&self, what: &str, first: From) {
        let (hub, branch) = (&self.hub, &self.branch);
        let replies = branch.queue_by_identity("replies");
        let began = Instant::now();
        let down = || transfer(hub, &replies, branch, "replies");
        let up = || transfer(branch, "hub/orders", hub, "orders");
        let (one, other) = match first {
            From::Hub => (down(), up()),
            From::Branch => (up(), down()),
        };
        report(&format!(
            "nat: {what}: {first:?} first, {one} and {other} lines, both there after {:.2?}",
            began.elapsed()
        ));
    }

    fn restart_hub(&mut self) {
        // Without a goodbye the branch notices when it looks after the quiet connection.
        if slow_tests() {
            self.hub.kill();
        } else {
            self.hub.stop();
        }
        self.hub.launch();
    }
}

/// Sends lines and waits until they are received; how many.
fn transfer(from: &Program, to: &str, at: &Program, queue: &str) -> usize {
    let count = if slow_tests() { 10_000 } else { 500 };
    let text: String = (0..count)
        .map(|n| format!("{to} {n} {}\n", "+".repeat(n % 300)))
        .collect();
    let file = from.file("lines");
    std::fs::write(&file, &text).unwrap();
    from.done(&["send", to, "--lines", file.to_str().unwrap()]);
    let wanted = count.to_string();
    let receive = ["receive", queue, "--count", &wanted, "--wait", "60s"];
    assert_same(text.as_bytes(), &at.done(&receive));
    count
}

/// What a router with address translation does to one branch: its packets leave from a socket of
/// their own, and only what the hub answers to that socket comes back.
struct Relay {
    inner: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    hub: SocketAddr,
    inner: UdpSocket,
    /// Where the branch was seen last; nothing goes in before it spoke.
    branch: Mutex<Option<SocketAddr>>,
    /// The present socket, with its number; sockets before it are closed.
    outer: Mutex<(u64, UdpSocket)>,
    bytes_to_hub: AtomicU64,
    bytes_to_branch: AtomicU64,
}

impl Relay {
    fn start(hub: SocketAddr) -> Self {
        let inner = socket();
        let shared = Arc::new(Shared {
            hub,
            outer: Mutex::new((0, socket())),
            branch: Mutex::new(None),
            bytes_to_hub: AtomicU64::new(0),
            bytes_to_branch: AtomicU64::new(0),
            inner,
        });
        let outward = Arc::clone(&shared);
        std::thread::spawn(move || outward.outward());
        let relay = Self {
            inner: shared.inner.local_addr().unwrap(),
            shared,
        };
        relay.rebind();
        relay
    }

    /// From now on the branch appears at another port; the one before is dead.
    fn rebind(&self) {
        let new = socket();
        let reader = new.try_clone().unwrap();
        let mut outer = self.shared.outer.lock().unwrap();
        let number = outer.0 + 1;
        *outer = (number, new);
        drop(outer);
        let inward = Arc::clone(&self.shared);
        std::thread::spawn(move || inward.inward(number, &reader));
    }

    /// Bytes towards the hub and towards the branch.
    fn carried(&self) -> (u64, u64) {
        let load = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        let shared = &self.shared;
        (load(&shared.bytes_to_hub), load(&shared.bytes_to_branch))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // No socket has this number: every thread ends at its next look.
        self.shared.outer.lock().unwrap().0 = u64::MAX;
    }
}

impl Shared {
    fn outward(&self) {
        let mut packet = vec![0; 65_536];
        loop {
            let received = received(&self.inner, &mut packet);
            let outer = self.outer.lock().unwrap();
            if outer.0 == u64::MAX {
                return;
            }
            if let Some((length, from)) = received {
                *self.branch.lock().unwrap() = Some(from);
                // A packet that is lost is lost.
                drop(outer.1.send_to(&packet[..length], self.hub));
                self.bytes_to_hub
                    .fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    }

    fn inward(&self, number: u64, outer: &UdpSocket) {
        let mut packet = vec![0; 65_536];
        loop {
            let received = received(outer, &mut packet);
            if self.outer.lock().unwrap().0 != number {
                return;
            }
            let branch = *self.branch.lock().unwrap();
            if let (Some((length, from)), Some(branch)) = (received, branch)
                && from == self.hub
            {
                drop(self.inner.send_to(&packet[..length], branch));
                self.bytes_to_branch
                    .fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    // Threads look now and then whether they are still wanted.
    let look = Duration::from_millis(50);
    socket.set_read_timeout(Some(look)).unwrap();
    socket
}

fn received(socket: &UdpSocket, packet: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(packet) {
        Ok(received) => Some(received),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        // What was sent found nobody: the other side does not run at the moment.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => None,
        Err(error) => panic!("the relay's socket: {error}"),
    }
}

/// Three namespaces: the hub, a router that hides what is behind it, the branch. Addresses are
/// those of RFC 5737 and RFC 1918. Nothing outside of the namespaces is touched.
struct Network {
    prefix: String,
}

impl Network {
    /// `None` where namespaces or address translation are not permitted.
    fn build() -> Option<Self> {
        let net = Self {
            prefix: format!("qm-test-{}", std::process::id()),
        };
        let (hub, router, branch) = (net.name("hub"), net.name("router"), net.name("branch"));
        let nft = |rule: &str| net.try_run(&["netns", "exec", &router, "nft"], rule);
        let permitted = [&hub, &router, &branch]
            .iter()
            .all(|name| net.try_run(&["netns", "add", name], ""))
            && nft("add table ip translation")
            && nft("add chain ip translation out { type nat hook postrouting priority 100 ; }")
            && nft("add rule ip translation out oifname outer masquerade");
        if !permitted {
            return None;
        }
        let peer = |name: &str, link: &str| format!("type veth peer name {link} netns {name}");
        net.run(
            &["link", "add", "uplink", "netns", &hub],
            &peer(&router, "outer"),
        );
        net.run(
            &["link", "add", "uplink", "netns", &branch],
            &peer(&router, "inner"),
        );
        for (name, link, address) in [
            (&hub, "uplink", "203.0.113.2/24"),
            (&router, "outer", "203.0.113.1/24"),
            (&router, "inner", "192.168.77.1/24"),
            (&branch, "uplink", "192.168.77.2/24"),
        ] {
            net.run(&["-n", name, "address", "add", address, "dev", link], "");
            net.run(&["-n", name, "link", "set", "lo", "up"], "");
            net.run(&["-n", name, "link", "set", link, "up"], "");
        }
        net.run(&["-n", &branch, "route", "add"], "default via 192.168.77.1");
        let forward = "sysctl -q -w net.ipv4.ip_forward=1";
        net.run(&["netns", "exec", &router], forward);
        Some(net)
    }

    fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    /// An interface gets another address, and nobody is told.
    fn readdress(&self, place: &str, link: &str, old: &str, new: &str) {
        let name = self.name(place);
        for (verb, address) in [("del", old), ("add", new)] {
            self.run(&["-n", &name, "address", verb, address, "dev", link], "");
        }
    }

    /// `ip` with these arguments, and more of them in a text.
    fn run(&self, args: &[&str], more: &str) {
        assert!(self.try_run(args, more), "ip {args:?} {more}");
    }

    fn try_run(&self, args: &[&str], more: &str) -> bool {
        let mut command = Command::new("ip");
        command.args(args).args(more.split_whitespace());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in ["hub", "router", "branch"] {
            self.try_run(&["netns", "del", &self.name(place)], "");
        }
    }
}
