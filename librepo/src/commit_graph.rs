//! Commit graphs, single or as chains (`gitformat-commit-graph`).
//!
//! A graph saves inflating commits in walks. It holds what the commits hold, so replacing and
//! grafting, which this crate never does, does not matter; in a shallow repository, where parents
//! are cut, it is left alone.

use libgit::{HashKind, ObjectId};

use crate::chunks::{Chunks, IdTable};
use crate::dir::{Dir, Map, be32, be64};
use crate::error::Result;

const NO_PARENT: u32 = 0x7000_0000;
const MORE_PARENTS: u32 = 0x8000_0000;
/// Levels are saturated here; above, an order between two of them says nothing.
const MAX_LEVEL: u32 = 0x3fff_ffff;
/// The most layers that a chain may have. C git merges them long before.
const MAX_LAYERS: usize = 256;
/// The most parents of one commit that are believed; the walk reads the commit itself beyond.
const MAX_PARENTS: usize = 10_000;

/// One file.
#[derive(Debug)]
struct Layer {
    map: Map,
    ids: IdTable,
    hash: HashKind,
    /// How many commits the layers before this one have.
    base: u32,
    commits: usize,
    edges: std::ops::Range<usize>,
    /// Offsets of corrected commit dates, and those that do not fit there.
    dates: Option<(usize, std::ops::Range<usize>)>,
}

/// A commit graph: commits numbered from 0, all layers of a chain together.
#[derive(Debug)]
pub struct CommitGraph {
    layers: Vec<Layer>,
    hash: HashKind,
    corrected: bool,
}

/// What the graph knows about a commit.
#[derive(Clone, Debug)]
pub struct GraphCommit {
    /// The tree.
    pub tree: ObjectId,
    /// When it was committed, in seconds since 1970 (34 bits of it).
    pub date: u64,
    /// The topological level: 1 for roots, more than that of every parent. 0 if it was not
    /// computed.
    pub level: u32,
    /// What [`CommitGraph::generation`] says.
    pub generation: u64,
    /// The first parents, as numbers in the graph.
    parents: [u32; 2],
    count: u8,
    /// The rest of them.
    more: Vec<u32>,
}

impl GraphCommit {
    /// The parents' numbers in the graph, in order.
    pub fn parents(&self) -> impl Iterator<Item = u32> + '_ {
        self.parents[..usize::from(self.count)].iter().chain(&self.more).copied()
    }
}

impl Layer {
    /// Parses a file that follows `bases` (their checksums, and how many commits they have
    /// together).
    fn parse(
        map: Map,
        hash: HashKind,
        bases: &[ObjectId],
        base: u32,
    ) -> std::result::Result<Layer, &'static str> {
        const CUT: &str = "commit graph cut short";
        let data: &[u8] = &map;
        let width = hash.len();
        let header = data.get(..8).ok_or(CUT)?;
        if header[..6] != [b'C', b'G', b'P', b'H', 1, hash.format_number()] {
            return Err("commit graph of unknown version");
        }
        if usize::from(header[7]) != bases.len() {
            return Err("commit graph of another chain");
        }
        let chunks = Chunks::parse(data, 8, header[6], width)?;
        let fanout = chunks.sized(b"OIDF", Some(1024)).ok_or("commit graph without a fan-out table")?;
        let ids = chunks.find(b"OIDL").ok_or("commit graph without ids")?;
        let table = IdTable::parse(data, fanout.start, ids.start, width, width)?;
        let n = table.count() as usize;
        if Some(ids.len()) != n.checked_mul(width) || u64::from(base) + n as u64 >= u64::from(NO_PARENT) {
            return Err("commit graph of the wrong size");
        }
        let commits = chunks.sized(b"CDAT", n.checked_mul(width + 16));
        let commits = commits.ok_or("commit graph without commit data")?.start;
        if !bases.is_empty() {
            let named =
                chunks.sized(b"BASE", Some(bases.len() * width)).ok_or("commit graph of another chain")?;
            if !data[named].chunks_exact(width).eq(bases.iter().map(ObjectId::as_bytes)) {
                return Err("commit graph of another chain");
            }
        }
        let edges = chunks.find(b"EDGE").unwrap_or(0..0);
        let large = chunks.find(b"GDO2").unwrap_or(0..0);
        let dates = chunks.sized(b"GDA2", n.checked_mul(4)).map(|range| (range.start, large));
        Ok(Layer { ids: table, hash, base, commits, edges, dates, map })
    }

    fn checksum(&self) -> Option<ObjectId> {
        ObjectId::from_bytes(self.hash, &self.map[self.map.len() - self.hash.len()..])
    }

    /// The level in the file, unchecked.
    fn level(&self, index: u32) -> Option<u32> {
        let at = self.commits + index as usize * (self.hash.len() + 16) + self.hash.len() + 8;
        be32(&self.map, at).map(|word| word >> 2)
    }
}

impl CommitGraph {
    /// Opens the commit graph of an objects directory: `info/commit-graph`, or else the chain in
    /// `info/commit-graphs`. `None` if there is none; the reason if it is to be ignored. Layers of
    /// a chain that are not here are looked for in `others` (the alternates).
    pub fn open(
        objects: &Dir,
        others: &[&Dir],
        hash: HashKind,
    ) -> Option<std::result::Result<CommitGraph, String>> {
        match objects.map(b"info/commit-graph") {
            Ok(Some(map)) => return Some(CommitGraph::parse(map, hash).map_err(str::to_owned)),
            Ok(None) => {}
            Err(e) => return Some(Err(e.to_string())),
        }
        let limit = (MAX_LAYERS * (hash.hex_len() + 1)) as u64;
        match objects.read(b"info/commit-graphs/commit-graph-chain", limit) {
            Ok(None) => None,
            Ok(Some(text)) => Some(CommitGraph::open_chain(&text, objects, others, hash)),
            Err(e) => Some(Err(e.to_string())),
        }
    }

    /// The graph of one file.
    pub fn parse(map: Map, hash: HashKind) -> std::result::Result<CommitGraph, &'static str> {
        Ok(CommitGraph::of_layers(vec![Layer::parse(map, hash, &[], 0)?], hash))
    }

    fn of_layers(layers: Vec<Layer>, hash: HashKind) -> CommitGraph {
        // Dates and levels cannot be compared with each other: C git too takes dates only if all
        // layers have them.
        let corrected = layers.iter().all(|layer| layer.dates.is_some());
        CommitGraph { layers, hash, corrected }
    }

    fn open_chain(
        text: &[u8],
        objects: &Dir,
        others: &[&Dir],
        hash: HashKind,
    ) -> std::result::Result<CommitGraph, String> {
        let mut layers = Vec::new();
        let mut bases = Vec::new();
        let mut base = 0;
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let id = ObjectId::from_hex(line).filter(|id| id.kind() == hash);
            let id = id.ok_or("commit-graph-chain with a bad line")?;
            let path = format!("info/commit-graphs/graph-{id}.graph");
            let find = |dir: &Dir| dir.map(path.as_bytes()).transpose();
            let map = std::iter::once(objects).chain(others.iter().copied()).find_map(find);
            let map = map.ok_or("layer of a commit graph missing")?.map_err(|e| e.to_string())?;
            let layer = Layer::parse(map, hash, &bases, base)?;
            if layer.checksum() != Some(id) {
                return Err("layer of a commit graph under another's name".to_owned());
            }
            base += layer.ids.count();
            bases.push(id);
            layers.push(layer);
        }
        if layers.is_empty() {
            return Err("commit-graph-chain without a line".to_owned());
        }
        Ok(CommitGraph::of_layers(layers, hash))
    }

    /// How many commits there are.
    pub fn count(&self) -> u32 {
        self.layers.last().map_or(0, |layer| layer.base + layer.ids.count())
    }

    /// Whether generations are corrected commit dates; else they are levels.
    pub fn has_corrected_dates(&self) -> bool {
        self.corrected
    }

    /// The number of a commit.
    pub fn lookup(&self, id: &ObjectId) -> Option<u32> {
        if id.kind() != self.hash {
            return None;
        }
        let mut layers = self.layers.iter().rev();
        layers.find_map(|layer| Some(layer.base + layer.ids.lookup(&layer.map, id.as_bytes())?))
    }

    fn layer(&self, number: u32) -> Option<(&Layer, u32)> {
        let layer = self.layers.iter().rev().find(|layer| number >= layer.base)?;
        let index = number - layer.base;
        (index < layer.ids.count()).then_some((layer, index))
    }

    /// The id of a commit; null beyond the last.
    pub fn id_at(&self, number: u32) -> ObjectId {
        let id = self
            .layer(number)
            .and_then(|(layer, index)| ObjectId::from_bytes(self.hash, layer.ids.id(&layer.map, index)));
        id.unwrap_or(ObjectId::null(self.hash))
    }

    /// The graph's entry of a commit. `None` if the graph is damaged there: parents must be in the
    /// graph, and on lower levels. Then the caller reads the commit itself.
    pub fn commit(&self, number: u32) -> Option<GraphCommit> {
        let (layer, index) = self.layer(number)?;
        let data: &[u8] = &layer.map;
        let width = self.hash.len();
        let at = layer.commits + index as usize * (width + 16);
        let tree = ObjectId::from_bytes(self.hash, data.get(at..at + width)?)?;
        let word = be64(data, at + width + 8)?;
        let (level, date) = ((word >> 34) as u32, word & 0x3_ffff_ffff);
        let mut commit = GraphCommit {
            tree,
            date,
            level,
            generation: if self.corrected { layer.corrected_date(index, date)? } else { u64::from(level) },
            parents: [0; 2],
            count: 0,
            more: Vec::new(),
        };
        let (first, second) = (be32(data, at + width)?, be32(data, at + width + 4)?);
        if first != NO_PARENT {
            commit.parents[0] = first;
            commit.count = 1;
        }
        if second & MORE_PARENTS != 0 {
            let mut edge = (second & !MORE_PARENTS) as usize;
            loop {
                let word = be32(data.get(layer.edges.clone())?, edge.checked_mul(4)?)?;
                commit.more.push(word & !MORE_PARENTS);
                if word & MORE_PARENTS != 0 {
                    break;
                }
                if commit.more.len() > MAX_PARENTS {
                    return None;
                }
                edge += 1;
            }
        } else if second != NO_PARENT {
            commit.parents[1] = second;
            commit.count = 2;
        }
        if first == NO_PARENT && second != NO_PARENT {
            return None;
        }
        for parent in commit.parents() {
            let (layer, index) = self.layer(parent)?;
            let below = layer.level(index)?;
            if level != 0 && below >= level && level < MAX_LEVEL {
                return None;
            }
        }
        Some(commit)
    }

    /// A number that is greater than every parent's: the corrected commit date where all layers
    /// have it, else the level (0 if that was not computed, and nothing follows from it then).
    pub fn generation(&self, number: u32) -> Option<u64> {
        let (layer, index) = self.layer(number)?;
        if !self.corrected {
            return layer.level(index).map(u64::from);
        }
        let at = layer.commits + index as usize * (self.hash.len() + 16) + self.hash.len() + 8;
        layer.corrected_date(index, be64(&layer.map, at)? & 0x3_ffff_ffff)
    }
}

impl Layer {
    fn corrected_date(&self, index: u32, date: u64) -> Option<u64> {
        let (at, large) = self.dates.as_ref()?;
        let word = be32(&self.map, at + index as usize * 4)?;
        let offset = if word & 0x8000_0000 == 0 {
            u64::from(word)
        } else {
            be64(self.map.get(large.clone())?, (word & 0x7fff_ffff) as usize * 8)?
        };
        date.checked_add(offset)
    }
}

/// Whether the repository is shallow, in which case no commit graph may be used.
pub fn is_shallow(repository: &Dir) -> Result<bool> {
    Ok(repository.stat(b"shallow")?.is_some_and(|(_, stat)| stat.st_size > 0))
}
