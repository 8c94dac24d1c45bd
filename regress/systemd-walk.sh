# The part of debian-walk.sh that needs systemd: boots the server with it as first process, and looks at the units at work. Read by
# that script, which has the helpers and makes the namespaces around.
#
# systemd runs as process 1 of a process namespace, with the server's tree as its root and a control group of its own as the root of
# the groups that it sees. What it lacks: the controllers, where this machine's groups are of version 1 (TasksMax= is without
# effect then), and a clock, devices and modules to guard.

booted='' control_groups=/mnt/groups

# Boots the server; from then on `server COMMAND` runs in it. False: systemd has not come up.
boot() {
	mkdir $control_groups $root/old
	mount -t cgroup2 groups $control_groups || return 1
	group=$control_groups/gotd-walk-$$
	mkdir $group || return 1
	trap 'shut_down_machine' EXIT
	: >$root/etc/machine-id
	sh -c 'echo $$ >'$group'/cgroup.procs && exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child "$@"' - \
		sh -c "$first_steps" - $root </dev/null >$root/var/log/console 2>&1 &
	booted=$!
	tries=0
	until state=$(server systemctl is-system-running 2>/dev/null) || [ "$state" = degraded ]; do
		tries=$((tries + 1))
		[ $tries -lt 300 ] || { tail -n 20 $root/var/log/console; return 1; }
		sleep 0.2
	done
	echo "booted, $state: $(server systemctl --version | head -n 1)"
	server systemctl --failed --no-legend
}

# What the first process does before it becomes systemd.
first_steps='
set -eu
cd "$1"
mount --make-rprivate /
hostname host
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 groups sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do
	: >dev/$device
	mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
umount proc
mount -t proc proc proc
pivot_root . old
exec chroot . sh -c "umount -l /old && rmdir /old &&
	exec env -i container=walk PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=console"
'

server() {
	first=$(cat /proc/$booted/task/$booted/children) || return 1
	nsenter --target ${first% } --mount --pid --uts --ipc --cgroup --root --wdns=/ "$@"
}

shut_down_machine() {
	[ -z "$booted" ] || kill -KILL $booted 2>/dev/null || :
	tries=0
	until find $group -depth -type d -exec rmdir {} + 2>/dev/null; do
		tries=$((tries + 1))
		[ $tries -lt 50 ] || break
		sleep 0.1
	done
}

# Where a clone is to come from, by git:// and from a user.
over_git() { succeeds alice "rm -rf again && git clone -q git://host${1:-}/project again && git -C again log -1 --format=%s"; }
over_ssh() { succeeds bob "cd project && git pull -q --rebase origin main && git commit -q --allow-empty -m '$1' && git push -q origin HEAD:main"; }
restarted() {
	tries=0
	until [ "$(server systemctl is-active gotd)" = active ]; do
		tries=$((tries + 1))
		[ $tries -lt 100 ] || break
		sleep 0.1
	done
	succeeds root "systemctl is-active gotd && gotctl info"
}

# The units by the hand of an admin. The daemon runs, with git:// as the page left it.
walk_units() {
	besides='(besides) '
	for unit in gotd.service gotd-git.socket; do succeeds root "systemd-analyze verify --man=no $units/$unit"; done
	succeeds root "systemd-analyze security --no-pager gotd | tail -n 1"
	succeeds root "systemctl status --no-pager gotd | head -n 12"
	for pair in gotd:_gotd_daemon auth:_gotd_daemon listen:_gotd_daemon session:_gotd_client repository:_gotd; do
		succeeds root "test \"\$(ps -o user:20= -C ${pair%:*} | sort -u)\" = ${pair#*:}"
	done
	succeeds root "test \"\$(ps -o user:20= -C spawn | sort | xargs)\" = '_gotd _gotd_client _gotd_daemon'"
	shows root 'grep -h CapEff $(pgrep -f "gotd -T" | sed "s,.*,/proc/&/status,") | sort -u' "0000000000000000"
	cp "$here/roles.sh" $root/root
	succeeds root 'sh roles.sh $(systemctl show --property MainPID --value gotd)'

	echo "reload"
	succeeds root "systemctl reload gotd"
	cat $root/etc/gotd.conf >$work/good
	echo bad >>$root/etc/gotd.conf
	refused root "systemctl reload gotd" "failed"
	shows root "journalctl -u gotd -p warning" "nothing has changed"
	over_ssh "after a bad reload"
	cat $work/good >$root/etc/gotd.conf

	echo "restart and stop, with a push under way"
	# The client has nothing to say for two seconds.
	for verb in restart stop; do
		chroot $people runuser -l alice -c '(sleep 2; printf 0000) | ssh git@host git-receive-pack project' \
			>$work/slow 2>&1 </dev/null &
		slow=$!
		sleep 1
		succeeds root "gotctl info | grep 'git-receive-pack project' && systemctl $verb gotd"
		wait $slow && result=0 || result=1
		outcome $result "the session under way ended with status $result"
	done
	refused root "systemctl is-active gotd" inactive
	succeeds root "systemctl start gotd && gotctl info | head -n 1"

	echo "crashes"
	succeeds root 'kill -KILL $(systemctl show --property MainPID --value gotd)'
	sleep 1
	restarted
	succeeds root 'kill -KILL $(pgrep -x listen)'
	sleep 1
	restarted
	over_ssh "after two crashes"

	echo "a bad configuration"
	echo bad >>$root/etc/gotd.conf
	refused root "systemctl restart gotd" "failed"
	sleep 3
	shows root "systemctl show --property ActiveState --property NRestarts gotd" "ActiveState=failed"
	cat $work/good >$root/etc/gotd.conf

	echo "git:// by the socket unit"
	sed -i '/^listen on git/d' $root/etc/gotd.conf
	succeeds root "systemctl reset-failed gotd; systemctl enable --now gotd-git.socket && ! systemctl is-active gotd"
	over_git
	succeeds root "systemctl is-active gotd && gotctl info | grep 9418"
	succeeds root "systemctl reload gotd"
	over_git
	over_ssh "with a socket unit"
	succeeds root "systemctl restart gotd"
	over_git
	refused mallory "git clone -q git://host/website" "no git repository found"
	shows root "journalctl -u gotd" "who=anonymous address=.*repository=project service=git-upload-pack"
	# As `systemctl edit gotd-git.socket` does.
	mkdir -p $root/etc/systemd/system/gotd-git.socket.d
	printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:9419\n' >$root/etc/systemd/system/gotd-git.socket.d/override.conf
	succeeds root "systemctl daemon-reload && systemctl stop gotd && systemctl restart gotd-git.socket"
	over_git :9419
	succeeds root "systemctl disable --now gotd-git.socket && rm -r /etc/systemd/system/gotd-git.socket.d &&
		systemctl daemon-reload && systemctl restart gotd"
	besides=
}
