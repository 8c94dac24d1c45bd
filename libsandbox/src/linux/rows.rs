//! The table of system calls that each stage of each role makes: of the calls that its promises
//! give, the filter lets through only these. A promise says what a role may do, its row the calls
//! that do it, with the C library that the program is linked with (glibc or musl) and Rust's.
//!
//! Each use has its reason. The test that records a daemon (`regress/tests/process/calls.rs`) fails
//! for a use of [`made`] or [`made_of`] that it did not see. Uses of [`rare`] and [`rare_of`] no
//! test can rely on: the reason says when they are made.
//! A call that is missing here ends its process: every test that starts a daemon fails then.

use libc::{c_int, c_long};

use super::lines::{COUNT, LINES, Of};
use super::rows_of_roles::ROWS;

/// One use of a system call.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// The call's number.
    pub call: c_long,
    /// The values of its arguments that tell this use from others, where the groups of
    /// `calls.rs` have such: an fcntl's command, a socket option's level and name.
    pub of: &'static [c_int],
    /// Its purpose, or when it is made.
    pub why: &'static str,
    /// No test can rely on seeing it.
    pub rare: bool,
}

pub(super) const fn made(call: c_long, why: &'static str) -> Use {
    Use { call, of: &[], why, rare: false }
}

pub(super) const fn made_of(call: c_long, of: &'static [c_int], why: &'static str) -> Use {
    Use { call, of, why, rare: false }
}

pub(super) const fn rare(call: c_long, why: &'static str) -> Use {
    Use { call, of: &[], why, rare: true }
}

pub(super) const fn rare_of(call: c_long, of: &'static [c_int], why: &'static str) -> Use {
    Use { call, of, why, rare: true }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Uses that it shares with other rows, and its own.
    pub(super) parts: &'static [&'static [Use]],
    /// Rows of later stages of the same process: an earlier filter must let through what they need.
    pub(super) later: &'static [usize],
}

/// The lines of [`LINES`] that a row names, by index.
type Named = [bool; COUNT];

/// For each row of the table the lines that it names.
pub(super) static NAMED: [Named; ROWS.len()] = {
    let mut all = [[false; COUNT]; ROWS.len()];
    let mut row = 0;
    while row < ROWS.len() {
        // A process without a row has all calls that its promises give.
        all[row] = if row == 0 { [true; COUNT] } else { named(&ROWS[row]) };
        row += 1;
    }
    // Stages stand in their order, so that the later ones' own are complete.
    let mut row = ROWS.len();
    while row > 0 {
        row -= 1;
        let mut n = 0;
        while n < ROWS[row].later.len() {
            let later = ROWS[row].later[n];
            assert!(later > row, "a later stage stands behind the earlier one");
            let mut line = 0;
            while line < COUNT {
                all[row][line] |= all[later][line];
                line += 1;
            }
            n += 1;
        }
    }
    all
};

const fn named(row: &Row) -> Named {
    let mut named = [false; COUNT];
    let mut part = 0;
    while part < row.parts.len() {
        let uses = row.parts[part];
        let mut n = 0;
        while n < uses.len() {
            let mut found = false;
            let mut line = 0;
            while line < COUNT {
                if matches!(LINES[line].of, Of::Group(_)) && is_of(&uses[n], line) {
                    named[line] = true;
                    found = true;
                }
                line += 1;
            }
            assert!(found, "a use of the table is in a group");
            n += 1;
        }
        part += 1;
    }
    named
}

/// Whether a line is about this use: its conditions name the use's values, in their order.
const fn is_of(used: &Use, line: usize) -> bool {
    let line = &LINES[line];
    if line.nr as c_long != used.call {
        return false;
    }
    let mut n = 0;
    while n < used.of.len() {
        if n >= line.when.len() || !line.when[n].names(used.of[n]) {
            return false;
        }
        n += 1;
    }
    true
}

/// Every use of a row, in the order of the table.
pub(crate) fn uses(row: usize) -> impl Iterator<Item = Use> {
    ROWS[row].parts.iter().copied().flatten().copied()
}

/// The rows of the later stages of a row's process.
pub(crate) fn later(row: usize) -> &'static [usize] {
    ROWS[row].later
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Calls;

    #[test]
    fn there_is_a_row_for_each_stage() {
        for (number, (calls, name)) in Calls::ALL.iter().enumerate() {
            assert_eq!(*calls as usize, number, "{name}");
        }
        assert_eq!(Calls::ALL.len(), ROWS.len());
    }

    #[test]
    fn every_use_has_its_reason_and_stands_once_in_a_row() {
        for (number, (_, name)) in Calls::ALL.iter().enumerate() {
            let uses: Vec<Use> = uses(number).collect();
            for (n, one) in uses.iter().enumerate() {
                assert!(!one.why.is_empty(), "{name}: {one:?}");
                let twice =
                    uses.iter().skip(n + 1).find(|other| (other.call, other.of) == (one.call, one.of));
                assert!(twice.is_none(), "{name}: {one:?} and {twice:?}");
            }
        }
    }
}
