//! What the `config` of the repository itself makes stricter than gotd.conf does.
//!
//! Each process that serves the repository reads that file when it opens the repository, and applies
//! it itself. Other processes are told only what a session may offer, and what is for the log.
//!
//! **Invariant:** the result permits nothing that gotd.conf does not.

use libproto::message::parent::{FetchRules, OwnRules, RepoToParent};
use libproto::message::rules::PushRules;
use librepo::dir::Dir;
use librepo::safeguards::{LogRefs, Safeguards};

use crate::repo::hidden::is_below;
use crate::repo::opened::{self, Parent};

/// What is hidden from a client: gotd.conf's namespaces come last, so that no `!` shows them.
pub fn hidden(own: &[Vec<u8>], configured: &[Vec<u8>]) -> Vec<Vec<u8>> {
    own.iter().chain(configured).cloned().collect()
}

/// The rules of a push, with those of the repository.
pub fn tighten_push(rules: &mut PushRules, own: &Safeguards) {
    rules.reflog |= own.log != LogRefs::None;
    rules.fsck |= own.fsck;
}

/// What a fetch may ask for, with the rules of the repository. Where references are hidden there is
/// no partial clone, as with `hide namespace`.
pub fn tighten_fetch(rules: FetchRules, own: &Safeguards) -> FetchRules {
    let hides = !own.hidden_from_fetches().is_empty();
    FetchRules {
        reachable: rules.reachable,
        any: rules.any && !hides,
        filter: rules.filter && !hides && !own.no_filter,
    }
}

/// Tells the parent what the session may offer, and what is set and not honoured.
pub fn send(parent: &Parent, dir: &Dir, own: &Safeguards, rules: FetchRules, configured: &[Vec<u8>]) {
    let mut notes = own.notes().to_vec();
    let fetch = tighten_fetch(rules, own);
    let patterns = own.hidden_from_fetches().iter().chain(own.hidden_from_pushes());
    let mut shows: Vec<&[u8]> = patterns.filter_map(|pattern| pattern.strip_prefix(b"!")).collect();
    shows.dedup();
    for shown in shows {
        let beside = |hidden: &Vec<u8>| is_below(shown, hidden) || is_below(hidden, shown);
        if configured.iter().any(beside) {
            notes.push(format!("hideRefs=!{}: hide namespace decides", shown.escape_ascii()));
        }
    }
    if rules.filter && !fetch.filter && !own.no_filter {
        notes.push("uploadpack.allowFilter: no partial clone where hideRefs hides references".into());
    }
    notes.iter_mut().for_each(|note| note.truncate(note.floor_char_boundary(OwnRules::NOTE)));
    notes.truncate(OwnRules::NOTES);
    // Zeros for a file that is gone by now.
    let changed = dir.stat(b"config").ok().flatten().map_or([0; 3], |(_, stat)| {
        let nanoseconds = stat.st_mtime.wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec);
        [nanoseconds.cast_unsigned(), stat.st_size.cast_unsigned(), stat.st_ino]
    });
    opened::send(parent, &RepoToParent::Own(OwnRules { fetch, changed, notes }));
}
