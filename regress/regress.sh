#!/bin/sh
# All tests, with the runner's own closing lines at the end.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
sh -c 'mandoc -T lint -W warning man/*.[0-9]' || { echo "manual pages: not clean" >&2; exit 1; }
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
# The binaries that the integration tests start.
cargo build --workspace --locked --release --quiet
GOTD_BIN=$(cd "$target/release" && pwd)
export GOTD_BIN
exec cargo test --workspace --locked --no-fail-fast
