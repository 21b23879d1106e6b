//! Situations played through in virtual time, so that everybody can see them.

mod copies;
mod figures;
mod msmq;
mod plot;

use std::fs;

use serde::Serialize;

use crate::cli::{ClonesArgs, LabCommand, Policy};
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output};

use self::figures::{Figures, Situation};
use self::plot::{Bar, Curve};

/// So many messages at most in one situation: what a machine plays through in minutes.
const MESSAGES_MAX: f64 = 5_000_000.0;

/// `qm.lab.clones/1`: one situation under one policy.
#[derive(Debug, Serialize)]
struct Row {
    schema: &'static str,
    policy: &'static str,
    clones: u16,
    rate_per_s: f64,
    lifetime_ms: u64,
    duration_ms: u64,
    apart: u32,
    seed: u64,
    #[serde(flatten)]
    figures: Figures,
}

pub(crate) fn lab(command: &LabCommand, out: &Output) -> Result<Exit, Failure> {
    match command {
        LabCommand::Clones(args) => clones(args, out),
    }
}

fn clones(args: &ClonesArgs, out: &Output) -> Result<Exit, Failure> {
    let situations = situations(args)?;
    if let Some(path) = &args.svg {
        // A place that cannot be written is told before minutes are spent.
        fs::write(path, "").map_err(|e| Failure::io(path.display(), &e))?;
    }
    let mut rows = Vec::new();
    for policy in &args.policy {
        for situation in &situations {
            let (policy, figures) = match policy {
                Policy::Msmq => ("msmq", msmq::play(situation)),
                Policy::Qm => ("qm", copies::play(situation)),
            };
            rows.push(Row {
                schema: "qm.lab.clones/1",
                policy,
                clones: situation.clones,
                rate_per_s: situation.rate_per_s,
                lifetime_ms: situation.lifetime_ms,
                duration_ms: situation.duration_ms,
                apart: situation.apart,
                seed: situation.seed,
                figures,
            });
        }
    }
    tell(&rows, out)?;
    if let Some(path) = &args.svg {
        let drawing = plot::svg(&curves(&rows), args.lifetime);
        fs::write(path, drawing).map_err(|e| Failure::io(path.display(), &e))?;
    }
    Ok(Exit::Done)
}

/// Every number of clones at every rate.
fn situations(args: &ClonesArgs) -> Result<Vec<Situation>, Failure> {
    let mut situations = Vec::new();
    for rate_per_s in &args.rate {
        for clones in &args.clones {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let messages = f64::from(*clones) * rate_per_s * args.duration as f64 / 1_000.0;
            if messages > MESSAGES_MAX {
                let cause = format!(
                    "{clones} clones at {rate_per_s} messages a second would send about \
                     {messages:.0} messages, and {MESSAGES_MAX:.0} are the most"
                );
                let fix = "lower --rate, --clones or --duration";
                return Err(Failure::usage(cause, fix));
            }
            situations.push(Situation {
                clones: *clones,
                rate_per_s: *rate_per_s,
                lifetime_ms: args.lifetime,
                duration_ms: args.duration,
                apart: args.apart,
                seed: args.seed,
                one_identity: true,
            });
        }
    }
    Ok(situations)
}

fn tell(rows: &[Row], out: &Output) -> Result<(), Failure> {
    let columns = [
        Column::left("POLICY"),
        Column::right("CLONES"),
        Column::right("RATE/S"),
        Column::right("SENT"),
        Column::right("WAIT MEAN"),
        Column::right("P99"),
        Column::right("MAX"),
        Column::right("MISROUTED ACKS"),
        Column::right("TURNS"),
        Column::right("LOST"),
        Column::right("TWICE"),
        Column::right("STILL WAITING"),
        Column::right("AWARE"),
    ];
    out.for_people().list(rows, columns, |row| {
        let figures = &row.figures;
        [
            row.policy.to_owned(),
            row.clones.to_string(),
            row.rate_per_s.to_string(),
            figures.sent.to_string(),
            span(figures.wait_mean_us),
            span(figures.wait_p99_us),
            span(figures.wait_max_us),
            figures.misrouted_acks.to_string(),
            figures.turns.to_string(),
            figures.lost.to_string(),
            figures.delivered_twice.to_string(),
            figures.still_waiting.to_string(),
            figures.clones_aware.to_string(),
        ]
    })?;
    if out.json {
        return Ok(());
    }
    let bars: Vec<Bar> = rows
        .iter()
        .map(|row| Bar {
            name: format!("{:4} {:>2} × {}/s", row.policy, row.clones, row.rate_per_s),
            us: row.figures.wait_mean_us,
            text: span(row.figures.wait_mean_us),
        })
        .collect();
    out.bytes(plot::bars("mean time in the outgoing queue", &bars).as_bytes())
}

/// One curve for each policy and rate.
fn curves(rows: &[Row]) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for row in rows {
        let name = format!("{}/s", row.rate_per_s);
        let point = (row.clones, row.figures.wait_mean_us);
        match curves
            .iter_mut()
            .find(|curve| curve.panel == row.policy && curve.name == name)
        {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve {
                panel: row.policy,
                name,
                points: vec![point],
            }),
        }
    }
    curves
}

/// A span of time with the digits that matter.
fn span(us: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let ms = us as f64 / 1_000.0;
    match ms {
        _ if ms < 1_000.0 => format!("{ms:.1} ms"),
        _ if ms < 120_000.0 => format!("{:.1} s", ms / 1_000.0),
        _ => format!("{:.1} min", ms / 60_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation(clones: u16, rate_per_s: f64) -> Situation {
        Situation {
            clones,
            rate_per_s,
            lifetime_ms: 30_000,
            duration_ms: 20 * 60 * 1_000,
            apart: 1_000,
            seed: 3,
            one_identity: true,
        }
    }

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_single_machine_has_none_of_it_under_either_policy() {
        for play in [msmq::play, copies::play] {
            let figures = play(&situation(1, 1.0));
            assert!(figures.sent > 1_000, "{figures:?}");
            assert_eq!(figures.clones_aware, 0, "{figures:?}");
            assert!(figures.wait_max_us < SECOND, "{figures:?}");
            assert!(figures.is_clean(), "{figures:?}");
        }
    }

    #[test]
    fn few_clones_and_rare_traffic_hide_it() {
        let mut rare = situation(2, 0.001);
        rare.duration_ms = 24 * 60 * 60 * 1_000;
        let figures = msmq::play(&rare);
        assert!(figures.sent > 100, "{figures:?}");
        // A few wait for the row to time out, which is soon; nearly none does.
        assert!(figures.misrouted_acks * 10 < figures.sent, "{figures:?}");
        assert!(figures.wait_mean_us < 5 * SECOND, "{figures:?}");
        assert_eq!(figures.lost, 0, "{figures:?}");
    }

    #[test]
    fn busy_clones_wait_in_turn_and_messages_vanish() {
        let calm = msmq::play(&situation(2, 0.01));
        let busy = msmq::play(&situation(4, 0.1));
        assert!(busy.turns > 4, "{busy:?}");
        assert!(busy.misrouted_acks > busy.sent, "{busy:?}");
        assert!(
            busy.wait_mean_us > 2 * calm.wait_mean_us,
            "{busy:?} {calm:?}"
        );
        assert!(busy.wait_mean_us > 30 * SECOND, "{busy:?}");
        let fast = msmq::play(&situation(4, 2.0));
        assert!(fast.lost > 0, "{fast:?}");
        assert!(fast.wait_mean_us > 60 * SECOND, "{fast:?}");
    }

    /// The control: what goes wrong comes from the shared identity, not from the model.
    #[test]
    fn the_same_rules_harm_no_machines_with_identities_of_their_own() {
        for rate_per_s in [0.1, 2.0] {
            let figures = msmq::play(&Situation {
                one_identity: false,
                ..situation(4, rate_per_s)
            });
            assert!(figures.is_clean(), "{figures:?}");
            assert!(figures.wait_max_us < SECOND, "{figures:?}");
        }
    }

    #[test]
    fn under_qm_none_of_it_happens() {
        for (clones, rate_per_s) in [(2, 0.01), (4, 0.1), (4, 2.0)] {
            let figures = copies::play(&situation(clones, rate_per_s));
            assert!(figures.sent > 10, "{figures:?}");
            assert!(figures.is_clean(), "{figures:?}");
            assert!(figures.wait_max_us < SECOND, "{figures:?}");
            assert_eq!(figures.clones_aware, u64::from(clones), "{figures:?}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_figures() {
        let situation = situation(3, 0.5);
        for play in [msmq::play, copies::play] {
            assert_eq!(play(&situation), play(&situation));
        }
        let other = Situation {
            seed: 4,
            ..situation
        };
        assert_ne!(msmq::play(&situation), msmq::play(&other));
    }
}
