//! Writes the pack for wants and haves to standard output, for benchmarks without processes: `pack
//! REPOSITORY [thin] [ofs] [tags] [threads=N] [filter=F] [cache=BYTES] [depth=N] <
//! "want\n^have\n"`; figures go to standard error.

use std::io::{self, BufRead, Write};
use std::time::Instant;

use libgit::{Deepen, Depth, Filter, ObjectId};
use librepo::fetch::{Fetch, FetchLimits, PackOptions, Policy, Sink, Tips};
use librepo::{Reader, Repository};

struct Out(io::StdoutLock<'static>, bool);

impl Sink for Out {
    fn pack(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
    fn progress(&mut self, text: &str) -> io::Result<()> {
        if self.1 { io::stderr().write_all(text.as_bytes()) } else { Ok(()) }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: pack REPOSITORY [thin] [ofs] [tags] [threads=N] [filter=F]")?;
    let options: Vec<String> = args.collect();
    let has = |word: &str| options.iter().any(|option| option == word);
    let value = |word: &str| options.iter().find_map(|option| option.strip_prefix(word));
    let began = Instant::now();
    let repository =
        Repository::open(std::fs::File::open(dir)?.into(), librepo::repository::Options::default())?;
    let tips = if has("tags") {
        let mut reader = Reader::new(repository.store(), 1 << 20);
        Tips::new(&repository.refs().list::<&[u8]>(&[], Some(&mut reader))?)
    } else {
        Tips::default()
    };
    let mut limits = FetchLimits::default();
    if let Some(bytes) = value("cache=") {
        limits.cache_bytes = bytes.parse()?;
    }
    let mut fetch = Fetch::new(&repository, tips, Policy::Any, limits)?;
    let mut common = 0;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (have, hex) = line.strip_prefix('^').map_or((false, line.as_str()), |hex| (true, hex));
        let id = ObjectId::from_hex(hex.as_bytes()).ok_or("not an object id")?;
        if have {
            common += u32::from(fetch.have(id)?);
        } else {
            fetch.want(id)?;
        }
    }
    if let Some(n) = value("depth=") {
        fetch.deepen(Deepen::Depth { depth: Depth::new(n.parse()?).ok_or("bad depth")?, relative: false });
    }
    let ready = fetch.ready()?;
    fetch.options(PackOptions {
        thin: has("thin"),
        ofs_delta: has("ofs"),
        include_tag: has("tags"),
        filter: match value("filter=") {
            Some(text) => Some(Filter::parse(text.as_bytes()).map_err(|_| "bad filter")?),
            None => None,
        },
    });
    let threads = value("threads=").map_or(Ok(1), str::parse)?;
    let asked = Instant::now();
    let mut out = Out(io::stdout().lock(), !has("quiet"));
    let stats = fetch.write_pack(&mut out, threads)?;
    out.0.flush()?;
    for line in fetch.take_log() {
        eprintln!("note: {line}");
    }
    eprintln!(
        "{stats:?} common {common} ready {ready} bitmap {:?} opened+negotiated {:?} packed {:?}",
        fetch.bitmap_name(),
        asked - began,
        asked.elapsed()
    );
    Ok(())
}
