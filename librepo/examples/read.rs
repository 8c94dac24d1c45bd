//! Measures reading: `read REPOSITORY all|walk|lookup|order|refs [CACHE-MIB | PREFIX]`. Prints what
//! it did and the CPU time in seconds.

use std::collections::BinaryHeap;
use std::time::Instant;

use libgit::{ObjectId, ObjectKind};
use librepo::object::{Commit, Tag, TreeEntries};
use librepo::{Location, Options, Reader, Repository};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let (path, what) = (&arguments[1], &arguments[2][..]);
    let cache = arguments.get(3).and_then(|text| text.parse::<usize>().ok()).unwrap_or(96) << 20;
    let start = Instant::now();
    let repository = Repository::open(std::fs::File::open(path)?.into(), Options::default())?;
    let opened = start.elapsed();
    let done = match what {
        "all" => all(&repository, cache)?,
        "walk" => walk(&repository, cache)?,
        "lookup" => lookup(&repository),
        "refs" => refs(&repository, arguments.get(3))?,
        _ => order(&repository),
    };
    println!(
        "{what}: {done}; opened in {:.6} s, all in {:.3} s",
        opened.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Commits and trees in the order in which they lie in the packs.
fn all(repository: &Repository, cache: usize) -> librepo::Result<String> {
    let mut reader = Reader::new(repository.store(), cache);
    let (mut count, mut bytes) = (0, 0);
    for (number, pack) in (0..).zip(repository.store().packs()) {
        for position in 0..pack.count() {
            let offset = pack.offset_of_position(position).unwrap_or(0);
            if matches!(reader.kind_packed(number, offset)?, ObjectKind::Commit | ObjectKind::Tree) {
                count += 1;
                bytes += reader.read_packed(number, offset)?.data.len();
            }
        }
    }
    Ok(format!("{count} commits and trees, {bytes} bytes"))
}

/// What `git rev-list --objects --all` walks, by packs' index numbers (one pack).
fn walk(repository: &Repository, cache: usize) -> librepo::Result<String> {
    let (store, hash) = (repository.store(), repository.hash());
    let mut reader = Reader::new(store, cache);
    let pack = &store.packs()[0];
    let mut seen = vec![false; pack.count() as usize];
    let find = |id: &ObjectId| match store.locate(id) {
        Some(Location::Pack { index, .. }) => index,
        _ => u32::MAX,
    };
    let mut tips: Vec<ObjectId> =
        repository.refs().list::<&str>(&[], None)?.into_iter().map(|found| found.target).collect();
    let (mut heap, mut roots, mut count) = (BinaryHeap::new(), Vec::new(), 0);
    while let Some(tip) = tips.pop() {
        let index = find(&tip);
        let object = reader.read_packed(0, pack.offset_at(index))?;
        if object.kind == ObjectKind::Tree {
            roots.push(index);
        } else if !std::mem::replace(&mut seen[index as usize], true) {
            count += 1;
            if let Ok(tag) = Tag::parse(&object.data, hash) {
                tips.push(tag.target());
            } else if let Ok(commit) = Commit::parse(&object.data, hash) {
                heap.push((commit.committer_seconds(), index));
            }
        }
    }
    while let Some((_, index)) = heap.pop() {
        let object = reader.read_packed(0, pack.offset_at(index))?;
        let Ok(commit) = Commit::parse(&object.data, hash) else { continue };
        roots.push(find(&commit.tree()));
        for parent in commit.parents() {
            let index = find(&parent);
            if !std::mem::replace(&mut seen[index as usize], true) {
                count += 1;
                let object = reader.read_packed(0, pack.offset_at(index))?;
                let date = Commit::parse(&object.data, hash).map_or(0, |commit| commit.committer_seconds());
                heap.push((date, index));
            }
        }
    }
    let commits = count;
    let mut recent = vec![[0; 20]; 1 << 15];
    for root in roots {
        let mut stack = vec![root];
        while let Some(index) = stack.pop() {
            if std::mem::replace(&mut seen[index as usize], true) {
                continue;
            }
            count += 1;
            let object = reader.read_packed(0, pack.offset_at(index))?;
            for entry in TreeEntries::new(&object.data, hash).flatten() {
                let slot =
                    &mut recent[usize::from(u16::from_le_bytes([entry.id_bytes[4], entry.id_bytes[5]]) >> 1)];
                if entry.is_submodule() || slot == entry.id_bytes {
                    continue;
                }
                slot.copy_from_slice(entry.id_bytes);
                let Some(index) = pack.lookup(entry.id_bytes) else { continue };
                if entry.is_tree() {
                    stack.push(index);
                } else if !std::mem::replace(&mut seen[index as usize], true) {
                    count += 1;
                }
            }
        }
    }
    Ok(format!("{count} objects, {commits} of them commits and tags"))
}

/// Looks every id up, in an order that is not the packs'.
fn lookup(repository: &Repository) -> String {
    let store = repository.store();
    let ids: Vec<ObjectId> =
        store.packs().iter().flat_map(|pack| (0..pack.count()).map(|i| pack.id_at(i))).collect();
    let (start, mut found, mut at) = (Instant::now(), 0, 0);
    for _ in 0..ids.len() {
        at = (at + 7_368_787) % ids.len();
        found += u32::from(store.locate(&ids[at]).is_some());
    }
    let each = start.elapsed().as_nanos() / ids.len().max(1) as u128;
    format!("{found} of {} found, {each} ns each", ids.len())
}

/// Checks or computes the order of every pack.
fn order(repository: &Repository) -> String {
    let start = Instant::now();
    let from_file = repository.store().packs().iter().filter(|pack| pack.order().is_from_file()).count();
    format!("{from_file} orders from files, {:.6} s", start.elapsed().as_secs_f64())
}

/// Lists references, peeled.
fn refs(repository: &Repository, prefix: Option<&String>) -> librepo::Result<String> {
    let start = Instant::now();
    let mut reader = Reader::new(repository.store(), 1 << 20);
    let prefixes: Vec<&String> = prefix.into_iter().collect();
    let count = repository.refs().list(&prefixes, Some(&mut reader))?.len();
    Ok(format!("{count} references in {:.6} s", start.elapsed().as_secs_f64()))
}
