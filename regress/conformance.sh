#!/bin/sh
# git's own test suite with gotsh in place of git-upload-pack and git-receive-pack.
#
# GIT_TREE: a built git source tree prepared as the harness says; HARNESS: the directory with run-git-suite.sh;
# OUT: where results go. As root everything runs as GOTD_TEST_USER (default: daemon; not nobody, whose
# number stands for ids that the kernel cannot express and matches no rule), which must be able to read both.
set -eu
: "${GIT_TREE:?a built git source tree, prepared as the harness says}"
here=$(cd "$(dirname "$0")" && pwd)
HARNESS=${HARNESS:-$here/../../shared/git-suite}
HARNESS=$(cd "$HARNESS" && pwd)
bin=${GOTD_BIN:-$(cd "$here/../${CARGO_TARGET_DIR:-target}/release" && pwd)}
out=${OUT:-$here/../target/conformance}
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ "$(id -u)" = 0 ]; then
	user=${GOTD_TEST_USER:-daemon}
	chown -R "$user" "$out"
	exec setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \
		env HOME="$out" GIT_TREE="$GIT_TREE" HARNESS="$HARNESS" GOTD_BIN="$bin" OUT="$out" JOBS="${JOBS:-2}" VERBOSE="${VERBOSE:-}" sh "$0" "$@"
fi

dir=$(mktemp -d /dev/shm/gotd-conformance.XXXXXX)
gotd=""
cleanup() {
	[ -n "$gotd" ] && kill "$gotd" 2>/dev/null && wait "$gotd" 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
export ROOT="$dir/root"
mkdir "$ROOT"
cat >"$dir/gotd.conf" <<CONF
listen on "$dir/gotd.sock"
connection {
	limit per user 500
	rate total 10000
	waiting sessions 4
}
limit disk reserve none
repositories "${ROOT#/}" {
	path "$ROOT"
	# What C git does when its configuration says nothing.
	wants advertised
	fsck off
	permit rw $(id -u)
}
CONF
"$bin/gotd" -d -f "$dir/gotd.conf" >"$out/gotd.log" 2>&1 &
gotd=$!
export GOTD_UNIX_SOCKET="$dir/gotd.sock"
n=0
until "$bin/gotctl" info >/dev/null 2>&1; do
	n=$((n + 1))
	if [ $n -gt 100 ]; then
		cat "$out/gotd.log" >&2
		exit 1
	fi
	sleep 0.1
done
export GIT_TREE NEWSRV_SH="$bin/gotsh" CALL_TIMEOUT="${CALL_TIMEOUT:-60}" OUT="$out" JOBS="${JOBS:-2}"
"$HARNESS/run-git-suite.sh" "$HARNESS/shims/template" "$@"
# What counts: the tests that depend on the protocol alone.
python3 - "$HARNESS/harness/classes.tsv" "$out" <<'PY'
import os, re, sys
classes, out = sys.argv[1], sys.argv[2]
results, good, failed = {}, 0, []
for line in open(classes):
    script, number, kinds, title = line.rstrip("\n").split("\t")[:4]
    if kinds not in ("pure", "caps", "v2,caps"):
        continue
    if script not in results:
        found = {}
        path = os.path.join(out, script + ".tap")
        if not os.path.exists(path):
            continue
        for tap in open(path, errors="replace"):
            m = re.match(r"(not )?ok (\d+)(.*)", tap)
            if m:
                found[int(m.group(2))] = m.group(1) is None
        results[script] = found
    if results[script].get(int(number)):
        good += 1
    else:
        failed.append(f"{script} {number} {title}")
print("\n".join(failed))
print(f"{good} of {good + len(failed)} tests that depend on the protocol alone pass")
PY
