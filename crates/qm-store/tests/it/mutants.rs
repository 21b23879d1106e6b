//! The crash tests must be able to fail: each rule of the log is broken in turn, and each time
//! they notice.

use qm_store::LogOptions;
use qm_store::breaks::Break;

use crate::common::small;
use crate::crash::life;

/// What the crash tests said about it, if they noticed.
fn caught(fault: Break) -> Option<String> {
    let options = || LogOptions {
        breaks: vec![fault],
        ..small()
    };
    (0..300).find_map(
        |seed| match std::panic::catch_unwind(|| life(seed, options(), 40)) {
            Ok(Ok(_)) => None,
            Ok(Err(difference)) => Some(difference),
            Err(_) => Some("a panic".to_owned()),
        },
    )
}

#[test]
fn ignoring_the_end_of_a_batch_is_caught() {
    assert!(caught(Break::IgnoreBatchEnd).is_some());
}

#[test]
fn a_constant_salt_is_caught() {
    assert!(caught(Break::ConstantSalt).is_some());
}

#[test]
fn reporting_before_the_flush_is_caught() {
    assert!(caught(Break::ReportBeforeSync).is_some());
}

#[test]
fn ignoring_what_marks_depend_on_is_caught() {
    assert!(caught(Break::IgnoreMarkDependencies).is_some());
}

#[test]
fn forgetting_what_a_reused_segment_had_replaced_is_caught() {
    assert!(caught(Break::ForgetReplaced).is_some());
}

#[test]
fn leaving_the_header_of_an_emptied_segment_is_caught() {
    assert!(caught(Break::SkipVoid).is_some());
}

#[test]
fn appending_behind_a_torn_tail_is_caught() {
    assert!(caught(Break::AppendAfterTornTail).is_some());
}
