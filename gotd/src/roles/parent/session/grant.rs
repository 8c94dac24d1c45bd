//! What a session was granted, and how far that is.

use std::time::Instant;

use libproto::message::parent::{
    CommitToParent, CreateToParent, FoundAt, GitAsk, OpenError, Opened, OwnRules, ParentToCommit,
    ParentToCreate, ParentToVerify, Permit, VerifyToParent,
};
use libproto::refusal::Refusal;

use super::super::queue::Turn;
use super::borrowing::Borrowing;
use super::job::Job;
use super::process::Process;

/// A repository that was granted, and what is done there.
#[derive(Debug)]
pub struct Grant {
    /// The Git request, or what one of self-service comes to.
    pub ask: GitAsk,
    /// What was granted.
    pub permit: Permit,
    /// Where the repository was found.
    pub place: RepoLocation,
    /// What its own `config` comes to, before it is confirmed.
    pub own: Option<OwnRules>,
    /// What the repository asked to borrow from.
    pub borrowing: Borrowing,
    /// The repository that is made, once it was not there.
    pub creation: Option<Creation>,
    /// Its turn for costly work: under way or waited for.
    pub turn: Option<Turn>,
    /// The log has told that it had to wait for others.
    pub wait_logged: bool,
    /// Milliseconds of processor time that its negotiation has used, as far as is known.
    pub negotiated: u32,
    /// How many references the repository process may still report on; `None`: the session has not
    /// begun the push.
    pub references: Option<u32>,
    /// The `verify` process of a push, once it was started.
    pub verify: Option<Process<Job<ParentToVerify, VerifyToParent>>>,
    /// What that said at its end, for the log.
    pub verify_refusal: Option<Refusal>,
    /// How far the last part of a push is.
    pub commit: Commit,
}

/// The changes of references that are not the repository process's own.
#[derive(Debug)]
pub enum Commit {
    /// None were asked for.
    Not,
    /// There are some; `verify` has not been reaped.
    Wanted,
    /// `commit_refs` makes them, or has made them.
    Started(Process<Job<ParentToCommit, CommitToParent>>),
}

/// How far the location of a repository is known and confirmed.
#[derive(Debug)]
pub enum RepoLocation {
    /// The repository process has not found it.
    Unknown,
    /// `auth` was asked about this path. The repository process may have tried to open it
    /// meanwhile.
    Asked(FoundAt, Option<Result<Opened, OpenError>>),
    /// The repository is confirmed, and not open yet.
    Right(FoundAt),
    /// The repository is confirmed and open.
    Open(FoundAt, Opened),
    /// It is not the permitted repository; the client was told that there is none.
    Wrong,
}

/// A repository that a push makes.
#[derive(Debug)]
pub enum Creation {
    /// Since then, for those before it.
    Waiting(Instant),
    /// Being made by this process.
    Running(Job<ParentToCreate, CreateToParent>),
    /// Its process has been reaped, or there was none.
    Over,
}

impl Grant {
    /// Nothing was done yet.
    pub fn new(ask: GitAsk, permit: Permit) -> Grant {
        Grant {
            ask,
            permit,
            place: RepoLocation::Unknown,
            own: None,
            borrowing: Borrowing::default(),
            creation: None,
            turn: None,
            wait_logged: false,
            negotiated: 0,
            references: None,
            verify: None,
            verify_refusal: None,
            commit: Commit::Not,
        }
    }

    /// The repository, as it was opened.
    pub fn opened(&self) -> Option<&Opened> {
        match &self.place {
            RepoLocation::Open(_, opened) => Some(opened),
            _ => None,
        }
    }
}
