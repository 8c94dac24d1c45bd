#!/bin/sh
# The files with `unsafe` under AddressSanitizer, by the machine's own Rust: maps of files, the lanes of SHA-1, system calls, the
# sandbox's, and the decoders that read what these hand them, fed with the fuzzer's corpora.
# What installs a filter in its own process is left out: the sanitizer makes calls that no promise names.
set -eu
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
if ! ls "$(rustc --print sysroot)/lib/rustlib/$host/lib/" | grep -q 'rt\.asan'; then
	echo "make asan: this Rust has no AddressSanitizer for $host" >&2
	exit 1
fi
# The sanitizers are behind a flag that a stable compiler takes only so.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address"
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1:strict_string_checks=1}"
test() {
	${CARGO:-cargo} test --locked --quiet --target "$host" --target-dir "${CARGO_TARGET_DIR:-target}/asan" "$@"
}
# A bound of 20 seconds is not for a program that is many times as slow.
test -p librepo --lib --test store --test damage -- --skip a_bomb_of_deltas_is_refused
test -p libsandbox --lib
test -p gotd --lib -- system:: users:: bytes:: spawn:: sockets:: log::
test -p corpora
echo "AddressSanitizer: nothing found"
