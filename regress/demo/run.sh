#!/bin/sh
# make run: builds, makes a repository with some history in a scratch directory, and serves it in the
# foreground as the present user, without root, sshd or any change to the system.
set -eu
cd "$(dirname "$0")/../.."
missing=""
for program in git cargo cc; do
	command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
case "$missing" in
*cargo*) echo "make run: needs Rust (cargo)" >&2; exit 1 ;;
"") ;;
*)
	packages=$(echo "$missing" | sed 's/ cc/ gcc libc6-dev/')
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		apt-get update && apt-get install -y --no-install-recommends $packages
	else
		echo "make run: please install:$packages" >&2
		exit 1
	fi
	;;
esac
PACKAGES="-p gotd -p gotsh" sh dist/build.sh release
bin=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)

dir=$(mktemp -d "${TMPDIR:-/tmp}/gotd-demo.XXXXXX")
gotd=""
cleanup() {
	[ -n "$gotd" ] && kill "$gotd" 2>/dev/null && wait "$gotd" 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 0' INT TERM

user=$(id -un)
run_as=$user
[ "$(id -u)" = 0 ] && run_as=nobody
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=Demo GIT_AUTHOR_EMAIL=demo@localhost GIT_COMMITTER_NAME=Demo GIT_COMMITTER_EMAIL=demo@localhost
mkdir -p "$dir/repositories"
git init -q -b main "$dir/tree"
for n in 1 2 3 4 5; do
	echo "line $n" >>"$dir/tree/README"
	git -C "$dir/tree" add README
	git -C "$dir/tree" commit -q -m "add line $n"
done
git -C "$dir/tree" tag -a -m "the first release" v1.0
git clone -q --bare "$dir/tree" "$dir/repositories/demo.git"
rm -rf "$dir/tree"
chmod 755 "$dir" "$dir/repositories"
cat >"$dir/gotd.conf" <<CONF
user "$run_as"
listen on "$dir/gotd.sock"
repositories "" {
	path "$dir/repositories"
	permit rw "$user"
}
CONF
[ "$(id -u)" = 0 ] && chown -R "$run_as" "$dir/repositories"

"$bin/gotd" -d -f "$dir/gotd.conf" &
gotd=$!
n=0
until GOTD_UNIX_SOCKET="$dir/gotd.sock" "$bin/gotctl" info >/dev/null 2>&1; do
	n=$((n + 1))
	if [ $n -gt 100 ] || ! kill -0 "$gotd" 2>/dev/null; then
		echo "make run: gotd did not start" >&2
		exit 1
	fi
	sleep 0.1
done
# Stands in for ssh: takes the options and the host that git gives, and runs gotsh as sshd would.
cat >"$dir/ssh" <<SSH
#!/bin/sh
while [ "\${1#-}" != "\$1" ]; do shift 2; done
GOTD_UNIX_SOCKET="$dir/gotd.sock" exec "$bin/gotsh" -c "\$2"
SSH
chmod 755 "$dir/ssh"
cat <<TEXT

gotd is serving $dir/repositories. In another terminal:

  git clone -c core.sshCommand=$dir/ssh -c ssh.variant=ssh demo:demo.git

Stop it with ^C; everything in $dir is then removed.
TEXT
wait "$gotd"
