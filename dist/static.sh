#!/bin/sh
# static.sh profile: puts a statically linked gotsh in place of the other one, and gotd-static beside gotd.
# They start for every session, and their start is much of a short one. Without a dynamic loader it is shorter; with musl, if that
# target is installed, it takes a sixth: glibc's asks the processor for its caches, which a virtual machine answers slowly.
# Nothing is fetched for it here, whoever builds: the line that does is told, and `make install-test-tools` runs it.
# gotd itself stays as it is, since name services are modules that only a dynamic program can load.
set -eu
cd "$(dirname "$0")/.."
profile=${1:-release}
cargo=${CARGO:-cargo}
out=${CARGO_TARGET_DIR:-target}
machine=$(uname -m)-unknown-linux
[ "$(uname -s)" = Linux ] || exit 0
there() { [ -d "$(rustc --print target-libdir --target "$1" 2>/dev/null)" ]; }
for target in "$machine-musl" "$machine-gnu"; do
	there "$target" || continue
	if RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
		$cargo build --locked --quiet --profile "$profile" -p gotsh -p gotd --bin gotsh --bin gotd --target "$target"; then
		# New files: those that are there may be links to what cargo keeps, or run at this moment.
		rm -f "$out/$profile/gotsh" "$out/$profile/gotd-static"
		cp "$out/$target/$profile/gotsh" "$out/$profile/gotsh"
		install -m 755 "$out/$target/$profile/gotd" "$out/$profile/gotd-static"
		[ "$target" = "$machine-musl" ] || echo "\`rustup target add $machine-musl\` makes short sessions faster" >&2
		exit 0
	fi
done
echo "gotsh is linked dynamically; \`rustup target add $machine-musl\` makes short sessions faster" >&2
