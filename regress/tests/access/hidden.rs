//! `hide namespace` hides.
//!
//! A repository has a published branch and, below refs/secret/, work that is not to be known of
//! yet. Hiding the names alone was no protection: whoever had learnt or guessed an id could ask
//! whether it is there (`have`), got deltas against its blobs in a thin pack, and could have a
//! reference to it made by a push without objects, to fetch it then in all honesty. What no visible
//! reference reaches must be answered like what is nowhere, byte for byte.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use regress::pkt::{self, FLUSH, line, lines, v2};
use regress::run::Done;
use regress::{Daemon, Site, history, run, tcp};

/// What is nowhere.
const UNKNOWN: &str = "0123456789012345678901234567890123456789";

/// Ids of hidden objects.
struct Secret {
    commit: String,
    tree: String,
    blob: String,
    tag: String,
    /// A tag of the newest visible commit.
    outer: String,
}

struct Setting {
    site: Site,
    _daemon: Daemon,
    repository: PathBuf,
    address: std::net::SocketAddr,
    main: String,
    /// Visible: the first commit, and a blob of it that no tip has any more.
    first: String,
    secret: Secret,
}

/// So many lines that do not compress, the same for the same seed, with one changed.
fn noise(changed: usize, text: &str) -> Vec<u8> {
    let mut state = 7_u64;
    let mut out = Vec::new();
    for n in 0..400 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let random = format!("{n} {:016x}{:016x}\n", state, state.rotate_left(17) ^ 0x9e37_79b9);
        out.extend_from_slice(if n == changed { text.as_bytes() } else { random.as_bytes() });
    }
    out
}

fn start(packed: bool) -> Setting {
    let site = Site::new();
    let repository = site.repository("r.git");
    history::init(&site, &repository, "--object-format=sha1");
    let work = site.path("origin");
    site.git(["clone", "-q", &repository.display().to_string(), &work.display().to_string()]).good();
    site.git_in(&work, ["checkout", "-q", "-b", "main"]);
    let first = site.commit(&work, "data", noise(0, "first\n"));
    site.commit(&work, "data", noise(1, "second\n"));
    site.git_in(&work, ["checkout", "-q", "-b", "secret"]);
    site.commit(&work, "data", noise(200, "the secret\n"));
    std::fs::write(work.join("modules"), "[submodule \"x\"]\n\turl = -bad\n\tpath = y\n").expect("writes");
    site.git_in(&work, ["add", "modules"]);
    site.git_in(&work, ["commit", "-q", "--amend", "-m", "secret"]);
    site.git_in(&work, ["tag", "-a", "-m", "hidden", "inner", "secret"]);
    site.git_in(&work, ["checkout", "-q", "main"]);
    let main = site.commit(&work, "data", noise(300, "published\n"));
    site.git_in(&work, ["tag", "-a", "-m", "hidden too", "outer", "main"]);
    let names = ["secret", "secret^{tree}", "secret:data", "inner", "outer"];
    let [commit, tree, blob, tag, outer] =
        names.map(|name| site.git_in(&work, ["rev-parse", name]).trim().to_owned());
    let refs = ["main", "secret:refs/secret/x", "inner:refs/secret/tag", "outer:refs/secret/outer"];
    let remote = repository.display().to_string();
    let arguments = [&["push", "-q", &remote][..], &refs].concat();
    site.git_in(&work, arguments);
    site.git_in(&repository, ["update-ref", "refs/heads/deep/secret/x", &commit]);
    if packed {
        site.git_in(&repository, ["repack", "-q", "-adb"]);
        site.git_in(&repository, ["pack-refs", "--all"]);
    }
    std::fs::remove_dir_all(&work).expect("removes");
    let address = tcp::free_v4();
    let me = regress::site::present_user();
    let configuration = format!(
        "{}{}connection {{\n\tlimit per address 64\n\trate per address 1000\n\tlimit user \"{me}\" 64\n}}\n\
         repository \"r\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n\tpermit ro anonymous\n\thide namespace refs/secret\n\thide namespace refs/heads/deep/secret/\n}}\n",
        site.head(),
        tcp::listen_line(address),
        repository.display()
    );
    let daemon = site.start_with(&configuration);
    let secret = Secret { commit, tree, blob, tag, outer };
    Setting { site, _daemon: daemon, repository, address, main, first, secret }
}

/// Which way a client comes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Ssh,
    Git,
}

impl Setting {
    /// What is answered to bytes that are sent at once.
    fn answer(&self, way: Way, protocol: u8, bytes: &[u8]) -> Vec<u8> {
        match way {
            Way::Ssh => self.gotsh("git-upload-pack 'r'", protocol, bytes).out,
            Way::Git => {
                let mut client = tcp::Client::open(self.address);
                client.write(&tcp::request("/r", protocol));
                client.read_to_flush();
                client.write(bytes);
                client.stream.shutdown(std::net::Shutdown::Write).expect("shuts down");
                let end = client.end(20.0);
                assert!(end.is_over(), "{end:?}");
                let (tcp::End::Closed(bytes) | tcp::End::Reset(bytes) | tcp::End::Open(bytes)) = end;
                bytes
            }
        }
    }

    /// gotsh between two pipes; of its answer what follows the advertisement.
    fn gotsh(&self, line: &str, protocol: u8, bytes: &[u8]) -> Done {
        let gotsh = self.site.gotsh(line);
        let mut command = self.site.command("timeout");
        command.arg("30").arg(gotsh.get_program()).args(gotsh.get_args());
        command.envs(gotsh.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if protocol > 0 {
            command.env("GIT_PROTOCOL", format!("version={protocol}"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let (mut to, mut from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || drop(to.write_all(&bytes)));
        let mut out = Vec::new();
        from.read_to_end(&mut out).expect("reads");
        writer.join().expect("writes");
        let end = child.wait_with_output().expect("ends");
        let mut at = 0;
        // The advertisement, up to its flush packet.
        while let Some(head) = out.get(at..at + 4) {
            let length = usize::from_str_radix(&String::from_utf8_lossy(head), 16).expect("a length");
            at += length.max(4);
            if length == 0 {
                break;
            }
        }
        let out = out.split_off(at.min(out.len()));
        let status = end.status.code().unwrap_or(-1);
        Done { status, out, err: String::from_utf8_lossy(&end.stderr).into_owned() }
    }

    /// A push of these commands with this pack; what is reported, in the client's words.
    fn push(&self, commands: &[(&str, &str, &str)], pack: &[u8]) -> String {
        let mut request = Vec::new();
        for (n, (old, new, name)) in commands.iter().enumerate() {
            let capabilities = if n == 0 { "\0report-status" } else { "" };
            request.extend(line(format!("{old} {new} {name}{capabilities}")));
        }
        request.extend_from_slice(FLUSH);
        request.extend_from_slice(pack);
        let done = self.gotsh("git-receive-pack 'r'", 0, &request);
        let packets = pkt::split(&done.out).into_iter().flatten();
        packets.map(|packet| String::from_utf8_lossy(&packet).into_owned()).collect()
    }

    /// The pack of these objects of a repository, as git makes it.
    fn pack(&self, repository: &Path, objects: &str, flags: &[&str]) -> Vec<u8> {
        let mut command = self.site.command("git");
        command.arg("-C").arg(repository).args(["pack-objects", "--stdout", "-q"]).args(flags);
        run(&mut command, objects.as_bytes(), 30).good().out
    }

    /// A new object of a repository.
    fn hash(&self, repository: &Path, kind: &str, content: &[u8]) -> String {
        let mut command = self.site.command("git");
        command.arg("-C").arg(repository);
        command.args(["hash-object", "--literally", "-w", "-t", kind, "--stdin"]);
        run(&mut command, content, 30).good().text().trim().to_owned()
    }

    fn no_reference(&self, name: &str) {
        let all = self.site.git_in(&self.repository, ["for-each-ref", "--format=%(refname)"]);
        assert!(!all.lines().any(|line| line == name), "{name} was made");
    }
}

const ZERO: &str = "0000000000000000000000000000000000000000";

impl Secret {
    fn all(&self) -> [&str; 5] {
        [&self.commit, &self.tree, &self.blob, &self.tag, &self.outer]
    }
}

/// An answer with an id replaced.
fn without(answer: &[u8], id: &str) -> String {
    String::from_utf8_lossy(answer).replace(id, "<ID>")
}

#[test]
fn haves_of_hidden_objects_are_answered_as_unknown_ones() {
    for packed in [false, true] {
        let setting = start(packed);
        let main = &setting.main;
        for way in [Way::Ssh, Way::Git] {
            let v2_of = |id: &str| {
                let have = v2("fetch", [format!("want {main}\n"), format!("have {id}\n")]);
                setting.answer(way, 2, &have)
            };
            let v0_of = |id: &str| {
                let want = lines([format!("want {main} multi_ack_detailed\n")]);
                let have = lines([format!("have {id}\n")]);
                setting.answer(way, 0, &[want, have].concat())
            };
            let unknown = [without(&v2_of(UNKNOWN), UNKNOWN), without(&v0_of(UNKNOWN), UNKNOWN)];
            assert!(unknown[0].contains("NAK"), "{unknown:?}");
            for id in setting.secret.all() {
                let said = [without(&v2_of(id), id), without(&v0_of(id), id)];
                assert_eq!(said, unknown, "{way:?} {id}");
            }
            assert!(without(&v2_of(&setting.first), &setting.first).contains("ACK"), "{way:?}");
            assert!(without(&v0_of(&setting.first), &setting.first).contains("ACK"), "{way:?}");
        }
    }
}

#[test]
fn hidden_objects_cannot_be_wanted_nor_named_as_shallow() {
    for packed in [false, true] {
        let setting = start(packed);
        let main = &setting.main;
        for way in [Way::Ssh, Way::Git] {
            for id in setting.secret.all().into_iter().chain([UNKNOWN]) {
                let v2_said = setting.answer(way, 2, &v2("fetch", [format!("want {id}\n"), "done\n".into()]));
                let v0_said = setting.answer(way, 0, &lines([format!("want {id}\n")]));
                for said in [v2_said, v0_said] {
                    assert_eq!(pkt::error(&said), Some(format!("object {id} not found")), "{way:?} {id}");
                }
                // As one's own boundary, to have what is behind it.
                let arguments = [
                    format!("want {main}\n"),
                    format!("shallow {id}\n"),
                    "deepen-relative\n".into(),
                    "deepen 1\n".into(),
                    "have 0123456789012345678901234567890123456789\n".into(),
                ];
                let said = without(&setting.answer(way, 2, &v2("fetch", arguments)), id);
                assert!(!said.contains("unshallow") && !said.contains("<ID>"), "{way:?} {id}: {said}");
                let not = ["want ".to_owned() + main + "\n", "deepen-not refs/secret/x\n".into()];
                let said = setting.answer(way, 2, &v2("fetch", not));
                assert!(pkt::error(&said).is_some_and(|text| text.contains("refs/secret/x")), "{said:?}");
            }
            let old = &setting.first;
            let said = setting.answer(way, 2, &v2("fetch", [format!("want {old}\n"), "done\n".into()]));
            assert!(pkt::error(&said).is_none(), "{way:?}: what is reached is served");
        }
    }
}

#[test]
fn no_delta_is_made_against_a_hidden_object() {
    for packed in [false, true] {
        let setting = start(packed);
        let (main, hidden) = (&setting.main, &setting.secret.commit);
        for way in [Way::Ssh, Way::Git] {
            let arguments = [
                "thin-pack\n".to_owned(),
                "ofs-delta\n".into(),
                "no-progress\n".into(),
                format!("want {main}\n"),
                format!("have {hidden}\n"),
                "done\n".into(),
            ];
            let said = setting.answer(way, 2, &v2("fetch", arguments));
            let band = pkt::split(&said).into_iter().flatten();
            let pack: Vec<u8> = band
                .filter_map(|packet| packet.strip_prefix(b"\x01").map(<[u8]>::to_vec))
                .flatten()
                .collect();
            assert!(pack.starts_with(b"PACK"), "{way:?}");
            // Whole by itself: a client that has nothing can use it.
            let empty = setting.site.path(&format!("empty-{way:?}"));
            setting.site.git(["init", "-q", "--bare", &empty.display().to_string()]).good();
            let mut index = setting.site.command("git");
            index.arg("-C").arg(&empty).args(["index-pack", "--stdin"]);
            run(&mut index, &pack, 30).good();
            std::fs::remove_dir_all(&empty).expect("removes");
        }
    }
}

#[test]
fn a_push_makes_no_reference_to_a_hidden_object() {
    for packed in [false, true] {
        let setting = start(packed);
        let none = setting.pack(&setting.repository, "", &[]);
        let said = |id: &str| {
            let answer = setting.push(&[(ZERO, id, "refs/tags/new")], &none);
            setting.no_reference("refs/tags/new");
            answer.replace(id, "<ID>")
        };
        let unknown = said(UNKNOWN);
        assert!(unknown.contains("ng refs/tags/new missing necessary objects"), "{unknown}");
        for id in setting.secret.all() {
            assert_eq!(said(id), unknown, "{id}");
        }
        // Neither the name of a hidden reference nor that it is there is of use, whatever is done
        // to it.
        let hidden = |name: &str, old: &str, new: &str| setting.push(&[(old, new, name)], &none);
        let (main, secret) = (&setting.main[..], &setting.secret.commit[..]);
        for (old, new) in [(ZERO, main), (secret, main), (secret, ZERO), (ZERO, ZERO)] {
            let there = hidden("refs/secret/x", old, new);
            assert_eq!(there.replace("/x ", "/y "), hidden("refs/secret/y", old, new), "{old} {new}");
            assert!(there.contains("hidden"), "{there}");
        }
        // The name of a namespace lies in it, slash or not.
        let very_name = hidden("refs/heads/deep/secret", ZERO, main);
        assert!(very_name.contains("reference namespace is hidden"), "{very_name}");
        // A name on the way there could be made only if nothing is hidden there: it is answered
        // alike, whatever is done to it.
        let on_the_way = || {
            let done = [(ZERO, main), (secret, main), (main, main), (secret, ZERO), (ZERO, ZERO)];
            done.map(|(old, new)| hidden("refs/heads/deep", old, new))
        };
        let there = on_the_way();
        setting.site.git_in(&setting.repository, ["update-ref", "-d", "refs/heads/deep/secret/x"]);
        assert_eq!(there, on_the_way());
        assert!(
            there[..3].iter().all(|said| said.contains("ng refs/heads/deep refs/heads/deep/secret/: ")),
            "{there:?}"
        );
        setting.no_reference("refs/heads/deep");
        // Whether a symbolic reference leads to a hidden one that is there, or to nothing, is not
        // told.
        let git = |arguments: &[&str]| setting.site.git_in(&setting.repository, arguments);
        git(&["symbolic-ref", "refs/heads/link", "refs/secret/x"]);
        let there = hidden("refs/heads/link", ZERO, ZERO);
        git(&["update-ref", "--no-deref", "-d", "refs/secret/x"]);
        assert_eq!(there, hidden("refs/heads/link", ZERO, ZERO));
        // A reference to what is visible, however old, needs no objects.
        let made = setting.push(&[(ZERO, &setting.first, "refs/heads/old")], &none);
        assert!(made.contains("ok refs/heads/old"), "{made}");
    }
}

#[test]
fn what_is_pushed_cannot_build_upon_hidden_objects() {
    for packed in [false, true] {
        let setting = start(packed);
        // The attacker knows ids, and has a repository of his own in which he makes what he likes.
        let own = setting.site.path("own.git");
        setting.site.git(["init", "-q", "--bare", &own.display().to_string()]).good();
        let who = "A <a@x> 1700000000 +0000";
        let blob = setting.hash(&own, "blob", b"mine\n");
        let raw = |id: &str| -> Vec<u8> {
            (0..40).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).expect("hex")).collect()
        };
        let tree = |mode: &str, name: &str, id: &str| {
            let entry = [format!("{mode} {name}\0").as_bytes(), &raw(id)].concat();
            setting.hash(&own, "tree", &entry)
        };
        let commit = |tree: &str, parent: Option<&str>| {
            let parent = parent.map(|id| format!("parent {id}\n")).unwrap_or_default();
            let text = format!("tree {tree}\n{parent}author {who}\ncommitter {who}\n\nm\n");
            setting.hash(&own, "commit", text.as_bytes())
        };
        let push = |new: &str, objects: &[&str]| {
            let pack = setting.pack(&own, &(objects.join("\n") + "\n"), &[]);
            setting.push(&[(ZERO, new, "refs/heads/mine")], &pack)
        };
        let mine = tree("100644", "f", &blob);
        let secret = &setting.secret;
        // Each with a hidden id and with one that is nowhere.
        let cases: [(&str, &str, Attack<'_>); 6] = [
            ("tree", &secret.tree, &|id| push(&commit(id, None), &[&commit(id, None)])),
            ("parent", &secret.commit, &|id| {
                let tip = commit(&mine, Some(id));
                push(&tip, &[&tip, &mine, &blob])
            }),
            ("blob", &secret.blob, &|id| {
                let top = tree("100644", "f", id);
                let tip = commit(&top, None);
                push(&tip, &[&tip, &top])
            }),
            ("directory", &secret.tree, &|id| {
                let top = tree("40000", "d", id);
                let tip = commit(&top, None);
                push(&tip, &[&tip, &top])
            }),
            (".gitmodules", &secret.blob, &|id| {
                let top = tree("100644", ".gitmodules", id);
                let tip = commit(&top, None);
                push(&tip, &[&tip, &top])
            }),
            ("tag", &secret.commit, &|id| {
                let text = format!("object {id}\ntype commit\ntag t\ntagger {who}\n\nm\n");
                let tag = setting.hash(&own, "tag", text.as_bytes());
                let pack = setting.pack(&own, &format!("{tag}\n"), &[]);
                setting.push(&[(ZERO, &tag, "refs/tags/mine")], &pack)
            }),
        ];
        for (what, id, attack) in cases {
            let (said, unknown) = (attack(id), attack(UNKNOWN));
            assert!(unknown.contains("missing necessary objects"), "{what}: {unknown}");
            assert_eq!(said, unknown, "{what}");
            setting.no_reference("refs/heads/mine");
            setting.no_reference("refs/tags/mine");
        }
        let honest = commit(&mine, Some(&setting.main));
        let made = push(&honest, &[&honest, &mine, &blob]);
        assert!(made.contains("ok refs/heads/mine"), "{made}");
    }
}

/// Pushes something that names this id, and returns what is reported.
type Attack<'a> = &'a dyn Fn(&str) -> String;

/// A pack of one blob, as a delta upon a base that is not sent: copies the first bytes of it, and
/// adds one line.
fn thin_pack(base: &str, base_size: usize, copied: u16) -> Vec<u8> {
    fn varint(mut value: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while value > 0x7f {
            out.push(value as u8 & 0x7f | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }
    let added = b"a line that was added\n";
    let mut delta = varint(base_size);
    delta.extend(varint(usize::from(copied) + added.len()));
    let [low, high] = copied.to_le_bytes();
    delta.extend([0x80 | 0x10 | 0x20, low, high]);
    delta.push(added.len() as u8);
    delta.extend_from_slice(added);
    let mut out = b"PACK\0\0\0\x02\0\0\0\x01".to_vec();
    // A reference delta.
    let size = delta.len();
    assert!(size > 15 && size < 2048);
    out.push(0xf0 | (size & 15) as u8);
    out.push((size >> 4) as u8);
    out.extend((0..40).step_by(2).map(|at| u8::from_str_radix(&base[at..at + 2], 16).expect("hex")));
    // Stored, not compressed: zlib's header, one block, Adler-32.
    out.extend([0x78, 0x01, 0x01]);
    out.extend((size as u16).to_le_bytes());
    out.extend((!(size as u16)).to_le_bytes());
    out.extend_from_slice(&delta);
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in &delta {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}

#[test]
fn a_thin_pack_has_no_base_among_hidden_objects() {
    for packed in [false, true] {
        let setting = start(packed);
        let size = |id: &str| {
            let text = setting.site.git_in(&setting.repository, ["cat-file", "-s", id]);
            text.trim().parse::<usize>().expect("a number")
        };
        let push = |base: &str, base_size: usize| {
            let pack = thin_pack(base, base_size, 1000);
            let sum = sha1(&setting.site, &pack);
            setting.push(&[(ZERO, UNKNOWN, "refs/tags/new")], &[pack, sum].concat()).replace(base, "<ID>")
        };
        let hidden = size(&setting.secret.blob);
        let unknown = push(UNKNOWN, hidden);
        assert!(unknown.contains("bases are missing"), "{unknown}");
        assert_eq!(push(&setting.secret.blob, hidden), unknown);
        // What only an old visible commit has serves all the same.
        let visible =
            setting.site.git_in(&setting.repository, ["rev-parse", &format!("{}:data", setting.first)]);
        let said = push(visible.trim(), size(visible.trim()));
        assert!(said.contains("unpack ok") && said.contains("missing necessary objects"), "{said}");
    }
}

fn sha1(site: &Site, bytes: &[u8]) -> Vec<u8> {
    let text = run(&mut site.command("sha1sum"), bytes, 10).good().text();
    (0..40).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

#[test]
fn honest_clients_of_a_repository_that_hides_something_notice_nothing() {
    for packed in [false, true] {
        let setting = start(packed);
        let site = &setting.site;
        let clone = site.clone_path("c");
        site.git(["clone", "-q", "gotd:r", &clone.display().to_string()]).good();
        // A new version, one that was there long ago, a file that moved, and a branch at an old
        // commit.
        site.commit(&clone, "data", noise(17, "more\n"));
        site.commit(&clone, "data", noise(0, "first\n"));
        std::fs::create_dir(clone.join("d")).expect("makes a directory");
        site.git_in(&clone, ["mv", "data", "d/moved"]);
        let tip = site.commit(&clone, "other", b"other\n");
        site.git_in(&clone, ["push", "-q", "origin", "main", "main~4:refs/heads/old"]);
        let url = format!("git://127.0.0.1:{}/r", setting.address.port());
        let second = site.clone_path("d");
        site.git(["clone", "-q", "--depth=1", &url, &second.display().to_string()]).good();
        assert_eq!(site.git_in(&second, ["rev-parse", "HEAD"]).trim(), tip);
        site.git_in(&second, ["fetch", "-q", "--unshallow"]);
        site.git_in(&second, ["fsck", "--full", "--strict"]);
        let all = site.git_in(&second, ["rev-list", "--all", "--objects"]);
        for id in setting.secret.all() {
            assert!(!all.contains(id), "{id}");
        }
        site.git_in(&clone, ["push", "-q", "--force", "origin", "main~2:main"]);
        site.git_in(&second, ["fetch", "-q"]);
        site.git_in(&setting.repository, ["fsck", "--full", "--strict"]);
    }
}

#[test]
fn what_gives_any_object_contradicts_what_hides_some() {
    let site = Site::new();
    for (directive, refused) in [
        ("partial clone", true),
        ("wants any", true),
        ("wants reachable", false),
        ("wants advertised", false),
    ] {
        let text = format!(
            "{}repository \"r\" {{\n\tpath \"/r\"\n\thide namespace refs/secret\n\t{directive}\n}}\n",
            site.head()
        );
        std::fs::write(site.path("c.conf"), text).expect("writes");
        let mut check = site.command(regress::binaries().join("gotd"));
        let done = run(check.args(["-n", "-f"]).arg(site.path("c.conf")), b"", 20);
        if refused {
            done.bad(&format!("\"hide namespace\" and \"{directive}\" contradict each other"));
        } else {
            done.good();
        }
    }
}
