//! Replays the checked-in inputs of every target without libFuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use qm_fuzz::TARGETS;

fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(kind)
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    paths.retain(|path| !path.ends_with(".gitkeep"));
    paths.sort();
    paths
}

#[test]
fn seeds_and_regressions_keep_the_promises() {
    for (target, run) in TARGETS {
        let seeds = inputs("seeds", target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        for path in seeds.iter().chain(&inputs("regressions", target)) {
            println!("{}", path.display());
            run(&fs::read(path).unwrap());
        }
    }
}

#[test]
fn every_target_has_its_binary() {
    for (target, _) in TARGETS {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("libfuzzer/fuzz_targets")
            .join(format!("{target}.rs"));
        let text = fs::read_to_string(&binary).unwrap();
        assert!(
            text.contains(&format!("qm_fuzz::{target}(data)")),
            "{}",
            binary.display()
        );
    }
}

#[test]
fn short_and_uniform_inputs_keep_the_promises() {
    for (_, run) in TARGETS {
        for length in 0..200 {
            for byte in [0, 1, 0x10, 0x7f, 0x80, 0xff] {
                run(&vec![byte; length]);
            }
        }
    }
}
