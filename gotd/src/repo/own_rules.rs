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

/// How many files of a repository's `hooks` are looked at.
const HOOK_FILES: usize = 256;

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
    for (asked, permitted, what) in [
        (own.asks.filter, rules.filter, "allowFilter=true: partial clone"),
        (own.asks.reachable, rules.reachable || rules.any, "allowReachableSHA1InWant=true: wants"),
        (own.asks.any, rules.any, "allowAnySHA1InWant=true: wants"),
    ] {
        if asked && !permitted {
            notes.push(format!("uploadpack.{what} in gotd.conf decides"));
        }
    }
    let hooks = hooks(dir);
    notes.extend(hooks.iter().map(|name| format!("hooks/{name}: nothing in a repository is executed")));
    if rules.filter && !fetch.filter && !own.no_filter {
        notes.push("uploadpack.allowFilter: no partial clone where hideRefs hides references".into());
    }
    notes.iter_mut().for_each(|note| note.truncate(note.floor_char_boundary(OwnRules::NOTE)));
    notes.truncate(OwnRules::NOTES);
    // Zeros for a file that is gone by now. A hook that comes later is news too.
    let changed = dir.stat(b"config").ok().flatten().map_or([0; 4], |(_, stat)| {
        let nanoseconds = stat.st_mtime.wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec);
        [nanoseconds.cast_unsigned(), stat.st_size.cast_unsigned(), stat.st_ino, hooks.len() as u64]
    });
    opened::send(parent, &RepoToParent::Own(OwnRules { fetch, changed, notes }));
}

/// The hooks that git would run when a client pushes or fetches.
fn hooks(dir: &Dir) -> Vec<&'static str> {
    const HOOKS: [&str; 7] = [
        "post-receive",
        "post-update",
        "pre-receive",
        "proc-receive",
        "push-to-checkout",
        "reference-transaction",
        "update",
    ];
    let Ok(Some(dir)) = dir.open_dir(b"hooks") else { return Vec::new() };
    let there = dir.entries(HOOK_FILES).unwrap_or_default();
    let runs = |name: &&str| {
        let bytes = name.as_bytes();
        there.iter().any(|(entry, _)| entry == bytes)
            && matches!(dir.stat(bytes), Ok(Some((_, stat))) if stat.st_mode & 0o111 != 0)
    };
    HOOKS.into_iter().filter(runs).collect()
}
