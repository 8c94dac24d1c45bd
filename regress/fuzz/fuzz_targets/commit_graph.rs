//! Commit graphs: parents are in the graph, and no walk over them goes in circles.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libgit::HashKind;
use librepo::commit_graph::CommitGraph;
use librepo::dir::Map;

fuzz_target!(|data: &[u8]| {
    let Some((&first, data)) = data.split_first() else { return };
    let hash = if first & 1 == 0 { HashKind::Sha1 } else { HashKind::Sha256 };
    let Ok(graph) = CommitGraph::parse(Map::of_bytes(data).expect("memory"), hash) else { return };
    for number in (0..graph.count().min(300)).chain([graph.count(), u32::MAX]) {
        let _ = (graph.generation(number), graph.lookup(&graph.id_at(number)));
        let Some(commit) = graph.commit(number) else { continue };
        for parent in commit.parents() {
            assert!(parent < graph.count());
            let below = graph.commit(parent).map(|commit| commit.level);
            assert!(
                commit.level == 0
                    || commit.level >= 0x3fff_ffff
                    || below.is_none_or(|level| level < commit.level)
            );
        }
    }
});
