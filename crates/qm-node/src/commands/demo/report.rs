//! The table at the end.

use std::time::Duration;

use serde::Serialize;

use crate::config::units::about_size;
use crate::exit::Failure;
use crate::output::Output;

use super::super::processes::{grouped, millis, per_second};
use super::Crash;
use super::audit::Verdict;

/// All that is known when the last line has arrived.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) origin: String,
    pub(super) lines: u64,
    pub(super) bytes: u64,
    pub(super) sent: u64,
    pub(super) accepted: u64,
    pub(super) accepted_in: Duration,
    pub(super) delivered: u64,
    pub(super) ended: u64,
    pub(super) received: u64,
    pub(super) received_again: u64,
    pub(super) elapsed: Duration,
    pub(super) verdict: Verdict,
    pub(super) duplicates_removed: u64,
    pub(super) retransmitted: u64,
    pub(super) queried: u64,
    /// `None` when it did not come to that.
    pub(super) crash: Option<Crash>,
    /// From the restarted node being ready to the first message out of it.
    pub(super) first_after_crash: Option<Duration>,
}

/// `qm.demo/1`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: &'static str,
    text: &'a str,
    bytes: u64,
    lines: u64,
    sent: u64,
    accepted: u64,
    delivered: u64,
    received: u64,
    received_again: u64,
    duplicates_removed: u64,
    retransmitted: u64,
    queried: u64,
    missing: u64,
    unexpected: u64,
    order_kept: bool,
    byte_identical: bool,
    intact: bool,
    elapsed_ms: u64,
    accepted_per_s: u64,
    received_per_s: u64,
    /// `null` when the demonstration ended before it.
    crash: Option<CrashDocument>,
}

#[derive(Debug, Serialize)]
struct CrashDocument {
    after_lines: u64,
    waiting: u64,
    away_ms: u64,
    ready_ms: u64,
    first_message_ms: Option<u64>,
}

impl Report {
    pub(super) fn is_intact(&self) -> bool {
        self.verdict.is_intact() && self.delivered == self.lines && self.crash.is_some()
    }

    /// What is wrong, in one line.
    pub(super) fn complaint(&self) -> String {
        let Verdict {
            missing,
            unexpected,
            changed,
            misplaced,
        } = self.verdict;
        format!(
            "of {} lines {} were reported as delivered, {missing} did not arrive, {changed} \
             arrived with other bytes, {misplaced} behind a later one; {unexpected} messages \
             arrived that were not sent",
            self.lines, self.delivered
        )
    }

    pub(super) fn print(&self, out: &Output) -> Result<(), Failure> {
        if out.json {
            return out.document(&self.document());
        }
        out.for_people().facts(&self.facts())
    }

    fn document(&self) -> Document<'_> {
        Document {
            schema: "qm.demo/1",
            text: &self.origin,
            bytes: self.bytes,
            lines: self.lines,
            sent: self.sent,
            accepted: self.accepted,
            delivered: self.delivered,
            received: self.received,
            received_again: self.received_again,
            duplicates_removed: self.duplicates_removed,
            retransmitted: self.retransmitted,
            queried: self.queried,
            missing: self.verdict.missing,
            unexpected: self.verdict.unexpected,
            order_kept: self.verdict.misplaced == 0,
            byte_identical: self.verdict.changed == 0,
            intact: self.is_intact(),
            elapsed_ms: millis(self.elapsed),
            accepted_per_s: per_second(self.accepted, self.accepted_in),
            received_per_s: per_second(self.received, self.elapsed),
            crash: self.crash.as_ref().map(|crash| CrashDocument {
                after_lines: crash.after_lines,
                waiting: crash.waiting,
                away_ms: millis(crash.away),
                ready_ms: millis(crash.ready_in),
                first_message_ms: self.first_after_crash.map(millis),
            }),
        }
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let verdict = &self.verdict;
        let rate = |count, time| format!("{} a second", grouped(per_second(count, time)));
        let mut facts = vec![
            (
                "text",
                format!("{}, {}", self.origin, about_size(self.bytes)),
            ),
            ("lines", grouped(self.lines)),
            ("sent", grouped(self.sent)),
            (
                "accepted",
                format!(
                    "{}  on the sending node's disk, {}",
                    grouped(self.accepted),
                    rate(self.accepted, self.accepted_in)
                ),
            ),
            (
                "delivered",
                format!("{}  on the receiving node's disk", grouped(self.delivered)),
            ),
        ];
        if self.ended > 0 {
            facts.push(("ended otherwise", grouped(self.ended)));
        }
        facts.push((
            "received",
            format!(
                "{}  by the application, {} in {:.1} s, the crash included",
                grouped(self.received),
                rate(self.received, self.elapsed),
                self.elapsed.as_secs_f64()
            ),
        ));
        facts.push(("missing", grouped(verdict.missing)));
        if verdict.unexpected > 0 {
            facts.push(("unexpected", grouped(verdict.unexpected)));
        }
        facts.push((
            "duplicates",
            format!(
                "{} transmitted twice and removed on arrival; {} handed out again because the \
                 crash undid their receipt",
                grouped(self.duplicates_removed),
                grouped(self.received_again)
            ),
        ));
        facts.push((
            "order",
            kept(verdict.misplaced, "kept", "lines behind a later one"),
        ));
        facts.push(("bytes", kept(verdict.changed, "identical", "lines differ")));
        let crash = match &self.crash {
            Some(crash) => format!(
                "SIGKILL of the receiving node after {} lines; away for {} ms, while {} accepted \
                 lines waited",
                grouped(crash.after_lines),
                crash.away.as_millis(),
                grouped(crash.waiting)
            ),
            None => "it did not come to that".to_owned(),
        };
        facts.push(("crash", crash));
        if let Some(crash) = &self.crash {
            let first = self.first_after_crash.map_or_else(String::new, |first| {
                format!(
                    ", the first message out of it {} ms later",
                    first.as_millis()
                )
            });
            let ready = crash.ready_in.as_millis();
            facts.push((
                "restart",
                format!("recovered and ready in {ready} ms{first}"),
            ));
        }
        facts
    }
}

fn kept(faults: u64, well: &str, ill: &str) -> String {
    if faults == 0 {
        well.to_owned()
    } else {
        format!("NOT {well}: {} {ill}", grouped(faults))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use qm_node::admin_json::CountersDocument;

    use super::*;

    fn report() -> Report {
        Report {
            origin: "a.txt".to_owned(),
            lines: 60_000,
            bytes: 2 << 20,
            sent: 60_000,
            accepted: 60_000,
            accepted_in: Duration::from_millis(1_000),
            delivered: 60_000,
            ended: 0,
            received: 60_000,
            received_again: 17,
            elapsed: Duration::from_millis(2_000),
            verdict: Verdict::default(),
            duplicates_removed: 3,
            retransmitted: 5,
            queried: 5,
            crash: Some(Crash {
                after_lines: 30_000,
                waiting: 1_234,
                away: Duration::from_millis(500),
                ready_in: Duration::from_millis(80),
                before: CountersDocument::default(),
            }),
            first_after_crash: Some(Duration::from_millis(9)),
        }
    }

    #[test]
    fn the_document_keeps_its_shape() {
        let json = serde_json::to_string(&report().document()).unwrap();
        expect![[r#"{"schema":"qm.demo/1","text":"a.txt","bytes":2097152,"lines":60000,"sent":60000,"accepted":60000,"delivered":60000,"received":60000,"received_again":17,"duplicates_removed":3,"retransmitted":5,"queried":5,"missing":0,"unexpected":0,"order_kept":true,"byte_identical":true,"intact":true,"elapsed_ms":2000,"accepted_per_s":60000,"received_per_s":30000,"crash":{"after_lines":30000,"waiting":1234,"away_ms":500,"ready_ms":80,"first_message_ms":9}}"#]].assert_eq(&json);
    }

    #[test]
    fn the_table_says_it_in_words() {
        let text: String = report()
            .facts()
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect();
        expect![[r#"
            text: a.txt, 2.0 MiB
            lines: 60,000
            sent: 60,000
            accepted: 60,000  on the sending node's disk, 60,000 a second
            delivered: 60,000  on the receiving node's disk
            received: 60,000  by the application, 30,000 a second in 2.0 s, the crash included
            missing: 0
            duplicates: 3 transmitted twice and removed on arrival; 17 handed out again because the crash undid their receipt
            order: kept
            bytes: identical
            crash: SIGKILL of the receiving node after 30,000 lines; away for 500 ms, while 1,234 accepted lines waited
            restart: recovered and ready in 80 ms, the first message out of it 9 ms later
        "#]].assert_eq(&text);
    }

    #[test]
    fn whatever_is_wrong_is_no_success() {
        assert!(report().is_intact());
        let mut lost = report();
        lost.verdict.missing = 1;
        let mut unreported = report();
        unreported.delivered -= 1;
        let mut uneventful = report();
        uneventful.crash = None;
        for report in [lost, unreported, uneventful] {
            assert!(!report.is_intact());
        }
        let mut mixed = report();
        mixed.verdict.misplaced = 2;
        assert!(
            mixed
                .facts()
                .contains(&("order", "NOT kept: 2 lines behind a later one".to_owned()))
        );
        assert!(mixed.complaint().contains("2 behind a later one"));
    }

    #[test]
    fn what_is_not_intact_is_told_with_its_number() {
        let mut lost = report();
        lost.verdict.missing = 1;
        let failure = Failure::of("not_intact", lost.complaint());
        failure.assert_as_in_the_table();
    }
}
