#!/bin/sh
# All tests, with the runner's own closing lines at the end.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
sh -c 'mandoc -T lint -W warning man/*.[0-9]' || { echo "manual pages: not clean" >&2; exit 1; }
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
# The binaries that the integration tests start.
sh dist/build.sh release --quiet
GOTD_BIN=$(cd "$target/release" && pwd)
export GOTD_BIN
# The same binaries with attempts to get out of each sandbox, for one test; never to be installed.
cargo build --locked --quiet -p gotd --features gotd/escapes --target-dir "$target/escapes"
cargo build --locked --quiet -p gotsh --target-dir "$target/escapes"
escapes=$(cd "$target/escapes/debug" && pwd)
GOTD_ESCAPES_BIN=$escapes GOTD_BIN=$escapes cargo test --locked -p regress --test process escapes:: -- --nocapture
exec cargo test --workspace --locked --no-fail-fast
