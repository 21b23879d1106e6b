//! Every schedule of a small world, over whole engines: one destination, one sender and a copy of
//! its disk, two messages on their way. Each schedule of so many steps is gone through: a frame
//! arrives, the disk of the destination confirms a batch, a link is cut with all that is on it, a
//! machine dies between its batches, the sender is copied, an application receives, a message is
//! sent. Then all goes well, and the rules A0 to A5 of docs/identity.md are judged by what they
//! are for: nothing that was settled is missing, nothing comes twice that the destination can
//! remember, nothing waits for ever.
//!
//! What is left out of the steps: refusals and what ends in doubt (`tests/ended`, `tests/finals`),
//! and memories that are copied (the simulation). `QM_MODEL_STEPS` sets how many steps are
//! looked at.
#![expect(
    clippy::print_stdout,
    reason = "how many schedules there were is for people"
)]

use std::collections::VecDeque;

use qm_engine::{EngineConfig, LinkId};
use qm_wire::{Class, PeerFrame};

use crate::support::{Node, numbers, plug};
use crate::{is_data, is_settled, send};

/// Steps of a schedule, unless `QM_MODEL_STEPS` says otherwise: each more takes four times as long.
const STEPS: usize = 3;

type Configure = fn(&mut EngineConfig);

/// What may happen, how often. Frames arrive and disks write as often as there is something.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    class: Class,
    sends: usize,
    cuts: usize,
    hub_deaths: usize,
    deaths: usize,
    copies: usize,
    receives: usize,
    configure: Configure,
}

const QUIET: Bounds = Bounds {
    class: Class::Express,
    sends: 0,
    cuts: 0,
    hub_deaths: 0,
    deaths: 0,
    copies: 0,
    receives: 0,
    configure: |_| {},
};

/// A sender is named by its number among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The first message on the lane of a sender arrives.
    Data(usize),
    /// The first of the other frames of a sender arrives.
    Word(usize),
    /// The first frame towards a sender arrives.
    Answer(usize),
    /// The destination's disk confirms the batch that waits longest.
    Write,
    Receive,
    Send(usize),
    Cut(usize),
    HubDies,
    Dies(usize),
    Copy,
}

struct Sender {
    node: Node,
    link: LinkId,
    data: VecDeque<PeerFrame>,
    words: VecDeque<PeerFrame>,
    answers: VecDeque<PeerFrame>,
    /// What it was given, and has in memory alone in its present life.
    sent: Vec<usize>,
    /// What of that died with it.
    gone: Vec<usize>,
}

struct World {
    hub: Node,
    senders: Vec<Sender>,
    left: Bounds,
    next_link: u64,
    next_body: usize,
    received: Vec<String>,
    hub_died: bool,
}

/// Handshakes and credit go at once; what tells of messages waits for its turn.
const fn waits(frame: &PeerFrame) -> bool {
    matches!(
        frame,
        PeerFrame::Data(_)
            | PeerFrame::SessionAck(_)
            | PeerFrame::RoutedAck(_)
            | PeerFrame::NotHeld(_)
            | PeerFrame::Query(_)
            | PeerFrame::Answer(_)
            | PeerFrame::Reject(_)
    )
}

impl Sender {
    fn new(node: Node) -> Self {
        Self {
            node,
            link: LinkId(0),
            data: VecDeque::new(),
            words: VecDeque::new(),
            answers: VecDeque::new(),
            sent: Vec::new(),
            gone: Vec::new(),
        }
    }
}

impl World {
    /// The two have met, and two messages are on their way.
    fn new(bounds: Bounds) -> Self {
        let mut hub = Node::with(2, bounds.configure);
        hub.create("orders", |settings| settings.transactional = false);
        let mut world = Self {
            hub,
            senders: vec![Sender::new(Node::with(1, bounds.configure))],
            left: bounds,
            next_link: 1,
            next_body: 0,
            received: Vec::new(),
            hub_died: false,
        };
        for _ in 0..2 {
            world.send(0);
        }
        world.connect(0);
        world
    }

    fn send(&mut self, at: usize) {
        let sender = &mut self.senders[at];
        send(&mut sender.node, self.left.class, [self.next_body]);
        sender.sent.push(self.next_body);
        self.next_body += 1;
        self.talk();
    }

    /// A new link, over which only the handshake is done. The disk of the destination catches up.
    fn connect(&mut self, at: usize) {
        self.hub.release_disk(0);
        let sender = &mut self.senders[at];
        sender.link = LinkId(self.next_link);
        self.next_link += 1;
        for on_it in [&mut sender.data, &mut sender.words, &mut sender.answers] {
            on_it.clear();
        }
        plug(&mut sender.node, &mut self.hub, sender.link);
        self.talk();
        self.hub.release_disk(0);
        self.talk();
        self.hub.hold_disk = true;
    }

    fn cut(&mut self, at: usize) {
        let sender = &mut self.senders[at];
        sender.node.lose_link(sender.link);
        self.hub.lose_link(sender.link);
        sender.node.sent_on(sender.link);
        self.hub.sent_on(sender.link);
        sender.node.wait(60_000);
        self.connect(at);
    }

    /// All that is said is on its way, and what needs no turn has arrived.
    fn talk(&mut self) {
        loop {
            let mut quiet = true;
            for sender in &mut self.senders {
                for frame in sender.node.sent_on(sender.link) {
                    quiet = false;
                    if is_data(&frame) {
                        sender.data.push_back(frame);
                    } else if waits(&frame) {
                        sender.words.push_back(frame);
                    } else {
                        self.hub.hear(sender.link, &frame);
                    }
                }
                for frame in self.hub.sent_on(sender.link) {
                    quiet = false;
                    if waits(&frame) {
                        sender.answers.push_back(frame);
                    } else {
                        sender.node.hear(sender.link, &frame);
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let left = &self.left;
        for (at, sender) in self.senders.iter().enumerate() {
            let may = [
                (Step::Data(at), !sender.data.is_empty()),
                (Step::Word(at), !sender.words.is_empty()),
                (Step::Answer(at), !sender.answers.is_empty()),
                (Step::Send(at), left.sends > 0),
                (Step::Cut(at), left.cuts > 0),
                (Step::Dies(at), left.deaths > 0),
            ];
            steps.extend(may.iter().filter(|(_, may)| *may).map(|(step, _)| *step));
        }
        let may = [
            (Step::Write, !self.hub.waiting.is_empty()),
            (Step::Receive, left.receives > 0),
            (Step::HubDies, left.hub_deaths > 0),
            (Step::Copy, left.copies > 0),
        ];
        steps.extend(may.iter().filter(|(_, may)| *may).map(|(step, _)| *step));
        steps
    }

    fn take(mut self, step: Step) -> Self {
        match step {
            Step::Data(at) => self.arrive(at, |sender| &mut sender.data),
            Step::Word(at) => self.arrive(at, |sender| &mut sender.words),
            Step::Answer(at) => {
                let sender = &mut self.senders[at];
                let frame = sender.answers.pop_front().unwrap();
                sender.node.hear(sender.link, &frame);
            }
            Step::Write => self.hub.answer_one(true),
            Step::Receive => {
                self.left.receives -= 1;
                // A message leaves when it is on disk how often it was handed out.
                self.hub.release_disk(0);
                self.received.extend(self.hub.receive("orders"));
                self.hub.hold_disk = true;
            }
            Step::Send(at) => {
                self.left.sends -= 1;
                self.send(at);
            }
            Step::Cut(at) => {
                self.left.cuts -= 1;
                self.cut(at);
            }
            Step::HubDies => {
                self.left.hub_deaths -= 1;
                self.hub_died = true;
                // What it had written it has; what waits for the disk is gone.
                self.hub = self.hub.die_with(|_| false);
                for at in 0..self.senders.len() {
                    let sender = &mut self.senders[at];
                    sender.node.lose_link(sender.link);
                    sender.node.sent_on(sender.link);
                    sender.node.wait(60_000);
                    self.connect(at);
                }
            }
            Step::Dies(at) => {
                self.left.deaths -= 1;
                let mut sender = self.senders.remove(at);
                self.hub.lose_link(sender.link);
                self.hub.sent_on(sender.link);
                sender.node = sender.node.crash();
                sender.node.wait(60_000);
                sender.gone.append(&mut sender.sent);
                self.senders.insert(at, sender);
                self.connect(at);
            }
            Step::Copy => {
                self.left.copies -= 1;
                let mut copy = Node::clone_of(&self.senders[0].node, 77);
                copy.wait(60_000);
                self.senders.push(Sender::new(copy));
                self.connect(self.senders.len() - 1);
            }
        }
        self.talk();
        self
    }

    fn arrive(&mut self, at: usize, lane: fn(&mut Sender) -> &mut VecDeque<PeerFrame>) {
        let sender = &mut self.senders[at];
        let frame = lane(sender).pop_front().unwrap();
        self.hub.hear(sender.link, &frame);
    }

    /// From now on all goes well. What is wrong at the end?
    fn ends(mut self) -> Result<(), String> {
        self.hub.release_disk(0);
        for _ in 0..4 {
            while let Some(step) = self
                .steps()
                .into_iter()
                .find(|step| matches!(step, Step::Data(_) | Step::Word(_) | Step::Answer(_)))
            {
                self = self.take(step);
            }
            self.received.extend(self.hub.receive("orders"));
            self.hub.wait(60_000);
            for sender in &mut self.senders {
                sender.node.wait(60_000);
            }
            self.talk();
        }
        let express = self.left.class == Class::Express;
        for body in numbers(0..self.next_body) {
            let came = self.received.iter().filter(|other| **other == body).count();
            let number = body.parse().unwrap();
            let died = self
                .senders
                .iter()
                .any(|sender| sender.gone.contains(&number));
            let may_be_gone = express && (died || self.hub_died);
            let may_be_double = self.hub_died && express;
            if came == 0 && !may_be_gone {
                return Err(format!("{body} is lost"));
            }
            if came > 1 && !may_be_double {
                return Err(format!("{body} came {came} times"));
            }
        }
        for (at, sender) in self.senders.iter_mut().enumerate() {
            if !is_settled(&mut sender.node) {
                return Err(format!("sender {at} waits, or has dead letters"));
            }
        }
        Ok(())
    }
}

fn after(bounds: Bounds, steps: &[Step]) -> World {
    let mut world = World::new(bounds);
    for step in steps {
        world = world.take(*step);
    }
    world
}

/// Goes through all schedules of so many steps; an engine cannot be copied, so each begins anew.
fn explore(bounds: Bounds, depth: usize) -> Result<usize, String> {
    let mut open = vec![Vec::new()];
    let mut schedules = 0;
    while let Some(schedule) = open.pop() {
        let world = after(bounds, &schedule);
        let steps = world.steps();
        if schedule.len() == depth || steps.is_empty() {
            schedules += 1;
            world
                .ends()
                .map_err(|what| format!("{what} after {schedule:?}, schedule {schedules}"))?;
            continue;
        }
        for step in steps.into_iter().rev() {
            let mut next: Vec<Step> = schedule.clone();
            next.push(step);
            open.push(next);
        }
    }
    Ok(schedules)
}

fn depth(default: usize) -> usize {
    let steps = std::env::var("QM_MODEL_STEPS").ok();
    steps.and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[rustfmt::skip]
fn worlds(class: Class) -> [(&'static str, Bounds); 4] {
    let world = Bounds { class, ..QUIET };
    [
        ("the link is cut twice", Bounds { cuts: 2, receives: 1, ..world }),
        ("the sender is copied", Bounds { copies: 1, cuts: 1, sends: 1, ..world }),
        ("the destination dies", Bounds { hub_deaths: 1, cuts: 1, receives: 1, ..world }),
        ("the sender dies", Bounds { deaths: 1, cuts: 1, sends: 1, ..world }),
    ]
}

#[test]
fn every_schedule_settles_what_arrived_and_nothing_else() {
    for class in [Class::Express, Class::Recoverable] {
        for (name, bounds) in worlds(class) {
            let schedules = explore(bounds, depth(STEPS)).unwrap_or_else(|e| panic!("{name}: {e}"));
            println!("{class:?}, {name}: {schedules} schedules");
        }
    }
}

/// Rules that are switched off, each found by a schedule. What others keep away needs what these
/// worlds leave out: acks that skip one that was refused, or a memory that is too small.
#[cfg(feature = "__breaks")]
#[test]
fn each_rule_that_is_switched_off_is_found_by_a_schedule() {
    use Class::{Express, Recoverable};
    let broken: [(&str, Class, usize, Configure); 2] = [
        ("settle_on_transmit", Express, 0, |c| {
            c.breaks.settle_on_transmit = true;
        }),
        ("ack_before_durable", Recoverable, 2, |c| {
            c.breaks.ack_before_durable = true;
        }),
    ];
    for (rule, class, world, configure) in broken {
        let (name, bounds) = worlds(class)[world];
        let bounds = Bounds {
            configure,
            ..bounds
        };
        let found = explore(bounds, depth(STEPS));
        println!("{rule}, {name}: {found:?}");
        assert!(found.is_err(), "{rule} is not noticed");
    }
}
