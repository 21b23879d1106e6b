//! The tables and documents of the measurements.

use qm_wire::Class;
use serde::Serialize;

use crate::config::units::about_size;
use crate::exit::Failure;
use crate::output::{Column, Output};

use super::super::processes::{grouped, millis};
use super::disk::Append;
use super::load::{Full, Latencies, Load, Paced};

/// One class with one size and batch.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) load: Load,
    pub(super) full: Full,
    pub(super) paced: Paced,
    /// Bytes of memory of sender and receiver after the full speed.
    pub(super) resident: [Option<u64>; 2],
    /// For classes that go to disk.
    pub(super) disk: Option<Append>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) cases: Vec<Case>,
    /// Whether the nodes' directories were not on a disk.
    pub(super) in_memory: bool,
    in_flight: u32,
    cores: usize,
}

/// `qm.bench/1`.
#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    version: &'static str,
    cores: usize,
    in_flight: u32,
    in_memory: bool,
    cases: Vec<CaseDocument>,
}

#[derive(Debug, Serialize)]
struct CaseDocument {
    class: &'static str,
    body_bytes: u32,
    /// Handed over together; of several transactional messages, a transaction.
    batch: u32,
    messages: u64,
    elapsed_ms: u64,
    accepted_per_s: u64,
    received_per_s: u64,
    sender_cpu_us_per_message: Option<f64>,
    receiver_cpu_us_per_message: Option<f64>,
    clients_cpu_us_per_message: f64,
    /// Of all of that to the same of recoverable messages, of the same size and batch.
    cpu_to_recoverable: Option<f64>,
    sender_resident_bytes: Option<u64>,
    receiver_resident_bytes: Option<u64>,
    paced: PacedDocument,
    disk: Option<DiskDocument>,
}

#[derive(Debug, Serialize)]
struct PacedDocument {
    messages: u64,
    sent_per_s: u64,
    accepted: LatencyDocument,
    delivered: LatencyDocument,
    received: LatencyDocument,
}

#[derive(Debug, Serialize)]
struct LatencyDocument {
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

#[derive(Debug, Serialize)]
struct DiskDocument {
    messages_per_s: u64,
    messages_per_flush: u32,
    /// Of what was received to what the disk takes.
    ratio: f64,
}

impl LatencyDocument {
    fn new(latencies: &Latencies) -> Self {
        Self {
            p50_us: latencies.percentile(50),
            p99_us: latencies.percentile(99),
            max_us: latencies.max(),
        }
    }
}

impl Case {
    /// Processor time for a message, in microseconds: of both nodes and both applications.
    fn cpu_us(&self) -> Option<f64> {
        let nodes = self.full.sender_cpu?.checked_add(self.full.receiver_cpu?)?;
        let all = nodes.checked_add(self.full.clients_cpu)?;
        Some(self.full.us_per_message(all))
    }

    fn document(&self, cpu_to_recoverable: Option<f64>) -> CaseDocument {
        let full = &self.full;
        let us = |time| hundredths(full.us_per_message(time));
        let [sender_resident_bytes, receiver_resident_bytes] = self.resident;
        CaseDocument {
            class: self.load.class.name(),
            body_bytes: self.load.size,
            batch: self.load.batch,
            messages: full.messages,
            elapsed_ms: millis(full.elapsed),
            accepted_per_s: full.accepted_per_s(),
            received_per_s: full.received_per_s(),
            sender_cpu_us_per_message: full.sender_cpu.map(us),
            receiver_cpu_us_per_message: full.receiver_cpu.map(us),
            clients_cpu_us_per_message: us(full.clients_cpu),
            cpu_to_recoverable: cpu_to_recoverable.map(hundredths),
            sender_resident_bytes,
            receiver_resident_bytes,
            paced: PacedDocument {
                messages: self.paced.messages,
                sent_per_s: self.paced.sent_per_s,
                accepted: LatencyDocument::new(&self.paced.accepted),
                delivered: LatencyDocument::new(&self.paced.delivered),
                received: LatencyDocument::new(&self.paced.received),
            },
            disk: self.disk.map(|disk| DiskDocument {
                messages_per_s: disk.messages_per_s(),
                messages_per_flush: disk.batch,
                ratio: hundredths(self.ratio(disk)),
            }),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
    fn ratio(&self, disk: Append) -> f64 {
        self.full.received_per_s() as f64 / disk.messages_per_s().max(1) as f64
    }

    /// A line of the table of rates.
    fn rates(&self, cpu_to_recoverable: Option<f64>) -> [String; 11] {
        let full = &self.full;
        let us = |time| format!("{:.1}", full.us_per_message(time));
        let none = || "-".to_owned();
        let [sender, receiver] = self.resident;
        [
            self.load.class.name().to_owned(),
            self.load.size.to_string(),
            self.load.batch.to_string(),
            grouped(full.received_per_s()),
            full.sender_cpu.map_or_else(none, us),
            full.receiver_cpu.map_or_else(none, us),
            us(full.clients_cpu),
            cpu_to_recoverable.map_or_else(none, |ratio| format!("{ratio:.2}")),
            sender
                .zip(receiver)
                .map_or_else(none, |(sender, receiver)| {
                    format!("{} + {}", about_size(sender), about_size(receiver))
                }),
            self.disk
                .map_or_else(none, |disk| grouped(disk.messages_per_s())),
            self.disk
                .map_or_else(none, |disk| format!("{:.2}", self.ratio(disk))),
        ]
    }

    /// A line of the table of times.
    fn times(&self) -> [String; 7] {
        let paced = &self.paced;
        [
            self.load.class.name().to_owned(),
            self.load.size.to_string(),
            self.load.batch.to_string(),
            grouped(paced.sent_per_s),
            times(&paced.accepted),
            times(&paced.delivered),
            times(&paced.received),
        ]
    }
}

/// Two decimals: more of a measured number would only pretend.
fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn times(latencies: &Latencies) -> String {
    let ms = |us: u64| format!("{}.{:02}", us / 1000, us % 1000 / 10);
    format!(
        "{} / {} / {}",
        ms(latencies.percentile(50)),
        ms(latencies.percentile(99)),
        ms(latencies.max())
    )
}

impl Report {
    pub(super) fn new(in_flight: u32) -> Self {
        Self {
            cases: Vec::new(),
            in_memory: false,
            in_flight,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }

    /// What a case costs the processors, to what recoverable messages of its size and batch cost.
    fn to_recoverable(&self, case: &Case) -> Option<f64> {
        let other = self.cases.iter().find(|other| {
            other.load.class == Class::Recoverable
                && (other.load.size, other.load.batch) == (case.load.size, case.load.batch)
        })?;
        Some(case.cpu_us()? / other.cpu_us().filter(|us| *us > 0.0)?)
    }

    fn document(&self) -> Document {
        let case = |case: &Case| case.document(self.to_recoverable(case));
        Document {
            schema: "qm.bench/1",
            version: env!("CARGO_PKG_VERSION"),
            cores: self.cores,
            in_flight: self.in_flight,
            in_memory: self.in_memory,
            cases: self.cases.iter().map(case).collect(),
        }
    }

    pub(super) fn print(&self, out: &Output) -> Result<(), Failure> {
        if out.json {
            return out.document(&self.document());
        }
        let out = out.for_people();
        out.note(&format!(
            "two node processes and, in this process, an application at each, on {} cores; from \
             application to application over encrypted QUIC on loopback, at most {} in flight",
            self.cores,
            grouped(self.in_flight.into())
        ));
        let listed = |case| Listed(case, self.to_recoverable(case));
        let cases: Vec<_> = self.cases.iter().map(listed).collect();
        let rates = [
            Column::left("CLASS"),
            Column::right("BODY B"),
            Column::right("BATCH"),
            Column::right("MSGS/S"),
            Column::right("SENDER CPU US"),
            Column::right("RECEIVER CPU US"),
            Column::right("CLIENTS CPU US"),
            Column::right("CPU RATIO"),
            Column::right("MEMORY"),
            Column::right("DISK MSGS/S"),
            Column::right("RATIO"),
        ];
        out.list(&cases, rates, |case| case.0.rates(case.1))?;
        out.note(
            "CPU is per message, its RATIO to recoverable messages; DISK is a plain file taking \
             the same bodies, fdatasync after 256",
        );
        if self.in_memory {
            out.note("note: the directory is in memory, where a flush costs nothing; see --dir");
        }
        out.note("at 1,000 a second, milliseconds p50 / p99 / max:");
        let times = [
            Column::left("CLASS"),
            Column::right("BODY B"),
            Column::right("BATCH"),
            Column::right("SENT/S"),
            Column::right("ACCEPTED"),
            Column::right("DELIVERED"),
            Column::right("RECEIVED"),
        ];
        out.list(&cases, times, |case| case.0.times())
    }
}

/// A case as a list takes it, with what it costs to recoverable messages.
struct Listed<'a>(&'a Case, Option<f64>);

impl Serialize for Listed<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.document(self.1).serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::expect;

    use super::*;

    /// The sender's processor time differs, and of express messages the receiver's is not known.
    fn case(class: Class, sender_cpu: Duration) -> Case {
        let second = Duration::from_secs(1);
        let full = Full {
            messages: 50_000,
            received: 50_000,
            accepted_in: second,
            elapsed: second * 2,
            sender_cpu: Some(sender_cpu),
            receiver_cpu: (class != Class::Express).then_some(second / 4),
            clients_cpu: second / 3,
        };
        let paced = Paced {
            messages: 3_000,
            sent_per_s: 1_000,
            accepted: Latencies::of((1..=3_000).collect()),
            delivered: Latencies::of(vec![1_250]),
            received: Latencies::default(),
        };
        Case {
            load: Load {
                class,
                size: 100,
                in_flight: 4096,
                batch: 16,
            },
            full,
            paced,
            resident: [Some(30 << 20), Some(40 << 20)],
            disk: (class != Class::Express).then_some(Append {
                messages: 100_000,
                time: second,
                batch: 256,
            }),
        }
    }

    fn report() -> Report {
        let second = Duration::from_secs(1);
        Report {
            cases: vec![
                case(Class::Express, second / 10),
                case(Class::Recoverable, second / 5),
                case(Class::Transactional, second / 2),
            ],
            cores: 2,
            ..Report::new(4096)
        }
    }

    #[test]
    fn the_document_keeps_its_shape() {
        let mut document = report().document();
        document.version = "…";
        expect![[r#"
            {
              "schema": "qm.bench/1",
              "version": "…",
              "cores": 2,
              "in_flight": 4096,
              "in_memory": false,
              "cases": [
                {
                  "class": "express",
                  "body_bytes": 100,
                  "batch": 16,
                  "messages": 50000,
                  "elapsed_ms": 2000,
                  "accepted_per_s": 50000,
                  "received_per_s": 25000,
                  "sender_cpu_us_per_message": 2.0,
                  "receiver_cpu_us_per_message": null,
                  "clients_cpu_us_per_message": 6.67,
                  "cpu_to_recoverable": null,
                  "sender_resident_bytes": 31457280,
                  "receiver_resident_bytes": 41943040,
                  "paced": {
                    "messages": 3000,
                    "sent_per_s": 1000,
                    "accepted": {
                      "p50_us": 1500,
                      "p99_us": 2970,
                      "max_us": 3000
                    },
                    "delivered": {
                      "p50_us": 1250,
                      "p99_us": 1250,
                      "max_us": 1250
                    },
                    "received": {
                      "p50_us": 0,
                      "p99_us": 0,
                      "max_us": 0
                    }
                  },
                  "disk": null
                },
                {
                  "class": "recoverable",
                  "body_bytes": 100,
                  "batch": 16,
                  "messages": 50000,
                  "elapsed_ms": 2000,
                  "accepted_per_s": 50000,
                  "received_per_s": 25000,
                  "sender_cpu_us_per_message": 4.0,
                  "receiver_cpu_us_per_message": 5.0,
                  "clients_cpu_us_per_message": 6.67,
                  "cpu_to_recoverable": 1.0,
                  "sender_resident_bytes": 31457280,
                  "receiver_resident_bytes": 41943040,
                  "paced": {
                    "messages": 3000,
                    "sent_per_s": 1000,
                    "accepted": {
                      "p50_us": 1500,
                      "p99_us": 2970,
                      "max_us": 3000
                    },
                    "delivered": {
                      "p50_us": 1250,
                      "p99_us": 1250,
                      "max_us": 1250
                    },
                    "received": {
                      "p50_us": 0,
                      "p99_us": 0,
                      "max_us": 0
                    }
                  },
                  "disk": {
                    "messages_per_s": 100000,
                    "messages_per_flush": 256,
                    "ratio": 0.25
                  }
                },
                {
                  "class": "transactional",
                  "body_bytes": 100,
                  "batch": 16,
                  "messages": 50000,
                  "elapsed_ms": 2000,
                  "accepted_per_s": 50000,
                  "received_per_s": 25000,
                  "sender_cpu_us_per_message": 10.0,
                  "receiver_cpu_us_per_message": 5.0,
                  "clients_cpu_us_per_message": 6.67,
                  "cpu_to_recoverable": 1.38,
                  "sender_resident_bytes": 31457280,
                  "receiver_resident_bytes": 41943040,
                  "paced": {
                    "messages": 3000,
                    "sent_per_s": 1000,
                    "accepted": {
                      "p50_us": 1500,
                      "p99_us": 2970,
                      "max_us": 3000
                    },
                    "delivered": {
                      "p50_us": 1250,
                      "p99_us": 1250,
                      "max_us": 1250
                    },
                    "received": {
                      "p50_us": 0,
                      "p99_us": 0,
                      "max_us": 0
                    }
                  },
                  "disk": {
                    "messages_per_s": 100000,
                    "messages_per_flush": 256,
                    "ratio": 0.25
                  }
                }
              ]
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&document).unwrap());
    }

    #[test]
    fn the_tables_say_it_in_columns() {
        let report = report();
        let lines: Vec<_> = report
            .cases
            .iter()
            .flat_map(|case| {
                [
                    case.rates(report.to_recoverable(case)).join("\t"),
                    case.times().join("\t"),
                ]
            })
            .collect();
        expect![[r#"
            express	100	16	25,000	2.0	-	6.7	-	30.0 MiB + 40.0 MiB	-	-
            express	100	16	1,000	1.50 / 2.97 / 3.00	1.25 / 1.25 / 1.25	0.00 / 0.00 / 0.00
            recoverable	100	16	25,000	4.0	5.0	6.7	1.00	30.0 MiB + 40.0 MiB	100,000	0.25
            recoverable	100	16	1,000	1.50 / 2.97 / 3.00	1.25 / 1.25 / 1.25	0.00 / 0.00 / 0.00
            transactional	100	16	25,000	10.0	5.0	6.7	1.38	30.0 MiB + 40.0 MiB	100,000	0.25
            transactional	100	16	1,000	1.50 / 2.97 / 3.00	1.25 / 1.25 / 1.25	0.00 / 0.00 / 0.00"#]]
        .assert_eq(&lines.join("\n"));
    }
}
