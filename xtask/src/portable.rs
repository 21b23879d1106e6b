//! The wire crate for those who take it alone: without bincode, and on other targets, one of them
//! without a standard library.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::repo::cargo;

const WASM: &str = "wasm32-unknown-unknown";
/// A processor without an operating system: there is `core` and `alloc` and nothing else.
const BARE: &str = "thumbv7em-none-eabi";

pub(crate) fn run() -> anyhow::Result<()> {
    let arguments = [
        "tree", "--locked", "-p", "qm-wire", "-e", "normal", "--prefix", "none",
    ];
    let output = Command::new("cargo")
        .args(arguments)
        .arg("--no-default-features")
        .output()
        .context("running cargo tree")?;
    let tree = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !tree.starts_with("qm-wire ") {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    if let Some(line) = tree.lines().find(|line| line.starts_with("bincode")) {
        bail!("qm-wire without its default features depends on {line}");
    }
    println!(
        "without default features: {} crates, no bincode",
        tree.lines().count()
    );
    let (alone, all): (&[&str], &[&str]) = (&["--no-default-features"], &["--all-features"]);
    for (target, choices) in [(WASM, &[alone, all][..]), (BARE, &[alone])] {
        if !is_installed(target)? {
            println!("{target} is not installed, so not checked; rustup target add {target}");
            continue;
        }
        for features in choices {
            cargo(["check", "--locked", "-p", "qm-wire", "--target", target])
                .args(*features)
                .run()?;
        }
    }
    Ok(())
}

/// Whether the compiler has the standard library of a target.
fn is_installed(target: &str) -> anyhow::Result<bool> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .context("running rustc")?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(output.status.success() && Path::new(&folder).is_dir())
}
