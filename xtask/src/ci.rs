//! What must hold before a change lands, in order: the cheap checks first.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::repo::{Tests, cargo, target_dir};
use crate::{deny, fuzz, loom, portable, sim, spec, store, tidy};

/// One check.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    run: fn(&mut Tests) -> anyhow::Result<()>,
}

/// Seeds that every run of the checks simulates, before those that no run has seen.
const FIXED_SEEDS: &str = "1..1001";
/// The same with QUIC between the nodes, which costs more.
const FIXED_QUINN_SEEDS: &str = "0..30";
/// Seeds with transactional queues that are run every time.
const FIXED_STREAM_SEEDS: &str = "0..200";
/// Seeds with copied machines that are run every time.
const FIXED_CLONE_SEEDS: &str = "0..200";
const FUZZ_SECONDS: &str = "6";

pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "formatting of both workspaces",
        run: |_| {
            cargo(["fmt", "--all", "--check"]).run()?;
            cargo([
                "fmt",
                "--manifest-path",
                "fuzz/libfuzzer/Cargo.toml",
                "--all",
                "--check",
            ])
            .run()
        },
    },
    Step {
        name: "tidy",
        about: "house rules",
        run: |_| tidy::run(),
    },
    Step {
        name: "spec",
        about: "the wire specification is cited, and by what exists",
        run: |_| spec::run(),
    },
    Step {
        name: "clippy",
        about: "lints, with warnings denied",
        run: |_| {
            let lint = |arguments: &[&str]| {
                cargo(["clippy", "--locked", "--keep-going"])
                    .args(arguments)
                    .args(["--", "-D", "warnings"])
                    .run()
            };
            lint(&["--workspace", "--all-targets", "--all-features"])?;
            lint(&["-p", "qm-wire", "--all-targets", "--no-default-features"])
        },
    },
    Step {
        name: "test",
        about: "the tests of every crate, the checked-in fuzz inputs, then the wire crate without bincode",
        run: |tests| {
            let test =
                |arguments: &[&str]| cargo(["test", "--locked", "--no-fail-fast"]).args(arguments);
            // The program that the workspace's tests build anyway: one without the features that
            // other tests switch on would be a second build of half the workspace.
            let node = target_dir("debug").join("qm-node");
            test(&["--workspace"])
                .env("QM_NODE_BIN", &node.display().to_string())
                .run_tests(tests)?;
            test(&["-p", "qm-wire", "--no-default-features"]).run_tests(tests)
        },
    },
    Step {
        name: "doc",
        about: "documentation builds without warnings",
        run: |_| {
            cargo([
                "doc",
                "--locked",
                "--workspace",
                "--no-deps",
                "--all-features",
            ])
            .env("RUSTDOCFLAGS", "-Dwarnings")
            .run()
        },
    },
    Step {
        name: "portable",
        about: "the wire crate without bincode in its tree, and for WebAssembly where that target is there",
        run: |_| portable::run(),
    },
    Step {
        name: "deny",
        about: "licences, bans, sources; known advisories when their database can be had",
        run: |_| deny::run_in_ci(),
    },
    Step {
        name: "fuzz",
        about: "a short search with every fuzz target",
        run: |_| fuzz::search(&["--seconds", FUZZ_SECONDS]),
    },
    Step {
        name: "loom",
        about: "interleavings of the lock-free caches, and faults that must show in them",
        run: |tests| {
            loom::explore(None).run_tests(tests)?;
            loom::find_faults()
        },
    },
    Step {
        name: "store-mutants",
        about: "each rule of the store broken in turn: something must notice",
        run: |tests| store::mutants(&[]).run_tests(tests),
    },
    Step {
        name: "sim",
        about: "simulated networks: seeds that once failed, fixed ones, then fresh ones",
        run: |_| {
            sim::command(&["--regressions"]).run()?;
            sim::command(&["--seeds", FIXED_SEEDS]).run()?;
            sim::command(&["--mode", "streams", "--seeds", FIXED_STREAM_SEEDS]).run()?;
            sim::command(&["--mode", "clones", "--seeds", FIXED_CLONE_SEEDS]).run()?;
            sim::command(&["--mode", "quinn", "--seeds", FIXED_QUINN_SEEDS]).run()?;
            sim::fresh("fast")?.run()?;
            sim::fresh("streams")?.run()?;
            sim::fresh("clones")?.run()
        },
    },
];

/// Runs the named steps, or all. A failed step does not keep the later ones from running.
pub(crate) fn run(names: &[&str]) -> anyhow::Result<()> {
    if let Some(unknown) = names
        .iter()
        .find(|name| !STEPS.iter().any(|step| step.name == **name))
    {
        bail!("ci has no step {unknown}; see cargo xtask help");
    }
    let mut tests = Tests::default();
    let mut results = Vec::new();
    for step in STEPS {
        if !names.is_empty() && !names.contains(&step.name) {
            continue;
        }
        println!("\n== {}: {}", step.name, step.about);
        let start = Instant::now();
        let result = (step.run)(&mut tests);
        if let Err(error) = &result {
            println!("error: {error:#}");
        }
        results.push((step.name, start.elapsed(), result.is_ok()));
    }
    report(&results, tests);
    let failed: Vec<_> = results
        .iter()
        .filter(|(_, _, passed)| !passed)
        .map(|(name, _, _)| *name)
        .collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn report(results: &[(&str, Duration, bool)], tests: Tests) {
    println!("\n== summary");
    for (name, took, passed) in results {
        let result = if *passed { "passed" } else { "FAILED" };
        println!("{name:<13} {result} {:>7.1} s", took.as_secs_f64());
    }
    let total: Duration = results.iter().map(|(_, took, _)| *took).sum();
    println!("{:<13}        {:>7.1} s", "all", total.as_secs_f64());
    let Tests {
        passed,
        failed,
        ignored,
    } = tests;
    if passed + failed > 0 {
        println!("tests: {passed} passed, {failed} failed, {ignored} skipped");
    }
}
