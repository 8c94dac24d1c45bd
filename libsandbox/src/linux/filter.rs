//! From a stage's promises to one seccomp filter: a binary search over the call's number, then the
//! conditions of that call.
//!
//! One filter of this shape is built and installed in about a tenth of a millisecond; a linear
//! list, or one filter per answer, costs several times that at install (the kernel works out for
//! every call number whether it can be allowed without running the filter) and again at every call.

use std::sync::{Mutex, PoisonError};

use libc::sock_filter;

use super::calls::{self, Cond, Group, Value};
use super::lines::{self, Line, Of};
use super::rows;
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

/// The answer for a run of call numbers: the first rule whose conditions all hold decides, else
/// `otherwise`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Leaf {
    rules: Vec<Rule>,
    otherwise: Action,
}

impl Leaf {
    const fn plain(action: Action) -> Leaf {
        Leaf { rules: Vec::new(), otherwise: action }
    }
}

/// What a call gets when all conditions hold.
type Rule = (&'static [Cond], Action);

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

/// Builds the filter. `pid` is the process's own id, which conditions may refer to. `in_force` is
/// what a filter of this process was built for already, by the same id: the kernel asks both and
/// takes the stricter answer, so the new one needs no more than the calls about which they differ.
/// It is a small part of the whole, and installed in a third of the time.
pub(super) fn build(promises: Promises, in_force: Option<Promises>, pid: u32) -> Vec<sock_filter> {
    build_with(promises, in_force, pid, below_stack())
}

/// An address between the stack of the main thread, which enters stages, and all other memory. The
/// kernel keeps 128 MiB free below the stack's top, and no role's stack is half as large.
fn below_stack() -> u64 {
    let here = 0_u8;
    (&raw const here as u64).saturating_sub(64 << 20)
}

fn build_with(promises: Promises, in_force: Option<Promises>, pid: u32, stack: u64) -> Vec<sock_filter> {
    let all = runs(promises);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let narrower = in_force.map(|before| match &*last {
        Some((of, known)) if *of == before => difference(&all, known),
        _ => difference(&all, &runs(before)),
    });
    let mut program = Program {
        backwards: Vec::with_capacity(512),
        answers: Vec::with_capacity(8),
        leaves: Vec::with_capacity(32),
        pid,
        stack,
    };
    program.search(narrower.as_ref().unwrap_or(&all));
    program.push(op(LOAD, 0, 0, DATA_NR));
    program.push(op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    program.push(op(JUMP_EQUAL, 1, 0, ARCH));
    program.push(op(LOAD, 0, 0, DATA_ARCH));
    program.backwards.reverse();
    let instructions = program.backwards;
    *last = Some((promises, all));
    instructions
}

/// The runs of the filter that was built last, which the next one of a process stands behind.
static LAST: Mutex<Option<(Promises, Vec<Run>)>> = Mutex::new(None);

/// The runs of a filter that stands behind another one: where both answer alike it allows, and the
/// other one decides. Both lists begin at number 0.
fn difference(runs: &[Run], before: &[Run]) -> Vec<Run> {
    let mut out = Vec::with_capacity(32);
    let (mut here, mut there, mut from) = (0, 0, 0);
    while let (Some((_, leaf)), Some((_, known))) = (runs.get(here), before.get(there)) {
        push(&mut out, from, if leaf == known { Leaf::plain(Action::Allow) } else { leaf.clone() });
        let starts = |list: &[Run], at: usize| list.get(at + 1).map_or(u32::MAX, |(start, _)| *start);
        let (next, other) = (starts(runs, here), starts(before, there));
        from = next.min(other);
        if from == u32::MAX {
            break;
        }
        here += usize::from(next == from);
        there += usize::from(other == from);
    }
    out
}

/// Promises as the filter has to understand them: what a process gives up its children never have
/// again.
fn effective(promises: Promises, group: &Group) -> bool {
    if promises.opens_only() && group.is_look() {
        return false;
    }
    promises.has(group.promise)
        || group.implied_by.iter().any(|&promise| promises.has(promise))
        || (promises.has(Promise::Exec)
            && !matches!(group.promise, Promise::Bind | Promise::Id | Promise::Pair))
}

/// The whole number line, cut where the answer changes.
fn runs(promises: Promises) -> Vec<Run> {
    // Modules of the C library's name services run in a process that looks names up, and nobody can
    // say which calls they try: those get an error and the module fails, instead of the process.
    let foreign =
        (promises.has(Promise::Getpw) || promises.has(Promise::Dns)) && !promises.has(Promise::Exec);
    let refused = if foreign { Action::Errno(libc::EPERM) } else { Action::Trap };

    let lookups = effective_promise(promises, Promise::Rpath);
    let granted: [bool; calls::GROUPS.len()] =
        std::array::from_fn(|group| effective(promises, &calls::GROUPS[group]));

    let named = &rows::NAMED[promises.row()];

    let mut runs: Vec<Run> = Vec::with_capacity(256);
    let mut next = 0;
    let mut rest = lines::LINES.as_slice();
    while let Some(&Line { nr, .. }) = rest.first() {
        let first = lines::LINES.len() - rest.len();
        let (these, others) = rest.split_at(rest.iter().take_while(|line| line.nr == nr).count());
        rest = others;
        let rules = (first..).zip(these).filter_map(|(index, line)| match line.of {
            Of::Group(group) => (granted[group] && named[index]).then_some((line.when, Action::Allow)),
            Of::Lookup => (!lookups || promises.opens_only() && !calls::opens(nr.into()))
                .then_some((line.when, Action::Errno(libc::EACCES))),
            Of::Answered(errno) => Some((line.when, Action::Errno(errno))),
        });
        // Calls between the known ones.
        gap(&mut runs, next, nr, refused);
        push(&mut runs, nr, leaf(rules, refused_for(nr, refused)));
        next = nr + 1;
    }
    gap(&mut runs, next, X32, refused);
    push(&mut runs, X32, Leaf::plain(refused));
    runs
}

/// Fills the numbers from `from` to before `to` that no promise knows. A call that is newer than
/// these tables is answered as by an older kernel, which its caller has to cope with.
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
fn leaf(rules: impl Iterator<Item = Rule> + Clone, refused: Action) -> Leaf {
    if rules.clone().any(|(when, action)| when.is_empty() && action == Action::Allow) {
        return Leaf::plain(Action::Allow);
    }
    let mut leaf = Leaf::plain(refused);
    for (when, action) in rules {
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

/// How many calls a filter lets through, with some arguments at least.
pub(super) fn allowed(promises: Promises) -> usize {
    let runs = runs(promises);
    let ends = runs.iter().skip(1).map(|(start, _)| *start).chain([u32::MAX]);
    let lets_through = |leaf: &Leaf| {
        leaf.otherwise == Action::Allow || leaf.rules.iter().any(|(_, action)| *action == Action::Allow)
    };
    runs.iter()
        .zip(ends)
        .filter(|((_, leaf), _)| lets_through(leaf))
        .map(|((from, _), to)| (to - from) as usize)
        .sum()
}

fn effective_promise(promises: Promises, promise: Promise) -> bool {
    calls::GROUPS.iter().any(|group| group.promise == promise && effective(promises, group))
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

/// How far a conditional jump reaches, in instructions.
const REACH: usize = u8::MAX as usize;

/// A filter, written from its last instruction to its first. Jumps only lead forward, so their
/// target exists already, and an answer for many calls is written only once. The kernel's price for
/// a filter grows with its length.
struct Program<'a> {
    backwards: Vec<sock_filter>,
    /// For each action the last return with it.
    answers: Vec<(Action, usize)>,
    /// The leaves with conditions, and where each begins.
    leaves: Vec<(&'a [Rule], Action, usize)>,
    pid: u32,
    stack: u64,
}

impl<'a> Program<'a> {
    /// Writes an instruction before all others. Returns its place, counted from the end.
    fn push(&mut self, instruction: sock_filter) -> usize {
        self.backwards.push(instruction);
        self.backwards.len() - 1
    }

    /// How many instructions a jump that is written now would skip to get to a place.
    fn distance(&self, to: usize) -> usize {
        self.backwards.len() - to - 1
    }

    fn jump(&mut self, to: usize) -> usize {
        let distance = u32::try_from(self.distance(to)).expect("a filter has at most 4096 instructions");
        self.push(op(JUMP, 0, 0, distance))
    }

    /// A conditional jump, by way of others where the places are too far.
    fn branch(&mut self, code: u16, k: u32, yes: usize, no: usize) -> usize {
        // One less, because a jump for the other branch may still come between.
        let no = if self.distance(no) < REACH { no } else { self.jump(no) };
        let yes = if self.distance(yes) <= REACH { yes } else { self.jump(yes) };
        let short = |distance| u8::try_from(distance).expect("within reach");
        let (jt, jf) = (short(self.distance(yes)), short(self.distance(no)));
        self.push(op(code, jt, jf, k))
    }

    /// Splits the runs in the middle until one is left. The accumulator holds the call's number
    /// until then. Returns where to begin.
    fn search(&mut self, runs: &'a [Run]) -> usize {
        match runs {
            [(_, leaf)] => self.leaf(&leaf.rules, leaf.otherwise),
            // One call between others that get the same.
            [(_, below), (nr, leaf), (next, above)] if *next == nr + 1 && below == above => {
                let others = self.leaf(&above.rules, above.otherwise);
                let this = self.leaf(&leaf.rules, leaf.otherwise);
                self.branch(JUMP_EQUAL, *nr, this, others)
            }
            _ => {
                // Odd, so that such threes stay together.
                let (low, high) = runs.split_at((runs.len() / 2) | 1);
                let above = self.search(high);
                let below = self.search(low);
                self.branch(JUMP_AT_LEAST, high[0].0, above, below)
            }
        }
    }

    /// Writes the answer for a run. The accumulator may hold anything.
    fn leaf(&mut self, rules: &'a [Rule], otherwise: Action) -> usize {
        let [(conditions, action), rest @ ..] = rules else { return self.plain(otherwise) };
        let known = self.leaves.iter().rev().find(|&&(of, last, _)| (of, last) == (rules, otherwise));
        if let Some(&(.., at)) = known
            && self.distance(at) < REACH
        {
            return at;
        }
        let not = self.leaf(rest, otherwise);
        let all = self.plain(*action);
        let at = conditions.iter().rev().fold(all, |then, condition| self.condition(condition, then, not));
        self.leaves.push((rules, otherwise, at));
        at
    }

    /// An answer without conditions.
    fn plain(&mut self, action: Action) -> usize {
        let known = self.answers.iter().position(|&(of, _)| of == action);
        if let Some(known) = known
            && self.distance(self.answers[known].1) < REACH
        {
            return self.answers[known].1;
        }
        let at = self.push(op(RETURN, 0, 0, action.code()));
        match known {
            Some(known) => self.answers[known].1 = at,
            None => self.answers.push((action, at)),
        }
        at
    }

    /// Is an argument of 64 bits below a value? The high half decides unless it is the value's.
    fn below(&mut self, arg: u8, value: u64, then: usize, not: usize) -> usize {
        let low = DATA_ARGS + 8 * u32::from(arg);
        self.branch(JUMP_AT_LEAST, value as u32, not, then);
        let same = self.push(op(LOAD, 0, 0, low));
        let other = self.branch(JUMP_AT_LEAST, (value >> 32) as u32, not, then);
        self.branch(JUMP_EQUAL, (value >> 32) as u32, same, other);
        self.push(op(LOAD, 0, 0, low + 4))
    }

    fn condition(&mut self, condition: &Cond, then: usize, not: usize) -> usize {
        let value = match condition.value {
            Value::Is(value) => value,
            Value::OwnPid => u64::from(self.pid),
            Value::BelowStack => return self.below(condition.arg, self.stack, then, not),
        };
        // Little endian on both machines: the low word comes first.
        let low = DATA_ARGS + 8 * u32::from(condition.arg);
        let mut at = then;
        for (offset, shift) in [(low + 4, 32), (low, 0)] {
            let (mask, value) = ((condition.mask >> shift) as u32, (value >> shift) as u32);
            if mask == 0 {
                continue;
            }
            let (equal, other) = if condition.differs { (not, at) } else { (at, not) };
            self.branch(JUMP_EQUAL, value & mask, equal, other);
            if mask != u32::MAX {
                self.push(op(AND, 0, 0, mask));
            }
            at = self.push(op(LOAD, 0, 0, offset));
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use libc::c_long;

    use super::super::lines::number;
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
                    Value::BelowStack => return args[usize::from(c.arg)] < below_stack(),
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
        let asks = |other: i64| promises.opens_only() && !calls::opens(other);
        if (!effective_promise(promises, Promise::Rpath) || asks(nr.into()))
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
            u64::from((libc::O_PATH | libc::O_RDWR).unsigned_abs()),
            0o4755,
            0x5421,
            libc::SIGSYS as u64,
            THREAD_AND_MORE,
            1 << 40,
            u64::MAX,
        ];
        let writing = "stdio rpath cpath wpath fattr flock narrow";
        for (words, opens) in [
            ("stdio", false),
            (writing, false),
            (writing, true),
            ("stdio inet dns", false),
            ("stdio proc exec bind", false),
        ] {
            let promises: Promises = words.parse().expect("words of the test");
            let promises = if opens { promises.by_opening() } else { promises };
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
        // The actions are numbered so that the least is the strictest, as signed numbers; of two
        // errors the kernel takes that of the newer filter, `b`.
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
            let private = (3, libc::MAP_PRIVATE as u64);
            assert_eq!(verdict("stdio", nr, args(&[(2, 3), private])), Action::Allow);
            assert_eq!(verdict("stdio", nr, args(&[(2, 4), private])), Action::Trap);
            assert_eq!(
                verdict("stdio rpath getpw", nr, args(&[(2, 5), private])),
                Action::Errno(libc::EPERM)
            );
            assert_eq!(verdict("stdio proc exec", nr, args(&[(2, 5), private])), Action::Allow);
        }
    }

    /// `RLIMIT_DATA` counts private writable memory that does not grow down: 4 GiB of shared memory
    /// once went past a limit of 256 MiB.
    #[test]
    fn memory_that_no_limit_counts_is_refused() {
        use libc::*;

        let map = |words, flags: c_int| verdict(words, SYS_mmap, args(&[(2, 3), (3, flags as u64)]));
        for words in ["stdio", "stdio threads", "stdio rpath threads", "stdio proc exec"] {
            for flags in [MAP_PRIVATE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK | MAP_FIXED] {
                assert_eq!(map(words, flags), Action::Allow, "{words}: {flags:#x}");
            }
            for flags in [
                MAP_SHARED,
                MAP_SHARED | MAP_ANONYMOUS,
                MAP_SHARED_VALIDATE | MAP_ANONYMOUS,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED,
            ] {
                assert_eq!(map(words, flags), Action::Trap, "{words}: {flags:#x}");
            }
            for nr in [SYS_memfd_create, SYS_shmget, SYS_shmat, SYS_mlock, SYS_mlock2, SYS_mlockall] {
                assert_eq!(verdict(words, nr, [0; 6]), Action::Trap, "{words}: {nr}");
            }
        }
        assert_eq!(verdict("stdio", SYS_mremap, args(&[(3, 1)])), Action::Allow);
        for flags in [2, 3, 4, 5] {
            assert_eq!(verdict("stdio", SYS_mremap, args(&[(3, flags)])), Action::Trap);
        }
        // The stack of a process, which no limit but its own counts.
        let stack = 0x7ffc_1234_5000_u64;
        let program = build_with("stdio".parse().expect("words of the test"), None, PID, stack);
        let grow = |at| ask(&program, ARCH, number(SYS_mremap), args(&[(0, at), (3, 1)]));
        for at in [0, 0x7ffc_1234_4fff, 0x7ffb_ffff_ffff, 0x7f00_0000_0000] {
            assert_eq!(grow(at), SECCOMP_RET_ALLOW, "{at:#x}");
        }
        for at in [stack, stack + 1, 0x7ffd_0000_0000, u64::MAX] {
            assert_eq!(grow(at), SECCOMP_RET_TRAP, "{at:#x}");
        }
    }

    #[test]
    fn threads_are_a_promise() {
        let clone = |words| verdict(words, libc::SYS_clone, args(&[(0, THREAD_AND_MORE)]));
        assert_eq!(clone("stdio"), Action::Trap);
        assert_eq!(clone("stdio rpath wpath cpath fattr flock sendfd recvfd unveil"), Action::Trap);
        assert_eq!(clone("stdio threads"), Action::Allow);
        assert_eq!(clone("stdio proc exec"), Action::Allow);
        assert_eq!(verdict("stdio threads", libc::SYS_clone, [0; 6]), Action::Trap);
    }

    /// TCP Fast Open connects a socket within a send, past Landlock and connect(2).
    #[test]
    fn no_send_connects_whatever_is_promised() {
        let every: Promises =
            "stdio rpath wpath cpath fattr flock unix inet dns recvfd sendfd proc exec getpw id unveil accept bind"
                .parse()
                .expect("words of the test");
        let fast = libc::MSG_FASTOPEN as u64;
        for words in every.iter().map(|word| Promises::of(&[word])).chain([every]) {
            let words = words.to_string();
            for more in [0, libc::MSG_DONTWAIT as u64, libc::MSG_MORE as u64, 1 << 32] {
                for to in [0, 1] {
                    let sendto = args(&[(3, fast | more), (4, to), (5, 16)]);
                    assert_ne!(verdict(&words, libc::SYS_sendto, sendto), Action::Allow, "{words}");
                }
                let sendmsg = args(&[(2, fast | more)]);
                assert_ne!(verdict(&words, libc::SYS_sendmsg, sendmsg), Action::Allow, "{words}");
                let sendmmsg = args(&[(2, 1), (3, fast | more)]);
                assert_ne!(verdict(&words, libc::SYS_sendmmsg, sendmmsg), Action::Allow, "{words}");
            }
        }
    }

    /// A row of the table only takes from what the promises give, and leaves nothing that it does
    /// not name.
    #[test]
    fn a_row_narrows_and_never_widens() {
        let words = "stdio rpath wpath cpath fattr flock recvfd sendfd unveil accept bind threads";
        let all: Promises = words.parse().expect("words of the test");
        let whole = build(all, None, PID);
        let values =
            [0, 1, 2, 3, 4, 9, PID.into(), 0o101, 0x5421, 1030, libc::MAP_PRIVATE as u64, THREAD_AND_MORE];
        for (row, (calls, name)) in crate::Calls::ALL.into_iter().enumerate().skip(1) {
            let narrow = build(all.calls(calls), None, PID);
            let rows = std::iter::once(row).chain(rows::later(row).iter().copied());
            let rows =
                rows.chain(rows::later(row).iter().flat_map(|&later| rows::later(later).iter().copied()));
            let named: Vec<u32> = rows.flat_map(rows::uses).map(|one| number(one.call)).collect();
            for nr in 0..500 {
                for first in values {
                    for second in values {
                        let args = [first, second, first, second, 0, first];
                        let found = ask(&narrow, ARCH, nr, args) == libc::SECCOMP_RET_ALLOW;
                        let given = ask(&whole, ARCH, nr, args) == libc::SECCOMP_RET_ALLOW;
                        assert!(!found || (given && named.contains(&nr)), "{name}: {nr} {args:x?}");
                    }
                }
            }
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
    fn who_asks_by_opening_does_not_look_at_names() {
        let words: Promises = "stdio rpath wpath cpath".parse().expect("words of the test");
        let ask = |promises: Promises, nr: c_long, flags: i32| {
            let program = build(promises, None, PID);
            match ask(&program, ARCH, number(nr), args(&[(1, 1 << 40), (2, flags as u64)])) {
                libc::SECCOMP_RET_ALLOW => Action::Allow,
                libc::SECCOMP_RET_TRAP => Action::Trap,
                code => Action::Errno((code & 0xffff) as i32),
            }
        };
        for nr in [libc::SYS_statx, libc::SYS_readlinkat, libc::SYS_faccessat, libc::SYS_getcwd] {
            assert_eq!(ask(words, nr, 0), Action::Allow, "{nr}");
            assert_eq!(ask(words.by_opening(), nr, 0), Action::Errno(libc::EACCES), "{nr}");
        }
        let looks = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let create = libc::O_PATH | libc::O_CREAT | libc::O_RDWR;
        for flags in [looks, libc::O_PATH | libc::O_RDWR, libc::O_PATH | libc::O_TRUNC, create] {
            assert_eq!(ask(words, libc::SYS_openat, flags), Action::Allow, "{flags:#x}");
            let refused = Action::Errno(libc::EACCES);
            assert_eq!(ask(words.by_opening(), libc::SYS_openat, flags), refused, "{flags:#x}");
        }
        for flags in [libc::O_RDONLY | libc::O_DIRECTORY, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL] {
            assert_eq!(ask(words.by_opening(), libc::SYS_openat, flags), Action::Allow, "{flags:#x}");
        }
    }

    #[test]
    fn modes_and_times_are_changed_by_a_descriptor_alone() {
        let words = "stdio rpath wpath cpath fattr";
        let path = 1 << 40;
        assert_eq!(verdict(words, libc::SYS_fchmod, args(&[(1, 0o755)])), Action::Allow);
        assert_eq!(verdict(words, libc::SYS_fchmodat, args(&[(1, path), (2, 0o755)])), Action::Trap);
        assert_eq!(verdict(words, libc::SYS_utimensat, args(&[])), Action::Allow);
        assert_eq!(verdict(words, libc::SYS_utimensat, args(&[(1, path)])), Action::Trap);
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
