#!/bin/sh
# deb.sh DIRECTORY: builds a Debian package of the programs in BIN, with dpkg-deb alone.
set -eu
cd "$(dirname "$0")/../.."
out=${1:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
arch=$(dpkg --print-architecture)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
DESTDIR=$tree PREFIX=/usr UNITDIR=/usr/lib/systemd/system SYSTEM=Linux sh dist/install.sh install
# The oldest C library that has what the programs ask for.
libc=$(cat "$tree"/usr/*bin/* | grep -ao 'GLIBC_2\.[0-9.]*' | sed 's/GLIBC_//; s/\.$//' | sort -Vu | tail -n 1)
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
	Installed-Size: $(du -sk "$tree" | cut -f 1)
	Description: Git server of many small processes
	 Serves Git repositories over ssh and git://. No process of it holds more
	 rights than its own small job needs.
CONTROL
mkdir -p "$out"
dpkg-deb --root-owner-group "-Z${COMPRESSION:-xz}" --build "$tree" "$out/gotd_${version}_$arch.deb"
