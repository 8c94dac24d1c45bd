#!/bin/sh
# build.sh PROFILE [cargo's flags]: builds everything, or PACKAGES; then gotsh, and gotd a second time as gotd-static, linked statically.
#
# Those two start for every session, and their start is much of a short one. Without a dynamic loader it is shorter; with musl, if
# that target is installed, it takes a sixth: glibc's asks the processor for its caches, which a virtual machine answers slowly.
# Nothing is fetched for it here, whoever builds: the line that does is told, and `make install-test-tools` runs it.
# gotd itself stays as it is, since name services are modules that only a dynamic program can load.
#
# The same commit gives the same programs, byte for byte, wherever it is built (`make reproducible` shows it): directories of the
# builder are replaced in texts of panics and in the tables of lines. What else must be equal is the compiler and the C compiler's
# linker and start files.
set -eu
cd "$(dirname "$0")/.."
profile=${1:-release}
[ $# -eq 0 ] || shift
cargo=${CARGO:-cargo}
out=${CARGO_TARGET_DIR:-target}
machine=$(uname -m)-unknown-linux
rustc=${RUSTC:-rustc}

# Flags are parted by a byte that no path has, since a path may have blanks.
part=$(printf '\037')
flags=
add() { flags=$flags${flags:+$part}$1; }
elsewhere() { ! [ -d "$1" ] || add "--remap-path-prefix=$(cd "$1" && pwd -P)=$2"; }
for flag in ${RUSTFLAGS:-}; do add "$flag"; done
# The last that fits is taken. The compiler's own sources, where they are installed, have the name that they have where they are not.
elsewhere . /usr/src/gotd
mkdir -p "$out"
elsewhere "$out" /usr/src/gotd/target
home=${CARGO_HOME:-${HOME:-/root}/.cargo}
elsewhere "$home" /usr/src/cargo
# Either may be a link to a place that builders share.
elsewhere "$home/registry" /usr/src/cargo/registry
elsewhere "$home/git" /usr/src/cargo/git
elsewhere "$("$rustc" --print sysroot)/lib/rustlib/src/rust" "/rustc/$("$rustc" -vV | sed -n 's/^commit-hash: //p')"

CARGO_ENCODED_RUSTFLAGS=$flags $cargo build ${PACKAGES:---workspace} --locked --profile "$profile" "$@"

[ "$(uname -s)" = Linux ] || exit 0
add -C
add target-feature=+crt-static
there() { [ -d "$("$rustc" --print target-libdir --target "$1" 2>/dev/null)" ]; }
for target in "$machine-musl" "$machine-gnu"; do
	there "$target" || continue
	if CARGO_ENCODED_RUSTFLAGS=$flags $cargo build --locked --profile "$profile" "$@" \
		-p gotsh -p gotd --bin gotsh --bin gotd --target "$target"; then
		# New files: those that are there may be links to what cargo keeps, or run at this moment.
		rm -f "$out/$profile/gotsh" "$out/$profile/gotd-static"
		cp "$out/$target/$profile/gotsh" "$out/$profile/gotsh"
		install -m 755 "$out/$target/$profile/gotd" "$out/$profile/gotd-static"
		[ "$target" = "$machine-musl" ] || echo "\`rustup target add $machine-musl\` makes short sessions faster" >&2
		exit 0
	fi
done
# One of an earlier build would not know today's messages.
rm -f "$out/$profile/gotd-static"
echo "gotsh is linked dynamically; \`rustup target add $machine-musl\` makes short sessions faster" >&2
