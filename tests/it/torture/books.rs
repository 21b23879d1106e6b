//! What every application was told and handed: the account that must come out even.

use std::collections::BTreeMap;

use qm_client::MessageId;

/// One stream of numbered messages, from one application to one queue.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) express: bool,
    /// The id under which each number was accepted.
    accepted: BTreeMap<u64, MessageId>,
    /// At how many places of the destination's queue each number was found.
    stored: BTreeMap<u64, u32>,
    newest: u64,
    /// Whether a number was refused for want of room, and may have come behind later ones.
    pub(super) refused: bool,
    overtaken: u64,
    broken: Vec<String>,
}

impl Stream {
    pub(super) fn new(from: usize, to: usize, express: bool) -> Self {
        Self {
            from,
            to,
            express,
            ..Self::default()
        }
    }

    pub(super) fn accepted(&mut self, number: u64, id: MessageId) {
        if let Some(before) = self.accepted.insert(number, id)
            && before != id
            && !self.express
        {
            self.broken
                .push(format!("{number} was accepted as {before} and as {id}"));
        }
    }

    fn found(&mut self, number: u64) {
        let times = self.stored.entry(number).or_default();
        *times += 1;
        if *times == 1 {
            self.overtaken += u64::from(number < self.newest);
            self.newest = self.newest.max(number);
        }
    }
}

/// All streams, and what lies at which place of which queue.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) streams: Vec<Stream>,
    /// By node and lookup id; the application reads the only queue of its node.
    places: Vec<BTreeMap<u64, (usize, u64)>>,
    handed_out_again: u64,
    broken: Vec<String>,
}

/// The account of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) accepted: u64,
    pub(super) received: u64,
    pub(super) missing: u64,
    pub(super) stored_again: u64,
    pub(super) overtaken: u64,
    /// Received, and its sender was never told that it was accepted.
    pub(super) untold: u64,
}

impl Books {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            places: vec![BTreeMap::new(); nodes],
            ..Self::default()
        }
    }

    pub(super) fn handed_out(&mut self, node: usize, lookup: u64, body: &[u8]) {
        let Some((stream, number)) = read(body) else {
            self.broken
                .push(format!("node {node} handed out a body that nobody sent"));
            return;
        };
        if let Some(before) = self.places[node].insert(lookup, (stream, number)) {
            self.handed_out_again += 1;
            if before != (stream, number) {
                self.broken
                    .push(format!("node {node}: two messages at place {lookup}"));
            }
            return;
        }
        let stream = &mut self.streams[stream];
        if stream.to != node {
            self.broken
                .push(format!("{number} of {stream:?} came to node {node}"));
        }
        stream.found(number);
    }

    pub(super) const fn handed_out_again(&self) -> u64 {
        self.handed_out_again
    }

    /// Accepted messages that were not found yet, and must be.
    pub(super) fn open(&self) -> u64 {
        self.sums(false).missing
    }

    pub(super) fn sums(&self, express: bool) -> Sums {
        let mut sums = Sums::default();
        for stream in self.streams.iter().filter(|s| s.express == express) {
            sums.accepted += stream.accepted.len() as u64;
            sums.received += stream.stored.len() as u64;
            let told = |number: &&u64| stream.accepted.contains_key(*number);
            let told = stream.stored.keys().filter(told).count() as u64;
            sums.missing += stream.accepted.len() as u64 - told;
            sums.untold += stream.stored.len() as u64 - told;
            let again = stream.stored.values().map(|times| u64::from(times - 1));
            sums.stored_again += again.sum::<u64>();
            if !stream.refused {
                sums.overtaken += stream.overtaken;
            }
        }
        sums
    }

    /// Everything that must never be.
    pub(super) fn verdict(&self) -> Vec<String> {
        let mut broken = self.broken.clone();
        for stream in &self.streams {
            broken.extend(stream.broken.iter().cloned());
        }
        let durable = self.sums(false);
        if durable.missing > 0 {
            broken.push(format!("{} recoverable messages are lost", durable.missing));
            for stream in self.streams.iter().filter(|s| !s.express) {
                let lost = stream.accepted.iter();
                let lost = lost.filter(|(number, _)| !stream.stored.contains_key(number));
                for (number, id) in lost.take(5) {
                    let (from, to) = (stream.from, stream.to);
                    broken.push(format!("{number} of {from} to {to}, accepted as {id}"));
                }
            }
        }
        if durable.stored_again > 0 {
            let again = durable.stored_again;
            broken.push(format!("{again} recoverable messages were stored twice"));
        }
        if durable.overtaken > 0 {
            broken.push(format!(
                "{} recoverable messages were overtaken",
                durable.overtaken
            ));
        }
        broken
    }
}

/// A body that says what it is, padded so that sizes differ.
pub(super) fn body(stream: usize, number: u64) -> Vec<u8> {
    let mut body = format!("{stream} {number} ").into_bytes();
    let padding = usize::try_from(number.wrapping_mul(0x9e37_79b9) % 400).unwrap_or(0);
    body.resize(body.len() + padding, b'+');
    body
}

fn read(body: &[u8]) -> Option<(usize, u64)> {
    let text = core::str::from_utf8(body).ok()?;
    let mut words = text.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}
