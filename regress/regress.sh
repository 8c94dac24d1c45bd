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
escape() {
	GOTD_ESCAPES_BIN=$escapes GOTD_BIN=$escapes cargo test --locked -p regress --test process escapes:: -- --nocapture
}
# With glibc alone, and as it is installed, where most roles are linked with musl.
rm -f "$escapes/gotd-static"
escape
musl=$(uname -m)-unknown-linux-musl
if [ -d "$(rustc --print target-libdir --target "$musl" 2>/dev/null)" ]; then
	cargo build --locked --quiet -p gotd --bin gotd --features gotd/escapes --target "$musl" --target-dir "$target/escapes"
	install -m 755 "$target/escapes/$musl/debug/gotd" "$escapes/gotd-static"
	escape
fi
exec cargo test --workspace --locked --no-fail-fast
