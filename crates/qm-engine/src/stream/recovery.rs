//! Streams as the store has them, on both sides.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use qm_wire::{Link, QmId, StreamId};

use crate::backlog::Message;
use crate::engine::Engine;
use crate::io::{LinkId, Recovered, StoreOp};
use crate::stream::branches::{Branches, StoredRun};
use crate::stream::chain::Skipping;
use crate::stream::receiving::{InKey, InStream};
use crate::stream::record::{
    StoredChain, chain_of, decode_run, decode_skip, decode_stream, run_key, skip_of, stream_of_key,
};

type Skips = BTreeMap<u32, Vec<Skipping<(LinkId, u64)>>>;

impl Engine {
    /// Reads all streams back, once the queues are there. Returns how many values were not
    /// understood.
    pub(crate) fn recover_streams(&mut self, recovered: &Recovered) -> usize {
        let mut bad = 0;
        let mut skips: Skips = BTreeMap::new();
        let mut runs: BTreeMap<InKey, Vec<StoredRun>> = BTreeMap::new();
        for (key, value) in &recovered.state {
            if let Some(number) = skip_of(key) {
                match number.zip(decode_skip(value)) {
                    Some((number, skip)) => skips.entry(number).or_default().push(skip),
                    None => bad += 1,
                }
            } else if let Some(stream) = stream_of_key(key, b"h/") {
                match stream.zip(decode_run(value)) {
                    Some((stream, run)) => runs.entry(stream).or_default().push(run),
                    None => bad += 1,
                }
            }
        }
        for (key, value) in &recovered.state {
            if let Some(number) = chain_of(key) {
                match number.zip(StoredChain::decode(value)) {
                    Some((number, stored)) => {
                        let skips = skips.remove(&number).unwrap_or_default();
                        self.recover_chain(number, stored, skips);
                    }
                    None => bad += 1,
                }
            } else if let Some(stream) = stream_of_key(key, b"hs/") {
                match stream.zip(decode_stream(value)) {
                    Some((stream, (queue, dropped))) => {
                        let runs = runs.remove(&stream).unwrap_or_default();
                        self.recover_branches(stream, queue, dropped, runs);
                    }
                    None => bad += 1,
                }
            }
        }
        // Without the value of their stream they are not known to belong to a queue.
        bad + skips.len() + runs.len()
    }

    fn recover_chain(
        &mut self,
        number: u32,
        stored: StoredChain,
        skips: Vec<Skipping<(LinkId, u64)>>,
    ) {
        self.add_stream(number, stored.id, stored.store, stored.marks, skips);
        if let Some(stream) = self.outs.get_mut(&number).and_then(|o| o.stream.as_mut()) {
            stream.unproven = stored.unproven;
            stream.begins = stored.begins;
            stream.found();
        }
    }

    fn recover_branches(
        &mut self,
        (source, stream): (QmId, StreamId),
        queue: qm_wire::QueueName,
        dropped: bool,
        runs: Vec<StoredRun>,
    ) {
        let key = (source, stream);
        let root = Link::start(&source, &stream, &queue);
        let (branches, orphans) = Branches::recovered(root, dropped, runs);
        for run in orphans {
            // The disk took a batch although it had refused an earlier one, and the node died
            // before it could take that out again: these messages were never acknowledged.
            if let Some(first) = run.taken.first() {
                let link = run.before.next(first.entry.tag, run.first);
                self.commits.unset(run_key(&key, (run.first, link)));
            }
            let entries = run.taken.iter().map(|taken| (source, taken.entry));
            self.ins.orphans.extend(entries);
        }
        if branches.is_empty() {
            return;
        }
        let mut stream = InStream::new(queue, branches, self.now.at);
        stream.low = 0;
        self.ins.streams.insert(key, stream);
    }

    /// This node died while streams began anew in several batches. What is settled in them was
    /// never answered for: nothing but to begin them anew brings them on.
    pub(crate) fn begin_rest_anew(&mut self) {
        let outs = self.outs.iter();
        let begins = outs.filter(|(_, out)| out.stream.as_ref().is_some_and(|s| s.begins));
        for number in begins.map(|(number, _)| *number).collect::<Vec<_>>() {
            crate::reached!(self, StreamBegunAgain);
            self.reroot_stream(number);
        }
    }

    /// A stream had begun anew while the letter of what had left it was on its way to the disk, and
    /// this node died before it told that. Nobody is asked, and nobody will answer.
    pub(crate) fn end_left_doubts(&mut self) {
        let streams = self.outs.values().filter_map(|out| out.stream.as_ref());
        let skips = streams.flat_map(|stream| stream.chain.skips());
        let skips: BTreeSet<_> = skips.map(|skip| skip.entry.id).collect();
        let doubts = self.awaiting.doubts();
        let left = doubts.filter(|id| !skips.contains(id) && !self.asks_about(*id));
        for id in left.collect::<Vec<_>>() {
            self.death_stands(id);
            self.seal_if_large();
        }
    }

    /// A message that was read from a queue and never was part of its stream goes.
    pub(crate) fn drop_orphan(&mut self, queue: u32, priority: u8, message: &mut Option<Message>) {
        let orphans = &mut self.ins.orphans;
        if orphans.is_empty()
            || !message
                .as_ref()
                .is_some_and(|m| orphans.remove(&(m.source, m.entry())))
        {
            return;
        }
        if let Some(message) = message.take() {
            self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
            self.commits.settle(StoreOp::Remove {
                stream: Self::stream_of(queue, priority),
                first: message.position,
                last: message.position,
            });
        }
    }
}

/// Whether a named value is one of those read by [`Engine::recover_streams`].
pub(crate) fn is_stream_value(key: &Bytes) -> bool {
    [&b"s/"[..], b"skip/", b"h/", b"hs/"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}
