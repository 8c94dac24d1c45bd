#!/bin/sh
# What the tests need from the system. As root it is installed; otherwise it is named, and tests that need it
# are counted as skipped.
set -u
missing=""
need() { # program package
	command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need git git
need cc gcc
need make make
need sshd openssh-server
need ssh openssh-client
need ssh-keygen openssh-client
need mandoc mandoc
need python3 python3
need ps procps
# The system's own Python first: another one in PATH may lack the distribution's packages.
python=/usr/bin/python3
[ -x "$python" ] || python=python3
"$python" -c 'import dulwich' 2>/dev/null || missing="$missing python3-dulwich"
"$python" -c 'import pygit2' 2>/dev/null || missing="$missing python3-pygit2"
# What gotd-static is linked with; tests that need it say so.
target=$(uname -m)-unknown-linux-musl
if [ "$(uname -s)" = Linux ] && ! [ -d "$(rustc --print target-libdir --target "$target" 2>/dev/null)" ]; then
	if [ "$(id -u)" = 0 ] && command -v rustup >/dev/null 2>&1; then
		timeout 120 rustup target add "$target" >/dev/null 2>&1 || echo "could not add Rust's target $target" >&2
	else
		echo "Rust's musl target is missing: rustup target add $target" >&2
	fi
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update && apt-get install -y --no-install-recommends $missing; } >/dev/null 2>&1 ||
		echo "could not install:$missing" >&2
else
	echo "these Debian packages are missing, some tests will be skipped:$missing" >&2
fi
exit 0
