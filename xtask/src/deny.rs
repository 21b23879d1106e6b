//! Licences, banned crates and sources, by cargo-deny.

use anyhow::bail;

use crate::repo::{Program, cargo};

/// The manifests that are checked, each with its configuration.
const WORKSPACES: &[(&str, &str)] = &[
    ("Cargo.toml", "deny.toml"),
    ("fuzz/libfuzzer/Cargo.toml", ".ci/deny-fuzz.toml"),
];

pub(crate) fn run(with_advisories: bool) -> anyhow::Result<()> {
    if !cargo(["deny", "--version"]).succeeds() {
        bail!("cargo-deny is missing: cargo install cargo-deny --version 0.20.2 --locked");
    }
    for (manifest, config) in WORKSPACES {
        check(manifest, config, &["bans", "licenses", "sources"]).run()?;
        if with_advisories {
            check(manifest, config, &["advisories"]).run()?;
        }
    }
    Ok(())
}

/// The same, with advisories where their database can be had: it is fetched from a host that is no
/// package registry, which a closed network may refuse.
pub(crate) fn run_in_ci() -> anyhow::Result<()> {
    if !cargo(["deny", "fetch", "db"]).succeeds() {
        println!("note: the advisory database could not be fetched; advisories are NOT checked");
        return run(false);
    }
    run(true)
}

fn check(manifest: &str, config: &str, what: &[&str]) -> Program {
    cargo(["deny", "--manifest-path", manifest])
        .args(["--config", config, "check", "--hide-inclusion-graph"])
        .args(what)
}
