//! From a stage's promises to one seccomp filter: a binary search over the call's number, then the conditions of that call.
//!
//! One filter of this shape is built and installed in about a tenth of a millisecond; a linear list, or one filter per
//! answer, costs several times that at install (the kernel works out for every call number whether it can be
//! allowed without running the filter) and again at every call.

use libc::{c_long, sock_filter};

use super::calls::{self, Cond, Group, Value};
use crate::{Promise, Promises};

/// What a call gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Allow,
    /// `SIGSYS`, whose handler reports and exits: see [`super::trap`].
    Trap,
    /// Answered with an error: for calls that libraries make only to see whether they work.
    Errno(i32),
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & 0xffff),
        }
    }
}

/// What a run of call numbers gets: the first rule whose conditions all hold decides, else `otherwise`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Leaf {
    rules: Vec<(&'static [Cond], Action)>,
    otherwise: Action,
}

impl Leaf {
    const fn plain(action: Action) -> Leaf {
        Leaf { rules: Vec::new(), otherwise: action }
    }
}

/// From this number on until the next one's.
type Run = (u32, Leaf);

/// `AUDIT_ARCH_*` of the machine that this is built for.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARGS: u32 = 16;

/// The x32 calls of x86_64 have this bit; they would be a second table of calls that nobody needs.
const X32: u32 = 0x4000_0000;

/// Builds the filter. `pid` is the process's own id, which conditions may refer to. `in_force` is what a filter of this
/// process was built for already, by the same id: the kernel asks both and takes the stricter answer, so the new one
/// needs no more than the calls about which they differ. It is a twentieth of the whole, and installed in a
/// third of the time.
pub(super) fn build(promises: Promises, in_force: Option<Promises>, pid: u32) -> Vec<sock_filter> {
    let mut program = vec![
        op(LOAD, 0, 0, DATA_ARCH),
        op(JUMP_EQUAL, 1, 0, ARCH),
        op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        op(LOAD, 0, 0, DATA_NR),
    ];
    let mut runs = runs(promises);
    if let Some(before) = in_force {
        runs = difference(&runs, &self::runs(before));
    }
    emit(&runs, pid, &mut program);
    program
}

/// The runs of a filter that stands behind another one: where both answer alike it allows, and the other one decides.
fn difference(runs: &[Run], before: &[Run]) -> Vec<Run> {
    let mut starts: Vec<u32> = runs.iter().chain(before).map(|(from, _)| *from).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut out = Vec::with_capacity(32);
    for from in starts {
        let (leaf, known) = (answer(runs, from), answer(before, from));
        push(&mut out, from, if leaf == known { Leaf::plain(Action::Allow) } else { leaf.clone() });
    }
    out
}

/// What a call gets: runs begin at number 0.
fn answer(runs: &[Run], nr: u32) -> &Leaf {
    let behind = runs.partition_point(|(from, _)| *from <= nr);
    &runs[behind - 1].1
}

/// Promises as the filter has to understand them: what a process gives up its children never have again.
fn effective(promises: Promises, group: &Group) -> bool {
    promises.has(group.promise)
        || group.implied_by.iter().any(|&promise| promises.has(promise))
        || (promises.has(Promise::Exec) && !matches!(group.promise, Promise::Bind | Promise::Id))
}

/// The whole number line, cut where the answer changes.
fn runs(promises: Promises) -> Vec<Run> {
    // Modules of the C library's name services run in a process that looks names up, and nobody can say which calls
    // they try: those get an error and the module fails, instead of the process.
    let foreign =
        (promises.has(Promise::Getpw) || promises.has(Promise::Dns)) && !promises.has(Promise::Exec);
    let refused = if foreign { Action::Errno(libc::EPERM) } else { Action::Trap };

    let mut rules: Vec<(u32, &'static [Cond], Action)> = Vec::with_capacity(256);
    for group in calls::GROUPS.iter().filter(|group| effective(promises, group)) {
        rules.extend(group.always.iter().map(|&nr| (number(nr), calls::ALWAYS, Action::Allow)));
        rules.extend(group.when.iter().map(|&(nr, conditions)| (number(nr), conditions, Action::Allow)));
    }
    if !effective_promise(promises, Promise::Rpath) {
        rules.extend(
            calls::LOOKUPS.iter().map(|&nr| (number(nr), calls::ALWAYS, Action::Errno(libc::EACCES))),
        );
    }
    rules.extend(calls::ANSWERED.iter().map(|&(nr, when, errno)| (number(nr), when, Action::Errno(errno))));
    // Stable: within a call, what is allowed comes before what is answered with an error.
    rules.sort_by_key(|&(nr, ..)| nr);

    let mut runs: Vec<Run> = Vec::with_capacity(128);
    let mut next = 0;
    let mut rest = rules.as_slice();
    while let Some(&(nr, ..)) = rest.first() {
        let (these, others) = rest.split_at(rest.partition_point(|&(other, ..)| other == nr));
        rest = others;
        // Calls between the known ones.
        gap(&mut runs, next, nr, refused);
        push(&mut runs, nr, leaf(these, refused_for(nr, refused)));
        next = nr + 1;
    }
    gap(&mut runs, next, X32, refused);
    push(&mut runs, X32, Leaf::plain(refused));
    runs
}

/// Fills the numbers from `from` to before `to` that no promise knows. A call that is newer than these tables is answered
/// as an older kernel would: whoever makes it has to cope with that.
fn gap(runs: &mut Vec<Run>, from: u32, to: u32, refused: Action) {
    if from < to && from < calls::NEWER {
        push(runs, from, Leaf::plain(refused));
    }
    if to > calls::NEWER {
        let from = from.max(calls::NEWER);
        if from < to {
            push(runs, from, Leaf::plain(Action::Errno(libc::ENOSYS)));
        }
    }
}

fn refused_for(nr: u32, refused: Action) -> Action {
    if nr >= calls::NEWER { Action::Errno(libc::ENOSYS) } else { refused }
}

/// One call's rules, up to the first that needs no condition.
fn leaf(rules: &[(u32, &'static [Cond], Action)], refused: Action) -> Leaf {
    if rules.iter().any(|&(_, when, action)| when.is_empty() && action == Action::Allow) {
        return Leaf::plain(Action::Allow);
    }
    let mut leaf = Leaf::plain(refused);
    for &(_, when, action) in rules {
        if when.is_empty() {
            leaf.otherwise = action;
            break;
        }
        leaf.rules.push((when, action));
    }
    leaf
}

fn push(runs: &mut Vec<Run>, from: u32, leaf: Leaf) {
    if runs.last().is_none_or(|(_, last)| *last != leaf) {
        runs.push((from, leaf));
    }
}

fn effective_promise(promises: Promises, promise: Promise) -> bool {
    calls::GROUPS.iter().any(|group| group.promise == promise && effective(promises, group))
}

fn number(nr: c_long) -> u32 {
    u32::try_from(nr).expect("call numbers of the tables are small and positive")
}

// The instructions of classic BPF that a filter needs: bpf(4) of the BSDs, `linux/bpf_common.h`.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

fn op(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Splits the runs in the middle until one is left. The accumulator holds the call's number until then.
fn emit(runs: &[Run], pid: u32, program: &mut Vec<sock_filter>) {
    match runs {
        [] => {}
        [(_, leaf)] => emit_leaf(leaf, pid, program),
        _ => {
            let (low, high) = runs.split_at(runs.len() / 2);
            let mut below = Vec::new();
            emit(low, pid, &mut below);
            match u8::try_from(below.len()) {
                Ok(distance) => program.push(op(JUMP_AT_LEAST, distance, 0, high[0].0)),
                Err(_) => {
                    let distance =
                        u32::try_from(below.len()).expect("a filter has at most 4096 instructions");
                    program.push(op(JUMP_AT_LEAST, 0, 1, high[0].0));
                    program.push(op(JUMP, 0, 0, distance));
                }
            }
            program.append(&mut below);
            emit(high, pid, program);
        }
    }
}

fn emit_leaf(leaf: &Leaf, pid: u32, program: &mut Vec<sock_filter>) {
    for (conditions, action) in &leaf.rules {
        let mut body = Vec::new();
        // Places of jumps that leave this rule, and whether they do so when equal.
        let mut leave: Vec<(usize, bool)> = Vec::new();
        for condition in *conditions {
            let value = match condition.value {
                Value::Is(value) => value,
                Value::OwnPid => u64::from(pid),
            };
            // Little endian on both machines: the low word comes first.
            let low = DATA_ARGS + 8 * u32::from(condition.arg);
            let mut word = |offset, mask: u64, value: u64| {
                let (mask, value) = (mask as u32, value as u32);
                if mask == 0 {
                    return;
                }
                body.push(op(LOAD, 0, 0, offset));
                if mask != u32::MAX {
                    body.push(op(AND, 0, 0, mask));
                }
                leave.push((body.len(), condition.differs));
                body.push(op(JUMP_EQUAL, 0, 0, value & mask));
            };
            word(low, condition.mask, value);
            word(low + 4, condition.mask >> 32, value >> 32);
        }
        body.push(op(RETURN, 0, 0, action.code()));
        for (at, when_equal) in leave {
            let distance = u8::try_from(body.len() - at - 1).expect("a rule has few conditions");
            if when_equal {
                body[at].jt = distance;
            } else {
                body[at].jf = distance;
            }
        }
        program.append(&mut body);
    }
    program.push(op(RETURN, 0, 0, leaf.otherwise.code()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 4711;

    /// Runs a filter as the kernel does.
    fn ask(program: &[sock_filter], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        let load = |k: u32| match k {
            DATA_NR => nr,
            DATA_ARCH => arch,
            _ => {
                let offset = k - DATA_ARGS;
                let arg = args[(offset / 8) as usize];
                if offset % 8 == 4 { (arg >> 32) as u32 } else { arg as u32 }
            }
        };
        let (mut at, mut a) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            match i.code {
                LOAD => a = load(i.k),
                AND => a &= i.k,
                JUMP => at += i.k as usize,
                JUMP_EQUAL => at += usize::from(if a == i.k { i.jt } else { i.jf }),
                JUMP_AT_LEAST => at += usize::from(if a >= i.k { i.jt } else { i.jf }),
                RETURN => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn verdict(words: &str, nr: c_long, args: [u64; 6]) -> Action {
        let program = build(words.parse().expect("words of the test"), None, PID);
        match ask(&program, ARCH, number(nr), args) {
            libc::SECCOMP_RET_ALLOW => Action::Allow,
            libc::SECCOMP_RET_TRAP => Action::Trap,
            code => Action::Errno((code & 0xffff) as i32),
        }
    }

    /// The tables read from top to bottom, without any search.
    fn plainly(promises: Promises, nr: u32, args: [u64; 6]) -> Action {
        let holds = |when: &[Cond]| {
            when.iter().all(|c| {
                let value = match c.value {
                    Value::Is(value) => value,
                    Value::OwnPid => u64::from(PID),
                };
                (args[usize::from(c.arg)] & c.mask == value & c.mask) != c.differs
            })
        };
        for group in calls::GROUPS.iter().filter(|group| effective(promises, group)) {
            if group.always.iter().any(|&other| number(other) == nr)
                || group.when.iter().any(|&(other, when)| number(other) == nr && holds(when))
            {
                return Action::Allow;
            }
        }
        if !effective_promise(promises, Promise::Rpath)
            && calls::LOOKUPS.iter().any(|&other| number(other) == nr)
        {
            return Action::Errno(libc::EACCES);
        }
        if let Some(&(.., errno)) =
            calls::ANSWERED.iter().find(|&&(other, when, _)| number(other) == nr && holds(when))
        {
            return Action::Errno(errno);
        }
        let foreign = promises.has(Promise::Getpw) || promises.has(Promise::Dns);
        match nr {
            calls::NEWER..X32 => Action::Errno(libc::ENOSYS),
            _ if foreign && !promises.has(Promise::Exec) => Action::Errno(libc::EPERM),
            _ => Action::Trap,
        }
    }

    #[test]
    fn the_search_answers_as_the_tables_read() {
        let values = [
            0,
            1,
            2,
            3,
            4,
            9,
            PID.into(),
            0o101,
            0o1101,
            0o4755,
            0x5421,
            libc::SIGSYS as u64,
            THREAD_AND_MORE,
            1 << 40,
            u64::MAX,
        ];
        for words in
            ["stdio", "stdio rpath cpath wpath fattr flock narrow", "stdio inet dns", "stdio proc exec bind"]
        {
            let promises: Promises = words.parse().expect("words of the test");
            let program = build(promises, None, PID);
            for nr in (0..500).chain([X32 - 1, X32, X32 + 1, u32::MAX]) {
                for (n, &value) in values.iter().enumerate() {
                    for &second in &values[n..] {
                        let args = [value, second, second, value, second, value];
                        let found = ask(&program, ARCH, nr, args);
                        assert_eq!(found, plainly(promises, nr, args).code(), "{words}: {nr} {args:x?}");
                    }
                }
            }
        }
    }

    /// Of what several filters answer, what the kernel takes.
    fn stricter(a: u32, b: u32) -> u32 {
        // The actions are numbered so that the least is the strictest, as signed numbers; of two errors the kernel takes
        // that of the newer filter, `b`.
        let action = |code: u32| (code & libc::SECCOMP_RET_ACTION_FULL).cast_signed();
        if action(a) < action(b) { a } else { b }
    }

    #[test]
    fn a_later_filter_needs_only_what_differs() {
        let stages = [
            "stdio sendfd recvfd narrow",
            "stdio sendfd",
            "stdio rpath wpath cpath fattr flock sendfd recvfd unveil",
            "stdio rpath recvfd narrow",
            "stdio rpath",
            "stdio",
            "stdio proc exec sendfd recvfd",
            "stdio rpath getpw",
            "",
        ];
        let values = [0, 1, 2, 3, 4, 9, PID.into(), 0o101, 0o1101, 0o4755, 0x5421, THREAD_AND_MORE, u64::MAX];
        for before in stages {
            let before: Promises = before.parse().expect("words of the test");
            let first = build(before, None, PID);
            for after in stages {
                let after: Promises = after.parse().expect("words of the test");
                let (whole, rest) = (build(after, None, PID), build(after, Some(before), PID));
                assert!(before != after || rest.len() == 5, "{before}: {} instructions", rest.len());
                for nr in (0..500).chain([X32 - 1, X32, X32 + 1, u32::MAX]) {
                    for value in values {
                        for second in [0, 1, value, u64::MAX] {
                            let args = [value, second, second, value, second, value];
                            let known = ask(&first, ARCH, nr, args);
                            let expected = stricter(known, ask(&whole, ARCH, nr, args));
                            let found = stricter(known, ask(&rest, ARCH, nr, args));
                            assert_eq!(found, expected, "{before} to {after}: {nr} {args:x?}");
                        }
                    }
                }
            }
        }
        let (waiting, work) = ("stdio sendfd recvfd narrow", "stdio sendfd");
        let work = work.parse().expect("words of the test");
        let rest = build(work, Some(waiting.parse().expect("words of the test")), PID);
        assert!(rest.len() < 64, "{} instructions", rest.len());
    }

    const THREAD_AND_MORE: u64 =
        (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_FS) as u64;

    fn args(given: &[(usize, u64)]) -> [u64; 6] {
        let mut args = [0; 6];
        for &(arg, value) in given {
            args[arg] = value;
        }
        args
    }

    #[test]
    fn another_architecture_is_killed() {
        let program = build("stdio".parse().expect("words of the test"), None, PID);
        assert_eq!(ask(&program, 0x4000_0003, 20, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn every_filter_is_within_the_kernels_bound_and_total() {
        for words in ["", "stdio", "stdio rpath wpath cpath fattr flock sendfd", "stdio proc exec id bind"] {
            let program = build(words.parse().expect("words of the test"), None, PID);
            assert!(program.len() < 1024, "{words}: {} instructions", program.len());
            for nr in (0..600).chain([X32 - 1, X32, X32 + 39, u32::MAX]) {
                ask(&program, ARCH, nr, [u64::MAX; 6]);
            }
        }
    }

    #[test]
    fn the_search_finds_each_call_of_the_tables() {
        for group in calls::GROUPS {
            let words = Promises::of(&[group.promise]).to_string();
            for &nr in group.always {
                assert_eq!(verdict(&words, nr, [u64::MAX; 6]), Action::Allow, "{words}: {nr}");
            }
        }
    }

    #[test]
    fn memory_is_never_executable() {
        for nr in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(verdict("stdio", nr, args(&[(2, 3)])), Action::Allow);
            assert_eq!(verdict("stdio", nr, args(&[(2, 4)])), Action::Trap);
            assert_eq!(verdict("stdio rpath getpw", nr, args(&[(2, 5)])), Action::Errno(libc::EPERM));
            assert_eq!(verdict("stdio proc exec", nr, args(&[(2, 5)])), Action::Allow);
        }
    }

    #[test]
    fn signals_go_to_oneself_only() {
        assert_eq!(verdict("stdio", libc::SYS_kill, args(&[(0, u64::from(PID))])), Action::Allow);
        for other in [0, 1, u64::from(PID) + 1, u64::MAX] {
            assert_eq!(verdict("stdio", libc::SYS_kill, args(&[(0, other)])), Action::Trap);
            assert_eq!(verdict("stdio proc", libc::SYS_kill, args(&[(0, other)])), Action::Allow);
        }
    }

    #[test]
    fn the_trap_handler_stays() {
        let sys = libc::SIGSYS as u64;
        let nr = libc::SYS_rt_sigaction;
        assert_eq!(verdict("stdio", nr, args(&[(0, 14), (1, 1 << 40)])), Action::Allow);
        assert_eq!(verdict("stdio", nr, args(&[(0, sys), (1, 1 << 40)])), Action::Trap);
        assert_eq!(verdict("stdio", nr, args(&[(0, sys), (1, 1)])), Action::Trap);
        assert_eq!(verdict("stdio", nr, args(&[(0, sys)])), Action::Allow, "asking is no change");
        assert_eq!(verdict("stdio proc exec", nr, args(&[(0, sys), (1, 1)])), Action::Allow);
    }

    #[test]
    fn opening_is_by_promise() {
        let open =
            |words, flags: i32| verdict(words, libc::SYS_openat, args(&[(2, flags as u64), (3, 0o644)]));
        let read = libc::O_RDONLY | libc::O_CLOEXEC;
        let create = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        assert_eq!(open("stdio", read), Action::Errno(libc::EACCES));
        assert_eq!(open("stdio rpath", read), Action::Allow);
        assert_eq!(open("stdio rpath", libc::O_RDONLY | libc::O_TRUNC), Action::Trap);
        assert_eq!(open("stdio rpath", libc::O_RDWR), Action::Trap);
        assert_eq!(open("stdio rpath", libc::O_TMPFILE | libc::O_RDWR), Action::Trap);
        assert_eq!(open("stdio rpath", create), Action::Trap);
        assert_eq!(open("stdio rpath wpath", libc::O_WRONLY | libc::O_TRUNC), Action::Allow);
        assert_eq!(open("stdio rpath wpath", libc::O_RDONLY | libc::O_TRUNC), Action::Trap);
        assert_eq!(open("stdio rpath wpath", create), Action::Trap);
        assert_eq!(open("stdio rpath cpath wpath", create), Action::Allow);
        assert_eq!(
            verdict("stdio rpath cpath", libc::SYS_openat, args(&[(2, create as u64), (3, 0o4755)])),
            Action::Trap
        );
    }

    #[test]
    fn newer_calls_do_not_exist_and_x32_is_refused() {
        assert_eq!(verdict("stdio", libc::SYS_clone3, [0; 6]), Action::Errno(libc::ENOSYS));
        assert_eq!(verdict("stdio", 460, [0; 6]), Action::Errno(libc::ENOSYS));
        assert_eq!(verdict("stdio", 5000, [0; 6]), Action::Errno(libc::ENOSYS));
        assert_eq!(verdict("stdio", c_long::from(X32) + 39, [0; 6]), Action::Trap);
    }

    #[test]
    fn what_children_need_the_parent_keeps() {
        for nr in [libc::SYS_connect, libc::SYS_renameat2, libc::SYS_execve, libc::SYS_recvmsg] {
            assert_eq!(verdict("stdio proc exec", nr, [0; 6]), Action::Allow);
        }
        for nr in [libc::SYS_bind, libc::SYS_setresuid, libc::SYS_ptrace, libc::SYS_mount, libc::SYS_bpf] {
            assert_eq!(verdict("stdio proc exec", nr, [0; 6]), Action::Trap);
        }
        assert_eq!(verdict("stdio proc exec id", libc::SYS_setresuid, [0; 6]), Action::Allow);
    }
}
