//! The fetch engine against real git: random histories, random questions, the same answers.
//!
//! `FETCH_SEED` and `FETCH_CASES` choose where to begin and how many repositories to make.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::random::{Random, seeds};
use common::{Collect, count};
use libgit::{Deepen, Depth, Filter, ObjectId};
use librepo::fetch::{Fetch, FetchLimits, PackOptions, Policy, Sink, Tips};
use librepo::{Reader, Repository};

struct Scratch {
    _temp: tempfile::TempDir,
    top: PathBuf,
}

impl Scratch {
    fn new() -> Scratch {
        let temp = tempfile::tempdir().unwrap();
        Scratch { top: temp.path().canonicalize().unwrap(), _temp: temp }
    }

    fn git(&self, dir: &Path, args: &[&str], input: &[u8]) -> (bool, Vec<u8>, String) {
        self.program("git", dir, args, input)
    }

    fn program(&self, program: &str, dir: &Path, args: &[&str], input: &[u8]) -> (bool, Vec<u8>, String) {
        let mut child = Command::new(program)
            .args(args)
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.top)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_PROTOCOL", "version=2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap();
        (out.status.success(), out.stdout, String::from_utf8_lossy(&out.stderr).into_owned())
    }

    fn ok(&self, dir: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
        let (good, out, err) = self.git(dir, args, input);
        assert!(good, "git {args:?}: {err}");
        out
    }

    fn lines(&self, dir: &Path, args: &[&str], input: &[u8]) -> Vec<String> {
        String::from_utf8_lossy(&self.ok(dir, args, input)).lines().map(str::to_owned).collect()
    }

    /// An empty bare repository, without asking git.
    fn bare(&self, name: &str) -> PathBuf {
        let dir = self.top.join(name);
        for sub in ["objects/pack", "objects/info", "refs/heads", "refs/tags"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        std::fs::write(dir.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        let config = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n[uploadpack]\n\tallowFilter = true\n\tallowAnySHA1InWant = true\n[gc]\n\tauto = 0\n";
        std::fs::write(dir.join("config"), config).unwrap();
        dir
    }
}

/// A random history for `git fast-import`; returns the stream. Marks are `first` and on.
fn history(random: &mut Random, first: usize, count: usize) -> String {
    let mut stream = String::new();
    let directories = ["", "a/", "a/b/", "lib/deep/er/", "z/"];
    let names = ["one", "two.c", "three.h", "four", "five.txt"];
    for mark in first..first + count {
        let skew = if random.chance(10) { random.below(5000) } else { 0 };
        let date = 1_700_000_000 + mark * 60 - skew;
        let message = format!("commit {mark} {}", random.next());
        stream += &format!("commit refs/heads/tmp\nmark :{mark}\ncommitter C <c@x> {date} +0000\n");
        stream += &format!("data {}\n{message}\n", message.len());
        if mark > 1 && !random.chance(3) {
            let newest = |random: &mut Random| mark - 1 - random.below((mark - 1).min(6)).min(mark - 2);
            stream += &format!("from :{}\n", newest(random));
            for _ in 0..random.below(10).saturating_sub(7) {
                stream += &format!("merge :{}\n", newest(random));
            }
        }
        let mut touched = BTreeSet::new();
        for _ in 0..1 + random.below(4) {
            let path = format!("{}{}", random.pick(&directories), random.pick(&names));
            if !touched.insert(path.clone()) {
                continue;
            }
            match random.below(12) {
                0 => stream += &format!("D {path}\n"),
                1 => stream += &format!("M 160000 {:040x} {path}-module\n", random.next() | 1),
                2 => {
                    // The same content in another place: a rename, or an old version that returns.
                    let text = body(random.below(4), 1);
                    stream += &format!("M 100644 inline {path}\ndata {}\n{text}\n", text.len());
                }
                _ => {
                    let version = random.below(1 << 20);
                    let text = body(path.len(), version);
                    stream += &format!("M 100644 inline {path}\ndata {}\n{text}\n", text.len());
                }
            }
        }
        stream.push('\n');
        // A reference to each, so that repacking keeps it.
        stream += &format!("reset refs/keep/{mark}\nfrom :{mark}\n\n");
    }
    stream
}

/// A text whose versions are alike.
fn body(kind: usize, version: usize) -> String {
    let mut text = String::new();
    for line in 0..40 + kind {
        let changed = if line % 17 == version % 17 { version } else { 0 };
        text += &format!("line {line} of file {kind} with {changed} in it, and some more text\n");
    }
    text
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layout {
    Loose,
    Packs,
    OnePack,
    Bitmap,
    BitmapAndMore,
    Duplicates,
    Midx,
    MidxBitmap,
}

struct Server {
    dir: PathBuf,
    commits: Vec<String>,
    tags: Vec<String>,
    blobs: Vec<String>,
}

fn server(scratch: &Scratch, random: &mut Random, layout: Layout, commits: usize) -> Server {
    let dir = scratch.bare("server.git");
    if random.chance(50) {
        scratch.ok(&dir, &["config", "pack.writeBitmapLookupTable", "true"], b"");
    }
    let parts = if layout == Layout::OnePack { 1 } else { 3 };
    let marks = scratch.top.join("marks");
    let mut first = 1;
    for part in 0..parts {
        let stream = history(random, first, commits / parts);
        first += commits / parts;
        let mut args = vec![];
        let unpack = layout == Layout::Loose
            || (matches!(layout, Layout::BitmapAndMore | Layout::Packs) && part == 2 && random.chance(50));
        args.extend(["-c", if unpack { "fastimport.unpackLimit=10000" } else { "fastimport.unpackLimit=1" }]);
        let (export, import) = (
            format!("--export-marks={}", marks.display()),
            format!("--import-marks-if-exists={}", marks.display()),
        );
        args.extend(["fast-import", "--quiet", "--force", &import, &export]);
        scratch.ok(&dir, &args, stream.as_bytes());
        let last = part + 1 == parts;
        match layout {
            Layout::OnePack if last => drop(scratch.ok(&dir, &["repack", "-qadf"], b"")),
            Layout::Bitmap if last => drop(scratch.ok(&dir, &["repack", "-qadb"], b"")),
            Layout::BitmapAndMore if part == 1 => drop(scratch.ok(&dir, &["repack", "-qadb"], b"")),
            Layout::Duplicates if part == 1 => drop(scratch.ok(&dir, &["repack", "-qa"], b"")),
            Layout::Midx if last => drop(scratch.ok(&dir, &["multi-pack-index", "write"], b"")),
            Layout::MidxBitmap if part == 1 => {
                drop(scratch.ok(&dir, &["multi-pack-index", "write", "--bitmap"], b""));
            }
            _ => {}
        }
    }
    if random.chance(40) {
        scratch.ok(&dir, &["commit-graph", "write", "--reachable"], b"");
    }
    let marks = std::fs::read_to_string(&marks).unwrap();
    let mut numbered: Vec<(usize, String)> = marks
        .lines()
        .filter_map(|line| line.strip_prefix(':')?.split_once(' '))
        .map(|(mark, id)| (mark.parse().unwrap(), id.to_owned()))
        .collect();
    numbered.sort();
    let commits: Vec<String> = numbered.into_iter().map(|(_, id)| id).collect();
    // Annotated tags, some of tags.
    let mut tags: Vec<String> = Vec::new();
    for number in 0..random.below(4) {
        let (target, kind) = if !tags.is_empty() && random.chance(40) {
            (random.pick(&tags), "tag")
        } else {
            (random.pick(&commits), "commit")
        };
        let text =
            format!("object {target}\ntype {kind}\ntag t{number}\ntagger T <t@x> 1700000000 +0000\n\ntext\n");
        let id = scratch.lines(&dir, &["mktag"], text.as_bytes()).remove(0);
        scratch.ok(&dir, &["update-ref", &format!("refs/tags/t{number}"), &id], b"");
        tags.push(id);
    }
    scratch.ok(&dir, &["update-ref", "refs/heads/main", commits.last().unwrap()], b"");
    let blobs = scratch
        .lines(&dir, &["ls-tree", "-r", "-t", commits.last().unwrap()], b"")
        .iter()
        .filter(|line| !line.contains(" commit "))
        .map(|line| line.split_whitespace().nth(2).unwrap().to_owned())
        .collect();
    Server { dir, commits, tags, blobs }
}

#[derive(Clone, Debug, Default)]
struct Question {
    wants: Vec<String>,
    haves: Vec<String>,
    shallow: Vec<String>,
    deepen: Vec<String>,
    thin: bool,
    ofs: bool,
    tags: bool,
    filter: Option<String>,
}

#[derive(Clone)]
struct Answer {
    pack: Vec<u8>,
    shallow: BTreeSet<String>,
    unshallow: BTreeSet<String>,
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).unwrap()
}

fn ours(server: &Server, question: &Question, threads: usize) -> librepo::Result<Answer> {
    let dir = std::fs::File::open(&server.dir).unwrap();
    let repository = Repository::open(dir.into(), librepo::Options::default())?;
    let mut reader = Reader::new(repository.store(), 1 << 20);
    let refs = repository.refs().list::<&[u8]>(&[], Some(&mut reader))?;
    let mut fetch = Fetch::new(&repository, Tips::new(&refs), Policy::Any, FetchLimits::default())?;
    fetch.haves_come_first();
    for want in &question.wants {
        fetch.want(id(want)).map_err(|e| librepo::Error::Invalid(e.to_string()))?;
    }
    for have in &question.haves {
        assert!(fetch.have(id(have))?);
    }
    for shallow in &question.shallow {
        fetch.shallow(id(shallow))?;
    }
    let relative = question.deepen.iter().any(|line| line == "deepen-relative");
    let (mut since, mut not) = (None, Vec::new());
    for line in &question.deepen {
        match line.split_once(' ') {
            Some(("deepen", n)) => {
                fetch.deepen(Deepen::Depth { depth: Depth::new(n.parse().unwrap()).unwrap(), relative })
            }
            Some(("deepen-since", seconds)) => since = seconds.parse().ok(),
            Some(("deepen-not", hex)) => not.push(id(hex)),
            _ => {}
        }
    }
    if since.is_some() || !not.is_empty() {
        fetch.deepen(Deepen::Since { since, not });
    }
    let info = fetch.shallow_info()?;
    fetch.options(PackOptions {
        thin: question.thin,
        ofs_delta: question.ofs,
        include_tag: question.tags,
        filter: question.filter.as_ref().map(|text| Filter::parse(text.as_bytes()).unwrap()),
    });
    let mut sink = Collect::default();
    let stats = fetch.write_pack(&mut sink, threads)?;
    assert_eq!(stats.bytes, sink.pack.len() as u64);
    assert_eq!(stats.objects, count(&sink.pack) as u64);
    assert_eq!(fetch.take_log(), Vec::<String>::new());
    let hex = |ids: Vec<ObjectId>| ids.iter().map(ObjectId::to_string).collect();
    Ok(Answer { pack: sink.pack, shallow: hex(info.shallow), unshallow: hex(info.unshallow) })
}

fn relative(question: &Question) -> bool {
    question.deepen.iter().any(|line| line == "deepen-relative")
}

/// A git that deepens past a merge without losing history: 2.54 or newer, in `REGRESS_GIT_2_54` or
/// the system's. Older ones count from each commit of the boundary alone.
fn deepening_git() -> Option<String> {
    let asked = std::env::var("REGRESS_GIT_2_54").unwrap_or_else(|_| "git".to_owned());
    let out = Command::new(&asked).arg("version").output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut numbers = text.strip_prefix("git version ")?.split('.').map(str::parse::<u32>);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (version >= (2, 54)).then_some(asked)
}

/// The same question to `git upload-pack`.
fn theirs(scratch: &Scratch, server: &Server, question: &Question) -> Result<Answer, String> {
    let mut request = Vec::new();
    let mut line = |text: &str| request.extend(format!("{:04x}{text}\n", text.len() + 5).into_bytes());
    line("command=fetch");
    line("object-format=sha1");
    let _ = &mut line;
    request.extend(b"0001");
    let mut line = |text: &str| request.extend(format!("{:04x}{text}\n", text.len() + 5).into_bytes());
    for (on, word) in [
        (question.thin, "thin-pack"),
        (question.ofs, "ofs-delta"),
        (question.tags, "include-tag"),
        (true, "no-progress"),
    ] {
        if on {
            line(word);
        }
    }
    for want in &question.wants {
        line(&format!("want {want}"));
    }
    for shallow in &question.shallow {
        line(&format!("shallow {shallow}"));
    }
    for text in &question.deepen {
        match text.strip_prefix("deepen-not ") {
            // git wants a reference here.
            Some(hex) => {
                scratch.ok(&server.dir, &["update-ref", &format!("refs/not/{hex}"), hex], b"");
                line(&format!("deepen-not refs/not/{hex}"));
            }
            None => line(text),
        }
    }
    if let Some(filter) = &question.filter {
        line(&format!("filter {filter}"));
    }
    for have in &question.haves {
        line(&format!("have {have}"));
    }
    line("done");
    request.extend(b"0000");
    let git = if relative(question) { deepening_git() } else { None }.unwrap_or_else(|| "git".to_owned());
    let (good, out, err) =
        scratch.program(&git, &server.dir, &["upload-pack", "--stateless-rpc", "."], &request);
    if !good {
        return Err(err);
    }
    let mut answer = Answer { pack: Vec::new(), shallow: BTreeSet::new(), unshallow: BTreeSet::new() };
    let mut rest = &out[..];
    let mut in_pack = false;
    while rest.len() >= 4 {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..4]).unwrap(), 16).unwrap();
        if size < 4 {
            rest = &rest[4..];
            continue;
        }
        let (packet, after) = (&rest[4..size], &rest[size..]);
        rest = after;
        if in_pack {
            match packet[0] {
                1 => answer.pack.extend_from_slice(&packet[1..]),
                3 => return Err(String::from_utf8_lossy(&packet[1..]).into_owned()),
                _ => {}
            }
            continue;
        }
        let text = String::from_utf8_lossy(packet).trim_end().to_owned();
        if text == "packfile" {
            in_pack = true;
        } else if let Some(hex) = text.strip_prefix("shallow ") {
            answer.shallow.insert(hex.to_owned());
        } else if let Some(hex) = text.strip_prefix("unshallow ") {
            answer.unshallow.insert(hex.to_owned());
        } else if let Some(text) = text.strip_prefix("ERR ") {
            return Err(text.to_owned());
        }
    }
    Ok(answer)
}

/// The ids in a pack that was put into a client, the bases that completed it left out.
fn received(scratch: &Scratch, client: &Path, pack: &[u8], strict: bool) -> Result<BTreeSet<String>, String> {
    let mut args = vec!["index-pack", "--stdin", "--fix-thin"];
    if strict {
        args.push("--strict");
    }
    let (good, out, err) = scratch.git(client, &args, pack);
    if !good {
        return Err(err);
    }
    if count(pack) == 0 {
        return Ok(BTreeSet::new());
    }
    let name = String::from_utf8_lossy(&out).split_whitespace().last().unwrap().to_owned();
    let index = client.join(format!("objects/pack/pack-{name}.idx"));
    let listed = scratch.ok(client, &["show-index"], &std::fs::read(index).unwrap());
    let mut entries: Vec<(u64, String)> = String::from_utf8_lossy(&listed)
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_owned())
        })
        .collect();
    entries.sort();
    // Completed bases are appended.
    Ok(entries.into_iter().take(count(pack)).map(|(_, id)| id).collect())
}

fn forget(client: &Path) {
    for entry in std::fs::read_dir(client.join("objects/pack")).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("pack-base") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// A client that has what can be reached from some commits.
fn client(scratch: &Scratch, server: &Server, name: &str, haves: &[String]) -> PathBuf {
    let dir = scratch.bare(name);
    if haves.is_empty() {
        return dir;
    }
    let pack =
        scratch.ok(&server.dir, &["pack-objects", "-q", "--revs", "--stdout"], haves.join("\n").as_bytes());
    let path = dir.join("objects/pack/pack-base.pack");
    std::fs::write(&path, pack).unwrap();
    scratch.ok(&dir, &["index-pack", path.to_str().unwrap()], b"");
    dir
}

fn reach(scratch: &Scratch, dir: &Path, include: &[String], exclude: &[String]) -> BTreeSet<String> {
    let mut input = include.join("\n");
    input += "\n--not\n";
    input += &exclude.join("\n");
    let mut args = vec!["rev-list", "--objects", "--no-object-names", "--stdin"];
    if include.is_empty() {
        return BTreeSet::new();
    }
    if exclude.is_empty() {
        input = include.join("\n");
    }
    args.push("--ignore-missing");
    scratch.lines(dir, &args, input.as_bytes()).into_iter().collect()
}

const LAYOUTS: [Layout; 8] = [
    Layout::Loose,
    Layout::Packs,
    Layout::OnePack,
    Layout::Bitmap,
    Layout::BitmapAndMore,
    Layout::Duplicates,
    Layout::Midx,
    Layout::MidxBitmap,
];

#[test]
fn packs_hold_what_the_client_lacks() {
    let (mut questions, mut more, mut sent_bytes, mut git_bytes) = (0, 0, 0, 0);
    for seed in seeds(16) {
        let mut random = Random::new(seed);
        let scratch = Scratch::new();
        let layout = LAYOUTS[(seed % 8) as usize];
        let commits = 6 + random.below(if seed % 5 == 0 { 150 } else { 60 });
        let server = server(&scratch, &mut random, layout, commits);
        let everything: Vec<String> = server.commits.iter().chain(&server.tags).cloned().collect();
        for round in 0..3 {
            let haves = if round == 0 { Vec::new() } else { random.some(&everything, 4) };
            let client = client(&scratch, &server, &format!("client{round}"), &haves);
            for _ in 0..4 {
                let mut wants = random.some(&everything, 3);
                wants.push(random.pick(&everything).clone());
                if random.chance(20) {
                    wants = vec![server.commits.last().unwrap().clone()];
                    wants.extend(server.tags.iter().cloned());
                }
                if random.chance(10) {
                    wants.push(random.pick(&server.blobs).clone());
                }
                let question = Question {
                    wants,
                    haves: haves.clone(),
                    thin: random.chance(60),
                    ofs: random.chance(80),
                    tags: random.chance(30),
                    ..Question::default()
                };
                let context = format!("seed {seed} {layout:?} {question:?}");
                let answer = ours(&server, &question, 1 + random.below(2))
                    .unwrap_or_else(|e| panic!("{context}: {e}"));
                let git = theirs(&scratch, &server, &question).unwrap_or_else(|e| panic!("{context}: {e}"));
                let wanted = reach(&scratch, &server.dir, &question.wants, &[]);
                let had = reach(&scratch, &server.dir, &question.haves, &[]);
                let got = received(&scratch, &client, &answer.pack, true)
                    .unwrap_or_else(|e| panic!("{context}: {e}"));
                for lacking in wanted.difference(&had) {
                    assert!(got.contains(lacking), "{context}: {lacking} was not sent");
                }
                if !question.tags {
                    for sent in &got {
                        assert!(wanted.contains(sent), "{context}: {sent} was sent and not wanted");
                    }
                }
                forget(&client);
                let git_got = received(&scratch, &client, &git.pack, true).unwrap();
                forget(&client);
                questions += 1;
                more += i64::from(got.len() > git_got.len()) - i64::from(got.len() < git_got.len());
                sent_bytes += answer.pack.len();
                git_bytes += git.pack.len();
                assert!(
                    got.len() <= git_got.len() + 6,
                    "{context}: {} objects sent, git sends {}",
                    got.len(),
                    git_got.len()
                );
            }
        }
    }
    println!(
        "{questions} questions; more than git minus less than git {more}; bytes {sent_bytes} git {git_bytes}"
    );
}

#[test]
fn histories_are_cut_as_git_cuts_them() {
    let (mut deepened, mut left_alone) = (0, 0);
    let has_deepening_git = deepening_git().is_some();
    for seed in seeds(12) {
        let mut random = Random::new(seed);
        let scratch = Scratch::new();
        let layout = LAYOUTS[(seed % 8) as usize];
        let commits = 6 + random.below(40);
        let server = server(&scratch, &mut random, layout, commits);
        let mut own = BTreeSet::new();
        if random.chance(25) {
            // The server is a shallow clone itself.
            let victim = random.pick(&server.commits).clone();
            std::fs::write(server.dir.join("shallow"), format!("{victim}\n")).unwrap();
            own.insert(victim);
        }
        for round in 0..3 {
            let client = client(&scratch, &server, &format!("client{round}"), &[]);
            let mut question = Question { thin: random.chance(60), ofs: true, ..Question::default() };
            // First a shallow clone, then two changes of the boundary.
            for step in 0..3 {
                question.wants = vec![random.pick(&server.commits).clone()];
                if step > 0 && random.chance(60) {
                    question.wants = question.haves.clone();
                }
                question.deepen = match random.below(6) {
                    0 => vec![format!("deepen-since {}", 1_700_000_000 + 60 * random.below(commits))],
                    1 => vec![format!("deepen-not {}", random.pick(&server.commits))],
                    2 if step > 0 => vec!["deepen 2147483647".to_owned()],
                    3 if step > 0 => {
                        vec!["deepen-relative".to_owned(), format!("deepen {}", 1 + random.below(4))]
                    }
                    4 if step > 0 => Vec::new(),
                    _ => vec![format!("deepen {}", 1 + random.below(8))],
                };
                let context = format!("seed {seed} {layout:?} step {step} {question:?}");
                let git = theirs(&scratch, &server, &question);
                let answer = ours(&server, &question, 1);
                let (mut answer, git) = match (answer, git) {
                    (Ok(answer), Ok(git)) => (answer, git),
                    (Err(_), Err(_)) => break,
                    // git stops early where dates lie, and takes for new what is not.
                    (Err(e), Ok(_)) if e.to_string().starts_with("no commits selected") => break,
                    (Err(e), Ok(_)) => panic!("{context}: {e}, git answers"),
                    (Ok(_), Err(e)) => panic!("{context}: answered, git says {e}"),
                };
                let commits = |haves: &[String]| -> BTreeSet<String> {
                    if haves.is_empty() {
                        return BTreeSet::new();
                    }
                    scratch
                        .lines(&client, &["rev-list", "--stdin"], haves.join("\n").as_bytes())
                        .into_iter()
                        .collect()
                };
                let before = commits(&question.haves);
                let deeper = relative(&question);
                // A git before 2.54 is not compared, and a newer one is not followed where it takes
                // something away.
                let compared = !deeper || has_deepening_git && answer.shallow == git.shallow;
                left_alone += u32::from(deeper && has_deepening_git && !compared);
                deepened += u32::from(deeper);
                let git = if compared { git } else { answer.clone() };
                let ours_alone: BTreeSet<String> = answer.shallow.difference(&git.shallow).cloned().collect();
                // git forgets at times to say where the server's own history ends.
                assert!(ours_alone.is_subset(&own), "{context}: shallow {ours_alone:?}");
                assert!(answer.shallow.is_superset(&git.shallow), "{context}: shallow");
                let not_ours: BTreeSet<String> =
                    git.unshallow.difference(&answer.unshallow).cloned().collect();
                assert!(not_ours.is_subset(&own), "{context}: unshallow {not_ours:?}");
                assert!(answer.unshallow.is_subset(&git.unshallow), "{context}: unshallow");
                let got = received(&scratch, &client, &answer.pack, false)
                    .unwrap_or_else(|e| panic!("{context}: {e}"));
                // git counts on all commits of the boundary, even those that the client never got.
                let limit = count(&git.pack) + 6;
                assert!(
                    got.len() <= limit || question.shallow.len() > 1,
                    "{context}: {} objects, git {}",
                    got.len(),
                    count(&git.pack)
                );
                let mut boundary: BTreeSet<String> = question.shallow.iter().cloned().collect();
                boundary.append(&mut answer.shallow);
                boundary.retain(|id| !answer.unshallow.contains(id));
                if boundary.is_empty() {
                    let _ = std::fs::remove_file(client.join("shallow"));
                } else {
                    let text: String = boundary.iter().map(|id| format!("{id}\n")).collect();
                    std::fs::write(client.join("shallow"), text).unwrap();
                }
                question.haves.extend(question.wants.iter().cloned());
                question.shallow = boundary.into_iter().collect();
                if deeper {
                    let after = commits(&question.haves);
                    let lost: Vec<_> = before.difference(&after).collect();
                    assert!(lost.is_empty(), "{context}: {lost:?} were taken away");
                }
                let (good, _, err) = scratch.git(
                    &client,
                    &["rev-list", "--objects", "--stdin"],
                    question.haves.join("\n").as_bytes(),
                );
                assert!(good, "{context}: client incomplete: {err}");
            }
        }
    }
    let how = if has_deepening_git { "compared" } else { "not compared: needs git 2.54 or newer" };
    println!("{deepened} times deeper ({how}), {left_alone} times not as git");
    assert!(deepened == 0 || left_alone * 5 <= deepened, "{left_alone} of {deepened} not as git");
}

#[test]
fn filters_leave_out_what_git_leaves_out() {
    for seed in seeds(8) {
        let mut random = Random::new(seed);
        let scratch = Scratch::new();
        let layout = LAYOUTS[(seed % 8) as usize];
        let server = server(&scratch, &mut random, layout, 20);
        for filter in [
            "blob:none",
            "blob:limit=3k",
            "blob:limit=0",
            "tree:0",
            "tree:1",
            "tree:2",
            "tree:3",
            "object:type=commit",
            "object:type=tree",
            "object:type=blob",
            "object:type=tag",
            "combine:blob:none+tree:2",
            "combine:tree:3+blob:limit=2900",
        ] {
            let mut wants = vec![random.pick(&server.commits).clone()];
            wants.extend(random.some(&server.tags, usize::from(!server.tags.is_empty())));
            let question =
                Question { wants, ofs: true, filter: Some(filter.to_owned()), ..Question::default() };
            let context = format!("seed {seed} {layout:?} {question:?}");
            let answer = ours(&server, &question, 1).unwrap_or_else(|e| panic!("{context}: {e}"));
            let git = theirs(&scratch, &server, &question).unwrap_or_else(|e| panic!("{context}: {e}"));
            let client = scratch.bare("client");
            let got =
                received(&scratch, &client, &answer.pack, false).unwrap_or_else(|e| panic!("{context}: {e}"));
            forget(&client);
            let git_got = received(&scratch, &client, &git.pack, false).unwrap();
            // With several filters git may miss what it first met where one of them lets it not
            // pass.
            if filter.starts_with("combine:") {
                assert!(got.is_superset(&git_got) && got.len() <= git_got.len() + 3, "{context}");
            } else {
                assert_eq!(got, git_got, "{context}");
            }
            std::fs::remove_dir_all(client).unwrap();
        }
    }
}

#[test]
fn a_missing_object_is_named() {
    let scratch = Scratch::new();
    let mut random = Random::new(7);
    let server = server(&scratch, &mut random, Layout::Loose, 9);
    let tip = server.commits.last().unwrap().clone();
    let tree = scratch.lines(&server.dir, &["rev-parse", &format!("{tip}^{{tree}}")], b"").remove(0);
    std::fs::remove_file(server.dir.join(format!("objects/{}/{}", &tree[..2], &tree[2..]))).unwrap();
    let question = Question { wants: vec![tip], ofs: true, ..Question::default() };
    let error = ours(&server, &question, 1).err().unwrap();
    assert_eq!(error.to_string(), format!("object {tree}: missing"));
}

#[test]
fn repetition_costs_nothing() {
    let scratch = Scratch::new();
    let mut random = Random::new(11);
    let server = server(&scratch, &mut random, Layout::OnePack, 12);
    let repository =
        Repository::open(std::fs::File::open(&server.dir).unwrap().into(), librepo::Options::default())
            .unwrap();
    let mut fetch = Fetch::new(&repository, Tips::default(), Policy::Any, FetchLimits::default()).unwrap();
    let tip = id(server.commits.last().unwrap());
    for _ in 0..200_000 {
        fetch.want(tip).unwrap();
    }
    for number in 0..1_000_000u32 {
        let stranger = ObjectId::from_hex(format!("{number:040x}").as_bytes()).unwrap();
        assert!(!fetch.have(stranger).unwrap());
    }
    assert!(!fetch.ready().unwrap());
    let first = id(&server.commits[0]);
    for _ in 0..100_000 {
        assert!(fetch.have(first).unwrap());
    }
    assert!(fetch.ready().unwrap());
}

#[test]
fn only_what_is_visible_can_be_wanted() {
    let scratch = Scratch::new();
    let mut random = Random::new(12);
    let server = server(&scratch, &mut random, Layout::OnePack, 30);
    let tip = server.commits.last().unwrap();
    let inside = reach(&scratch, &server.dir, std::slice::from_ref(tip), &[]);
    let commits: BTreeSet<String> = scratch.lines(&server.dir, &["rev-list", tip], b"").into_iter().collect();
    let repository =
        Repository::open(std::fs::File::open(&server.dir).unwrap().into(), librepo::Options::default())
            .unwrap();
    let mut reader = Reader::new(repository.store(), 1 << 20);
    let refs = repository.refs().list(&["refs/heads/main"], Some(&mut reader)).unwrap();
    let fetch = |policy| Fetch::new(&repository, Tips::new(&refs), policy, FetchLimits::default()).unwrap();
    let mut advertised = fetch(Policy::Advertised);
    let mut reachable = fetch(Policy::Reachable);
    for commit in &server.commits {
        assert_eq!(advertised.want(id(commit)).is_ok(), commit == tip, "{commit}");
        assert_eq!(reachable.want(id(commit)).is_ok(), commits.contains(commit), "{commit}");
    }
    let blob = server.blobs.iter().find(|blob| inside.contains(*blob)).unwrap();
    assert!(reachable.want(id(blob)).is_err());
    assert!(fetch(Policy::Any).want(id(blob)).is_ok());
    // Deepening behind a commit that it may not see gives a client nothing.
    let hidden = server.commits.iter().find(|commit| !commits.contains(*commit));
    if let Some(hidden) = hidden {
        reachable.shallow(id(hidden)).unwrap();
        reachable.deepen(Deepen::Depth { depth: Depth::ALL, relative: false });
        assert!(reachable.shallow_info().unwrap().unshallow.is_empty());
    }
}

#[test]
fn a_damaged_bitmap_is_ignored() {
    let scratch = Scratch::new();
    let mut random = Random::new(13);
    let server = server(&scratch, &mut random, Layout::Bitmap, 40);
    let pack = server.dir.join("objects/pack");
    let bitmap = std::fs::read_dir(&pack)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "bitmap"))
        .unwrap();
    let good = std::fs::read(&bitmap).unwrap();
    std::fs::remove_file(&bitmap).unwrap();
    let tip = server.commits.last().unwrap().clone();
    let wanted = reach(&scratch, &server.dir, std::slice::from_ref(&tip), &[]).len();
    for damage in 0..60 {
        let mut bad = good.clone();
        match damage {
            0 => bad.truncate(10),
            1 => bad.truncate(bad.len() / 2),
            2 => bad = Vec::new(),
            _ => {
                let at = random.below(bad.len());
                bad[at] ^= 1 << random.below(8);
            }
        }
        std::fs::write(&bitmap, &bad).unwrap();
        let repository =
            Repository::open(std::fs::File::open(&server.dir).unwrap().into(), librepo::Options::default())
                .unwrap();
        let mut fetch =
            Fetch::new(&repository, Tips::default(), Policy::Any, FetchLimits::default()).unwrap();
        fetch.want(id(&tip)).unwrap();
        assert_eq!(fetch.take_log().len(), 1, "damage {damage} goes unnoticed");
        let mut sink = Collect::default();
        let stats = fetch.write_pack(&mut sink, 1).unwrap();
        assert_eq!(stats.objects, wanted as u64);
    }
}

/// Fails after some bytes.
struct Broken(usize);

impl Sink for Broken {
    fn pack(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::BrokenPipe)?;
        Ok(())
    }
    fn progress(&mut self, _: &str) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_fails_ends_the_fetch_and_progress_reads_as_git_has_it() {
    let scratch = Scratch::new();
    let mut random = Random::new(14);
    let server = server(&scratch, &mut random, Layout::Loose, 20);
    let repository =
        Repository::open(std::fs::File::open(&server.dir).unwrap().into(), librepo::Options::default())
            .unwrap();
    let mut fetch = Fetch::new(&repository, Tips::default(), Policy::Any, FetchLimits::default()).unwrap();
    fetch.want(id(server.commits.last().unwrap())).unwrap();
    let error = fetch.write_pack(&mut Broken(30), 1).err().unwrap();
    assert!(matches!(error, librepo::Error::Io(e) if e.kind() == std::io::ErrorKind::BrokenPipe));
    let mut sink = Collect::default();
    let stats = fetch.write_pack(&mut sink, 1).unwrap();
    let n = stats.objects;
    assert!(
        sink.text.starts_with(&format!(
            "Enumerating objects: {n}, done.\nCounting objects: 100% ({n}/{n}), done.\n"
        )),
        "{}",
        sink.text
    );
    assert!(sink.text.contains("Compressing objects: 100% ("), "{}", sink.text);
    let last = format!("Total {n} (delta {}), reused 0 (delta 0), pack-reused 0 (from 0)\n", stats.deltas);
    assert!(sink.text.ends_with(&last), "{}", sink.text);
}

#[test]
fn repositories_with_long_ids_are_served() {
    let scratch = Scratch::new();
    let mut random = Random::new(15);
    let init = |name: &str| {
        scratch.ok(&scratch.top, &["init", "-q", "--bare", "--object-format=sha256", name], b"");
        scratch.top.join(name)
    };
    let dir = init("server.git");
    let stream: String = history(&mut random, 1, 60)
        .lines()
        .filter(|line| !line.starts_with("M 160000"))
        .map(|line| format!("{line}\n"))
        .collect();
    for (round, arguments) in [None, Some("-qad"), Some("-qadb")].into_iter().enumerate() {
        match arguments {
            None => drop(scratch.ok(&dir, &["fast-import", "--quiet"], stream.as_bytes())),
            Some(arguments) => drop(scratch.ok(&dir, &["repack", arguments], b"")),
        }
        let tip = scratch.lines(&dir, &["rev-parse", "refs/keep/60"], b"").remove(0);
        let old = scratch.lines(&dir, &["rev-parse", "refs/keep/40"], b"").remove(0);
        let server = Server { dir: dir.clone(), commits: Vec::new(), tags: Vec::new(), blobs: Vec::new() };
        let client = init(&format!("client{round}.git"));
        for haves in [Vec::new(), vec![old.clone()]] {
            let wants = if haves.is_empty() { vec![old.clone()] } else { vec![tip.clone()] };
            let question = Question { wants, haves, thin: true, ofs: true, ..Question::default() };
            let answer = ours(&server, &question, 2).unwrap();
            scratch.ok(&client, &["index-pack", "--strict", "--fix-thin", "--stdin"], &answer.pack);
        }
        scratch.ok(&client, &["update-ref", "refs/heads/main", &tip], b"");
        scratch.ok(&client, &["fsck", "--full", "--strict"], b"");
        assert_eq!(
            reach(&scratch, &client, std::slice::from_ref(&tip), &[]),
            reach(&scratch, &dir, std::slice::from_ref(&tip), &[])
        );
    }
}

/// What one thread finds in a search that is long enough for others to help is what several find.
#[test]
fn more_threads_make_the_same_deltas() {
    const FILES: usize = 12;
    const COMMITS: usize = 10;
    let scratch = Scratch::new();
    let mut random = Random::new(21);
    let dir = scratch.bare("server.git");
    let mut files: Vec<Vec<String>> =
        (0..FILES).map(|_| (0..4_000).map(|n| format!("{n} {:x}\n", random.next())).collect()).collect();
    let mut stream = String::new();
    for commit in 0..COMMITS {
        stream += &format!("commit refs/heads/main\ncommitter C <c> {commit} +0000\ndata 0\n");
        for (number, lines) in files.iter_mut().enumerate() {
            let at = random.below(lines.len());
            lines[at] = format!("changed in {commit}\n");
            let text = lines.concat();
            stream += &format!("M 644 inline dir{}/file{number}\ndata {}\n{text}\n", number % 3, text.len());
        }
    }
    // Every version is whole, in a file of its own.
    let import = ["-c", "fastimport.unpackLimit=10000", "fast-import", "--quiet"];
    scratch.ok(&dir, &import, stream.as_bytes());
    let commits = scratch.lines(&dir, &["rev-list", "--reverse", "main"], b"");
    let server = Server { dir, commits, tags: Vec::new(), blobs: Vec::new() };
    let (haves, wants) = (vec![server.commits[0].clone()], vec![server.commits[COMMITS - 1].clone()]);
    let question = Question { wants, haves, thin: true, ofs: true, ..Question::default() };
    let alone = ours(&server, &question, 1).unwrap().pack;
    for threads in [2, 5] {
        assert!(ours(&server, &question, threads).unwrap().pack == alone, "with {threads} threads");
    }
    let whole: usize = (1..COMMITS).map(|_| files.iter().flatten().map(String::len).sum::<usize>()).sum();
    assert!(alone.len() < whole / 100, "{} of {whole} bytes", alone.len());
    let client = client(&scratch, &server, "client.git", &question.haves);
    let wanted = reach(&scratch, &server.dir, &question.wants, &question.haves);
    assert_eq!(received(&scratch, &client, &alone, true).unwrap(), wanted);
}
