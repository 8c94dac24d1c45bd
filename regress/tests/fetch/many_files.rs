//! Repositories with more files than most: what a client without blobs asks for at its checkout, all
//! in one request, is within the limits that hold when nothing is set.

use std::path::Path;

use regress::{Site, history, run, tcp};

/// More files than the kernel has, each with a content of its own.
const FILES: usize = 140_000;
/// The largest number of seconds that a step may take on a busy machine.
const SECONDS: u64 = 300;

/// A repository with so many files in its newest commit.
fn repository(site: &Site) {
    let path = site.repository("many.git");
    history::init(site, &path, "--object-format=sha1");
    let mut stream = String::from("commit refs/heads/main\ncommitter C <c@example.org> 1700000000 +0000\n");
    stream.push_str("data 4\nmany\n");
    for n in 0..FILES {
        let text = format!("file {n}\n");
        stream.push_str(&format!("M 100644 inline {}/{n}\ndata {}\n{text}\n", n / 500, text.len()));
    }
    let mut command = site.command("git");
    command.arg("-C").arg(&path).args(["fast-import", "--quiet"]);
    run(&mut command, stream.as_bytes(), SECONDS).good();
}

fn git(site: &Site, arguments: &[&str]) -> String {
    run(site.command("git").args(arguments), b"", SECONDS).good().text()
}

#[test]
fn a_clone_without_blobs_is_checked_out_however_many_files_it_has() {
    let (site, address) = (Site::new(), tcp::free_v4());
    repository(&site);
    let path = site.path("repositories").display().to_string();
    let daemon = site.start_with(&format!(
        "{}{}repositories \"\" {{\n\tpath \"{path}\"\n\tpermit ro \"{}\"\n\tpermit ro anonymous\n\tpartial clone\n}}\n",
        site.head(),
        tcp::listen_line(address),
        regress::site::present_user(),
    ));
    let url = format!("git://{address}/many.git");
    for (name, url, checks_out) in [("local", "gotd:many.git", true), ("stranger", &url, false)] {
        let work = site.clone_path(name);
        let work_text = work.to_string_lossy();
        git(&site, &["clone", "-q", "-n", "--filter=blob:none", url, &work_text]);
        let lacks = missing(&site, &work);
        assert_eq!(lacks.len(), FILES, "{url}");
        if checks_out {
            git(&site, &["-C", &work_text, "checkout", "-q", "main"]);
            assert_eq!(git(&site, &["-C", &work_text, "status", "--porcelain"]), "");
        } else {
            // What a checkout asks for, without the files.
            let mut command = site.command("git");
            command.args([
                "-C",
                &work_text,
                "-c",
                "fetch.negotiationAlgorithm=noop",
                "fetch",
                "-q",
                "origin",
            ]);
            command.args(["--no-tags", "--no-write-fetch-head", "--filter=blob:none", "--stdin"]);
            run(&mut command, lacks.join("\n").as_bytes(), SECONDS).good();
        }
        assert_eq!(missing(&site, &work).len(), 0, "{url}");
        std::fs::remove_dir_all(&work).expect("removes the clone");
    }
    for directive in ["limit wants", "limit negotiation cpu"] {
        assert_eq!(daemon.reached(directive), 0, "{directive}: {}", daemon.log());
    }
}

/// The objects of its branch that a clone lacks.
fn missing(site: &Site, work: &Path) -> Vec<String> {
    let work = work.to_string_lossy();
    let all = git(site, &["-C", &work, "rev-list", "--objects", "--missing=print", "main"]);
    all.lines().filter_map(|line| line.strip_prefix('?')).map(str::to_owned).collect()
}
