//! Random repositories: histories of every shape, stored in every way, and what is in them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use libgit::{HashKind, ObjectId, ObjectKind};
use librepo::alternates::Alternate;
use librepo::mounts::Look;
use librepo::{Options, Repository};

use super::Scratch;
use super::random::Random;

/// What one commit's tree holds: mode, and a mark or an id, by path.
type Files = BTreeMap<String, (&'static str, String)>;

/// An object and what it names.
pub struct Thing {
    pub kind: ObjectKind,
    /// Everything but the parents of a commit.
    pub links: Vec<ObjectId>,
    pub parents: Vec<ObjectId>,
}

/// A repository, and all its objects as git shows them.
pub struct History {
    pub scratch: Scratch,
    pub things: HashMap<ObjectId, Thing>,
    pub commits: Vec<ObjectId>,
    pub tags: Vec<ObjectId>,
    pub others: Vec<ObjectId>,
    /// How it came to be, for those who must repeat it.
    pub steps: Vec<String>,
    alternate: Option<PathBuf>,
}

/// The stream for `git fast-import` as it grows.
struct Stream {
    text: String,
    mark: usize,
    /// The marks of commits, each with what its tree holds.
    commits: Vec<(usize, Files)>,
    blobs: Vec<usize>,
    hash: HashKind,
}

const DIRECTORIES: [&str; 6] = ["", "a/", "a/b/", "lib/", "lib/deep/er/", "z/"];
const NAMES: [&str; 6] = ["one", "two.c", "three.h", "four", "five.txt", "Makefile"];

impl Stream {
    fn next_mark(&mut self) -> usize {
        self.mark += 1;
        self.mark
    }

    /// A blob: a version of a text, an old one again, or something odd.
    fn blob(&mut self, random: &mut Random) -> String {
        if !self.blobs.is_empty() && random.chance(15) {
            return format!(":{}", random.pick(&self.blobs));
        }
        let text = match random.below(20) {
            0 => String::new(),
            1 => "x".repeat(random.below(60)),
            kind => {
                let version = random.below(1 << 20);
                let lines = if kind == 2 { 400 } else { 20 + kind };
                let changed = |line: usize| if line % 17 == version % 17 { version } else { 0 };
                let line =
                    |line| format!("line {line} of {kind} with {} in it, and more text\n", changed(line));
                (0..lines).map(line).collect()
            }
        };
        let mark = self.next_mark();
        self.text += &format!("blob\nmark :{mark}\ndata {}\n{text}\n", text.len());
        self.blobs.push(mark);
        format!(":{mark}")
    }

    /// Changes some files, as people do.
    fn change(&mut self, random: &mut Random, files: &mut Files) {
        for _ in 0..1 + random.below(4) {
            let directory = random.pick(&DIRECTORIES).to_string();
            let path = format!("{directory}{}", random.pick(&NAMES));
            let paths: Vec<String> = files.keys().cloned().collect();
            match random.below(16) {
                0 => drop(files.remove(&path)),
                1 => files.retain(|path, _| directory.is_empty() || !path.starts_with(&directory)),
                // A directory that moves, or is there twice.
                2 | 3 if !directory.is_empty() => {
                    let to = format!("moved{}/", random.below(3));
                    let moves = random.chance(60);
                    for path in paths.iter().filter(|path| path.starts_with(&directory)) {
                        let file = if moves { files.remove(path) } else { files.get(path).cloned() };
                        files.insert(path.replacen(&directory, &to, 1), file.unwrap());
                    }
                }
                // A file that moves, or is there twice.
                4 | 5 if !paths.is_empty() => {
                    let from = random.pick(&paths);
                    let file = files[from].clone();
                    if random.chance(60) {
                        files.remove(from);
                    }
                    files.insert(path, file);
                }
                6 => {
                    let id = format!("{:0width$x}", random.next() | 1, width = self.hash.hex_len());
                    files.insert(format!("{directory}module"), ("160000", id));
                }
                what => {
                    let mode = match what {
                        7 => "100755",
                        8 => "120000",
                        _ => "100644",
                    };
                    let blob = self.blob(random);
                    files.insert(path, (mode, blob));
                }
            }
        }
    }

    fn commit(&mut self, random: &mut Random, parents: &[usize], files: Files) {
        let before = parents.first().map(|at| self.commits[*at].1.clone()).unwrap_or_default();
        let mark = self.next_mark();
        let skew = if random.chance(10) { random.below(5000) } else { 0 };
        let date = if random.chance(2) { 1 } else { 1_700_000_000 + self.commits.len() * 60 - skew };
        self.text += &format!("commit refs/all/{mark}\nmark :{mark}\ncommitter C <c@x> {date} +0000\n");
        let message = format!("commit {mark} {}", random.next());
        self.text += &format!("data {}\n{message}\n", message.len());
        for (number, parent) in parents.iter().enumerate() {
            let word = if number == 0 { "from" } else { "merge" };
            self.text += &format!("{word} :{}\n", self.commits[*parent].0);
        }
        for path in before.keys().filter(|path| !files.contains_key(*path)) {
            self.text += &format!("D {path}\n");
        }
        for (path, (mode, what)) in &files {
            if before.get(path) != Some(&(mode, what.clone())) {
                self.text += &format!("M {mode} {what} {path}\n");
            }
        }
        self.text.push('\n');
        self.commits.push((mark, files));
    }

    /// Blobs that no commit holds may be gone after a repack: their marks are no longer good.
    fn forget(&mut self, marks: &Path) {
        let mut held: HashSet<String> = self.commits.iter().map(|(mark, _)| format!(":{mark}")).collect();
        held.extend(self.commits.iter().flat_map(|(_, files)| files.values().map(|file| file.1.clone())));
        self.blobs.retain(|mark| held.contains(&format!(":{mark}")));
        let text = std::fs::read_to_string(marks).unwrap_or_default();
        let good = text.lines().filter(|line| held.contains(line.split(' ').next().unwrap_or_default()));
        std::fs::write(marks, good.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    /// Some more commits: mostly on the newest, with roots, merges, octopuses and criss-crosses
    /// among them.
    fn grow(&mut self, random: &mut Random, count: usize) {
        for _ in 0..count {
            let made = self.commits.len();
            let recent = |random: &mut Random| made - 1 - random.below(made.min(8));
            let mut parents = Vec::new();
            if made > 0 && !random.chance(3) {
                parents.push(recent(random));
                for _ in 0..random.below(12).saturating_sub(8) {
                    parents.push(recent(random));
                }
            }
            let mut known = HashSet::new();
            parents.retain(|parent| known.insert(*parent));
            let mut files = parents.first().map(|at| self.commits[*at].1.clone()).unwrap_or_default();
            for parent in parents.iter().skip(1) {
                let theirs = self.commits[*parent].1.clone();
                files.extend(theirs.into_iter().filter(|_| random.chance(50)));
            }
            if parents.len() == 2 && random.chance(50) {
                self.commit(random, &[parents[1], parents[0]], files.clone());
            }
            if parents.len() < 2 || random.chance(50) {
                self.change(random, &mut files);
            }
            self.commit(random, &parents, files);
        }
    }
}

impl History {
    /// Makes one: imports in several parts, maintenance as administrators do it between them.
    pub fn new(seed: u64, random: &mut Random) -> History {
        let hash = if random.chance(15) { HashKind::Sha256 } else { HashKind::Sha1 };
        let scratch = Scratch::bare(&[&format!("--object-format={}", hash.name())]);
        let mut config = String::from("[core]\n\tfsync = none\n[gc]\n\tauto = 0\n[pack]\n\tthreads = 1\n");
        for (name, on) in [
            ("writeBitmapLookupTable", random.chance(50)),
            ("writeBitmapHashCache", random.chance(80)),
            ("writeReverseIndex", random.chance(80)),
        ] {
            config += &format!("\t{name} = {on}\n");
        }
        if random.chance(20) {
            config += "[bitmapPseudoMerge \"all\"]\n\tpattern = refs/\n\tthreshold = now\n\tstableThreshold = never\n";
        }
        let file = scratch.dir.join("config");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &config).unwrap();
        let mut history = History {
            scratch,
            things: HashMap::new(),
            commits: Vec::new(),
            tags: Vec::new(),
            others: Vec::new(),
            steps: vec![format!("seed {seed} {}", hash.name())],
            alternate: None,
        };
        let total = if seed.is_multiple_of(7) { 250 } else { 4 + random.below(60) };
        let parts = 1 + random.below(4);
        let mut stream =
            Stream { text: String::new(), mark: 0, commits: Vec::new(), blobs: Vec::new(), hash };
        for part in 0..parts {
            stream.forget(&history.marks());
            stream.grow(random, total / parts + 1);
            history.import(random, std::mem::take(&mut stream.text));
            if part + 1 == parts {
                history.look();
                history.tag(random);
            }
            for _ in 0..random.below(3) {
                history.maintain(random);
            }
            if part == 0 && parts > 1 && random.chance(20) {
                history.move_to_alternate();
            }
        }
        history.look();
        history
    }

    /// A step of maintenance. Bitmaps may fail, where packs lack something that lies loose.
    fn git(&mut self, args: &[&str]) {
        let good = self.scratch.git_may_fail(args);
        let step = args.join(" ");
        assert!(good || step.contains("bitmap") || step.contains("db"), "{step}");
        self.steps.push(if good { step } else { format!("{step} (fails)") });
    }

    fn marks(&self) -> PathBuf {
        self.scratch.top().join("marks")
    }

    fn import(&mut self, random: &mut Random, stream: String) {
        let limit =
            if random.chance(25) { "fastimport.unpackLimit=100000" } else { "fastimport.unpackLimit=1" };
        let marks = self.marks();
        let import = format!("--import-marks-if-exists={}", marks.display());
        let export = format!("--export-marks={}", marks.display());
        let args = ["-c", limit, "fast-import", "--quiet", "--force", &import, &export];
        self.steps.push(limit.to_owned());
        self.scratch.git_with(&args, stream.as_bytes());
    }

    /// Annotated tags of objects of all kinds, tags among them.
    fn tag(&mut self, random: &mut Random) {
        let mut known: Vec<ObjectId> = self.commits.clone();
        for _ in 0..random.below(6) {
            let target = if random.chance(30) { *random.pick(&self.others) } else { *random.pick(&known) };
            let kind = self.things.get(&target).map_or(ObjectKind::Tag, |thing| thing.kind);
            let number = self.tags.len();
            let text = format!(
                "object {target}\ntype {}\ntag t{number}\ntagger T <t@x> 1700000000 +0000\n\ntext\n",
                kind.name()
            );
            let made = self.scratch.git_with(&["mktag"], text.as_bytes());
            let id = ObjectId::from_hex(made.trim_ascii()).unwrap();
            self.scratch.git(&["update-ref", &format!("refs/tags/t{number}"), &id.to_hex()]);
            self.tags.push(id);
            // The next may well be a tag of this one.
            known = if random.chance(50) { vec![id] } else { self.commits.clone() };
        }
    }

    fn maintain(&mut self, random: &mut Random) {
        match random.below(14) {
            0 => self.git(&["repack", "-qd"]),
            1 => self.git(&["repack", "-qad"]),
            2 | 3 => self.git(&["repack", "-qadb"]),
            4 => self.git(&["repack", "-qa"]),
            5 => self.git(&["repack", "-qd", "--geometric=2"]),
            6 | 7 => self.git(&["repack", "-qdb", "--geometric=2", "--write-midx"]),
            8 => self.multi_pack_index(&["write"]),
            9 | 10 => self.multi_pack_index(&["write", "--bitmap"]),
            11 => {
                let mut packs = Vec::new();
                for entry in std::fs::read_dir(self.scratch.dir.join("objects/pack")).unwrap() {
                    let name = entry.unwrap().file_name().into_string().unwrap();
                    packs.extend(name.ends_with(".pack").then_some(name));
                }
                packs.sort();
                if !packs.is_empty() {
                    let preferred = format!("--preferred-pack={}", random.pick(&packs));
                    self.git(&["multi-pack-index", "write", "--bitmap", &preferred]);
                }
            }
            12 => self.git(&["commit-graph", "write", "--reachable"]),
            _ => self.git(&["commit-graph", "write", "--reachable", "--split"]),
        }
    }

    /// Without a pack there is nothing to index.
    fn multi_pack_index(&mut self, args: &[&str]) {
        let mut entries = std::fs::read_dir(self.scratch.dir.join("objects/pack")).unwrap();
        if entries.any(|entry| entry.unwrap().path().extension().is_some_and(|found| found == "pack")) {
            self.git(&[&["multi-pack-index"], args].concat());
        }
    }

    /// What is here so far comes from another directory from now on.
    fn move_to_alternate(&mut self) {
        self.steps.push("alternate".to_owned());
        let (own, other) = (self.scratch.dir.join("objects"), self.scratch.top().join("other"));
        std::fs::rename(&own, &other).unwrap();
        for sub in ["pack", "info"] {
            std::fs::create_dir_all(own.join(sub)).unwrap();
        }
        std::fs::write(own.join("info/alternates"), format!("{}\n", other.display())).unwrap();
        self.alternate = Some(other);
    }

    /// Reads all objects as git shows them.
    fn look(&mut self) {
        let listed = self.scratch.git_with(&["cat-file", "--batch", "--batch-all-objects", "--buffer"], b"");
        self.things.clear();
        let mut rest = &listed[..];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let head = std::str::from_utf8(&rest[..end]).unwrap();
            let words: Vec<&str> = head.split(' ').collect();
            let size: usize = words[2].parse().unwrap();
            let id = ObjectId::from_hex(words[0].as_bytes()).unwrap();
            let kind = ObjectKind::from_name(words[1].as_bytes()).unwrap();
            self.things.insert(id, thing(kind, &rest[end + 1..end + 1 + size], id.kind()));
            rest = &rest[end + 2 + size..];
        }
        let of = |wanted: &[ObjectKind]| {
            let mut ids: Vec<ObjectId> =
                self.things.iter().filter(|(_, t)| wanted.contains(&t.kind)).map(|(id, _)| *id).collect();
            ids.sort();
            ids
        };
        self.commits = of(&[ObjectKind::Commit]);
        self.others = of(&[ObjectKind::Tree, ObjectKind::Blob]);
        self.tags = of(&[ObjectKind::Tag]);
    }

    /// Everything that can be reached, where the commits of `cut` have no parents.
    pub fn reach(&self, tips: &[ObjectId], cut: &HashSet<ObjectId>) -> HashSet<ObjectId> {
        let mut seen: HashSet<ObjectId> = tips.iter().copied().collect();
        let mut stack: Vec<ObjectId> = seen.iter().copied().collect();
        while let Some(id) = stack.pop() {
            let Some(thing) = self.things.get(&id) else { panic!("{id} is not here") };
            let parents: &[ObjectId] = if cut.contains(&id) { &[] } else { &thing.parents };
            stack.extend(thing.links.iter().chain(parents).filter(|id| seen.insert(**id)));
        }
        seen
    }

    /// What a tag names in the end.
    pub fn peel(&self, id: ObjectId) -> ObjectId {
        let thing = &self.things[&id];
        if thing.kind == ObjectKind::Tag { self.peel(thing.links[0]) } else { id }
    }

    /// Opens the repository as a fetch does.
    pub fn open(&self) -> Repository {
        let alternates = self.alternate.iter().map(|path| {
            let dir = std::fs::File::open(path).unwrap().into();
            Alternate { path: path.clone(), dir, look: Look::ANYWHERE }
        });
        let options = Options { alternates: alternates.collect(), ..Options::default() };
        Repository::open(std::fs::File::open(&self.scratch.dir).unwrap().into(), options).unwrap()
    }
}

/// Reads an object without librepo's help.
fn thing(kind: ObjectKind, data: &[u8], hash: HashKind) -> Thing {
    let (mut links, mut parents) = (Vec::new(), Vec::new());
    if kind == ObjectKind::Tree {
        let mut rest = data;
        while let Some(end) = rest.iter().position(|byte| *byte == 0) {
            let id = ObjectId::from_bytes(hash, &rest[end + 1..end + 1 + hash.len()]).unwrap();
            if !rest.starts_with(b"160000") {
                links.push(id);
            }
            rest = &rest[end + 1 + hash.len()..];
        }
    } else if kind != ObjectKind::Blob {
        for line in data.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty()) {
            let mut words = line.splitn(2, |byte| *byte == b' ');
            let (word, id) = (words.next().unwrap(), words.next().and_then(ObjectId::from_hex));
            match word {
                b"tree" | b"object" => links.extend(id),
                b"parent" => parents.extend(id),
                _ => {}
            }
        }
    }
    Thing { kind, links, parents }
}
