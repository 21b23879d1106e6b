//! Measures two nodes on this machine, beside what its disk can do in the same run.

mod disk;
mod load;
mod outage;
mod report;

use std::time::Duration;

use qm_wire::{Class, QueueName};

use crate::cli::{BenchArgs, BenchCommand, StreamArgs};
use crate::exit::{Exit, Failure};
use crate::output::Output;

use self::load::{Load, Volume};
use self::report::{Case, Report};
use super::processes::{Pair, Workplace, grouped, unless_interrupted};

/// The queue at the receiver.
const QUEUE: &str = "bench";
/// Messages between two flushes of the plain file.
const DISK_BATCH: u32 = 256;
/// Messages a second for the latencies.
const PACE_PER_S: u32 = 1_000;

pub(crate) async fn bench(args: &BenchArgs, out: &Output) -> Result<Exit, Failure> {
    match &args.what {
        None => unless_interrupted(stream(&args.stream, out)).await,
        Some(BenchCommand::Outage(args)) => unless_interrupted(outage::outage(args, out)).await,
    }
}

fn queue() -> QueueName {
    QUEUE.parse().expect("the name is one")
}

/// Every class with every size: at full speed, then paced.
async fn stream(args: &StreamArgs, out: &Output) -> Result<Exit, Failure> {
    if let Some(class) = args
        .class
        .iter()
        .find(|class| **class == Class::Transactional)
    {
        let cause = format!("{} messages are not measured", class.name());
        return Err(Failure::usage(
            cause,
            "choose express, recoverable, or both",
        ));
    }
    let mut report = Report::new(args.in_flight);
    for class in &args.class {
        for size in &args.size {
            let place = Workplace::new(&args.place)?;
            report.in_memory |= place.is_memory();
            let class_name = class.name();
            out.note(&format!(
                "{class_name}, {size} B: full speed, then {PACE_PER_S} a second"
            ));
            let case = measure(args, *class, *size, place, out).await?;
            report.cases.push(case);
        }
    }
    report.print(out)?;
    Ok(Exit::Done)
}

/// One class with one size, at nodes that have done nothing before.
async fn measure(
    args: &StreamArgs,
    class: Class,
    size: u32,
    place: Workplace,
    out: &Output,
) -> Result<Case, Failure> {
    let queue = queue();
    let pair = Pair::start(place, &queue).await?;
    let load = Load {
        class,
        size,
        in_flight: args.in_flight,
    };
    // Sessions open with the first message; that is not what is measured.
    let first = load.run(&pair, &queue, Volume::Messages(1)).await?;
    let volume = match args.messages {
        Some(messages) => Volume::Messages(messages),
        None => Volume::Time(Duration::from_millis(args.duration)),
    };
    // Before and after, because a machine that others use as well changes from second to second.
    let plain = || match class {
        Class::Recoverable => disk::append(pair.place.path(), size, DISK_BATCH).map(Some),
        Class::Express | Class::Transactional => Ok(None),
    };
    let disk_before = plain()?;
    let full = load.run(&pair, &queue, volume).await?;
    let disk_after = plain()?;
    out.note(&format!("  {} a second", grouped(full.received_per_s())));
    let resident = [pair.sender.resident_bytes(), pair.receiver.resident_bytes()];
    let messages = args.paced.saturating_mul(PACE_PER_S.into()) / 1000;
    let paced = load.pace(&pair, &queue, PACE_PER_S, messages).await?;
    let disk = disk_before
        .zip(disk_after)
        .map(|(before, after)| before.and(after));
    let received = first.received.saturating_add(full.received);
    let expected = first.messages.saturating_add(full.messages);
    pair.place.tell(out);
    if received != expected {
        let cause = format!("of {expected} messages {received} were received");
        return Err(Failure::of("not_intact", cause));
    }
    Ok(Case {
        class,
        size,
        full,
        paced,
        resident,
        disk,
    })
}
