#!/bin/sh
# static.sh profile: puts a statically linked gotsh in place of the other one.
# gotsh starts for every session, and its start is much of a short one. Without a dynamic loader it is shorter; with musl, if that
# target is installed, it takes a tenth: glibc's asks the processor for its caches, which a virtual machine answers slowly.
set -eu
cd "$(dirname "$0")/.."
profile=${1:-release}
cargo=${CARGO:-cargo}
out=${CARGO_TARGET_DIR:-target}
machine=$(uname -m)-unknown-linux
[ "$(uname -s)" = Linux ] || exit 0
for target in "$machine-musl" "$machine-gnu"; do
	libraries=$(rustc --print target-libdir --target "$target" 2>/dev/null) || continue
	[ -d "$libraries" ] || continue
	if RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
		$cargo build --locked --quiet --profile "$profile" -p gotsh --target "$target"; then
		# A new file: the one there is a link to what cargo keeps.
		rm -f "$out/$profile/gotsh"
		cp "$out/$target/$profile/gotsh" "$out/$profile/gotsh"
		[ "$target" = "$machine-musl" ] || echo "\`rustup target add $machine-musl\` makes gotsh's start faster" >&2
		exit 0
	fi
done
echo "gotsh is linked dynamically; \`rustup target add $machine-musl\` makes its start faster" >&2
