//! What is wrong with a node and its machine, each with what to do; whether it runs or not.

mod machine;
mod running;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qm_node::admin_json::{
    DedupDocument, OutgoingDocument, QueueDocument, Request, StatusDocument, WhyDocument,
};
use qm_node::errors::ErrorCode;
use serde::Serialize;

use crate::cli::{AnswerArgs, CheckArgs};
use crate::config::Settings;
use crate::config::units::about_duration;
use crate::exit::{Exit, Failure};
use crate::output::{Output, printable};

use super::node::Node;

/// Destinations that are asked why they do not move.
const ASKED_MAX: usize = 20;

/// `qm.finding/1`: something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    schema: &'static str,
    /// A stable word.
    code: &'static str,
    /// `problem` or `notice`.
    level: Level,
    /// The file, queue, destination or limit that it is about.
    place: String,
    /// What is wrong.
    what: String,
    /// What to do.
    fix: String,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Messages are held, lost sight of, or soon will be.
    Problem,
    /// Worth knowing.
    Notice,
}

impl Finding {
    fn new(
        level: Level,
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            schema: "qm.finding/1",
            code,
            level,
            place: place.into(),
            what: what.into(),
            fix: fix.into(),
        }
    }

    fn problem(
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::new(Level::Problem, code, place, what, fix)
    }

    fn notice(
        code: &'static str,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::new(Level::Notice, code, place, what, fix)
    }
}

/// What a running node says of itself, asked once.
#[derive(Debug)]
struct Seen {
    status: StatusDocument,
    queues: Vec<QueueDocument>,
    outgoing: Vec<OutgoingDocument>,
    dedup: DedupDocument,
}

impl Seen {
    /// Asks within a time: a node that stands still for a snapshot answers nobody, and whoever
    /// looks after it must hear that.
    async fn of(node: &Node, within: AnswerArgs) -> Result<Self, Failure> {
        let seen = async {
            Ok(Self {
                status: node.ask(&Request::Status {}).await?,
                queues: node.list(|after| Request::QueueList { after }).await?,
                outgoing: node.list(|after| Request::OutgoingList { after }).await?,
                dedup: node.ask(&Request::Dedup {}).await?,
            })
        };
        tokio::time::timeout(Duration::from_millis(within.timeout), seen)
            .await
            .unwrap_or_else(|_elapsed| {
                let time = about_duration(within.timeout);
                Err(Failure::of(
                    "no_answer",
                    format!("the node has not answered within {time}"),
                )
                .with_fix(
                    "it may be held still for a snapshot (`qm-node thaw` ends that), or its disk hangs: \
                     its log tells",
                ))
            })
    }

    /// Age of the oldest message that waits for another node.
    fn oldest_outgoing_ms(&self) -> u64 {
        let ages = self.outgoing.iter().filter_map(|out| out.oldest_age_ms);
        ages.max().unwrap_or(0)
    }
}

/// Looks everywhere, and tells what was found; 1 when something must be done.
pub(crate) async fn doctor(
    settings: Result<Settings, Failure>,
    within: AnswerArgs,
    out: &Output,
) -> Result<Exit, Failure> {
    let mut findings = Vec::new();
    match &settings {
        Err(failure) => configuration(failure, &mut findings),
        Ok(settings) => {
            for name in &settings.unknown_variables {
                findings.push(Finding::notice(
                    "unknown_variable",
                    name.clone(),
                    "this variable of the environment names no key of the configuration",
                    "`qm-node config show` lists the keys",
                ));
            }
            machine::look(settings, &mut findings);
            match Node::connect(settings).await {
                Ok(node) => {
                    if let Err(failure) = node_runs(&node, settings, within, &mut findings).await {
                        let known = ErrorCode::named(&failure.code);
                        findings.push(Finding::problem(
                            known.map_or("no_answer", |known| known.code),
                            settings.client_socket().display().to_string(),
                            failure.cause,
                            failure.fix,
                        ));
                    }
                    node.client.close().await;
                }
                Err(failure) => {
                    // One that is not there is told of already.
                    if settings.data.is_dir() {
                        machine::disk(&settings.data, settings, &mut findings);
                    }
                    findings.push(Finding::problem(
                        if failure.exit == Exit::NotRunning {
                            "not_running"
                        } else {
                            "socket"
                        },
                        settings.client_socket().display().to_string(),
                        failure.cause,
                        failure.fix,
                    ));
                }
            }
        }
    }
    show(&findings, out)?;
    let problems = findings
        .iter()
        .any(|finding| finding.level == Level::Problem);
    Ok(if problems { Exit::Failed } else { Exit::Done })
}

fn configuration(failure: &Failure, findings: &mut Vec<Finding>) {
    for one in std::iter::once(failure).chain(&failure.more) {
        findings.push(Finding::problem(
            "configuration",
            "configuration",
            one.cause.clone(),
            one.fix.clone(),
        ));
    }
}

async fn node_runs(
    node: &Node,
    settings: &Settings,
    within: AnswerArgs,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let seen = Seen::of(node, within).await?;
    running::look(&seen, findings);
    machine::disk(Path::new(&seen.status.node.data), settings, findings);
    machine::look_at_process(seen.status.node.pid, findings);
    if Path::new(&seen.status.node.data) != absolute(&settings.data) {
        findings.push(Finding::notice(
            "other_data",
            seen.status.node.data.clone(),
            format!(
                "the node that answers works on this directory, not on {}",
                settings.data.display()
            ),
            "name the right one with --data or --socket",
        ));
    }
    let stuck = seen.outgoing.iter().filter(|out| out.waiting > 0);
    for outgoing in stuck.take(ASKED_MAX) {
        let subject = format!("{}/{}", outgoing.remote, outgoing.queue);
        let why: WhyDocument = node.ask(&Request::Why { subject }).await?;
        findings.extend(running::stuck(outgoing, &why));
    }
    Ok(())
}

fn show(findings: &[Finding], out: &Output) -> Result<(), Failure> {
    if out.json {
        return findings
            .iter()
            .try_for_each(|finding| out.document(finding));
    }
    for finding in findings {
        let level = match finding.level {
            Level::Problem => "problem",
            Level::Notice => "notice",
        };
        if out.terminal {
            out.line(&format!(
                "{level} [{}] {}: {}\n  fix: {}",
                finding.code,
                printable(&finding.place),
                printable(&finding.what),
                printable(&finding.fix)
            ))?;
        } else {
            out.line(&format!(
                "{level}\t{}\t{}\t{}\t{}",
                finding.code,
                printable(&finding.place),
                printable(&finding.what),
                printable(&finding.fix)
            ))?;
        }
    }
    if findings.is_empty() {
        out.note("nothing is wrong");
    }
    Ok(())
}

/// How a monitoring check ends, in the order of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Good,
    Warning,
    Unknown,
    Critical,
}

impl State {
    /// The convention's exit codes: 0 good, 1 warning, 2 critical, 3 unknown.
    const fn exit(self) -> Exit {
        match self {
            Self::Good => Exit::Done,
            Self::Warning => Exit::Failed,
            Self::Critical => Exit::Usage,
            Self::Unknown => Exit::Nothing,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Good => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// `qm.check/1`.
#[derive(Debug, Serialize)]
struct CheckDocument<'a> {
    schema: &'static str,
    /// `OK`, `WARNING`, `CRITICAL` or `UNKNOWN`.
    state: &'static str,
    /// What is wrong, or that nothing is.
    summary: &'a str,
    /// What was measured.
    measured: Vec<Measured>,
}

/// One value with its thresholds.
#[derive(Debug, Serialize)]
struct Measured {
    name: &'static str,
    value: u64,
    unit: &'static str,
    warning: Option<u64>,
    critical: Option<u64>,
}

impl Measured {
    fn state(&self) -> State {
        let reached = |limit: Option<u64>| limit.is_some_and(|limit| self.value >= limit);
        if reached(self.critical) {
            State::Critical
        } else if reached(self.warning) {
            State::Warning
        } else {
            State::Good
        }
    }

    fn sentence(&self) -> String {
        match self.name {
            "oldest_outgoing" => {
                let age = about_duration(self.value.saturating_mul(1_000));
                format!("oldest_outgoing is {age}")
            }
            name => format!("{name} is {}{}", self.value, self.unit),
        }
    }

    fn perfdata(&self) -> String {
        let limit = |limit: Option<u64>| limit.map_or_else(String::new, |n| n.to_string());
        format!(
            "{}={}{};{};{};0",
            self.name,
            self.value,
            self.unit,
            limit(self.warning),
            limit(self.critical)
        )
    }
}

/// One line for a monitoring system, with its exit codes; errors are lines, too.
pub(crate) async fn check(
    settings: Result<Settings, Failure>,
    args: &CheckArgs,
    out: &Output,
) -> Result<Exit, Failure> {
    let settings = match settings {
        Ok(settings) => settings,
        Err(failure) => return verdict(State::Unknown, &failure.cause, vec![], out),
    };
    let seen = match Node::connect(&settings).await {
        Ok(node) => {
            let seen = Seen::of(&node, args.answer).await;
            node.client.close().await;
            seen
        }
        Err(failure) => Err(failure),
    };
    match seen {
        // Not the caller's directory: a check may know no more of the node than its socket.
        Ok(seen) => {
            let disk_used = machine::disk_used_percent(Path::new(&seen.status.node.data));
            judge(&seen, disk_used, args, out)
        }
        Err(failure) => {
            let state = if failure.exit == Exit::NotRunning {
                State::Critical
            } else {
                State::Unknown
            };
            verdict(state, &failure.cause, vec![], out)
        }
    }
}

fn judge(
    seen: &Seen,
    disk_used: Result<u64, String>,
    args: &CheckArgs,
    out: &Output,
) -> Result<Exit, Failure> {
    let status = &seen.status;
    let mut measured = vec![
        Measured {
            name: "dead_letters",
            value: status.dead_letters,
            unit: "",
            warning: Some(args.warn_dead),
            critical: Some(args.crit_dead),
        },
        Measured {
            name: "oldest_outgoing",
            value: seen.oldest_outgoing_ms() / 1_000,
            unit: "s",
            warning: Some(args.warn_age / 1_000),
            critical: Some(args.crit_age / 1_000),
        },
        Measured {
            name: "outgoing",
            value: status.outgoing_messages,
            unit: "",
            warning: args.warn_outgoing,
            critical: args.crit_outgoing,
        },
        Measured {
            name: "queued",
            value: status.local_messages,
            unit: "",
            warning: args.warn_queued,
            critical: args.crit_queued,
        },
        Measured {
            name: "store",
            value: percent(status.stored_bytes, status.stored_bytes_max),
            unit: "%",
            warning: Some(args.warn_disk),
            critical: Some(args.crit_disk),
        },
    ];
    let unmeasured = match disk_used {
        Ok(value) => {
            measured.push(Measured {
                name: "disk",
                value,
                unit: "%",
                warning: Some(args.warn_disk),
                critical: Some(args.crit_disk),
            });
            None
        }
        Err(reason) => Some((State::Warning, reason)),
    };
    let mut findings = Vec::new();
    running::look(seen, &mut findings);
    // One of each kind: the line is for a pager, and `doctor` lists them all.
    let mut kinds = BTreeSet::new();
    let problems = findings
        .iter()
        .filter(|finding| finding.level == Level::Problem && kinds.insert(finding.code));
    let critical = ["store_full", "damaged_records", "damaged_messages"];
    let problems = problems.map(|finding| {
        let state = if critical.contains(&finding.code) {
            State::Critical
        } else {
            State::Warning
        };
        (state, format!("{}: {}", finding.place, finding.what))
    });
    let values = measured.iter().map(|one| (one.state(), one.sentence()));
    // All that is wrong, what matters most first.
    let mut wrong: Vec<(State, String)> = problems
        .chain(values)
        .chain(unmeasured)
        .filter(|(state, _)| *state > State::Good)
        .collect();
    wrong.sort_by_key(|(state, _)| std::cmp::Reverse(*state));
    let state = wrong.first().map_or(State::Good, |(state, _)| *state);
    let wrong: Vec<String> = wrong.into_iter().map(|(_, text)| text).collect();
    let summary = if wrong.is_empty() {
        let up = about_duration(status.uptime_ms);
        format!("{} up for {up}", status.name)
    } else {
        format!("{}: {}", status.name, wrong.join(", "))
    };
    verdict(state, &summary, measured, out)
}

/// The node names its directory so; one that cannot be named so is left as it was written.
fn absolute(data: &Path) -> PathBuf {
    std::path::absolute(data).unwrap_or_else(|_| data.to_owned())
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0)
}

fn verdict(
    state: State,
    summary: &str,
    measured: Vec<Measured>,
    out: &Output,
) -> Result<Exit, Failure> {
    if out.json {
        out.document(&CheckDocument {
            schema: "qm.check/1",
            state: state.word(),
            summary,
            measured,
        })?;
    } else {
        // A bar begins the figures: none may stand in the words.
        let words = printable(summary).replace('|', "/");
        let mut line = format!("QM {} - {words}", state.word());
        if !measured.is_empty() {
            let figures: Vec<String> = measured.iter().map(Measured::perfdata).collect();
            line.push_str(&format!(" | {}", figures.join(" ")));
        }
        out.line(&line)?;
    }
    Ok(state.exit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_those_of_the_convention() {
        let of = |value| Measured {
            name: "dead_letters",
            value,
            unit: "",
            warning: Some(1),
            critical: None,
        };
        assert_eq!(
            (of(0).state(), of(1).state()),
            (State::Good, State::Warning)
        );
        assert_eq!(of(1).perfdata(), "dead_letters=1;1;;0");
        let both = Measured {
            critical: Some(5),
            unit: "%",
            ..of(9)
        };
        assert_eq!(
            (both.state(), both.perfdata()),
            (State::Critical, "dead_letters=9%;1;5;0".to_owned())
        );
        let codes = [State::Good, State::Warning, State::Critical, State::Unknown];
        assert_eq!(codes.map(|state| state.exit() as u8), [0, 1, 2, 3]);
        assert_eq!(percent(1, 0), 0);
    }
}
