//! The table of system calls of each role, against the calls that the roles really make.
//!
//! A filter that lets through every call that some role may need leaves a hundred of them to code
//! that took over a process: with calls that no role made, a session filled its user's quota of
//! pipes, and 3,000 threads ran in a role that starts none. So each stage of each role has a row of
//! its own (`libsandbox/src/linux/rows_of_roles.rs`). Here a daemon is traced while it does
//! everything that it can be asked for. A call that its row lacks, or that is in a row and was not
//! made, fails this test; and every test that starts a daemon fails when a call is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use libsandbox::Calls;
use regress::daemon::recorder;
use regress::raw::Connection;
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Daemon, Site, history, run, tcp};

/// The calls that each row was seen to make, with the arguments that tell their uses apart.
type Made = BTreeMap<usize, BTreeSet<(i64, Vec<i32>)>>;

/// Calls that are answered with an error wherever no row names them, because their caller has
/// another way.
const ANSWERED: [i64; 3] = [libc::SYS_clone3, libc::SYS_openat2, libc::SYS_io_uring_setup];

/// Calls that tell what a name is. glibc's fstat(3), before 2.39, is another.
const LOOKS: [i64; 3] = [libc::SYS_statx, libc::SYS_readlinkat, libc::SYS_faccessat];

/// From here on calls are newer than the tables: the answer is that there is no such call.
const NEWER: i64 = libc::SYS_futex_waitv;

#[test]
fn each_role_makes_the_calls_of_its_row_and_no_other() {
    if cfg!(not(target_arch = "x86_64")) {
        return regress::skipped("the recorder knows the registers of x86_64 alone");
    }
    // As it is installed, where most roles are `gotd-static`; and without that program.
    let mut wrong = Vec::new();
    for with_static in [true, false] {
        let Some(made) = record(Site::new(), with_static) else { return };
        for (calls, name) in Calls::ALL.into_iter().skip(1) {
            compare(calls, name, &made, &mut wrong);
        }
    }
    // Where nobody else can have mounted anything, names are not looked at.
    if let Some(site) = Site::trusted(env!("CARGO_TARGET_TMPDIR")) {
        let Some(made) = record(site, true) else { return };
        for calls in [Calls::RepoRead, Calls::RepoWrite, Calls::Verify, Calls::CommitRefs] {
            let own = made.get(&(calls as usize)).into_iter().flatten();
            let looked = own.filter(|(nr, _)| LOOKS.contains(nr)).map(|(nr, _)| nr.to_string());
            let looked: Vec<String> = looked.collect();
            if !looked.is_empty() {
                wrong.push(format!("{calls:?}: looks at names by {}", looked.join(", ")));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Compares one row with the calls made in it, and in later stages of the same process.
fn compare(calls: Calls, name: &str, made: &Made, wrong: &mut Vec<String>) {
    let mut stages = vec![calls];
    let mut at = 0;
    while let Some(&stage) = stages.get(at) {
        stages.extend(libsandbox::later_rows(stage));
        at += 1;
    }
    let uses: Vec<_> = stages.iter().flat_map(|stage| libsandbox::uses_of_calls(*stage)).collect();
    let is = |(nr, of): &(i64, Vec<i32>), used: &libsandbox::Use| used.call == *nr && of.starts_with(used.of);
    let nothing = BTreeSet::new();
    let own = made.get(&(calls as usize)).unwrap_or(&nothing);
    if own.is_empty() {
        wrong.push(format!("{name}: not seen at all"));
    }
    for one in own {
        let answered = ANSWERED.contains(&one.0) || one.0 >= NEWER;
        if !answered && !uses.iter().any(|used| is(one, used)) {
            wrong.push(format!("{name}: makes call {} {:?}, which its row lacks", one.0, one.1));
        }
    }
    let all: BTreeSet<_> = stages.iter().filter_map(|stage| made.get(&(*stage as usize))).flatten().collect();
    for used in libsandbox::uses_of_calls(calls).filter(|used| !used.rare) {
        if !all.iter().any(|one| is(one, &used)) {
            wrong.push(format!("{name}: call {} {:?} was not made: {}", used.call, used.of, used.why));
        }
    }
    println!("{name:<34}{:>4} calls made", own.iter().map(|(nr, _)| nr).collect::<BTreeSet<_>>().len());
}

/// The calls of a daemon that does all that it can; `None`: it cannot be traced here.
fn record(site: Site, with_static: bool) -> Option<Made> {
    let (file, alone) = (site.path("calls"), site.path("alone"));
    let mut program = recorder(&file).to_vec();
    if !with_static {
        // The same program where no gotd-static is beside it.
        let script = "mkdir -p \"$1\"; dir=$1 calls=$2 file=$3; shift 3; cp \"$1\" \"$dir/gotd\"; shift\n\
                      exec \"$calls\" \"$file\" \"$dir/gotd\" \"$@\"";
        let words = [alone.display().to_string(), program[0].clone(), program[1].clone()];
        program = ["/bin/sh", "-c", script, "sh"].map(str::to_owned).into_iter().chain(words).collect();
    }
    let address = tcp::free_v4();
    history::bulky(&site, "big.git", 3);
    history::repository(&site, "r.git", 40, "sha1");
    let (me, repositories) = (present_user(), site.path("repositories").display().to_string());
    let configuration = format!(
        "{}{}account \"{me}\" {{\n\tuser alice principal alice\n}}\nrepositories \"\" {{\n\tpath \"{repositories}\"\n\
         \tpermit rw alice\n\tpermit ro anonymous\n\tcreate\n}}\n",
        site.roomy_head(),
        tcp::listen_line(address),
    );
    site.hand_over();
    let daemon = match Daemon::start_through(&site, &configuration, &program) {
        Ok(daemon) => daemon,
        Err(e) if e.contains("cannot trace") => {
            regress::skipped("needs the right to trace");
            return None;
        }
        Err(e) => panic!("{e}"),
    };
    // The present user's account is shared: alice speaks for it.
    fs::copy(site.ssh_as("alice"), site.path("ssh")).expect("copies");
    serve(&site, &daemon, &format!("git://{address}"));
    let log = daemon.log();
    drop(daemon);
    assert!(!log.contains("forbidden system call"), "{log}");
    assert!(wait_until(20.0, || file.exists()), "the recorder writes its file");
    let mut made = Made::new();
    for line in fs::read_to_string(&file).expect("is there").lines() {
        let mut numbers = line.split(' ').map(|word| word.parse::<i64>().expect("a number"));
        let (row, nr) = (numbers.next().expect("a row"), numbers.next().expect("a call"));
        let of = numbers.map(|n| n as i32).collect();
        made.entry(usize::try_from(row).expect("a row")).or_default().insert((nr, of));
    }
    Some(made)
}

/// Everything that clients and administrators ask for.
fn serve(site: &Site, daemon: &Daemon, git: &str) {
    for version in ["0", "1", "2"] {
        for (kind, from) in [("ssh", "gotd:r.git".to_owned()), ("git", format!("{git}/r.git"))] {
            let (to, option) =
                (site.clone_path(&format!("{kind}{version}")), format!("protocol.version={version}"));
            site.git(["-c", &option, "clone", "-q", "--mirror", &from, &to.to_string_lossy()]).good();
        }
    }
    for (name, from) in [("big", "gotd:big.git".to_owned()), ("bigger", format!("{git}/big.git"))] {
        site.git(["clone", "-q", "--mirror", &from, &site.clone_path(name).to_string_lossy()]).good();
    }
    // Threads look for the objects of a pack that is not sent whole.
    for name in ["r", "big"] {
        let to = site.clone_path(&format!("shallow-{name}"));
        site.git(["clone", "-q", "--depth", "2", &format!("gotd:{name}.git"), &to.to_string_lossy()]).good();
    }
    let work = site.clone_path("work");
    site.git(["clone", "-q", "gotd:r.git", &work.to_string_lossy()]).good();
    for n in 0..3 {
        site.commit(&work, "new", format!("{n}"));
        site.push(&work, &["-q", "gotd:r.git", &format!("HEAD:refs/heads/new{n}")]).good();
    }
    site.push(&work, &["-q", "--atomic", "gotd:r.git", "HEAD:refs/heads/one", "HEAD:refs/heads/two"]).good();
    site.push(&work, &["-q", "gotd:r.git", ":refs/heads/new0", ":refs/heads/one"]).good();
    site.push(&work, &["-q", "gotd:made", "HEAD:refs/heads/main"]).good();
    for n in 0..40 {
        site.commit(&work, "more", "line\n".repeat(500 + n));
    }
    site.push(&work, &["-q", "gotd:r.git", "HEAD:refs/heads/more"]).good();
    for line in ["list", "info r", "describe r text", "head r more"] {
        let mut gotsh = site.command(regress::binaries().join("gotsh"));
        gotsh.env("GOTD_UNIX_SOCKET", site.socket()).env("SSH_ORIGINAL_COMMAND", line);
        run(gotsh.args(["--user", "alice"]), b"", 20).good();
    }
    // Clients that are refused, that leave, and one of git:// that wants what is not there.
    drop(Connection::open(&site.socket()));
    assert!(0 != run(site.command("git").args(["ls-remote", &format!("{git}/absent.git")]), b"", 30).status);
    daemon.gotctl(&["info"]).good();
    daemon.gotctl(&["reload"]).good();
    site.git(["ls-remote", "gotd:r.git"]).good();
}
