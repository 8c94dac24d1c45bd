#!/bin/sh
# deb.sh DIRECTORY: builds a Debian package of the programs in BIN, with dpkg-deb alone, and beside it the list of what was linked
# (dist/sbom.sh). The same programs give the same package, byte for byte: what a builder has of its own (umask, time zone, language,
# clock, the blocks of its file system, a group that directories inherit) goes into nothing.
set -eu
cd "$(dirname "$0")/../.."
umask 022
export LC_ALL=C
out=${1:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=$(sh dist/epoch.sh)
export SOURCE_DATE_EPOCH
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
DESTDIR=$tree PREFIX=/usr UNITDIR=/usr/lib/systemd/system SYSTEM=Linux sh dist/install.sh install
# The oldest C library that has what the programs ask for.
libc=$(cat "$tree"/usr/*bin/* | grep -ao 'GLIBC_2\.[0-9.]*' | sed 's/GLIBC_//; s/\.$//' | sort -Vu | tail -n 1)
# As in Debian's policy, 4.19: kilobytes, each file rounded up, one for anything else.
size=$(find "$tree" -mindepth 1 -printf '%y %s\n' | awk '{ n += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print n }')
mkdir -p "$tree/DEBIAN"
for script in postinst prerm postrm; do install -m 755 "dist/debian/$script" "$tree/DEBIAN/$script"; done
cat > "$tree/DEBIAN/control" <<-CONTROL
	Package: gotd
	Version: $version
	Architecture: $arch
	Maintainer: gotd <root@localhost>
	Section: vcs
	Priority: optional
	Depends: libc6 (>= ${libc:-2.28}), libgcc-s1
	Recommends: openssh-server, git
	Installed-Size: $size
	Description: Git server of many small processes
	 Serves Git repositories over ssh and git://. No process of it holds more
	 rights than its own small job needs.
CONTROL
find "$tree" -type d -exec chmod u=rwx,go=rx,g-s {} +
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
package=$out/gotd_${version}_$arch
dpkg-deb --root-owner-group "-Z${COMPRESSION:-xz}" --build "$tree" "$package.deb"
sh dist/sbom.sh "$package.deb" > "$package.cdx.json"
