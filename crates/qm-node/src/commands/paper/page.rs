//! `docs/errors.md`: made from the tables of errors, with the test that shows each of them.

use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;

use super::{CodeDocument, all_codes};

/// Where each error of the program is shown: a file below the repository and a test in it.
const SHOWN: &[(&str, &str, &str)] = &[
    (
        "usage",
        MISUSE,
        "a_mistake_names_what_is_wrong_and_what_was_meant",
    ),
    ("destination", MISUSE, "a_destination_is_pointed_into"),
    ("config", CLI, "what_is_typed_wrong_exits_with_2"),
    ("needs_yes", FLOW, "what_destroys_is_confirmed"),
    (
        "not_initialised",
        START,
        "data_directories_that_cannot_be_are_named",
    ),
    (
        "socket_path_too_long",
        START,
        "a_stale_socket_is_no_obstacle_and_another_file_is",
    ),
    (
        "not_a_socket",
        START,
        "a_stale_socket_is_no_obstacle_and_another_file_is",
    ),
    ("store_options", RUN, "every_start_up_error_has_its_row"),
    ("network_options", RUN, "every_start_up_error_has_its_row"),
    (
        "data_dir_locked",
        START,
        "a_data_directory_in_use_names_the_process",
    ),
    (
        "data_dir",
        START,
        "data_directories_that_cannot_be_are_named",
    ),
    (
        "identity_key_missing",
        START,
        "a_missing_or_foreign_key_is_named_and_stays",
    ),
    (
        "identity_key_damaged",
        START,
        "a_missing_or_foreign_key_is_named_and_stays",
    ),
    ("store_newer", START, "a_damaged_store_names_file_and_place"),
    (
        "store_damaged",
        START,
        "a_damaged_store_names_file_and_place",
    ),
    ("store_foreign", START, "a_file_of_another_store_is_named"),
    ("store_io", RUN, "every_start_up_error_has_its_row"),
    (
        "store_given_up",
        LIFE,
        "a_disk_that_stays_broken_ends_the_node_with_the_cause",
    ),
    (
        "stop_unfinished",
        LIFE,
        "a_disk_that_fails_while_the_node_stops_keeps_it_from_nothing",
    ),
    ("port_in_use", START, "a_port_in_use_names_the_process"),
    (
        "address_not_available",
        START,
        "addresses_that_cannot_be_had_are_named",
    ),
    (
        "port_permission",
        START,
        "addresses_that_cannot_be_had_are_named",
    ),
    ("listen", RUN, "every_start_up_error_has_its_row"),
    ("socket_in_use", START, "a_socket_in_use_names_the_process"),
    (
        "socket",
        START,
        "a_stale_socket_is_no_obstacle_and_another_file_is",
    ),
    ("system", RUN, "every_start_up_error_has_its_row"),
    ("panicked", RUN, "every_start_up_error_has_its_row"),
    ("disk_full", START, "a_full_disk_at_the_start_is_named"),
    ("read_only", START, "a_read_only_file_system_is_named"),
    (
        "no_permission",
        START,
        "what_belongs_to_somebody_else_is_named",
    ),
    ("too_many_files", START, "too_few_files_are_named"),
    ("io", FLOW, "files_that_cannot_be_read_are_named"),
    ("connection", COMMAND, "a_node_that_hangs_up_is_named"),
    (
        "no_answer",
        COMMAND,
        "a_node_that_does_not_answer_is_not_waited_for_without_end",
    ),
    ("not_a_node", COMMAND, "whoever_else_listens_is_found_out"),
    (
        "local_version",
        COMMAND,
        "a_node_of_another_version_is_named_with_both",
    ),
    (
        "other_node",
        NODE,
        "every_failure_of_a_connection_has_its_row",
    ),
    (
        "command_failed",
        TRANSACTIONS_IT,
        "a_command_that_fails_gives_its_message_back_flagged_and_counted",
    ),
    (
        "outcome_unknown",
        NODE,
        "every_failure_of_a_connection_has_its_row",
    ),
    (
        "not_followed",
        NODE,
        "every_failure_of_a_connection_has_its_row",
    ),
    (
        "not_understood",
        COMMAND,
        "an_answer_that_is_not_understood_is_named",
    ),
    ("aborted", FLOW, "an_interrupted_command_says_what_was_done"),
    (
        "not_intact",
        DEMO,
        "what_is_not_intact_is_told_with_its_number",
    ),
    (
        "trial",
        FLOW,
        "a_demonstration_whose_node_does_not_start_tells_why",
    ),
    ("nothing", FLOW, "an_empty_queue_is_nothing"),
    (
        "fate_open",
        FLOW,
        "a_fate_that_stays_open_says_what_holds_it_up",
    ),
    (
        "not_running",
        COMMAND,
        "without_a_node_there_is_a_word_how_to_start_one",
    ),
];

/// Where each outcome is shown, unless nothing answers with it.
const OUTCOMES: &[(&str, Option<&str>)] = &[
    ("reached_queue", Some(SENDING)),
    ("received", Some(SENDING)),
    ("bad_destination_queue", Some(FLOW)),
    ("purged_in_transit", Some(QUESTIONS)),
    ("time_to_reach_queue_expired", Some(FLOW)),
    ("queue_quota_exceeded", Some(CLI)),
    ("access_denied", Some(PAIR)),
    ("hop_count_exceeded", None),
    ("bad_signature", None),
    ("bad_encryption", None),
    ("not_transactional_queue", Some(TRANSACTIONS)),
    ("not_transactional_message", Some(TRANSACTIONS)),
    ("source_identity_changed", None),
    ("queue_deleted", Some(QUESTIONS)),
    ("queue_purged", Some(CLI)),
    ("time_to_be_received_expired", Some(FLOW)),
    ("rejected_by_receiver", Some(FLOW)),
    ("damaged", Some(DAMAGED)),
    ("body_over_limit", Some(FLOW)),
    ("version", Some(PAIR)),
    ("idempotency_conflict", Some(PAIR)),
    ("bad_destination_name", Some(FLOW)),
    ("store_full", Some(FLOW)),
    ("store_failed", None),
    ("unsupported", Some(PAIR)),
    ("wrong_identity", Some(FLOW)),
    ("pending_approval", Some(FLOW)),
    ("protocol", Some(HOSTILE)),
    ("stopping", Some(PAIR)),
    ("superseded", Some(PAIR)),
    ("idle", Some(PAIR)),
    ("blocked", Some(QUESTIONS)),
    ("dropped_oldest", None),
    ("busy", Some(HOSTILE)),
    ("bad_request", Some(FLOW)),
    ("not_found", Some(FLOW)),
    ("lease_lost", Some(RECEIVING)),
    ("poison", None),
    ("transaction_aborted", Some(TRANSACTIONS)),
    ("transaction_too_large", Some(TRANSACTIONS)),
    ("voided", Some(VOIDS)),
    ("end_unknown", Some(END_UNKNOWN)),
];

const END_UNKNOWN: &str = "crates/qm-engine/tests/finals/unknown.rs";
const VOIDS: &str = "crates/qm-engine/tests/ended/voids.rs";
const CLI: &str = "crates/qm-node/tests/cli.rs";
const START: &str = "crates/qm-node/tests/errors/start.rs";
const COMMAND: &str = "crates/qm-node/tests/errors/command.rs";
const MISUSE: &str = "crates/qm-node/src/cli/misuse.rs";
const RUN: &str = "crates/qm-node/src/commands/run.rs";
const NODE: &str = "crates/qm-node/src/commands/node.rs";
const LIFE: &str = "crates/qm-node/src/life/tests.rs";
const DEMO: &str = "crates/qm-node/src/commands/demo/report.rs";
const FLOW: &str = "crates/qm-node/tests/errors/flow.rs";

const QUESTIONS: &str = "crates/qm-engine/tests/operator/questions.rs";
const PAIR: &str = "crates/qm-engine/tests/pair.rs";
const TRANSACTIONS_IT: &str = "tests/it/transactions.rs";
const TRANSACTIONS: &str = "crates/qm-engine/tests/transactions.rs";
const HOSTILE: &str = "crates/qm-engine/tests/hostile.rs";
const DAMAGED: &str = "crates/qm-engine/tests/hostile/damaged.rs";
const SENDING: &str = "crates/qm-client/tests/it/sending.rs";
const RECEIVING: &str = "crates/qm-client/tests/it/receiving.rs";

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

const HEAD: &str = "\
# Errors

Every error says what is wrong, where, and what to do:

```text
error [not_running]: no node answers at /run/qm/node.sock: No such file or directory (os error 2)
  fix: start one with `qm-node run`, or name its socket with --socket or its directory with --data
```

With `--json` it is one document on standard error, `{\"schema\":\"qm.error/1\",\"code\":…,\"cause\":…,\"fix\":…}`; that of a
refused message has its `outcome` as well, and when several things are wrong at once, `more` has the others. Codes and exit
codes are a contract; the words of a cause are not. `qm-node errors` prints this table, `qm-node errors CODE` a row of it.

This page is made from the tables in the code, and every example was printed by the test named below it
(`UPDATE_EXPECT=1 cargo test -p qm-node` writes it anew).

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | usage or configuration |
| 3 | nothing there, or the time to wait ran out with the fate open |
| 4 | rejected, with a typed code |
| 5 | no node is running |
";

const OUTCOMES_HEAD: &str = "
## Outcomes of messages

Why a message was refused or ended: in errors of commands (exit code 4), in dead letters, in acknowledgements to
applications and between nodes. Numbers below `9000` are MSMQ's. Those without a test are reserved: nothing in this version
answers with them.

| code | name | meaning | what to do | shown in |
|---|---|---|---|---|
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    let (outcomes, own): (Vec<_>, Vec<_>) = all_codes()
        .into_iter()
        .partition(|known| known.outcome.is_some());
    let titles = [
        (2, "What was typed or configured"),
        (1, "What failed"),
        (3, "Nothing, or not yet"),
        (5, "No node"),
    ];
    for (exit, title) in titles {
        page.push_str(&format!("\n## {title}: exit code {exit}\n"));
        for known in own.iter().filter(|known| known.exit == exit) {
            page.push_str(&section(known));
        }
    }
    page.push_str(OUTCOMES_HEAD);
    for known in &outcomes {
        page.push_str(&format!(
            "| `{}` | `{}` | {} | {} | {} |\n",
            known.outcome.as_deref().unwrap_or_default(),
            known.code,
            known.meaning,
            known.fix.replace('|', "\\|"),
            shown_in(known.code).map_or_else(|| "–".to_owned(), |file| format!("`{file}`")),
        ));
    }
    page
}

/// Where an outcome is shown, if it is one that anything answers with.
fn shown_in(code: &str) -> Option<&'static str> {
    let shown = OUTCOMES.iter().find(|(known, _)| *known == code);
    shown
        .unwrap_or_else(|| panic!("nothing is said of outcome `{code}`"))
        .1
}

fn section(known: &CodeDocument) -> String {
    let (_, file, test) = SHOWN
        .iter()
        .find(|(code, _, _)| *code == known.code)
        .unwrap_or_else(|| panic!("no test is named that shows `{}`", known.code));
    format!(
        "\n### `{}`\n\nMeans: {}.\n\n```text\nerror [{}]: {}\n```\n\nDo: {}.\n\nShown by `{test}` in `{file}`.\n",
        known.code,
        known.meaning,
        known.code,
        known.example.unwrap_or_default(),
        known.fix
    )
}

/// `UPDATE_EXPECT=1 cargo test` writes the page anew after a change of the table.
#[test]
fn the_page_is_made_from_the_table() {
    expect_file!["../../../../../docs/errors.md"].assert_eq(&page());
}

#[test]
fn every_error_is_shown_by_a_test_that_names_it() {
    let own = all_codes()
        .into_iter()
        .filter(|known| known.outcome.is_none());
    assert_eq!(own.count(), SHOWN.len());
    for (code, file, test) in SHOWN {
        let text = fs::read_to_string(repository().join(file)).unwrap();
        let from = text
            .find(&format!("fn {test}("))
            .unwrap_or_else(|| panic!("{file} has no test `{test}`"));
        let test_text = text[from..].split("\n}\n").next().unwrap_or_default();
        assert!(
            test_text.contains(&format!("\"{code}\"")) || test_text.contains(&format!("[{code}]")),
            "`{test}` in {file} does not name `{code}`"
        );
    }
}

/// The name of an outcome's constant.
fn constant(code: &str) -> String {
    let table = fs::read_to_string(repository().join("crates/qm-wire/src/outcome.rs")).unwrap();
    let line = table
        .lines()
        .find(|line| line.contains(&format!(", \"{code}\", ")));
    let name = line.and_then(|line| line.trim().split(' ').next());
    format!(
        "Outcome::{}",
        name.unwrap_or_else(|| panic!("no outcome `{code}`"))
    )
}

#[test]
fn every_outcome_is_shown_by_a_test_or_answered_by_nobody() {
    let sources: Vec<String> = ["engine", "node", "client"]
        .iter()
        .flat_map(|name| sources(&repository().join(format!("crates/qm-{name}/src"))))
        .collect();
    for (code, file) in OUTCOMES {
        let constant = constant(code);
        match file {
            Some(file) => {
                let text = fs::read_to_string(repository().join(file)).unwrap();
                let named = text.contains(&constant) || text.contains(code);
                assert!(named, "{file} does not show {code}");
            }
            None => {
                let used = sources.iter().any(|text| text.contains(&constant));
                assert!(!used, "{code} is answered and not shown");
            }
        }
    }
}

/// What a program does, without its tests and without what is said about every outcome.
fn sources(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if !["cause.rs", "exit.rs", "page.rs", "tests.rs"]
            .iter()
            .any(|name| path.ends_with(name))
        {
            found.push(fs::read_to_string(&path).unwrap());
        }
    }
    found
}
