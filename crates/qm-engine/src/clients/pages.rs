//! Which messages an application's requests became, in pages.
//!
//! Each page has a value of its own on disk, and a batch writes only those that it changes. With
//! all answers in one value, applications that take turns would write some 32 KiB for every
//! message, and a thousand of them more in one batch than a segment of the store holds.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use qm_wire::{ClientId, MessageId};

use crate::limits::{CLIENT_PAGE_RUNS as PAGE_RUNS, CLIENT_RUNS_MAX};
use crate::record::{Answers, Run, encode_answers, prefixed};
use crate::time::Timestamp;

/// Pages of one application, should requests that were refused have thinned them out.
const PAGES_MAX: usize = 2 * CLIENT_RUNS_MAX / PAGE_RUNS;
const PREFIX: &[u8] = b"client/";
/// What a run takes on disk at most, about.
pub(super) const RUN_BYTES: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pages: BTreeMap<u64, Page>,
    /// Below this sequence answers were forgotten.
    forgotten_below: u64,
    /// Pages on disk that were forgotten: to be removed together with the next value that is
    /// written, which says up to where.
    forgotten: Vec<u64>,
}

#[derive(Debug, Default)]
struct Page {
    runs: Vec<Run>,
    dirty: bool,
    /// What is stored of it speaks for something that was refused.
    stale: bool,
    stored: bool,
}

/// What is to be written of an application's pages.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Values that leave out what is pending.
    pub(super) corrections: Vec<(Bytes, Bytes)>,
    pub(super) values: Vec<(Bytes, Bytes)>,
    /// Names of values that are removed.
    pub(super) removals: Vec<Bytes>,
}

/// When and how pages are written; see [`Engine::save_clients`](crate::engine::Engine).
#[derive(Clone, Copy, Debug)]
pub(super) struct Saving {
    /// Messages go with it.
    pub(super) puts: bool,
    /// Nothing of the application is pending.
    pub(super) safe: bool,
    /// An earlier batch was refused.
    pub(super) overtaking: bool,
}

/// The name of a page in the store; the first one has that of its application.
fn name_of(client: ClientId, page: u64) -> Bytes {
    if page == 0 {
        return prefixed(PREFIX, &client.0);
    }
    let mut rest = [0; 24];
    let (head, tail) = rest.split_at_mut(client.0.len());
    head.copy_from_slice(&client.0);
    tail.copy_from_slice(&page.to_be_bytes());
    prefixed(PREFIX, &rest)
}

/// Whose page has this name; `Some(None)` when it is damaged, `None` when it is of something else.
pub(super) fn named(name: &[u8]) -> Option<Option<(ClientId, u64)>> {
    let rest = name.strip_prefix(PREFIX)?;
    let page = rest.split_first_chunk::<16>().and_then(|(client, rest)| {
        if rest.is_empty() {
            return Some((ClientId(*client), 0));
        }
        let page = <[u8; 8]>::try_from(rest).ok()?;
        Some((ClientId(*client), u64::from_be_bytes(page)))
    });
    Some(page)
}

/// Takes one number out of runs, as if it had never been answered.
pub(super) fn remove_number(runs: impl Iterator<Item = Run>, number: u64) -> Vec<Run> {
    let mut kept = Vec::new();
    for run in runs {
        let Some(id) = run.id_of(number) else {
            kept.push(run);
            continue;
        };
        if run.first < number {
            kept.push(Run {
                last: number - 1,
                ..run
            });
        }
        if number < run.last {
            let first_id = MessageId {
                incarnation: id.incarnation,
                sequence: id.sequence.saturating_add(1),
            };
            kept.push(Run {
                first: number + 1,
                last: run.last,
                first_id,
            });
        }
    }
    kept
}

/// The runs without these numbers.
pub(super) fn without<'a, 'b>(
    runs: impl IntoIterator<Item = &'a Run>,
    numbers: impl Iterator<Item = &'b u64>,
) -> Vec<Run> {
    numbers.fold(runs.into_iter().copied().collect(), |runs, number| {
        remove_number(runs.into_iter(), *number)
    })
}

impl Pages {
    /// Below this sequence answers were forgotten.
    pub(super) const fn forgotten_below(&self) -> u64 {
        self.forgotten_below
    }

    /// The message that a request became, if that is known.
    pub(super) fn id_of(&self, sequence: u64) -> Option<MessageId> {
        let mut newest = self.pages.values().rev().flat_map(|p| p.runs.iter().rev());
        newest.find_map(|run| run.id_of(sequence))
    }

    /// Notes an answer. `durable`: it is written with the batch of its message. Returns whether
    /// something must be written.
    pub(super) fn note(&mut self, sequence: u64, id: MessageId, durable: bool) -> bool {
        let newest = self.pages.last_key_value().map_or(0, |(number, _)| *number);
        let page = self.pages.entry(newest).or_default();
        if page
            .runs
            .last_mut()
            .is_some_and(|run| run.extend(sequence, id))
        {
            page.dirty |= durable;
            return durable;
        }
        let run = Run {
            first: sequence,
            last: sequence,
            first_id: id,
        };
        if page.runs.len() < PAGE_RUNS {
            page.runs.push(run);
            page.dirty |= durable;
            return durable;
        }
        let begun = Page {
            runs: vec![run],
            dirty: durable,
            ..Page::default()
        };
        let number = newest.saturating_add(1);
        self.pages.insert(number, begun);
        if self.forget_surplus()
            && let Some(page) = self.pages.get_mut(&number)
        {
            // It says up to where answers were forgotten.
            page.dirty = true;
            return true;
        }
        durable
    }

    /// Forgets the oldest pages of too many; returns whether one of them is on disk.
    fn forget_surplus(&mut self) -> bool {
        let mut runs: usize = self.pages.values().map(|page| page.runs.len()).sum();
        let mut on_disk = false;
        while let Some(oldest) = self.pages.first_entry() {
            let left = runs.saturating_sub(oldest.get().runs.len());
            if left < CLIENT_RUNS_MAX && self.pages.len() <= PAGES_MAX {
                break;
            }
            let Some((number, page)) = self.pages.pop_first() else {
                break;
            };
            runs = left;
            for run in &page.runs {
                self.forgotten_below = self.forgotten_below.max(run.last.saturating_add(1));
            }
            if page.stored {
                self.forgotten.push(number);
                on_disk = true;
            }
        }
        on_disk
    }

    /// Takes a request out, as if it had never been answered; what is stored of it is written anew.
    pub(super) fn withdraw(&mut self, sequence: u64) {
        for page in self.pages.values_mut() {
            if page.runs.iter().any(|run| run.id_of(sequence).is_some()) {
                page.runs = remove_number(page.runs.drain(..), sequence);
                page.dirty = true;
                page.stale = true;
            }
        }
    }

    /// What is stored may speak for something that was taken back: all of it is written anew.
    pub(super) fn doubt(&mut self) {
        for page in self.pages.values_mut().filter(|page| page.stored) {
            page.dirty = true;
            page.stale = true;
        }
    }

    /// Bytes that the next batch takes for these, about.
    pub(super) fn dirty_bytes(&self) -> usize {
        let dirty = self.pages.values().filter(|page| page.dirty);
        dirty.map(|page| 64 + page.runs.len() * RUN_BYTES).sum()
    }

    /// What is to be written now, and whether something is left for later.
    pub(super) fn save<'a>(
        &mut self,
        client: ClientId,
        touched: Timestamp,
        saving: Saving,
        pending: impl Iterator<Item = &'a u64> + Clone,
    ) -> (Changes, bool) {
        let Saving {
            puts,
            safe,
            overtaking,
        } = saving;
        let below = self.forgotten_below;
        let mut changes = Changes::default();
        let mut later = false;
        for (number, page) in &mut self.pages {
            let stale = core::mem::take(&mut page.stale) && overtaking;
            if stale && (puts || !safe) {
                let runs = without(&page.runs, pending.clone());
                let value = encode_answers(touched.0, below, runs.iter());
                changes.corrections.push((name_of(client, *number), value));
                page.stored = true;
            }
            if !page.dirty {
                continue;
            }
            if puts || safe {
                let value = encode_answers(touched.0, below, page.runs.iter());
                changes.values.push((name_of(client, *number), value));
                page.dirty = false;
                page.stored = true;
            } else {
                later = true;
            }
        }
        if !changes.values.is_empty() {
            let forgotten = self.forgotten.drain(..);
            changes.removals = forgotten.map(|number| name_of(client, number)).collect();
        }
        (changes, later)
    }

    /// The names of everything that is stored of an application.
    pub(super) fn names(&self, client: ClientId) -> Vec<Bytes> {
        let stored = self.pages.iter().filter(|(_, page)| page.stored);
        let stored = stored.map(|(number, _)| number).chain(&self.forgotten);
        stored.map(|number| name_of(client, *number)).collect()
    }

    /// Takes a stored page in. Returns the highest sequence in it.
    pub(super) fn recover(&mut self, number: u64, answers: Answers) -> u64 {
        self.forgotten_below = self.forgotten_below.max(answers.forgotten_below);
        let highest = answers.runs.iter().map(|run| run.last).max().unwrap_or(0);
        if let Entry::Vacant(page) = self.pages.entry(number) {
            page.insert(Page {
                runs: answers.runs,
                stored: true,
                ..Page::default()
            });
        }
        highest.max(self.forgotten_below.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::Incarnation;

    use super::*;
    use crate::record::decode_answers;

    const CLIENT: ClientId = ClientId([7; 16]);
    const WITH_MESSAGES: Saving = Saving {
        puts: true,
        safe: false,
        overtaking: false,
    };

    fn id(sequence: u64) -> MessageId {
        MessageId {
            incarnation: Incarnation(3),
            sequence,
        }
    }

    fn save(pages: &mut Pages) -> Changes {
        let (changes, later) = pages.save(CLIENT, Timestamp(5), WITH_MESSAGES, [].iter());
        assert!(!later);
        changes
    }

    /// Applications that take turns: every message is a run of its own.
    fn take_turns(pages: &mut Pages, disk: &mut BTreeMap<Bytes, Bytes>, sequences: u64) -> usize {
        let mut most = 0;
        for sequence in 1..=sequences {
            assert!(pages.note(sequence, id(2 * sequence), true));
            let changes = save(pages);
            let bytes = changes.values.iter().map(|(_, value)| value.len());
            most = most.max(bytes.sum());
            disk.extend(changes.values);
            for name in changes.removals {
                assert!(disk.remove(&name).is_some(), "it was stored");
            }
        }
        most
    }

    #[test]
    fn a_batch_writes_one_page_however_many_answers_are_kept() {
        let (mut pages, mut disk) = (Pages::default(), BTreeMap::new());
        let sequences = (CLIENT_RUNS_MAX + 5 * PAGE_RUNS) as u64;
        let most = take_turns(&mut pages, &mut disk, sequences);
        assert!(most <= 32 + PAGE_RUNS * RUN_BYTES, "{most}");
        assert!(disk.len() <= CLIENT_RUNS_MAX / PAGE_RUNS + 1);
        let mut again = Pages::default();
        let mut highest = 0;
        // In whatever order they are read.
        for (name, value) in disk.iter().rev() {
            let (client, number) = named(name).unwrap().unwrap();
            assert_eq!(client, CLIENT);
            highest = highest.max(again.recover(number, decode_answers(value).unwrap()));
        }
        assert_eq!(highest, sequences);
        for pages in [&pages, &again] {
            let below = pages.forgotten_below();
            assert!(below > 1 && sequences - below >= CLIENT_RUNS_MAX as u64 - 1);
            for sequence in (1..=sequences).step_by(7) {
                let want = (sequence >= below).then(|| id(2 * sequence));
                assert_eq!(pages.id_of(sequence), want, "{sequence}");
            }
        }
        let mut names = again.names(CLIENT);
        names.sort_unstable();
        assert_eq!(names, disk.into_keys().collect::<Vec<_>>());
    }

    /// Without that, a start would take requests again that were taken long ago.
    #[test]
    fn a_page_is_removed_only_together_with_the_word_that_it_was() {
        let (mut pages, mut disk) = (Pages::default(), BTreeMap::new());
        let full = (CLIENT_RUNS_MAX + PAGE_RUNS) as u64;
        take_turns(&mut pages, &mut disk, full);
        assert_eq!(pages.forgotten_below(), 0);
        // An answer that is not stored itself.
        assert!(pages.note(full + 1, id(2 * full + 2), false));
        let waits = Saving {
            puts: false,
            ..WITH_MESSAGES
        };
        let (changes, later) = pages.save(CLIENT, Timestamp(5), waits, [full].iter());
        assert!(later && changes.values.is_empty() && changes.removals.is_empty());
        let changes = save(&mut pages);
        assert_eq!(changes.removals, [name_of(CLIENT, 0)]);
        let (_, value) = &changes.values[0];
        let below = decode_answers(value).unwrap().forgotten_below;
        assert_eq!(below, PAGE_RUNS as u64 + 1);
    }

    #[test]
    fn what_is_withdrawn_is_written_anew_without_what_is_pending() {
        let (mut pages, mut disk) = (Pages::default(), BTreeMap::new());
        take_turns(&mut pages, &mut disk, 2 * PAGE_RUNS as u64);
        pages.withdraw(3);
        assert_eq!(pages.id_of(3), None);
        let saving = Saving {
            puts: true,
            safe: false,
            overtaking: true,
        };
        let (changes, _) = pages.save(CLIENT, Timestamp(5), saving, [4, 200].iter());
        assert_eq!(changes.corrections.len(), 1, "only the page that had it");
        let (name, value) = &changes.corrections[0];
        assert_eq!(*name, name_of(CLIENT, 0));
        let stored = decode_answers(value).unwrap().runs;
        let has = |sequence| stored.iter().any(|run| run.id_of(sequence).is_some());
        assert!(has(2) && !has(3) && !has(4) && has(5));
        assert_eq!(pages.id_of(4), Some(id(8)));
    }

    #[test]
    fn names_tell_their_pages() {
        for page in [0, 1, u64::MAX] {
            assert_eq!(named(&name_of(CLIENT, page)), Some(Some((CLIENT, page))));
        }
        assert_eq!(named(b"client/short"), Some(None));
        assert_eq!(named(b"idem/x"), None);
    }
}
