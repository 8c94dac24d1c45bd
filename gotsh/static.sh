#!/bin/sh
# static.sh profile: puts a gotsh in place that is linked statically against musl, if that target is installed.
# gotsh starts for every session, and its start is much of a short one: without a dynamic loader, and without the C library
# asking the processor for its caches (which a virtual machine answers slowly), it takes a tenth of the time.
set -eu
cd "$(dirname "$0")/.."
profile=${1:-release}
cargo=${CARGO:-cargo}
out=${CARGO_TARGET_DIR:-target}
musl=$(uname -m)-unknown-linux-musl
[ "$(uname -s)" = Linux ] || exit 0
libraries=$(rustc --print target-libdir --target "$musl" 2>/dev/null) || libraries=
if [ ! -d "$libraries" ]; then
	echo "gotsh is linked dynamically; \`rustup target add $musl\` makes its start faster" >&2
	exit 0
fi
$cargo build --locked --quiet --profile "$profile" -p gotsh --target "$musl"
# A new file: the one there is a link to what cargo keeps.
rm -f "$out/$profile/gotsh"
cp "$out/$musl/$profile/gotsh" "$out/$profile/gotsh"
