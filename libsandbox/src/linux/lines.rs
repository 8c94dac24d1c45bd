//! The tables of calls as one list in the order of the calls' numbers, made by the compiler: every
//! process builds a filter when it starts, and sorting there would be a good part of the price.

use libc::c_long;

use super::calls::{ALWAYS, ANSWERED, Cond, GROUPS, LOOKUPS};

/// One rule about one call.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) nr: u32,
    /// Holds when all of these do.
    pub(super) when: &'static [Cond],
    pub(super) of: Of,
}

/// A rule's position in the tables, which tells its content.
#[derive(Clone, Copy)]
pub(super) enum Of {
    /// Allowed where the group with this index is granted.
    Group(usize),
    /// Of [`LOOKUPS`].
    Lookup,
    /// Of [`ANSWERED`], with the error's number.
    Answered(i32),
}

/// All lines by number; within a call, lines that allow it come before lines that answer it with an
/// error.
pub(super) static LINES: [Line; COUNT] = sorted();

pub(super) const COUNT: usize = {
    let mut count = LOOKUPS.len() + ANSWERED.len();
    let mut group = 0;
    while group < GROUPS.len() {
        count += GROUPS[group].always.len() + GROUPS[group].when.len();
        group += 1;
    }
    count
};

/// A call's number as filters compare it.
pub(super) const fn number(nr: c_long) -> u32 {
    assert!(nr >= 0 && nr <= u32::MAX as c_long, "numbers of calls are positive and of 32 bits");
    nr as u32
}

/// A list that is kept sorted, as constant evaluation can do it.
struct Sorted {
    lines: [Line; COUNT],
    len: usize,
}

impl Sorted {
    /// Puts a line behind all of the same call.
    const fn insert(mut self, nr: c_long, when: &'static [Cond], of: Of) -> Sorted {
        let line = Line { nr: number(nr), when, of };
        let mut at = self.len;
        while at > 0 && self.lines[at - 1].nr > line.nr {
            self.lines[at] = self.lines[at - 1];
            at -= 1;
        }
        self.lines[at] = line;
        self.len += 1;
        self
    }
}

const fn sorted() -> [Line; COUNT] {
    let mut list = Sorted { lines: [Line { nr: 0, when: ALWAYS, of: Of::Lookup }; COUNT], len: 0 };
    let mut group = 0;
    while group < GROUPS.len() {
        let (always, when) = (GROUPS[group].always, GROUPS[group].when);
        let mut i = 0;
        while i < always.len() {
            list = list.insert(always[i], ALWAYS, Of::Group(group));
            i += 1;
        }
        let mut i = 0;
        while i < when.len() {
            list = list.insert(when[i].0, when[i].1, Of::Group(group));
            i += 1;
        }
        group += 1;
    }
    let mut i = 0;
    while i < LOOKUPS.len() {
        list = list.insert(LOOKUPS[i], ALWAYS, Of::Lookup);
        i += 1;
    }
    let mut i = 0;
    while i < ANSWERED.len() {
        list = list.insert(ANSWERED[i].0, ANSWERED[i].1, Of::Answered(ANSWERED[i].2));
        i += 1;
    }
    assert!(list.len == COUNT, "every line is in the list");
    list.lines
}
