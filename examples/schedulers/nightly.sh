#!/bin/sh
# Enqueue a source, wait for its job, write the results: nightly.sh SOURCE OUT
# A second start on the same day continues the same job. The exit code is that of the job.
set -eu
docmill=${DOCMILL:-docmill}
job=$("$docmill" enqueue embed "$1" --idempotency-key "nightly $(date +%F) $1" --quiet)
code=0
"$docmill" status "$job" --wait --quiet || code=$?
case $code in
    0 | 4) "$docmill" results "$job" --out "$2" --quiet ;; # 4: some records were rejected
esac
exit $code
