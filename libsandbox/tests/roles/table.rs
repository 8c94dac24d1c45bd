//! The roles with their stages, and the table of roles and attempts.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Output};

use libsandbox::{Access, Enforcement, FORBIDDEN_STATUS, Promise, Promises, ResourceLimits, Stage, Visible};

use crate::escape::{ATTEMPTS, Outcome, Targets};
use crate::{jobs, run};

/// A stage of a role: promise words, and what is visible below the directory of the test.
pub(crate) type RoleStage = (&'static str, Option<&'static [(&'static str, Access)]>);

const REPOSITORY: &str = "roots/x.git";
const WRITING: &[(&str, Access)] = &[
    (REPOSITORY, Access::READ),
    ("roots/x.git/objects", Access::READ_WRITE_CREATE),
    ("roots/x.git/refs", Access::READ_WRITE_CREATE),
];
/// Roles that can do nothing with names but open them in their last stage.
const OPENING: [&str; 3] = ["repo_read", "repo_write", "verify"];
const NOTHING: Option<&[(&str, Access)]> = Some(&[]);

/// The roles as the design has them, each with its stages in order.
pub(crate) const ROLES: &[(&str, &[RoleStage])] = &[
    (
        "spawn",
        &[(
            // The pair is for the jobs of this test, which make their links themselves.
            "stdio proc exec sendfd recvfd pair",
            Some(&[("roots", Access::READ_WRITE_CREATE), ("sockets", Access::SOCKET)]),
        )],
    ),
    ("parent", &[("stdio sendfd recvfd pair", NOTHING)]),
    ("sockets", &[("stdio cpath sendfd bind", Some(&[("sockets", Access::SOCKET)]))]),
    ("listen", &[("stdio recvfd sendfd accept", NOTHING)]),
    ("auth", &[("stdio", NOTHING)]),
    ("session", &[("stdio recvfd sendfd narrow", NOTHING), ("stdio", None)]),
    (
        "repo_read",
        &[
            ("stdio rpath recvfd unveil threads", Some(&[("roots", Access::READ)])),
            ("stdio rpath threads", Some(&[(REPOSITORY, Access::READ)])),
        ],
    ),
    (
        "repo_write",
        &[
            (
                "stdio rpath wpath cpath fattr flock sendfd unveil",
                Some(&[("roots", Access::READ_WRITE_CREATE)]),
            ),
            ("stdio rpath wpath cpath fattr flock sendfd", Some(WRITING)),
        ],
    ),
    (
        "verify",
        &[
            ("stdio rpath recvfd unveil threads", Some(&[(REPOSITORY, Access::READ)])),
            ("stdio rpath threads", None),
        ],
    ),
    ("create", &[("stdio rpath wpath cpath fattr", Some(&[("roots", Access::READ_WRITE_CREATE)]))]),
    ("list", &[("stdio rpath", Some(&[("roots", Access::READ)]))]),
    // The next three are not built yet.
    ("notify", &[("stdio", NOTHING)]),
    ("send", &[("stdio inet dns", NOTHING)]),
    ("maintain", &[("stdio rpath wpath cpath fattr flock", Some(WRITING))]),
    ("config", &[("stdio rpath getpw", Some(&[("conf", Access::READ)]))]),
    ("gotsh", &[("stdio unix recvfd narrow", NOTHING), ("stdio", None)]),
];

/// Enters the stages of a role, with something to do after each. A place that an earlier stage left
/// visible is opened there and named by its descriptor.
pub(crate) fn enter(role: &str, directory: &Path, mut after: impl FnMut(usize)) {
    let Some((name, stages)) = ROLES.iter().find(|(name, _)| *name == role) else {
        assert_eq!(role, "nobody", "a role of the table");
        return;
    };
    libsandbox::harden_process(name).expect("hardened");
    for (number, (words, paths)) in stages.iter().enumerate() {
        let places: Option<Vec<(PathBuf, Access)>> = paths.map(|paths| {
            let mut places: Vec<_> =
                paths.iter().map(|(path, access)| (directory.join(path), *access)).collect();
            if *name == "spawn" {
                let own = std::env::current_exe().expect("own name");
                places.push((own, Access::EXECUTE));
                places.extend(libsandbox::loader_paths());
            }
            places
        });
        let places = places.map(|places| {
            let opened = |path: &Path| (number > 0).then(|| jobs::open_place(path));
            places.into_iter().map(|(path, access)| (opened(&path), path, access)).collect::<Vec<_>>()
        });
        let visible = places.as_ref().map(|places| places.iter().map(as_visible).collect::<Vec<_>>());
        let stage = Stage {
            promises: promises(name, words, number + 1 == stages.len()),
            paths: visible.as_deref(),
            limits: ResourceLimits { nofile: Some(64), data: Some(512 << 20), ..ResourceLimits::UNCHANGED },
            enforcement: Enforcement::Required,
        };
        if let Err(e) = libsandbox::enter(&stage) {
            panic!("{role}: {words}: {e}");
        }
        after(number);
    }
}

fn as_visible((open, path, access): &(Option<OwnedFd>, PathBuf, Access)) -> Visible<'_> {
    use std::os::fd::AsFd;
    match open {
        Some(fd) => Visible::opened(fd.as_fd(), path, *access),
        None => Visible::named(path, *access),
    }
}

/// Does a role start threads at work? (With `exec` it holds whatever its children need.)
pub(crate) fn starts_threads(role: &str) -> bool {
    let stages = ROLES.iter().find(|(name, _)| *name == role).expect("a role of the table").1;
    let work = work(role, stages);
    work.has(Promise::Threads) || work.has(Promise::Exec)
}

/// The promises a role holds at work.
fn work(role: &str, stages: &[RoleStage]) -> Promises {
    promises(role, stages.last().expect("a role has stages").0, true)
}

fn promises(role: &str, words: &str, last: bool) -> Promises {
    let promises: Promises = words.parse().expect("words of the table");
    if last && OPENING.contains(&role) { promises.by_opening() } else { promises }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory for the test");
    jobs::fill(directory.path());
    directory
}

pub(crate) fn each_role_does_its_job() {
    for (role, _) in ROLES {
        let directory = directory();
        let output = run(&["job", role, directory.path().to_str().expect("a name in UTF-8")]);
        assert!(
            output.status.success(),
            "{role}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        println!("{role:10} job ok  {}", String::from_utf8_lossy(&output.stdout).trim_end());
    }
}

/// `attempt ROLE NUMBER DIRECTORY`.
pub(crate) fn attempt_child(arguments: &[String]) -> ExitCode {
    let [role, number, directory] = arguments else { return ExitCode::FAILURE };
    let attempt = &ATTEMPTS[number.parse::<usize>().expect("a number")];
    let targets = Path::new(directory).join("targets");
    enter(role, Path::new(directory), |_| ());
    match attempt.make(&targets) {
        Outcome::Refused(errno) => println!("refused {errno}"),
        Outcome::Succeeded => println!("succeeded"),
        Outcome::Trapped(nr) => println!("trapped {nr}"),
    }
    ExitCode::SUCCESS
}

/// In one process, as it is done inside of the real roles. `all ROLE DIRECTORY`.
#[cfg(feature = "escapes")]
pub(crate) fn all_child(arguments: &[String]) -> ExitCode {
    let [role, directory] = arguments else { return ExitCode::FAILURE };
    enter(role, Path::new(directory), |_| ());
    let promises = work(role, ROLES.iter().find(|(name, _)| name == role).expect("a role of the table").1);
    let made = crate::escape::make_all(&Path::new(directory).join("targets"));
    assert_eq!(made.len(), ATTEMPTS.len());
    for (attempt, outcome) in made {
        assert!(outcome != Outcome::Succeeded || attempt.may_succeed(promises), "{role}: {}", attempt.name);
    }
    ExitCode::SUCCESS
}

#[cfg(feature = "escapes")]
pub(crate) fn one_process_makes_every_attempt() {
    for (role, _) in ROLES {
        let directory = directory();
        let targets = Targets::prepare(&directory.path().join("targets")).expect("targets");
        let output = run(&["all", role, directory.path().to_str().expect("a name in UTF-8")]);
        assert!(output.status.success(), "{role}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!targets.datagram_arrived());
    }
}

/// What the end of an attempt's process says.
fn outcome(role: &str, output: &Output) -> Outcome {
    let error = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(FORBIDDEN_STATUS) {
        let call = error
            .strip_prefix(&format!("{role}: forbidden system call "))
            .and_then(|rest| rest.trim_end().parse().ok());
        return Outcome::Trapped(call.unwrap_or_else(|| panic!("{role}: {error}")));
    }
    match text.trim_end().split_once(' ') {
        Some(("refused", errno)) => Outcome::Refused(errno.parse().expect("an errno")),
        Some(("trapped", nr)) if cfg!(feature = "escapes") => Outcome::Trapped(nr.parse().expect("a number")),
        None if text.trim_end() == "succeeded" => Outcome::Succeeded,
        _ => panic!("{role}: {} signal {:?}: {text}{error}", output.status, output.status.signal()),
    }
}

/// Attempts that succeed outside of a sandbox for any user, on any kernel: if one of them does not,
/// it proves nothing.
const CONTROL: &[&str] = &[
    "read another file",
    "list a directory",
    "open for writing",
    "create a file",
    "truncate",
    "unlink",
    "rename",
    "symbolic link",
    "make a fifo",
    "connect to a unix socket",
    "connect to an abstract socket",
    "connect by TCP",
    "bind a unix socket",
    "datagram to an address",
    "exec",
    "fork",
    "thread",
    "shared memory without a file",
    "memory that grows down",
    "grow the stack by moving it",
    "kill the parent",
    "map executable",
    "make memory executable",
    "type into the terminal",
    "chroot",
];

pub(crate) fn no_role_does_what_its_promises_do_not_name() {
    let mut table: BTreeMap<(usize, &str), Outcome> = BTreeMap::new();
    let mut wrong = Vec::new();
    let control: &[RoleStage] = &[];
    for (role, stages) in [("nobody", control)].into_iter().chain(ROLES.iter().copied()) {
        for (number, attempt) in ATTEMPTS.iter().enumerate() {
            let directory = directory();
            let targets = Targets::prepare(&directory.path().join("targets")).expect("targets");
            let place = directory.path().to_str().expect("a name in UTF-8");
            let found = outcome(role, &run(&["attempt", role, &number.to_string(), place]));
            table.insert((number, role), found);
            let out = targets.datagram_arrived();
            if role == "nobody" {
                if CONTROL.contains(&attempt.name) && found != Outcome::Succeeded {
                    wrong.push(format!("{} proves nothing: {found}", attempt.name));
                }
                continue;
            }
            if out {
                wrong.push(format!("{role}: {}: a datagram came out", attempt.name));
            }
            if found == Outcome::Succeeded && !attempt.may_succeed(work(role, stages)) {
                wrong.push(format!("{role}: {} succeeded", attempt.name));
            }
        }
    }
    print_table(&table);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn print_table(table: &BTreeMap<(usize, &str), Outcome>) {
    let roles: Vec<&str> = std::iter::once("nobody").chain(ROLES.iter().map(|(role, _)| *role)).collect();
    print!("{:30}", "");
    roles.iter().for_each(|role| print!("{role:>11}"));
    println!();
    for (number, attempt) in ATTEMPTS.iter().enumerate() {
        print!("{:30}", attempt.name);
        for role in &roles {
            let cell = match table.get(&(number, *role)) {
                Some(Outcome::Trapped(nr @ ..1000)) => format!("trap {nr}"),
                Some(Outcome::Trapped(_)) => "trap".to_owned(),
                Some(Outcome::Refused(errno)) => format!("errno {errno}"),
                Some(Outcome::Succeeded) => "YES".to_owned(),
                None => "?".to_owned(),
            };
            print!("{cell:>11}");
        }
        println!();
    }
}
