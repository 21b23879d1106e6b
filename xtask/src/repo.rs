//! The repository: its files, and the programs that are run on it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is one folder below the top")
        .to_path_buf()
}

/// A folder for a build whose flags differ from those of the ordinary one.
pub(crate) fn target_dir(build: &str) -> PathBuf {
    let shared = std::env::var_os("CARGO_TARGET_DIR");
    shared
        .map_or_else(|| root().join("target"), PathBuf::from)
        .join(build)
}

/// The platform of this machine, as rustc names it.
pub(crate) fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("running rustc")?;
    let text = String::from_utf8(output.stdout).context("reading the version of rustc")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("rustc does not name its host")
}

/// Every file that is in the repository or would be with the next commit, relative to the top.
pub(crate) fn files() -> anyhow::Result<Vec<String>> {
    let arguments = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let output = Command::new("git")
        .args(arguments)
        .output()
        .context("running git; the checks need a clone, not an unpacked archive")?;
    if !output.status.success() {
        bail!(
            "git ls-files: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut files: Vec<_> = text
        .split_terminator('\0')
        .filter(|path| Path::new(path).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// A program about to be run, which is printed as one would type it.
#[derive(Debug)]
pub(crate) struct Program {
    command: Command,
    typed: String,
}

/// How many tests ran and how they ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tests {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

/// Cargo with these arguments.
pub(crate) fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Program {
    let mut program = Program::new("cargo").args(arguments);
    // What `cargo run` tells this program of its package: ring's build script asks for it, and
    // would build everything above ring anew each time this program and a person at a shell take
    // turns.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            program.command.env_remove(&name);
        }
    }
    program
}

impl Program {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let typed = program.as_ref().display().to_string();
        Self {
            command: Command::new(program),
            typed,
        }
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        for argument in arguments {
            self.typed.push(' ');
            self.typed
                .push_str(&argument.as_ref().display().to_string());
            self.command.arg(argument);
        }
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.typed = format!("{name}={value:?} {}", self.typed);
        self.command.env(name, value);
        self
    }

    /// Runs it with our own standard output and error.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        println!("$ {}", self.typed);
        let status = self
            .command
            .status()
            .with_context(|| format!("starting {}", self.typed))?;
        if !status.success() {
            bail!("{}: {status}", self.typed);
        }
        Ok(())
    }

    /// Runs it in silence and tells whether it succeeded; a program that is missing did not.
    pub(crate) fn succeeds(mut self) -> bool {
        let status = self
            .command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }

    /// Runs it in silence: whether it succeeded, and what it said on standard output.
    pub(crate) fn output(mut self) -> anyhow::Result<(bool, String)> {
        let output = self
            .command
            .output()
            .with_context(|| format!("starting {}", self.typed))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.success(), said))
    }

    /// Runs it, passes its lines on, and adds up the results of the test binaries among them.
    pub(crate) fn run_tests(mut self, tests: &mut Tests) -> anyhow::Result<()> {
        println!("$ {}", self.typed);
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.typed))?;
        let stdout = child.stdout.take().expect("standard output is piped");
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("reading the output of the tests")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tests.add(&line);
        }
        let status = child.wait().context("waiting for the tests")?;
        if !status.success() {
            bail!("{}: {status}", self.typed);
        }
        Ok(())
    }
}

impl Tests {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`, and no other.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let Some((count, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up_and_nothing_else_counts() {
        let mut tests = Tests::default();
        tests.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        tests.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; finished in 0.01s");
        tests.add("test it::passed ... ok");
        tests.add("9 passed; 9 failed");
        assert_eq!((tests.passed, tests.failed, tests.ignored), (5, 4, 1));
    }
}
