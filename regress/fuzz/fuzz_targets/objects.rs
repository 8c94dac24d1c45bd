//! Commits, tags and trees.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use librepo::object::{Commit, Tag, TreeEntries};

fuzz_target!(|data: &[u8]| {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        if let Ok(commit) = Commit::parse(data, hash) {
            assert!(commit.parents().all(|id| id.kind() == hash));
            let _ = (commit.author(), commit.committer_seconds(), commit.message());
        }
        if let Ok(tag) = Tag::parse(data, hash) {
            let _ = (tag.kind(), tag.name(), tag.tagger_seconds(), tag.message());
        }
        let mut used = 0;
        for entry in TreeEntries::new(data, hash).flatten() {
            assert!(!entry.name.is_empty() && !entry.name.contains(&0) && entry.id().kind() == hash);
            used += entry.name.len() + entry.id_bytes.len() + 3;
        }
        assert!(used <= data.len());
    }
    let _ = librepo::loose::parse_header(data);
});
