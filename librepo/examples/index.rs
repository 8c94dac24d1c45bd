//! Indexes a pack from standard input as a push would, without any process around it, for
//! measuring.
//!
//! `index REPOSITORY DIRECTORY [THREADS [strict|lenient [TIP...]]] < pack` writes
//! `DIRECTORY/new.pack` and `new.idx`. With `-` for the repository the pack must be complete in
//! itself. With tips, what lies behind them is checked as for references to be created.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Instant;

use libgit::{HashKind, ObjectId};
use librepo::Repository;
use librepo::receive::check::Policy;
use librepo::receive::connectivity::Shallow;
use librepo::receive::{self, Progress, RefChange, Ticker};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [repository, directory, rest @ ..] = args.as_slice() else {
        return Err("usage: index REPOSITORY DIRECTORY [THREADS [strict|lenient [TIP...]]] < pack".into());
    };
    let repository = match repository.as_str() {
        "-" => None,
        path => Some(Repository::open(File::open(path)?.into(), librepo::Options::default())?),
    };
    let hash = repository.as_ref().map_or(HashKind::Sha1, Repository::hash);
    let create = |name: &str| {
        let path = Path::new(directory).join(name);
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
    };
    let (pack, idx) = (create("new.pack")?, create("new.idx")?);
    let threads = rest.first().map_or(Ok(2), |threads| threads.parse())?;
    let mut options = receive::IndexOptions { threads, ..receive::IndexOptions::default() };
    if rest.get(1).is_some_and(|word| word == "lenient") {
        options.policy = Policy::lenient();
    }
    let start = Instant::now();
    let mut report = |progress: &Progress| {
        eprint!("\r{progress} {:.1?}   {}", start.elapsed(), if progress.finished { "\n" } else { "" });
        Ok(())
    };
    let mut ticker = Ticker::new(&mut report);
    let store = repository.as_ref().map(Repository::store);
    let indexed =
        receive::index(&mut std::io::stdin().lock(), &pack, &idx, hash, store, &options, &mut ticker)?;
    eprintln!(
        "{} objects, {} received, {} deltas, {} bytes, {}; {:.2?}",
        indexed.objects,
        indexed.received,
        indexed.deltas,
        indexed.bytes,
        indexed.checksum,
        start.elapsed()
    );
    let tips: Option<Vec<ObjectId>> =
        rest.iter().skip(2).map(|hex| ObjectId::from_hex(hex.as_bytes())).collect();
    let commands: Vec<RefChange> = tips
        .ok_or("a tip is no object id")?
        .into_iter()
        .map(|new| RefChange { old: ObjectId::null(hash), new })
        .collect();
    if !commands.is_empty() {
        let files = Some((&pack, &idx));
        let shallow = Shallow::default();
        let facts = receive::facts(&indexed, files, store, &[], &commands, &shallow, &mut ticker)?;
        for (command, facts) in commands.iter().zip(facts) {
            eprintln!("{}: {facts:?}", command.new);
        }
        eprintln!("{:.2?}", start.elapsed());
    }
    Ok(())
}
