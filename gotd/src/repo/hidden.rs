//! Decides which references exist for clients, for lists, tips, pushes, `info` and HEAD alike.
//!
//! **Invariant:** whatever tells a client about references, or does something for it by their
//! names, has them from here.

use librepo::Result;
use librepo::listing::{Listed, Listing};
use librepo::refs::{Head, Ref, Refs};

/// The hidden namespaces of a repository. The last that covers a name decides, and one with `!`
/// before it says that the name is not hidden, as in git's `transfer.hideRefs`; `^` means nothing,
/// as there is no namespace for a whole client.
#[derive(Debug, Clone, Copy)]
pub struct Hidden<'a>(pub &'a [Vec<u8>]);

impl Hidden<'_> {
    /// Whether nothing is hidden.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The references of a listing that exist for a client, `HEAD` first.
    pub fn shown<'l>(self, listing: &'l Listing) -> impl Iterator<Item = Result<Listed<'l>>> {
        listing.iter().filter(move |line| line.as_ref().map_or(true, |listed| self.shows_listed(listed)))
    }

    /// Whether one of a listing exists for a client.
    pub fn shows_listed(self, listed: &Listed<'_>) -> bool {
        self.shows(listed.name, listed.symref_target)
    }

    /// A reference by its full name, if it exists for a client.
    pub fn find(self, refs: &Refs, name: &[u8]) -> Result<Option<Ref>> {
        let found = if self.covers(name) { None } else { refs.find(name)? };
        Ok(found.filter(|found| self.shows(name, found.symref_target.as_deref())))
    }

    /// What `HEAD` says; a branch that is hidden is none.
    pub fn head(self, refs: &Refs) -> Result<Head> {
        match refs.head()? {
            Head::Symbolic(target, _) if self.covers(&target) => Ok(Head::Broken),
            head => Ok(head),
        }
    }

    /// Whether a client may know of a reference: neither the reference nor its final target is
    /// hidden. `symref_target` is the last name of the chain, for a symbolic reference.
    pub fn shows(&self, name: &[u8], symref_target: Option<&[u8]>) -> bool {
        !self.covers(name) && !symref_target.is_some_and(|target| self.covers(target))
    }

    /// Whether a name lies in a hidden namespace.
    pub fn covers(&self, name: &[u8]) -> bool {
        let says = |namespace: &Vec<u8>| {
            let shown = namespace.strip_prefix(b"!");
            let bare = shown.unwrap_or(namespace);
            is_below(name, bare.strip_prefix(b"^").unwrap_or(bare)).then_some(shown.is_none())
        };
        self.0.iter().rev().find_map(says) == Some(true)
    }
}

/// Whether a reference lies in a namespace, or has its very name: it cannot be there beside those
/// below. A slash at the end of the namespace makes no difference.
pub fn is_below(name: &[u8], namespace: &[u8]) -> bool {
    let namespace = namespace.strip_suffix(b"/").unwrap_or(namespace);
    name.strip_prefix(namespace).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_hides_what_is_below_it_and_what_leads_there() {
        for namespace in [b"refs/pull/".to_vec(), b"refs/pull".to_vec()] {
            let namespaces = [namespace];
            let hidden = Hidden(&namespaces);
            for (name, target, shown) in [
                ("refs/pull/1/head", None, false),
                ("refs/pulls/1", None, true),
                ("refs/pull", None, false),
                ("refs/heads/link", Some("refs/pull"), false),
                ("refs/heads/refs/pull/1", None, true),
                ("HEAD", Some("refs/pull/1"), false),
                ("refs/heads/link", Some("refs/pull/1"), false),
                ("HEAD", Some("refs/heads/main"), true),
            ] {
                let target = target.map(str::as_bytes);
                assert_eq!(hidden.shows(name.as_bytes(), target), shown, "{name} {target:?}");
            }
        }
        let patterns = ["refs", "!refs/heads", "^refs/heads/secret", "refs/heads/open/x"];
        let patterns = patterns.map(|pattern| pattern.as_bytes().to_vec());
        for (name, shown) in [
            ("refs/heads/main", true),
            ("refs/heads/secret", false),
            ("refs/heads/secrets", true),
            ("refs/heads/open", true),
            ("refs/heads/open/x/y", false),
            ("refs/tags/v1", false),
            ("HEAD", true),
        ] {
            assert_eq!(Hidden(&patterns).shows(name.as_bytes(), None), shown, "{name}");
        }
        assert!(Hidden(&[]).is_empty() && Hidden(&[]).shows(b"refs/pull/1", None));
    }
}
