//! Serves one fetch of one repository on standard input and output, with session and repository
//! process as two threads and no sandbox: `git clone --upload-pack='serve-one [--any]' DIRECTORY`.
//! For tests that compare the conversation with C git's, byte by byte, and for profiling; the
//! daemon never runs this.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use gotd::repo::read;
use gotd::session::conversation::{Conversation, Failure, Repo};
use gotd::session::pipes::{Input, Output};
use gotd::session::upload_pack;
use libproto::command::{Parameters, Service};
use libproto::message::parent::{FetchRules, Grant, SessionStart};
use librepo::repository::{Options, Repository};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

fn main() {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let any = arguments.first().is_some_and(|a| a == "--any");
    let path = arguments.pop().expect("a directory");
    let rules = FetchRules { reachable: any, any, filter: any };
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .expect("a socketpair");
    let limits = SessionStart { minimum_rate: 0, ..SessionStart::default() };
    let repository = open(path);
    let hash = repository.hash();
    let repo_limits = limits.clone();
    let own = |fd: std::os::fd::BorrowedFd<'_>| -> OwnedFd { fd.try_clone_to_owned().expect("a descriptor") };
    let output = own(std::io::stdout().as_fd());
    let server = std::thread::spawn(move || {
        let grant = read::Grant {
            rules,
            hidden: &[],
            limits: &repo_limits,
            threads: 2,
            cache_bytes: 96 << 20,
            withheld: None,
            queue: None,
            negotiation: libproto::message::parent::Negotiation::default(),
        };
        read::serve(&read::Session::from(theirs), &repository, &grant, Output::new(output))
    });
    let protocol = std::env::var_os("GIT_PROTOCOL").unwrap_or_default();
    let version = Parameters::parse(protocol.as_encoded_bytes()).version_for(Service::UploadPack);
    let repo = Repo::from(ours);
    let mut talk = Conversation {
        input: Input::new(own(std::io::stdin().as_fd())),
        output: Output::new(own(std::io::stdout().as_fd())),
        grant: Grant { hash, fetch: rules },
        service: Service::UploadPack,
        protocol: version as u8,
        listing: false,
        limits,
        agent: String::new(),
    };
    let end = upload_pack::serve(&mut talk, &repo);
    let agent = std::mem::take(&mut talk.agent);
    let failed = end.is_err();
    if let Err(Failure { refusal, told }) = end {
        let text = refusal.to_string();
        if !told {
            let mut packet = Vec::new();
            libproto::pktline::write_err(&mut packet, &text);
            let _ = talk.output.write_all(&packet);
        }
        eprintln!("serve-one: {text}");
    }
    drop(talk);
    drop(repo);
    let report = server.join().expect("the repository's thread");
    if std::env::var_os("SERVE_ONE_REPORT").is_some() {
        eprintln!("serve-one: agent={agent} {report:?}");
    }
    std::process::exit(i32::from(failed));
}

/// The bare repository in `path`, or that of the worktree there.
fn open(path: std::ffi::OsString) -> Repository {
    let path = std::path::PathBuf::from(path);
    let inner = path.join(".git");
    let dir = std::fs::File::open(if inner.is_dir() { &inner } else { &path });
    let opened = dir
        .map_err(|e| e.to_string())
        .and_then(|dir| Repository::open(dir.into(), Options::default()).map_err(|e| e.to_string()));
    opened.unwrap_or_else(|error| {
        eprintln!("serve-one: {}: {error}", path.display());
        std::process::exit(1);
    })
}
