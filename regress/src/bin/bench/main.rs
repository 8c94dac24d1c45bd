//! `make bench`: gotd beside C git, in turns, in one run. See regress/bench/README.md.
//!
//! Both servers are started by the same code on a pair of pipes and speak to the same client, which
//! is this program.

mod c_gotd;
mod check;
mod fetch;
mod idle;
mod measure;
mod plot;
mod push;
mod session;
mod ssh;
mod tcp;

use std::path::PathBuf;

fn main() {
    let mut repositories: Vec<PathBuf> = Vec::new();
    let mut pairs = 5usize;
    let mut json: Option<PathBuf> = None;
    let mut only = Vec::new();
    let mut against: Option<PathBuf> = None;
    let mut plot: Option<PathBuf> = None;
    let mut check = false;
    let mut c_gotd: Option<PathBuf> = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--repo" => repositories.extend(arguments.next().map(PathBuf::from)),
            "--pairs" => pairs = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(pairs),
            "--against" => against = arguments.next().and_then(|path| std::path::absolute(path).ok()),
            "--check" => check = true,
            "--c-gotd" => c_gotd = arguments.next().and_then(|path| std::path::absolute(path).ok()),
            "--plot" => plot = arguments.next().map(PathBuf::from),
            "--json" => json = arguments.next().map(PathBuf::from),
            "--only" => {
                only.extend(arguments.next().iter().flat_map(|names| names.split(',').map(str::to_owned)))
            }
            _ => usage(),
        }
    }
    if repositories.is_empty() && plot.is_none() {
        usage();
    }
    if check {
        let well = repositories.iter().fold(true, |well, repository| {
            let Ok(repository) = std::path::absolute(repository) else { usage() };
            fetch::check(&repository, &only) && well
        });
        std::process::exit(if well { 0 } else { 1 });
    }
    let mut rows: Vec<String> = tcp::bench(pairs.max(1), &only);
    for repository in &repositories {
        let Ok(repository) = std::path::absolute(repository) else { usage() };
        rows.extend(fetch::bench(&repository, against.as_deref(), pairs.max(1), &only));
        if let Some(tree) = &c_gotd {
            rows.extend(fetch::bench_c_gotd(tree, &repository, pairs.max(1), &only));
        }
        if against.is_some() {
            // Pushes and idle processes have nothing to do with bitmaps.
            continue;
        }
        rows.extend(session::bench(&repository, pairs.max(1), &only));
        rows.extend(ssh::bench(&repository, pairs.max(1), &only));
        rows.extend(idle::bench(&repository, &only));
        rows.extend(push::bench(&repository, pairs.max(1), &only));
    }
    if let Some(path) = plot {
        let (svg, more) = plot::plot(pairs.max(1));
        rows.extend(more);
        if let Err(e) = std::fs::write(&path, svg) {
            eprintln!("{}: {e}", path.display());
            std::process::exit(1);
        }
    }
    if let Some(path) = json {
        let text = format!("[\n  {}\n]\n", rows.join(",\n  "));
        if let Err(e) = std::fs::write(&path, text) {
            eprintln!("{}: {e}", path.display());
            std::process::exit(1);
        }
    }
}

/// Whether a workload is to be measured: all are unless some are named, by the start of their
/// names.
fn wanted(only: &[String], name: &str) -> bool {
    only.is_empty() || only.iter().any(|only| name.starts_with(only.as_str()))
}

fn usage() -> ! {
    eprintln!(
        "usage: bench [--repo path ...] [--against path] [--c-gotd tree] [--pairs n] [--only workload,...] [--check] [--json file] [--plot file]"
    );
    std::process::exit(2)
}
