#!/bin/sh
# reproducible.sh: builds the last commit twice, as two builders would, and compares what comes out, byte for byte. Takes two builds.
set -eu
cd "$(dirname "$0")/.."
[ -z "$(git status --porcelain)" ] || echo "reproducible: what is not committed is not built" >&2
dir=$(mktemp -d "${TMPDIR:-/tmp}/gotd-reproducible.XXXXXX")
trap 'rm -rf "$dir"' EXIT
source=$(pwd -P)
cargo_home=${CARGO_HOME:-$HOME/.cargo}

# Directory, umask, time zone, language, processors, home of cargo: everything that two builders do not share.
build() { # directory umask zone language jobs
	git clone -q --no-hardlinks "$source" "$1"
	git -C "$1" checkout -q "$(git rev-parse HEAD)"
	mkdir -p "$1.home"
	# The sources of the crates are the same, whoever fetched them. No link: the compiler would see where it leads to.
	for part in registry git; do
		[ ! -d "$cargo_home/$part" ] || cp -al "$cargo_home/$part" "$1.home/$part" 2>/dev/null ||
			cp -a "$cargo_home/$part" "$1.home/$part"
	done
	[ ! -f "$cargo_home/config.toml" ] || ln -s "$cargo_home/config.toml" "$1.home/config.toml"
	(
		cd "$1"
		umask "$2"
		unset CARGO_TARGET_DIR SOURCE_DATE_EPOCH
		env TZ="$3" LC_ALL="$4" CARGO_HOME="$1.home" CARGO_BUILD_JOBS="$5" BIN=target/release \
			sh -c 'sh dist/build.sh release --quiet && sh dist/debian/deb.sh target > /dev/null'
	)
}
build "$dir/a" 022 UTC C 4
build "$dir/some other place/for b" 077 Pacific/Kiritimati C.UTF-8 1

bad=0
for file in release/gotd release/gotsh release/gotctl release/gotd-static $(cd "$dir/a/target" && echo gotd_*.deb gotd_*.cdx.json); do
	for place in a "some other place/for b"; do
		if grep -aqF -e "$dir" -e "$cargo_home/" "$dir/$place/target/$file"; then
			echo "reproducible: $file names a directory of its builder" >&2
			bad=1
		fi
	done
	if cmp "$dir/a/target/$file" "$dir/some other place/for b/target/$file" >&2; then
		echo "equal: $(sha256sum < "$dir/a/target/$file" | cut -d ' ' -f 1) $file"
	else
		bad=1
	fi
done
if [ $bad -ne 0 ]; then
	trap - EXIT
	echo "reproducible: the builds differ; they are kept in $dir" >&2
	exit 1
fi
