#!/bin/sh
# Walks doc/five-minutes.md on a fresh Debian: what the package and the page promise to somebody who has neither seen before.
# The commands are taken from the page, each as it is printed there; so is the output that it shows. Needs root, debootstrap and unshare.
#
# DEB: the package. WAY: `package`, or `install` for the second way on the page. INIT: `none`, or `systemd` to boot the fresh system
# with systemd as its first process; regress/systemd-walk.sh then looks at the units, too. CACHE: where fresh systems are kept between
# runs. The release and the mirror are those of this machine. Each run works on a copy in memory, in namespaces made here: of
# the machine nothing is changed, but that there is a control group of one more name while systemd runs in there.
#
# What is not as on the page: nothing is compiled in there (`make deb` comes before); "host" is the loopback interface; the keys are
# made here; and where there is no systemd, `systemctl` and `journalctl` are small scripts that run what the installed unit
# says with its capabilities, and show what it wrote.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
page=$here/../doc/five-minutes.md
WAY=${WAY:-package} INIT=${INIT:-none}
case $WAY in
package) prefix=/usr ;;
install) prefix=/usr/local ;;
*) echo "$0: WAY=$WAY: not known" >&2; exit 1 ;;
esac

if [ -z "${IN_NAMESPACE:-}" ]; then
	[ "$(id -u)" = 0 ] || { echo "$0: needs root" >&2; exit 1; }
	PATH=$PATH:/usr/sbin:/sbin
	for program in debootstrap unshare ip setpriv apt-get; do
		command -v $program >/dev/null || { echo "$0: $program: not found" >&2; exit 1; }
	done
	DEB=$(realpath -e "${DEB:?the package, made by make deb}")
	CACHE=${CACHE:-/var/cache/gotd-debian-walk}
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	base=$CACHE/$release packages=openssh-server,git
	[ "$INIT" = none ] || base=$base-systemd packages=$packages,systemd-sysv,dbus
	if [ ! -d "$base" ]; then
		mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
			awk -v release="$release" '$2 == release && $3 == "main" { print $1; exit }')
		[ -n "$mirror" ] || { echo "$0: apt has no source for $release" >&2; exit 1; }
		rm -rf "$base.part"
		mkdir -p "$CACHE"
		echo "making $base"
		debootstrap --variant=minbase --include=$packages "$release" "$base.part" "$mirror" >"$CACHE/log" ||
			{ tail -n 20 "$CACHE/log" >&2; exit 1; }
		rm -f "$base.part"/var/cache/apt/archives/*.deb
		mv "$base.part" "$base"
	fi
	export DEB WAY INIT base release IN_NAMESPACE=1 PATH
	exec unshare --mount --net --pid --fork --kill-child --mount-proc sh "$here/debian-walk.sh"
fi

ip link set lo up
# The server, and one machine for all people.
root=/mnt/server people=/mnt/people
mount -t tmpfs -o mode=755 walk /mnt
for machine in $root $people; do
	mkdir $machine
	# A mount of its own, which can become the root of a tree.
	mount -t tmpfs -o mode=755 machine $machine
	cp -a "$base/." $machine
	mount -t proc proc $machine/proc
	printf '127.0.0.1 localhost host\n::1 localhost host\n' >$machine/etc/hosts
done
work=$root/root/walk
mkdir -p $work
failed=0 checks=0 quiet='' besides=

outcome() {
	checks=$((checks + 1))
	if [ "$1" = 0 ]; then
		echo "    -- ok: $2"
	else
		failed=$((failed + 1))
		echo "    -- FAILED: $2"
	fi
}

# server COMMAND: on the server.
server() { chroot $root "$@"; }

# as WHO COMMAND: in a fresh login, from the home directory; leaves output and status.
as() {
	status=0
	[ "$1" = root ] && echo "$besides# $2" || echo "$besides$1\$ $2"
	if [ "$1" = root ]; then
		server env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
			sh -c "cd && $2" <"${3:-/dev/null}" >$work/output 2>&1 || status=$?
	else
		chroot $people runuser -l "$1" -c "$2" </dev/null >$work/output 2>&1 || status=$?
	fi
	[ -n "$quiet" ] || sed 's/^/    /' $work/output
}

# Steps that are not on the page, so that each promise of it is seen to hold and not only not to fail.
succeeds() {
	as "$1" "$2" "${3:-}"
	outcome $status "exit status $status"
}
refused() {
	as "$1" "$2"
	[ $status != 0 ] && grep -q -- "$3" $work/output && result=0 || result=1
	outcome $result "refused with \"$3\""
}
shows() {
	quiet=yes as "$1" "$2"
	grep -- "$3" $work/output | sed 's/^/    /'
	grep -q -- "$3" $work/output && result=0 || result=1
	outcome $result "shows \"$3\""
}

# The page as steps: `section N`, `root COMMAND`, `PERSON COMMAND`, each after a line with its number of lines that follow:
# input of the command if it is `cat > FILE`, else output that it shows. A block without a command is `text`.
steps() {
	awk '
	function flush() { if (head != "") { print count; print head; printf "%s", body } head = body = ""; count = 0 }
	/^## / { flush(); head = "section " substr($0, 4); flush(); next }
	!/^    / { if (NF) flush(); next }
	{ line = substr($0, 5) }
	line ~ /^# / { flush(); head = "root " substr(line, 3); next }
	line ~ /^[a-z]*\$ / {
		flush(); who = line; sub(/\$ .*/, "", who); sub(/^[a-z]*\$ /, "", line)
		head = (who == "" ? "alice" : who) " " line; next
	}
	{ if (head == "") head = "text block"; body = body line "\n"; count++ }
	END { flush() }' "$page"
}

# What the page leaves to its reader: the keys.
substituted() {
	sed -e "s|ssh-ed25519 AAAA... alice@desk|$(cat $people/home/alice/.ssh/id_ed25519.pub)|" \
		-e "s|ssh-ed25519 AAAA... bob@desk|$(cat $people/home/bob/.ssh/id_ed25519.pub)|" \
		-e "s|ssh-ed25519 AAAA... robot|$(cat $people/home/robot/.ssh/id_ed25519.pub)|"
}

# A block of gotd.conf that is shown alone: repositories that it has take the place of those of the same name.
into_conf() {
	awk '
	FNR == NR { lines[++count] = $0; if (/^repository /) ours[$2] = 1; next }
	/^repository / && ($2 in ours) { skip = 1 }
	!skip { print }
	/^}/ { skip = 0 }
	END { for (i = 1; i <= count; i++) print lines[i] }' "$1" $root/etc/gotd.conf >$work/conf
	cat $work/conf >$root/etc/gotd.conf
}

stand_ins() {
	sed "s,@units@,$prefix/lib/systemd/system," >$root/usr/local/bin/systemctl <<-'SYSTEMCTL'
	#!/bin/sh
	# systemctl of a system without systemd, for the two calls on the page.
	set -eu
	unit=@units@/gotd.service
	of() { sed -n "s/^$1=//p" $unit; }
	case "$*" in
	"reload ssh") kill -HUP "$(cat /run/sshd.pid)" ;;
	"enable --now gotd")
		capabilities=$(of CapabilityBoundingSet | tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g')
		setpriv --bounding-set "-all,$capabilities" --no-new-privs $(of ExecStart) </dev/null >>/var/log/gotd 2>&1 &
		tries=0
		until gotctl info >/dev/null 2>&1; do
			tries=$((tries + 1))
			[ $tries -lt 200 ] || { cat /var/log/gotd; exit 1; }
			sleep 0.05
		done ;;
	*) echo "systemctl: $*: not known here" >&2; exit 1 ;;
	esac
	SYSTEMCTL
	cat >$root/usr/local/bin/journalctl <<-'JOURNALCTL'
	#!/bin/sh
	[ "$*" = "-u gotd" ] && exec cat /var/log/gotd
	JOURNALCTL
	chmod 755 $root/usr/local/bin/systemctl $root/usr/local/bin/journalctl
}

# The second way of installing, but for the compiler: below the server's root.
make_install() { DESTDIR=$root sh "$here/../dist/install.sh" install; }

echo "a fresh $(. $root/etc/os-release && echo "$PRETTY_NAME") with $(chroot $root dpkg-query -W -f '${Package} ${Version}, ' openssh-server git)by $release"
echo "installed by: $WAY; first process: $INIT"
# An account with a key for each. mallory is nobody whom the page knows.
for person in alice bob robot carol mallory; do
	chroot $people useradd --create-home --shell /bin/sh $person
	chroot $people runuser -l $person -c "mkdir -m 700 .ssh && ssh-keygen -q -t ed25519 -N '' -C $person -f .ssh/id_ed25519 &&
		echo 'StrictHostKeyChecking accept-new' >.ssh/config &&
		git config --global user.name $person && git config --global user.email $person@desk" 2>/dev/null
done
case $INIT in
none)
	stand_ins
	mkdir $root/run/sshd
	chroot $root /usr/sbin/sshd -e 2>$root/var/log/sshd ;;
systemd)
	. "$here/systemd-walk.sh"
	boot || { echo "not walked: systemd does not boot here"; exit 0; } ;;
esac
mkdir $root/root/target
# The page names the package of the commonest machines.
name=$(basename "$DEB")
cp "$DEB" "$root/root/target/$(echo "$name" | sed 's/_[^_]*\.deb$/_amd64.deb/')"

# Checks that belong after a part of the page.
met=0
after() {
	met=$((met + 1))
	case $1 in
	"1. Install")
		succeeds root "id _gotd && id _gotd_client && id _gotd_daemon && id _gotkeys && ls -ld /srv/git"
		[ $WAY = install ] || succeeds root "dpkg -V gotd"
		;;
	"4. Use it")
		shows root "runuser -u _gotd -- git -C /srv/git/project.git log --format=%an:%s main" "^alice:first$"
		succeeds bob "git clone -q git@host:project && cd project && git log -1 --format=%s && git commit -q --allow-empty -m second && git push origin HEAD:main"
		refused bob "cd project && git commit -q --amend --allow-empty -m other && git push --force origin HEAD:main" "remote rejected.*protected"
		refused robot "git clone git@host:website website && cd website && git commit -q --allow-empty -m robot && git push origin HEAD:main" "website: Permission denied"
		refused mallory "ssh -o BatchMode=yes git@host" "Permission denied"
		refused alice "ssh git@host /bin/sh" "usage: "
		shows root "journalctl -u gotd" "session .*result=ok who=git/alice .*repository=project service=git-receive-pack"
		shows root "journalctl -u gotd" "reference .*who=git/bob .*name=refs/heads/main"
		shows root "journalctl -u gotd" "session .*result=refused who=git/robot .*repository=website service=git-receive-pack"
		;;
	"5. Change it")
		refused carol "ssh -o BatchMode=yes git@host" "Permission denied"
		sed -i "/^account git {/a user carol key \"$(cat $people/home/carol/.ssh/id_ed25519.pub)\"" $root/etc/gotd.conf
		sed -i "s/{ alice bob }/{ alice bob carol }/" $root/etc/gotd.conf
		succeeds root "gotd -n && gotctl reload"
		shows carol "ssh -o BatchMode=yes git@host" "hello git/carol"
		cp $root/etc/gotd.conf $work/good
		echo 'repositry "other" {' >>$root/etc/gotd.conf
		refused root "gotd -n && gotctl reload" "repositry"
		refused root "gotctl reload" "nothing has changed"
		cat $work/good >$root/etc/gotd.conf
		shows carol "ssh -o BatchMode=yes git@host" "hello git/carol"
		shows root "journalctl -u gotd" "reload result=failed"
		;;
	"Public reading over git://")
		shows alice "git -C public log --format=%s" "^second$"
		refused mallory "git clone -q git://host/website" "no git repository found"
		refused alice "git -C public push origin HEAD:refs/heads/other" "git://"
		succeeds root "gotctl stop && ! gotctl info"
		[ $INIT = none ] && start=gotd || start="systemctl start gotd"
		succeeds root "$start && gotctl info"
		shows alice "ssh git@host" "hello git/alice"
		;;
	*) met=$((met - 1)) ;;
	esac
}

section='' skipping=
steps >$work/steps
exec 3<$work/steps
while read -r count <&3; do
	read -r who command <&3
	: >$work/following
	while [ "$count" -gt 0 ]; do
		IFS= read -r line <&3
		printf '%s\n' "$line" >>$work/following
		count=$((count - 1))
	done
	case $who in
	section)
		besides='(besides) '
		after "$section" 3<&-
		besides=
		section=$command skipping=
		printf '\n%s\n' "$section"
		continue ;;
	text)
		echo "in /etc/gotd.conf:"
		sed 's/^/    /' $work/following
		into_conf $work/following
		continue ;;
	esac
	case $command in
	# Each begins a way of installing, to the end of its section at most.
	"make deb") skipping=; [ $WAY = package ] || skipping=yes ;;
	make) skipping=; [ $WAY = install ] || skipping=yes ;;
	esac
	[ -z "$skipping" ] || { echo "not walked: $command"; continue; }
	case $command in
	"make deb"|make) echo "before: $command" ;;
	"make install")
		echo "# $command"
		make_install && result=0 || result=1
		outcome $result "exit status $result" ;;
	"cat > "*)
		substituted <$work/following >$work/input
		succeeds "$who" "$command" $work/input ;;
	*)
		as "$who" "$(echo "$command" | sed "s,/usr/share/doc/gotd,$prefix/share/doc/gotd,")" 3<&-
		# What the page shows after a command that is to fail says so itself.
		if [ -s $work/following ]; then
			grep -qi "^fatal: \|^error: " $work/following && wanted=fail || wanted=
			awk 'FNR == NR { seen[$0] = 1; next } !($0 in seen) { print "    not shown: " $0; bad = 1 } END { exit bad }' \
				$work/output $work/following && missing=0 || missing=1
			outcome $missing "the output on the page"
		else
			wanted=
		fi
		if [ -n "$wanted" ]; then
			[ $status != 0 ] && result=0 || result=1
			outcome $result "fails, as the page says"
		else
			outcome $status "exit status $status"
		fi ;;
	esac
done
besides='(besides) '
after "$section"
[ $met = 4 ] && result=0 || result=1
printf '\n'
outcome $result "$met of the 4 parts of the page that have checks of their own were there"

units=$prefix/lib/systemd/system
printf '\nthe units, as installed\n'
if [ $INIT = systemd ]; then
	walk_units
elif command -v systemd-analyze >/dev/null; then
	mkdir $work/units
	for unit in gotd.service gotd-git.socket; do
		status=0
		# The system that runs has the units which these name, the other one has their programs.
		sed "s,=\(-*\)/usr/,=\1$root/usr/," $root$units/$unit >$work/units/$unit
		systemd-analyze verify --man=no $work/units/$unit >$work/output 2>&1 || status=$?
		sed 's/^/    /' $work/output
		outcome $status "systemd-analyze verify $unit"
	done
	systemd-analyze security --offline=true $work/units/gotd.service 2>&1 | grep Overall || :
fi

printf '\nthe end\n'
besides=
gone='test -z "$(find /usr -name "gotd*" -o -name gotsh -o -name gotctl)" && ls -d /srv/git/* /etc/gotd.conf'
succeeds root 'gotctl stop'
case $WAY in
package) succeeds root "dpkg --purge gotd && $gone" ;;
install)
	DESTDIR=$root sh "$here/../dist/install.sh" uninstall
	succeeds root "$gone" ;;
esac

printf '\n%s checks, %s failed\n' $checks $failed
[ $failed = 0 ]
