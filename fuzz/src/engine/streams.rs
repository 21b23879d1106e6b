//! Transactional streams, in both directions: peers that go on with theirs as they should, branch
//! off or make links up, and that say what they please of those of the engine.

use std::collections::{BTreeMap, BTreeSet};

use qm_engine::LinkId;
use qm_wire::{
    Data, Entry, Hold, Link, LinkAt, Need, OrderAck, PeerFrame, Place, QueueName, Run, Skip,
    Skipped, StreamId, Tag,
};

use super::{Cut, TRANSACTIONAL, World, id_of, queue};

/// Streams of each peer.
const STREAMS: u8 = 3;

/// What a peer put at a place of a stream.
#[derive(Debug)]
struct Told {
    place: Place,
    tag: Tag,
    message: bool,
    skip: bool,
}

/// What was said of streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Where the streams of peers go on: the newest position and its link.
    ends: BTreeMap<(u8, u8), (u64, Link)>,
    /// What peers told, by its own link: a peer may tell the same in several streams.
    told: BTreeMap<(u8, StreamId, Link), Told>,
    /// Messages that they told, to tell them again.
    again: Vec<(u8, Data)>,
    /// Where the engine's own messages and skips stand, and for whom.
    sent: Vec<(u8, Place, Tag)>,
}

fn name_of(stream: u8) -> StreamId {
    StreamId([stream + 1; 16])
}

fn link_of(place: &Place, tag: Tag) -> Link {
    place.previous.next(tag, place.position)
}

impl Streams {
    fn end(&self, peer: u8, stream: u8) -> (u64, Link) {
        let start = || {
            let queue = queue(TRANSACTIONAL);
            (0, Link::start(&id_of(peer), &name_of(stream), &queue))
        };
        self.ends
            .get(&(peer, stream))
            .copied()
            .unwrap_or_else(start)
    }

    /// Mostly the next place of the stream, so that it is taken.
    pub(super) fn place(&self, peer: u8, cut: &mut Cut<'_>) -> Place {
        let stream = cut.below(STREAMS);
        let (end, last) = self.end(peer, stream);
        let how = cut.byte();
        let (position, previous) = match how {
            0..200 => (end.saturating_add(1), last),
            200..230 if !self.told.is_empty() => {
                let at = usize::from(cut.byte()) % self.told.len();
                let (key, told) = self.told.iter().nth(at).expect("it is below their number");
                (told.place.position.saturating_add(1), key.2)
            }
            200..240 => (end.saturating_add(1), Link([how; 16])),
            _ => (cut.number(), last),
        };
        let position = position.max(1);
        let low = if cut.byte() < 200 { 1 } else { cut.number() };
        Place {
            stream: name_of(stream),
            position,
            low: low.clamp(1, position),
            previous,
        }
    }

    /// A peer tells this; its stream goes on behind it.
    fn tell(&mut self, peer: u8, place: Place, tag: Tag) -> &mut Told {
        let stream = place.stream.0[0] - 1;
        let link = link_of(&place, tag);
        let (end, last) = self.end(peer, stream);
        if end.checked_add(1) == Some(place.position) && last == place.previous {
            self.ends.insert((peer, stream), (place.position, link));
        }
        self.told.entry((peer, place.stream, link)).or_insert(Told {
            place,
            tag,
            message: false,
            skip: false,
        })
    }

    /// The engine sent something of a stream of its own.
    pub(super) fn sent(&mut self, peer: u8, place: Place, tag: Tag) {
        self.sent.push((peer, place, tag));
    }

    /// What the engine says of a peer's streams is true.
    pub(super) fn overhear(&mut self, peer: u8, frame: &PeerFrame, durable: &BTreeSet<Tag>) {
        match frame {
            PeerFrame::OrderAck(ack) => {
                for run in &ack.runs {
                    self.check_run(peer, run, durable);
                }
            }
            PeerFrame::Skipped(skipped) => {
                for at in &skipped.links {
                    let told = self.told.get(&(peer, at.stream, at.link));
                    let told = told.filter(|told| told.skip);
                    let told = told.expect("only what was skipped is skipped");
                    assert_eq!(told.place.position, at.position);
                }
            }
            // The sender goes on where it may.
            PeerFrame::Need(need) => {
                let stream = need.stream.0[0] - 1;
                self.ends.remove(&(peer, stream));
                if let Some(leaf) = need.leaves.last() {
                    self.ends.insert((peer, stream), *leaf);
                }
            }
            _ => {}
        }
    }

    /// Everything that a run names was told, follows from what is before it, and is stored.
    fn check_run(&self, peer: u8, run: &Run, durable: &BTreeSet<Tag>) {
        let (mut link, mut position) = (run.link, run.last);
        loop {
            let told = self.told.get(&(peer, run.stream, link));
            let told = told.filter(|told| told.message);
            let told = told.expect("only what was told is acknowledged");
            assert_eq!(told.place.position, position);
            assert!(durable.contains(&told.tag), "acknowledged and not stored");
            if position <= run.first {
                return;
            }
            (link, position) = (told.place.previous, position - 1);
        }
    }

    /// A place of the engine's own towards a peer, the newer the likelier.
    fn of_engine(&self, peer: u8, cut: &mut Cut<'_>) -> Option<(Place, Tag)> {
        let towards = self.sent.iter().rev().filter(|(to, ..)| *to == peer);
        let towards: Vec<_> = towards.collect();
        let how = usize::from(cut.byte());
        let at = how % towards.len().max(1);
        let (_, place, tag) = towards.get(at).filter(|_| how < 224)?;
        Some((*place, *tag))
    }

    /// The link of such a place, or one that is made up.
    fn link_at(&self, peer: u8, cut: &mut Cut<'_>) -> LinkAt {
        match self.of_engine(peer, cut) {
            Some((place, tag)) => LinkAt {
                stream: place.stream,
                position: place.position,
                link: link_of(&place, tag),
            },
            None => LinkAt {
                stream: name_of(cut.below(STREAMS)),
                position: cut.number().max(1),
                link: Link([cut.byte(); 16]),
            },
        }
    }
}

impl World {
    /// A message of a stream that was told is told again on any session of its sender.
    pub(super) fn told_again(&mut self, link: LinkId, peer: u8, cut: &mut Cut<'_>) -> Option<Data> {
        let of_peer = self.streams.again.iter().filter(|(of, _)| *of == peer);
        let of_peer: Vec<_> = of_peer.collect();
        let at = usize::from(cut.byte()) % of_peer.len().max(1);
        let mut data = of_peer.get(at)?.1.clone();
        data.number = self.number(link, cut);
        Some(data)
    }

    pub(super) fn tell_in_stream(&mut self, peer: u8, data: &Data) {
        if let Some(place) = data.transit.place {
            self.streams.tell(peer, place, data.tag).message = true;
            self.streams.again.push((peer, data.clone()));
        }
    }

    pub(super) fn skip(&mut self, peer: u8, cut: &mut Cut<'_>) -> PeerFrame {
        let place = self.streams.place(peer, cut);
        let entry = self.entry(cut);
        self.streams.tell(peer, place, entry.tag).skip = true;
        PeerFrame::Skip(Skip {
            place,
            entry,
            outcome: Self::outcome(cut),
            queue: Self::queue_of_stream(cut),
        })
    }

    fn queue_of_stream(cut: &mut Cut<'_>) -> QueueName {
        match cut.byte() {
            0..240 => queue(TRANSACTIONAL),
            other => queue(other % 4),
        }
    }

    /// A peer's word on what the engine sent it in a stream.
    pub(super) fn on_stream(&self, peer: u8, cut: &mut Cut<'_>) -> PeerFrame {
        let streams = &self.streams;
        match cut.below(4) {
            0 => {
                let run = |cut: &mut Cut<'_>| {
                    let at = streams.link_at(peer, cut);
                    Run {
                        stream: at.stream,
                        first: at.position.saturating_sub(cut.number()).max(1),
                        last: at.position,
                        link: at.link,
                    }
                };
                PeerFrame::OrderAck(OrderAck {
                    duplicate: cut.below(2) == 1,
                    runs: (0..=cut.below(3)).map(|_| run(cut)).collect(),
                })
            }
            1 => PeerFrame::Skipped(Skipped {
                links: (0..=cut.below(3))
                    .map(|_| streams.link_at(peer, cut))
                    .collect(),
            }),
            2 => {
                let at = streams.link_at(peer, cut);
                let leaf = |cut: &mut Cut<'_>| match streams.of_engine(peer, cut) {
                    Some((place, _)) if cut.below(2) == 1 => (place.position - 1, place.previous),
                    _ => {
                        let at = streams.link_at(peer, cut);
                        (at.position, at.link)
                    }
                };
                PeerFrame::Need(Need {
                    stream: at.stream,
                    leaves: (0..cut.below(3)).map(|_| leaf(cut)).collect(),
                    queue: Self::queue_of_stream(cut),
                })
            }
            _ => {
                let at = streams.link_at(peer, cut);
                PeerFrame::Hold(Hold {
                    stream: at.stream,
                    position: at.position,
                    previous: at.link,
                    outcome: Self::outcome(cut),
                    text: "it stands".into(),
                })
            }
        }
    }

    /// Messages that peers told, or the engine sent: what a peer may say something of.
    pub(super) fn known_entry(&self, which: u8) -> Option<Entry> {
        let at = usize::from(which / 2);
        if which.is_multiple_of(2) && !self.seen.is_empty() {
            let (_, _, entry) = self.seen[self.seen.len() - 1 - at % self.seen.len()];
            return Some(entry);
        }
        let told = &self.told_entries;
        (!told.is_empty()).then(|| told[told.len() - 1 - at % told.len()])
    }
}
