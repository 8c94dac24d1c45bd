#!/bin/sh
# roles.sh PID: what /proc has about each process of the daemon whose first process is PID: account, groups, capabilities, filter, limits.
#
# A line for each kind of process, with how many there are of it. Reads alone; who may read /proc/PID/limits of another account is root.
set -eu

first=${1:?"usage: roles.sh PID"}

processes() {
	for status in /proc/[0-9]*/status; do
		awk -v first="$first" -v pid="$(basename "$(dirname "$status")")" '
			$1 == "PPid:" { parent = $2 }
			END { if (pid == first) print pid; else print pid, parent }' "$status" 2>/dev/null || :
	done | awk -v first="$first" '
		NF == 2 { parent[$1] = $2 }
		END {
			print first
			for (pid in parent) {
				at = pid
				for (depth = 0; depth < 4 && at != first && at in parent; depth++) at = parent[at]
				if (at == first && pid != first) print pid
			}
		}'
}

field() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status" | tr '\t' ' ' | tr -s ' '; }
limit() { awk -v name="$2" 'index($0, name) == 1 { sub(name, ""); print $1 }' "/proc/$1/limits"; }

printf '%-12s %-22s %-12s %-4s %-7s %-7s %-6s %-10s %-10s %-6s\n' role uid groups caps nonewpr seccomp nproc data fsize threads
processes | while read -r pid; do
	[ -r "/proc/$pid/limits" ] || continue
	printf '%-12s %-22s %-12s %-4s %-7s %-7s %-6s %-10s %-10s %-6s\n' "$(field "$pid" Name)" "$(field "$pid" Uid)" \
		"$(field "$pid" Groups | tr ' ' , | sed 's/,$//; s/^$/-/')" "$(field "$pid" CapEff | sed 's/^0*//; s/^$/-/')" \
		"$(field "$pid" NoNewPrivs)" "$(field "$pid" Seccomp)/$(field "$pid" Seccomp_filters)" "$(limit "$pid" 'Max processes')" \
		"$(limit "$pid" 'Max data size')" "$(limit "$pid" 'Max file size')" "$(field "$pid" Threads)" 2>/dev/null
done | sort | uniq -c | sed 's/^ *\([0-9]*\) \(.*\)$/\2 x\1/'
