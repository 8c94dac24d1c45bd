#!/bin/sh
# install.sh install|uninstall: puts everything below $DESTDIR$PREFIX, or takes it away again. BIN has the programs.
set -eu
cd "$(dirname "$0")/.."
# Directories are for everybody, whatever the umask of who installs.
umask 022
prefix=${PREFIX:-/usr/local} root=${DESTDIR:-} bin=${BIN:-target/release} tmp=
etc=$root/etc share=$root$prefix/share

# FROM|MODE|TO: one line for each file; a directory may have blanks in its name. What names /usr/local is told where it is.
files() {
	cat <<-FILES
	$bin/gotd|755|$root$prefix/sbin/gotd
	$bin/gotctl|755|$root$prefix/sbin/gotctl
	$bin/gotd-static|755|$root$prefix/libexec/gotd-static
	${GOTSH:-$bin/gotsh}|755|$root$prefix/bin/gotsh
	man/gotd.8|644|$share/man/man8/gotd.8
	man/gotctl.8|644|$share/man/man8/gotctl.8
	man/gotsh.1|644|$share/man/man1/gotsh.1
	man/gotd.conf.5|644|$share/man/man5/gotd.conf.5
	dist/completions/gotctl.bash|644|$share/bash-completion/completions/gotctl
	dist/completions/_gotctl|644|$share/zsh/site-functions/_gotctl
	dist/ssh/gotd.conf|644|$share/doc/gotd/sshd_config
	doc/five-minutes.md|644|$share/doc/gotd/five-minutes.md
	doc/coming-from.md|644|$share/doc/gotd/coming-from.md
	README.md|644|$share/doc/gotd/README.md
	CHANGES|644|$share/doc/gotd/CHANGES
	LICENSE|644|$share/doc/gotd/copyright
	FILES
	for example in gotd/examples/*.conf; do
		echo "$example|644|$share/doc/gotd/examples/${example##*/}"
	done
	case ${SYSTEM:-$(uname -s)} in
	Linux) cat <<-FILES
		dist/systemd/gotd.service|644|$root${UNITDIR:-$prefix/lib/systemd/system}/gotd.service
		dist/systemd/gotd-git.socket|644|$root${UNITDIR:-$prefix/lib/systemd/system}/gotd-git.socket
		dist/systemd/sysusers.conf|644|$root$prefix/lib/sysusers.d/gotd.conf
		dist/systemd/tmpfiles.conf|644|$root$prefix/lib/tmpfiles.d/gotd.conf
		FILES
		;;
	OpenBSD) echo "dist/rc.d/gotd|755|$etc/rc.d/gotd" ;;
	esac
}

case ${1:-} in
install)
	tmp=$(mktemp)
	trap 'rm -f "$tmp"' EXIT
	files | while IFS='|' read -r from mode to; do
		# Made where the compiler can link statically.
		[ -e "$from" ] || [ "${from##*/}" != gotd-static ] || continue
		mkdir -p "${to%/*}"
		case $from in
		man/*|dist/*|doc/*) sed "s,/usr/local/,${prefix%/}/,g" "$from" > "$tmp"; from=$tmp ;;
		esac
		install -m "$mode" "$from" "$to"
	done
	;;
uninstall)
	files | while IFS='|' read -r from mode to; do rm -f "$to"; done
	rmdir "$share/doc/gotd/examples" "$share/doc/gotd" 2>/dev/null || :
	;;
*)
	echo "usage: $0 install|uninstall" >&2
	exit 1
	;;
esac
