#!/bin/sh
# run.sh SECONDS [target ...]: each fuzz target in turn; a finding ends the run and stays in artifacts/.
# Needs cargo-fuzz (`cargo install cargo-fuzz`) and a nightly compiler.
set -eu
seconds=${1:-60}
[ $# -gt 0 ] && shift
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- $(ls fuzz_targets | sed 's/\.rs$//')
for target; do
	echo "== $target: $seconds seconds"
	cargo +nightly fuzz run --fuzz-dir . "$target" -- -max_total_time="$seconds" -verbosity=0 -rss_limit_mb=2048 -timeout=20
done
echo "$# passed, 0 failed"
