//! What repositories' own `config` files say that is not honoured: logged when a file is new or has
//! changed, and shown by `gotctl info` from then on.

use std::collections::BTreeMap;

use libproto::message::parent::OwnRules;
use libproto::names::escape;

use super::Parent;
use super::session::grant::RepoLocation;
use crate::os::log::Level;

/// Repositories that are remembered, and those that an answer shows.
const REPOSITORIES: usize = 1024;
const SHOWN: usize = 64;

/// What is known of the files, by the repository's path as walked.
#[derive(Debug, Default)]
pub struct OwnConfigs {
    known: BTreeMap<Vec<u8>, OwnConfig>,
}

/// One file.
#[derive(Debug, PartialEq, Eq)]
struct OwnConfig {
    changed: [u64; 4],
    notes: Vec<String>,
}

impl OwnConfigs {
    /// Takes what a process found; gives what is new in it, to be logged.
    fn take(&mut self, path: &[u8], own: OwnRules) -> &[String] {
        if own.notes.is_empty() {
            self.known.remove(path);
            return &[];
        }
        let notes = own.notes.iter().take(OwnRules::NOTES);
        let notes = notes.map(|note| escape(note.as_bytes()).chars().take(OwnRules::NOTE).collect());
        let config = OwnConfig { changed: own.changed, notes: notes.collect() };
        if self.known.get(path) == Some(&config) {
            return &[];
        }
        if self.known.len() >= REPOSITORIES && !self.known.contains_key(path) {
            self.known.clear();
        }
        let slot =
            self.known.entry(path.to_vec()).or_insert(OwnConfig { changed: [0; 4], notes: Vec::new() });
        *slot = config;
        &slot.notes
    }

    /// Path and note, for `gotctl info`; of very many repositories the first.
    pub fn shown(&self) -> impl Iterator<Item = (String, &str)> {
        let shown = self.known.iter().take(SHOWN);
        shown.flat_map(|(path, own)| own.notes.iter().map(|note| (escape(path), note.as_str())))
    }

    /// How many repositories [`OwnConfigs::shown`] leaves out.
    pub fn more(&self) -> usize {
        self.known.len().saturating_sub(SHOWN)
    }
}

impl Parent {
    /// Takes what the `config` of a repository that was opened comes to.
    pub(super) fn own_rules(&mut self, number: u64, own: OwnRules) {
        let Some(session) = self.table.get(number) else { return };
        let Some(grant) = session.grant() else { return };
        let RepoLocation::Open(at, _) = &grant.place else { return };
        let repository = escape(grant.ask.repository.as_bytes());
        for note in self.own_configs.take(&at.path, own) {
            let warning = format!("not honoured: {note}");
            let fields: [(&str, &dyn std::fmt::Display); 3] =
                [("session", &number), ("repository", &repository), ("warning", &warning)];
            self.log.line(Level::Warning, "repository", &fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(changed: u64, notes: &[&str]) -> OwnRules {
        let notes = notes.iter().map(|note| (*note).to_owned()).collect();
        OwnRules { changed: [changed, 0, 0, 0], notes, ..OwnRules::default() }
    }

    #[test]
    fn a_file_is_told_once_until_it_changes() {
        let mut configs = OwnConfigs::default();
        assert_eq!(configs.take(b"/r", own(1, &["a"])), ["a"]);
        assert!(configs.take(b"/r", own(1, &["a"])).is_empty());
        assert_eq!(configs.take(b"/s", own(1, &["a"])), ["a"]);
        assert_eq!(configs.take(b"/r", own(2, &["a"])), ["a"]);
        // The same file can come to more notes after gotd.conf was changed.
        assert_eq!(configs.take(b"/r", own(2, &["a", "b"])), ["a", "b"]);
        assert_eq!(configs.shown().count(), 3);
        assert!(configs.take(b"/r", own(3, &[])).is_empty());
        assert_eq!(configs.shown().collect::<Vec<_>>(), [("/s".to_owned(), "a")]);
    }

    #[test]
    fn no_number_of_repositories_fills_the_memory() {
        let mut configs = OwnConfigs::default();
        for n in 0..2 * REPOSITORIES {
            configs.take(n.to_string().as_bytes(), own(1, &["a"; 100]));
            assert!(configs.known.len() <= REPOSITORIES);
        }
        assert_eq!(configs.shown().count(), SHOWN * OwnRules::NOTES);
        assert!(configs.more() > 0);
    }
}
