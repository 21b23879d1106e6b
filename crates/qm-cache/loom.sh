#!/bin/sh
# Explores the models of tests/loom.rs, then switches on one fault after the other in them and
# demands that they find it. Arguments: names of faults; all without.
set -u
cd "$(dirname "$0")"
export RUSTFLAGS="--cfg loom ${RUSTFLAGS:-}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-../../target}/loom"
explore() { cargo test --quiet --release -p qm-cache --test loom 2>&1; }

echo "models:"
unset QM_MUTANT
explore || exit 1

survivors=0
[ $# -gt 0 ] || set -- no_order no_rescan release_first no_rivals no_second_look no_confirm tentative_counts \
    torn_read torn_rival no_busy any_order blind_retry late_tail run_returns \
    turned_over gone_committed judged_only blind_see stale_row unsigned_rows
for fault in "$@"; do
    if found=$(QM_MUTANT=$fault explore); then
        echo "fault $fault: SURVIVED"
        survivors=$((survivors + 1))
    else
        models=$(echo "$found" | sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^    \([a-z_:]*\)$/\1/p' |
            sort -u | tr '\n' ' ')
        echo "fault $fault: found by ${models:-(does not run)}"
    fi
done
exit "$survivors"
