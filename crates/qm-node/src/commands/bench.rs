//! Measures two nodes on this machine, beside what its disk can do in the same run.

mod backlog;
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
        Some(BenchCommand::Backlog(args)) => unless_interrupted(backlog::backlog(args, out)).await,
        Some(BenchCommand::Outage(args)) => unless_interrupted(outage::outage(args, out)).await,
    }
}

fn queue() -> QueueName {
    QUEUE.parse().expect("the name is one")
}

/// Every class with every size and batch: at full speed, then paced.
async fn stream(args: &StreamArgs, out: &Output) -> Result<Exit, Failure> {
    if let Some(batch) = args.batch.iter().find(|batch| **batch > args.in_flight) {
        let cause = format!("{batch} messages together are more than {}", args.in_flight);
        return Err(Failure::usage(
            cause,
            "choose a --batch of at most --in-flight",
        ));
    }
    let mut report = Report::new(args.in_flight);
    // What is compared is measured together: on a shared machine, an hour makes a difference.
    for size in &args.size {
        for batch in &args.batch {
            for class in &args.class {
                let place = Workplace::new(&args.place)?;
                report.in_memory |= place.is_memory();
                let load = Load {
                    class: *class,
                    size: *size,
                    in_flight: args.in_flight,
                    batch: *batch,
                };
                out.note(&format!(
                    "{}, {size} B, {batch} together: full speed, then {PACE_PER_S} a second",
                    class.name()
                ));
                report.cases.push(measure(args, load, place, out).await?);
            }
        }
    }
    report.print(out)?;
    Ok(Exit::Done)
}

/// One class with one size and batch, at nodes that have done nothing before.
async fn measure(
    args: &StreamArgs,
    load: Load,
    place: Workplace,
    out: &Output,
) -> Result<Case, Failure> {
    let queue = queue();
    let pair = Pair::start(place, &queue, load.class == Class::Transactional).await?;
    // Sessions open with the first message; that is not what is measured.
    let first = load.run(&pair, &queue, Volume::Messages(1)).await?;
    let volume = match args.messages {
        Some(messages) => Volume::Messages(messages),
        None => Volume::Time(Duration::from_millis(args.duration)),
    };
    // Before and after, because a machine that others use as well changes from second to second.
    let plain = || match load.class {
        Class::Express => Ok(None),
        Class::Recoverable | Class::Transactional => {
            disk::append(pair.place.path(), load.size, DISK_BATCH).map(Some)
        }
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
        load,
        full,
        paced,
        resident,
        disk,
    })
}
