#!/bin/sh
# git-daemon.sh: stands in for `git daemon` in git's own tests (LIB_GIT_DAEMON_COMMAND of t/lib-git-daemon.sh), with a
# gotd that serves what git-daemon-export-ok marks below the base path. GOTD_BIN is the directory of the binaries.
set -eu
informative=
for argument; do
	case $argument in
	--port=*) port=${argument#*=} ;;
	--base-path=*) base=${argument#*=} ;;
	--pid-file=*) pidfile=${argument#*=} ;;
	--informative-errors) informative="connection informative errors" ;;
	esac
done
dir=$(mktemp -d /tmp/gotd-git-daemon.XXXXXX)
chmod 755 "$dir"
cat >"$dir/gotd.conf" <<EOF
user ${GOTD_USER:-nobody}
listen on "$dir/gotd.sock"
listen on git "127.0.0.1" port $port
$informative
repositories "/" {
	path "$base"
	export-ok
}
EOF
"$GOTD_BIN/gotd" -d -f "$dir/gotd.conf" >"$dir/log" 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null; wait $pid 2>/dev/null; rm -rf "$dir"; trap - TERM; kill -TERM $$' TERM
tries=0
until "$GOTD_BIN/gotctl" -f "$dir/gotd.sock" info >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ $tries -lt 200 ] || { cat "$dir/log" >&2; exit 1; }
	sleep 0.05
done
echo $$ >"$pidfile"
echo "[$$] Ready to rumble" >&2
wait $pid
