//! What is measured is also right: the pack of each workload holds what C git says is missing, and
//! C git takes it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regress::pkt;
use regress::site::Site;

use crate::measure::git;

/// What a client asked for.
pub struct Asked<'a> {
    pub wants: &'a [String],
    pub haves: &'a [String],
    pub depth: Option<u32>,
}

/// Prints the head of the table.
pub fn head(repository: &Path) {
    println!("\n{}  (objects that C git lists, and those in gotd's pack)", repository.display());
    println!(
        "{:<18}{:>10}{:>10}{:>10}{:>10}{:>10}  index-pack --strict --fix-thin",
        "workload", "needed", "sent", "missing", "more", "bases"
    );
}

/// Prints what an answer holds. Well: nothing is missing, nothing comes that is not reachable, C
/// git accepts the pack, and deltas need only what the client has.
pub fn row(site: &Site, repository: &Path, name: &str, asked: &Asked<'_>, answer: &[u8]) -> bool {
    let wanted = listed(repository, asked.wants, asked.depth);
    let had = if asked.haves.is_empty() { HashSet::new() } else { listed(repository, asked.haves, None) };
    let needed: HashSet<&String> = wanted.difference(&had).collect();
    let client = client(site, repository, &name.replace(' ', "-"));
    let Some((sent, bases)) = received(&client, answer) else {
        println!("{name:<18}{:>10}  refused", needed.len());
        return false;
    };
    let missing = needed.iter().filter(|id| !sent.contains(**id)).count();
    let more = sent.len() - (needed.len() - missing);
    println!(
        "{name:<18}{:>10}{:>10}{missing:>10}{more:>10}{:>10}  accepted",
        needed.len(),
        sent.len(),
        bases.len()
    );
    missing == 0 && sent.is_subset(&wanted) && bases.is_subset(&had)
}

/// All objects that are reachable from some, up to a depth of one commit if one is given.
fn listed(repository: &Path, from: &[String], depth: Option<u32>) -> HashSet<String> {
    let mut arguments = vec!["rev-list".to_owned(), "--objects".into(), "--no-object-names".into()];
    if let Some(depth) = depth {
        assert!(depth == 1, "a list of a deeper history is not that simple");
        arguments.push("--max-count=1".into());
    }
    arguments.extend(from.iter().cloned());
    git(repository, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).into_iter().collect()
}

/// A repository that borrows all objects of the served one, so that bases of deltas are found.
fn client(site: &Site, repository: &Path, name: &str) -> PathBuf {
    let client = site.clone_path(name);
    let format = git(repository, &["rev-parse", "--show-object-format"]).concat();
    let path = client.to_string_lossy();
    site.git(["init", "-q", "--bare", &format!("--object-format={format}"), &path]).good();
    let objects = format!("{}\n", repository.join("objects").display());
    std::fs::write(client.join("objects/info/alternates"), objects).expect("writes");
    client
}

/// The objects of the pack in an answer, and those that C git had to add as bases of deltas; `None`
/// if it does not take it.
fn received(client: &Path, answer: &[u8]) -> Option<(HashSet<String>, HashSet<String>)> {
    let bands = pkt::split(answer).into_iter().flatten().filter(|packet| packet.first() == Some(&1));
    let pack: Vec<u8> = bands.flat_map(|packet| packet[1..].to_vec()).collect();
    let count = u32::from_be_bytes(pack.get(8..12)?.try_into().ok()?) as usize;
    let mut child = Command::new("git")
        .current_dir(client)
        .args(["index-pack", "--strict", "--fix-thin", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take()?;
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &pack));
    let output = child.wait_with_output().ok()?;
    if writer.join().ok()?.is_err() || !output.status.success() {
        // Its warnings about old objects are only of interest then.
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let said = String::from_utf8(output.stdout).ok()?;
    let index = client.join(format!("objects/pack/pack-{}.idx", said.split_whitespace().last()?));
    let index = std::fs::File::open(index).ok()?;
    let output = Command::new("git").current_dir(client).arg("show-index").stdin(index).output().ok()?;
    let lines = String::from_utf8(output.stdout).ok()?;
    let mut entries: Vec<(u64, String)> = lines
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
        })
        .collect();
    // What is added to a thin pack comes behind what was in it.
    entries.sort();
    let bases = entries.split_off(count.min(entries.len())).into_iter().map(|(_, id)| id).collect();
    (entries.len() == count).then(|| (entries.into_iter().map(|(_, id)| id).collect(), bases))
}
