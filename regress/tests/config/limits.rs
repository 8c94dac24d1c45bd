//! Limits of gotd.conf that are not at their defaults: each is reached by a client, and tells what
//! it was.

use std::time::{Duration, Instant};

use regress::pkt::{self, v2};
use regress::raw::{End, Session};
use regress::site::present_user;
use regress::{Daemon, Site, history};

/// A daemon with one repository and these directives.
fn start(directives: &str) -> (Site, Daemon, String) {
    let site = Site::new();
    let original = history::repository(&site, "demo.git", 3, "sha1");
    let tip = history::tip(&site, &original);
    let daemon = site.start_with(&format!("{directives}\n{}", site.serve_all()));
    (site, daemon, tip)
}

/// What a fetch of version 2 answers.
fn answer(site: &Site, request: &[u8]) -> Vec<u8> {
    let mut client = Session::fetch(&site.socket(), "demo.git", 2);
    client.read_to_flush();
    client.write(request);
    client.close();
    client.read_to_end(20)
}

#[test]
fn more_prefixes_than_by_default_where_the_limit_is_higher() {
    let ask = v2("ls-refs", (0..70_000).map(|n| format!("ref-prefix refs/tags/{n}\n")));
    let (site, _daemon, _) = start("limit prefixes 100000");
    assert!(!String::from_utf8_lossy(&answer(&site, &ask)).contains("refs/heads/main"));
    // With more than the limit all references are listed.
    let (site, _daemon, _) = start("limit prefixes 60000");
    assert!(String::from_utf8_lossy(&answer(&site, &ask)).contains("refs/heads/main"));
}

#[test]
fn shallow_lines_of_a_fetch() {
    let (site, daemon, tip) = start("limit shallows 10");
    let request = |count: usize| {
        let shallow = (0..count).map(|n| format!("shallow {n:040x}\n"));
        let request = std::iter::once(format!("want {tip}\n")).chain(shallow);
        v2("fetch", request.chain(["done\n".to_owned()]))
    };
    assert_eq!(pkt::error(&answer(&site, &request(10))), None);
    let said = pkt::error(&answer(&site, &request(11))).expect("an ERR packet");
    assert!(said.contains("shallow lines") && said.contains("10"), "{said}");
    daemon.logged(&["result=failed", "shallow lines"]);
}

#[test]
fn bytes_of_the_names_and_options_of_a_push() {
    let (site, daemon, _) = start("limit command bytes 64K");
    let work = site.clone_path("work");
    site.git(["clone", "-q", "gotd:demo.git", &work.to_string_lossy()]).good();
    let push = |from: usize, to: usize| {
        let names = (from..to).map(|n| format!("main:refs/heads/{}{n:04}", "x".repeat(100)));
        let work = work.to_string_lossy().into_owned();
        let head = ["-C", &work, "push", "-q", "gotd:demo.git"].map(str::to_owned);
        site.git(head.into_iter().chain(names))
    };
    push(0, 500).good();
    push(1000, 1700).bad("bytes of reference names and push options");
    daemon.logged(&["bytes of reference names"]);
    let options = (0..30).flat_map(|n| ["-o".to_owned(), format!("{n}{}", "y".repeat(3000))]);
    let head = ["-C".to_owned(), work.to_string_lossy().into_owned(), "push".to_owned(), "-q".to_owned()];
    let tail = ["gotd:demo.git", "main:refs/heads/other"].map(str::to_owned);
    site.git(head.into_iter().chain(options).chain(tail)).bad("push options");
}

/// A client below the minimum rate, with a window that is shorter than any other time.
#[test]
fn the_window_of_the_minimum_rate() {
    let site = Site::new();
    let original = history::bulky(&site, "bulk.git", 3);
    let tip = history::tip(&site, &original);
    let mut daemon = site.start_with(&format!(
        "{}connection {{\n\tminimum rate 4K\n\trate window 5s\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit ro \"{}\"\n}}\n",
        site.head(),
        site.path("repositories").display(),
        present_user()
    ));
    let start = Instant::now();
    let mut client = Session::fetch(&site.socket(), "bulk.git", 2);
    client.read_to_flush();
    client.write(&v2("fetch", [format!("want {tip}\n"), "done\n".into()]));
    let mut buffer = [0; 20];
    let mut ended = false;
    while !ended && start.elapsed() < Duration::from_secs(20) {
        let _ = std::io::Read::read(&mut client.from, &mut buffer);
        let soon = Instant::now() + Duration::from_millis(100);
        ended = regress::raw::readable(std::os::fd::AsFd::as_fd(&client.connection.fd), soon);
    }
    let end = client.connection.end(1);
    assert!(matches!(&end, End::Exit(1, text) if !text.is_empty()), "{end:?}");
    daemon.logged(&["result=failed", "transfer is too slow (connection minimum rate)"]);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(16), "{took:?}");
    daemon.assert_serves();
}
