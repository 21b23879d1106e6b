//! Every workload under every fault at every operation, and a table of what came of it.
//!
//! `cargo xtask store-faults` prints the table, `--full` leaves no operation out; an ordinary test
//! run takes samples.

use std::collections::HashMap;
use std::hash::{Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use qm_store::{Fault, Fs, SimFs, Tear, check};

use crate::common::*;
use crate::workloads::*;

/// How much of everything is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Of the operations of a workload every so many-th is hit.
    stride: u64,
    /// Of the operations of each recovery every so many-th is hit again; none without.
    second_stride: Option<u64>,
    tears: &'static [Tear],
    second_tears: &'static [Tear],
    /// Whether the first violation is enough.
    stops: bool,
}

const SEEDED: [Tear; 12] = [
    Tear::Nothing,
    Tear::Everything,
    Tear::FirstHalf,
    Tear::LastHalf,
    Tear::Even,
    Tear::Odd,
    Tear::MidSector,
    Tear::Oldest,
    Tear::Seeded(1),
    Tear::Seeded(2),
    Tear::Seeded(3),
    Tear::Seeded(4),
];

impl Extent {
    /// What `QM_STORE_FAULTS` asks for: `full`, `some` or, without it, a sample.
    pub(crate) fn asked() -> Self {
        match std::env::var("QM_STORE_FAULTS").as_deref() {
            Ok("full") => Self {
                stride: 1,
                second_stride: Some(1),
                tears: &SEEDED,
                second_tears: &[Tear::Nothing, Tear::Odd, Tear::Seeded(9)],
                stops: false,
            },
            Ok(_) => Self {
                stride: 1,
                second_stride: Some(3),
                tears: &[Tear::Nothing, Tear::LastHalf, Tear::Odd, Tear::Seeded(1)],
                second_tears: &[Tear::Nothing],
                stops: false,
            },
            Err(_) => Self {
                stride: 7,
                second_stride: Some(11),
                tears: &[Tear::Nothing, Tear::Odd],
                second_tears: &[Tear::Nothing],
                stops: false,
            },
        }
    }

    /// Until something is noticed, and nothing left out on the way.
    #[cfg(feature = "__breaks")]
    pub(crate) const UNTIL_NOTICED: Self = Self {
        stride: 1,
        second_stride: Some(2),
        tears: &[Tear::Nothing, Tear::Odd, Tear::LastHalf, Tear::Seeded(1)],
        second_tears: &[Tear::Nothing, Tear::Odd],
        stops: true,
    };
}

/// Content of a disk, what may be found there, and where something begins.
type State = ([u8; 32], u64);

/// How many runs from a state there were, and how many of them went wrong.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    runs: u64,
    violations: u64,
}

/// What a disk holds and what may be found there; only durable content counts, so ask after a cut.
fn state(fs: &SimFs, told: &Told, from: u64) -> State {
    let mut content = blake3::Hasher::new();
    for name in fs.list(&dir()).unwrap() {
        let bytes = fs.content(&dir().join(&name)).unwrap();
        content.update(name.as_bytes());
        content.update(&(bytes.len() as u64).to_le_bytes());
        content.update(&bytes);
    }
    let mut words = std::hash::DefaultHasher::new();
    (&told.done, &told.may, &told.wrong, from).hash(&mut words);
    (*content.finalize().as_bytes(), words.finish())
}

/// A line of the table.
#[derive(Debug, Default)]
pub(crate) struct Row {
    workload: &'static str,
    fault: &'static str,
    runs: u64,
    /// What came of each state of the disk that was met with what had been told: many cuts and
    /// tears leave the same.
    met: HashMap<State, Outcome>,
    pub(crate) violations: u64,
    /// The first few.
    pub(crate) examples: Vec<String>,
}

impl Row {
    fn new(workload: &Workload, fault: &'static str) -> Self {
        Self {
            workload: workload.name,
            fault,
            ..Self::default()
        }
    }

    fn line(&self) -> String {
        let Self {
            workload,
            fault,
            runs,
            violations,
            ..
        } = self;
        let different = match self.met.len() {
            0 => String::from("–"),
            states => states.to_string(),
        };
        format!("| {workload} | {fault} | {runs} | {different} | {violations} |")
    }

    /// The same, unless the state was met before: then the same comes of it.
    fn run_from(
        &mut self,
        state: State,
        outcome: impl FnOnce() -> Result<(), String>,
        what: impl FnOnce() -> String,
    ) {
        if let Some(known) = self.met.get(&state) {
            self.runs += known.runs;
            self.violations += known.violations;
            return;
        }
        let before = self.violations;
        self.run(outcome(), what);
        let violations = self.violations - before;
        self.met.insert(
            state,
            Outcome {
                runs: 1,
                violations,
            },
        );
    }

    fn run(&mut self, outcome: Result<(), String>, what: impl FnOnce() -> String) {
        self.runs += 1;
        if let Err(error) = outcome {
            self.violations += 1;
            if self.examples.len() < 3 {
                self.examples.push(format!("{}: {error}", what()));
            }
        }
    }
}

/// Operations that a run without faults takes.
fn operations(workload: &Workload) -> u64 {
    let fs = Arc::new(SimFs::new());
    let told = drive(workload, &fs);
    assert!(
        told.finished && told.wrong.is_none(),
        "{workload:?}: {told:?}"
    );
    if workload.is_tight() {
        assert!(told.full > 0, "{}: the disk must get full", workload.name);
    } else {
        assert_eq!(told.full, 0, "{}", workload.name);
    }
    let reused = reused(&fs);
    assert!(
        reused >= workload.reuses,
        "{}: {reused} segments used again",
        workload.name
    );
    fs.operations()
}

/// How many segments were begun in a file that had been one before, at least: segments and files
/// are numbered alike, from 1, each kind in a row of its own. Hints and other caches beside the
/// segments do not count.
fn reused(fs: &SimFs) -> u64 {
    let names = fs.list(&dir()).unwrap();
    let segments: Vec<&String> = names.iter().filter(|name| name.ends_with(".seg")).collect();
    let sequence = |name: &&String| {
        let content = fs.content(&dir().join(name)).unwrap();
        let header = content
            .starts_with(b"qmstore\0")
            .then(|| content[16..24].to_vec());
        header.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
    };
    let newest = segments.iter().map(sequence).max().unwrap();
    let files = segments
        .iter()
        .map(|name| name[..8].parse::<u64>().unwrap());
    newest.saturating_sub(files.max().unwrap())
}

/// What is found is what was told; the check that reads beside recovery agrees; and it stays so
/// through a further power cut, and goes on working.
fn holds(workload: &Workload, fs: &Arc<SimFs>, told: &Told) -> Result<(), String> {
    if let Some(wrong) = &told.wrong {
        return Err(format!("while it ran: {wrong}"));
    }
    let checked = check(fs.as_ref(), &dir()).map_err(|error| format!("check: {error}"))?;
    let (log, found) = open_and_read(workload, fs)?;
    if !told.allows(&found) {
        return Err(difference(&found, &told.done));
    }
    let records: usize = found.streams.values().map(|stream| stream.len()).sum();
    if checked.records != records as u64 || checked.state != found.state || checked.loses() {
        return Err(format!("the check sees otherwise: {checked:?}"));
    }
    let names = fs.list(&dir()).map_err(|error| error.to_string())?;
    let bodies = names.iter().filter(|name| name.ends_with(".body")).count();
    let named = bodies_in(&found, &workload.options);
    if bodies != named {
        return Err(format!("{bodies} files with bodies for {named} records"));
    }
    drop(log);
    let cut = Arc::new(fs.as_ref().clone());
    cut.crash_as(Tear::Nothing);
    let (mut log, again) = open_and_read(workload, &cut)?;
    if again != found {
        let text = difference(&again, &found);
        return Err(format!("recovery told more than is on disk: {text}"));
    }
    let removal = batch([remove(3, u64::MAX, u64::MAX)]);
    let answers = log.commit(&[removal]);
    if !matches!(answers.as_deref(), Ok([qm_store::Applied::Done])) {
        return Err(format!("it does not go on: {answers:?}"));
    }
    Ok(())
}

/// A process that starts without a power cut sees what only the cache knows; what it builds on that
/// must survive one.
fn goes_on(workload: &Workload, fs: &Arc<SimFs>) -> Result<(), String> {
    let told = carry_on(workload, fs)?;
    fs.crash_as(Tear::Nothing);
    holds(workload, fs, &told)
}

/// The power goes at every operation, and again at every operation of the recovery after that.
pub(crate) fn power_cuts(workload: &Workload, extent: Extent, lies: bool) -> Vec<Row> {
    let (first, second) = if lies {
        ("flushes lie, power cut (control)", "")
    } else {
        ("power cut", "power cut, then another in recovery")
    };
    let mut rows = vec![Row::new(workload, first), Row::new(workload, second)];
    let mut recoveries = HashMap::new();
    let total = operations(workload);
    for cut in (0..=total).step_by(extent.stride as usize) {
        for tear in extent.tears {
            if extent.stops && rows.iter().any(|row| row.violations > 0) {
                return rows;
            }
            let fs = Arc::new(SimFs::new());
            if lies {
                fs.inject(Fault::LyingSync);
            }
            fs.inject(Fault::CutAt(cut));
            let told = drive(workload, &fs);
            fs.crash_as(*tear);
            let what = || format!("{}, cut at {cut}, {tear:?}", workload.name);
            let first = state(&fs, &told, 0);
            let outcome = || holds(workload, &Arc::new(fs.as_ref().clone()), &told);
            rows[0].run_from(first, outcome, what);
            let Some(stride) = extent.second_stride.filter(|_| !lies) else {
                continue;
            };
            let from = cut % stride;
            let begun = state(&fs, &told, from);
            if let Some(known) = recoveries.get(&begun) {
                let known: &Outcome = known;
                rows[1].runs += known.runs;
                rows[1].violations += known.violations;
                continue;
            }
            let (runs, violations) = (rows[1].runs, rows[1].violations);
            let copy = Arc::new(fs.as_ref().clone());
            let before = copy.operations();
            drop(open_and_read(workload, &copy));
            let recovery = copy.operations() - before;
            // Another offset each time, so that a sample meets all of them.
            for again in (from..=recovery).step_by(stride as usize) {
                for second in extent.second_tears {
                    let fs = Arc::new(fs.as_ref().clone());
                    fs.inject(Fault::CutAt(fs.operations() + again));
                    drop(open_at(&fs, &dir(), workload.options.clone(), 5));
                    fs.crash_as(*second);
                    let left = state(&fs, &told, 0);
                    rows[1].run_from(
                        left,
                        || holds(workload, &fs, &told),
                        || format!("{}, again at {again}, {second:?}", what()),
                    );
                }
            }
            let outcome = Outcome {
                runs: rows[1].runs - runs,
                violations: rows[1].violations - violations,
            };
            recoveries.insert(begun, outcome);
        }
    }
    rows.retain(|row| !row.fault.is_empty());
    rows
}

/// A name, and the fault from an operation on.
type Failure = (&'static str, fn(u64) -> Fault);

/// The kinds of failing operations, with what a drive, a file system or a cable does.
fn failures() -> [Failure; 4] {
    [
        ("one operation fails", Fault::FailAt),
        ("all fail from one on", Fault::FailFrom),
        ("disk full from one on", Fault::FullFrom),
        ("disk full also for what exists", Fault::FullForAllFrom),
    ]
}

/// An operation fails at every place; the process starts again, perhaps after a power cut.
pub(crate) fn failing(workload: &Workload, extent: Extent) -> Vec<Row> {
    let total = operations(workload);
    let mut rows = Vec::new();
    for (name, fault) in failures() {
        let mut row = Row::new(workload, name);
        for at in (0..total).step_by(extent.stride as usize) {
            if extent.stops && row.violations > 0 {
                break;
            }
            let fs = Arc::new(SimFs::new());
            fs.inject(fault(at));
            let told = drive(workload, &fs);
            // Whoever tries with the fault still there is refused or served rightly.
            let still = Arc::new(fs.as_ref().clone());
            still.inject(fault(0));
            let what = || format!("{}, {name} at {at}", workload.name);
            if let Ok((_log, found)) = open_and_read(workload, &still) {
                let right = told.allows(&found) || told.wrong.is_some();
                let outcome = right
                    .then_some(())
                    .ok_or_else(|| difference(&found, &told.done));
                row.run(outcome, || format!("{}, still failing", what()));
            }
            fs.heal();
            for tear in [None, Some(Tear::Nothing), Some(Tear::Odd)] {
                let fs = Arc::new(fs.as_ref().clone());
                if let Some(tear) = tear {
                    fs.crash_as(tear);
                }
                let outcome = holds(workload, &fs, &told);
                row.run(outcome, || format!("{}, then {tear:?}", what()));
            }
            if at % 3 == 0 || extent.stride == 1 {
                let outcome = goes_on(workload, &fs);
                row.run(outcome, || format!("{}, then goes on", what()));
            }
        }
        rows.push(row);
    }
    rows
}

/// A read fails at every place: nothing wrong is told, and nothing is lost by it.
pub(crate) fn failing_reads(workload: &Workload) -> Row {
    let mut row = Row::new(workload, "one read fails");
    let whole = Arc::new(SimFs::new());
    drive(workload, &whole);
    for at in 0..whole.reads() {
        let fs = Arc::new(SimFs::new());
        fs.inject(Fault::FailReadAt(at));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let told = drive(workload, &fs);
            fs.heal();
            holds(workload, &fs, &told)
        }));
        let outcome = outcome.unwrap_or_else(|_| Err("a panic".to_owned()));
        row.run(outcome, || format!("{}, read {at}", workload.name));
    }
    row
}

/// All of them, or the one that `QM_STORE_WORKLOAD` names.
fn asked_workloads() -> Vec<Workload> {
    let mut workloads = all_workloads();
    if let Ok(name) = std::env::var("QM_STORE_WORKLOAD") {
        workloads.retain(|workload| workload.name == name);
        assert!(!workloads.is_empty(), "no workload has the name {name}");
    }
    workloads
}

/// The first lines of the table.
const HEAD: &str =
    "| workload | fault | runs | different states | violations |\n|---|---|---|---|---|";

#[test]
fn every_fault_at_every_operation() {
    let extent = Extent::asked();
    let mut rows = Vec::new();
    println!("{HEAD}");
    for workload in asked_workloads() {
        let mut some = power_cuts(&workload, extent, false);
        some.extend(failing(&workload, extent));
        some.iter().for_each(|row| println!("{}", row.line()));
        rows.extend(some);
    }
    let runs: u64 = rows.iter().map(|row| row.runs).sum();
    println!("\n{runs} runs");
    let examples: Vec<&String> = rows.iter().flat_map(|row| &row.examples).collect();
    assert!(examples.is_empty(), "{examples:#?}");
}

/// The campaign must be able to fail: a drive that only pretends to flush loses what was told.
#[test]
fn a_lying_drive_breaks_what_was_told() {
    let extent = Extent {
        second_stride: None,
        ..Extent::asked()
    };
    println!("{HEAD}");
    for row in asked_workloads()
        .iter()
        .flat_map(|workload| power_cuts(workload, extent, true))
    {
        println!("{}", row.line());
        assert!(row.violations * 2 > row.runs, "{row:?}");
    }
}

/// Reads are few: every one of them fails with every test.
#[test]
fn every_read_may_fail() {
    for workload in asked_workloads() {
        let row = failing_reads(&workload);
        println!("{}", row.line());
        assert!(row.examples.is_empty(), "{:#?}", row.examples);
    }
}
