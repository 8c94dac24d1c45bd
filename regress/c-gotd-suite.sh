#!/bin/sh
# Game of Trees' own tests of gotd (regress/gotd in its tree) with this gotd, gotsh and gotctl in place of its own.
# c-gotd-suite.md says what does not pass, and why.
#
# GOT_TREE: a tree of its portable version, built and installed; GOT_PREFIX: the prefix that it was configured with (default:
# GOT_TREE/prefix), whose got and gotadmin are the clients. GOTD_BIN: our binaries. OUT: where the results go.
#
# Needs root, bmake, bash, sshd, git, perl (with Digest::HMAC), nc and ip. Accounts, /tmp, /home, the network and
# processes are those of namespaces made here: nothing of the machine is changed.
# Arguments: targets of its Makefile; all of them without. TIMEOUT: seconds for each.
set -eu
: "${GOT_TREE:?a built tree of Game of Trees, portable version}"
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${IN_NAMESPACE:-}" ]; then
	[ "$(id -u)" = 0 ] || { echo "$0: needs root" >&2; exit 1; }
	for program in bmake bash sshd ssh-keygen git perl nc ip unshare; do
		PATH=$PATH:/usr/sbin:/sbin command -v $program >/dev/null || { echo "$0: $program: not found" >&2; exit 1; }
	done
	GOT_TREE=$(cd "$GOT_TREE" && pwd)
	GOT_PREFIX=$(cd "${GOT_PREFIX:-$GOT_TREE/prefix}" && pwd)
	GOTD_BIN=$(cd "${GOTD_BIN:-$here/../${CARGO_TARGET_DIR:-target}/release}" && pwd)
	OUT=${OUT:-$here/../target/c-gotd-suite}
	mkdir -p "$OUT"
	OUT=$(cd "$OUT" && pwd)
	export GOT_TREE GOT_PREFIX GOTD_BIN OUT IN_NAMESPACE=1
	exec unshare --mount --net --pid --fork --kill-child --mount-proc sh "$here/c-gotd-suite.sh" "$@"
fi

# The directories may lie below /tmp, which becomes another one: take hold of them first.
dir=/run/gotd-suite
mount -t tmpfs -o mode=755 suite /run
mkdir -p $dir/bin $dir/tree $dir/our $dir/out /run/sshd
cp "$GOTD_BIN/gotd" "$GOTD_BIN/gotctl" "$GOTD_BIN/gotsh" $dir/our/
[ ! -e "$GOTD_BIN/gotd-static" ] || cp "$GOTD_BIN/gotd-static" $dir/our/
cp -R "$GOT_TREE/regress" "$GOT_TREE/got-version.mk" $dir/tree/
mount --bind "$OUT" $dir/out
# got finds its helpers by the prefix it was built with.
mkdir $dir/prefix
mount --bind "$GOT_PREFIX" $dir/prefix
mount -t tmpfs -o mode=1777 tmp /tmp
mkdir -p "$GOT_PREFIX"
mount --bind $dir/prefix "$GOT_PREFIX"
mount -t tmpfs -o mode=755 home /home
ip link set lo up

# The scripts are written for a shell that knows [[ and ==.
mount --bind /bin/bash /bin/sh

# got and gotadmin are theirs; the daemon and what talks to it is ours.
for program in "$GOT_PREFIX"/bin/*; do
	ln -s "$program" $dir/bin/
done
ln -sf $dir/our/gotd $dir/our/gotctl $dir/our/gotsh $dir/bin/

# Three accounts as its README says: the daemon's, the one that is logged in to, and the one that runs the tests.
# The copy is one of all of /etc: a mount on a single file goes when its name in /etc is given to another file, as useradd(8) does.
cp -a /etc $dir/etc
mount --bind $dir/etc /etc
id=61001
for user in got gotdev gottest; do
	shell=/bin/sh
	[ $user != gotdev ] || shell=$dir/bin/gotsh
	echo "$user:x:$id:$id::/home/$user:$shell" >>/etc/passwd
	echo "$user:x:$id:" >>/etc/group
	echo "$user:*:19000:0:99999:7:::" >>/etc/shadow
	mkdir -p /home/$user/.ssh
	id=$((id + 1))
done
echo "$dir/bin/gotsh" >>/etc/shells
ln -s $dir/bin /home/gottest/bin
ssh-keygen -q -t ed25519 -N '' -f /home/gottest/.ssh/id_ed25519
ssh-keygen -q -t ed25519 -N '' -f $dir/host
cp /home/gottest/.ssh/id_ed25519.pub /home/gotdev/.ssh/authorized_keys
echo "127.0.0.1 $(cut -d ' ' -f 1,2 $dir/host.pub)" >/home/gottest/.ssh/known_hosts
for user in got gotdev gottest; do
	chown -R $user:$user /home/$user
	chmod 700 /home/$user/.ssh
done
cat >$dir/sshd_config <<CONF
ListenAddress 127.0.0.1
HostKey $dir/host
UsePAM no
PasswordAuthentication no
PrintMotd no
Match User gotdev
	SetEnv GOTD_UNIX_SOCKET=/home/gotdev/gotd.sock
	DisableForwarding yes
	PermitTTY no
CONF
/usr/sbin/sshd -f $dir/sshd_config -E $dir/out/sshd.log

# Two differences are by design, and would hide everything else that a line is compared for. In the copy of the scripts, our
# list of capabilities is taken for theirs, and a report is expected in the order of the commands, as git sends it, where C
# gotd's is the reverse.
sed -i 's,| tail -n 1 >,| tail -n 1 | sed "s/^0000/ agent=got\\/$GOT_VERSION_STR ofs-delta side-band-64k0000/" >,' \
	$dir/tree/regress/gotd/request_bad.sh
sed -i -e '/^Server has deleted .*newbranch2$/{N;s/\(.*\)\n\(.*\)/\2\n\1/}' \
	-e '/^Server has accepted refs.heads.main$/{N;s/\(.*\)\n\(Server has deleted .*\)/\2\n\1/}' $dir/tree/regress/gotd/repo_write.sh

# Its Makefile is BSD make's; what it includes only says that each REGRESS_TARGET is run.
mkdir $dir/mk
: >$dir/mk/bsd.regress.mk
cd $dir/tree/regress/gotd
[ $# -gt 0 ] || set -- $(sed -n '/^REGRESS_TARGETS=/,/[^\\]$/{s/^REGRESS_TARGETS=//;s/\\$//;p}' Makefile)
for target; do
	repository=$(mktemp -d /tmp/gotd-test-repo-XXXXXXXXXX)
	echo "== $target"
	GOT_AUTHOR="Flan Hacker <flan_hacker@openbsd.org>" timeout "${TIMEOUT:-120}" bmake -r -m $dir/mk \
		GOTD_USER=got GOTD_DEVUSER=gotdev GOTD_TEST_USER=gottest \
		GOTD_TEST_REPO="$repository" BINDIR=$dir/bin GOT_RELEASE=No PWD="$PWD" "$target" 2>&1 </dev/null || :
done | tee $dir/out/results
passed=$(grep -c '^test_.* ok$' $dir/out/results || :)
echo "$passed of $(grep -c '^test_[a-z0-9_]* ' $dir/out/results || :) tests pass"
