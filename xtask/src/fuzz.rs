//! libFuzzer without cargo-fuzz and without a nightly toolchain: the coverage instrumentation is
//! LLVM's, which the stable compiler carries.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, anyhow, bail};

use crate::repo::{Program, cargo, host, target_dir};

const MANIFEST: &str = "fuzz/libfuzzer/Cargo.toml";
const SECONDS: u64 = 10;

/// Instruments the code under test. `--target` keeps the flags away from build scripts and macros.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How much of what a failed search printed is repeated.
const TAIL_LINES: usize = 40;

/// The checked-in inputs of every target, run by an ordinary test.
pub(crate) fn replay() -> Program {
    cargo(["test", "--locked", "-p", "qm-fuzz"])
}

/// `[TARGET] [--seconds N]`
pub(crate) fn search(arguments: &[&str]) -> anyhow::Result<()> {
    let (chosen, seconds) = match *arguments {
        [] => (None, SECONDS),
        ["--seconds", seconds] => (None, number(seconds)?),
        [target] => (Some(target), SECONDS),
        [target, "--seconds", seconds] => (Some(target), number(seconds)?),
        _ => bail!("usage: cargo xtask fuzz [TARGET] [--seconds N]"),
    };
    let known = targets()?;
    let chosen: Vec<_> = match chosen {
        None => known,
        Some(target) if known.iter().any(|name| name == target) => vec![target.to_owned()],
        Some(target) => bail!("no target {target}; there are: {}", known.join(", ")),
    };
    let triple = host()?;
    let folder = target_dir("fuzz");
    cargo(["build", "--manifest-path", MANIFEST, "--release", "--bins"])
        .args(["--target", &triple])
        .args([Path::new("--target-dir"), &folder])
        .env("RUSTFLAGS", RUSTFLAGS)
        .run()
        .context("building the targets; libFuzzer needs a C++ compiler")?;
    let broken = search_all(&chosen, &folder.join(&triple).join("release"), seconds)?;
    if !broken.is_empty() {
        bail!("a promise was broken in: {}", broken.join(", "));
    }
    Ok(())
}

/// Runs the targets, one a processor at a time, and names those that broke a promise.
///
/// A search has one thread, and they share nothing but the disk.
fn search_all<'a>(
    targets: &'a [String],
    binaries: &Path,
    seconds: u64,
) -> anyhow::Result<Vec<&'a str>> {
    let next = AtomicUsize::new(0);
    let worker = || -> anyhow::Result<Vec<&str>> {
        let mut broken = Vec::new();
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !run(target, &binaries.join(target), seconds)? {
                broken.push(target.as_str());
            }
        }
        Ok(broken)
    };
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..processors.min(targets.len()))
            .map(|_| scope.spawn(worker))
            .collect();
        let mut broken = Vec::new();
        for worker in workers {
            let found = worker
                .join()
                .map_err(|_panic| anyhow!("a search panicked"))??;
            broken.extend(found);
        }
        Ok(broken)
    })
}

fn number(text: &str) -> anyhow::Result<u64> {
    text.parse()
        .with_context(|| format!("{text} is not a number of seconds"))
}

/// Every target of the manifest.
fn targets() -> anyhow::Result<Vec<String>> {
    let manifest = fs::read_to_string(MANIFEST).with_context(|| format!("reading {MANIFEST}"))?;
    let mut names = Vec::new();
    let mut lines = manifest.lines();
    while let Some(line) = lines.next() {
        if line == "[[bin]]" {
            let name = lines
                .next()
                .and_then(|line| line.strip_prefix("name = \""))
                .and_then(|rest| rest.strip_suffix('"'))
                .with_context(|| format!("a [[bin]] of {MANIFEST} does not open with its name"))?;
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Searches for so many seconds; false when a promise was broken.
fn run(target: &str, binary: &Path, seconds: u64) -> anyhow::Result<bool> {
    let corpus = inputs("corpus", target)?;
    let artifacts = inputs("artifacts", target)?;
    let log = target_dir("fuzz").join(format!("{target}.log"));
    let output = fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let status = Command::new(binary)
        .args([
            corpus,
            inputs("seeds", target)?,
            inputs("regressions", target)?,
        ])
        .arg(format!("-max_total_time={seconds}"))
        .args(["-max_len=4096", "-rss_limit_mb=2048", "-timeout=10"])
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .stdout(Stdio::null())
        .stderr(output)
        .status()
        .with_context(|| format!("starting {}", binary.display()))?;
    let said = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
    let said = String::from_utf8_lossy(&said);
    if status.success() {
        let runs = said
            .lines()
            .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
            .map_or("?", str::trim);
        let reached = edges(&said).unwrap_or("?");
        println!(
            "fuzz {target}: {runs} inputs in {seconds} s, {reached} edges reached, every promise kept"
        );
    } else {
        let lines: Vec<_> = said.lines().collect();
        let tail = lines.len().saturating_sub(TAIL_LINES);
        println!("{}", lines.get(tail..).unwrap_or_default().join("\n"));
        println!(
            "fuzz {target}: {status}; the input lies in {}",
            artifacts.display()
        );
    }
    Ok(status.success())
}

/// The edges of the program's flow that the inputs reached, as the last line that tells says.
fn edges(said: &str) -> Option<&str> {
    let (_, rest) = said.rsplit_once(" cov: ")?;
    rest.split_whitespace().next()
}

/// A folder of inputs, made if it is missing: libFuzzer insists on those that are named.
fn inputs(kind: &str, target: &str) -> anyhow::Result<PathBuf> {
    let folder = Path::new("fuzz").join(kind).join(target);
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::edges;

    #[test]
    fn the_last_line_tells_how_far_a_search_came() {
        let said = "#2\tINITED cov: 17 ft: 18 corp: 1/1b\n#99\tDONE   cov: 1173 ft: 1878\nDone\n";
        assert_eq!(edges(said), Some("1173"));
        assert_eq!(edges("Done"), None);
    }
}
