//! The reference transaction of a push: every command that nothing is known against, tried on the
//! disk under locks. The old values are compared there, as they are at that moment.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libgit::{HashKind, ObjectId};
use libproto::message::push::{CommandFacts, RefCommand};
use librepo::fs_ops::Fs;
use librepo::transaction::{
    self, ONE_CHANGE_FROM, Peel, Reflog, Staging, TransactionOptions, Update, worth_packing,
};

use super::aliases::{self, Aliases, target};
use super::judge::{self, CommandList, Verdict, World};

/// What a transaction works with.
pub(crate) struct Transaction<'a> {
    pub fs: &'a Fs,
    pub staging: Staging,
    pub hash: HashKind,
    /// The user who pushes, for reference logs.
    pub who: &'a str,
    pub reflog: bool,
    /// Every reference gets a log, not only those that git logs by default.
    pub log_all: bool,
    pub head_log: HeadLog,
    /// From how many changes on they may be one of packed-refs; `None`: this process may not write
    /// that.
    pub one_change_from: Option<usize>,
    /// Some references are hidden from this client.
    pub hides: bool,
}

/// What becomes of the log of HEAD.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadLog {
    /// It is written like others.
    Written,
    /// This process may not write it, and was not asked to: HEAD has just come to name that branch.
    LeftAlone,
}

/// What new values finally name, by what `verify` found out.
pub(super) fn peels(commands: &[RefCommand], facts: &[Option<CommandFacts>]) -> HashMap<ObjectId, Peel> {
    let of_each = commands.iter().zip(facts).filter_map(|(command, facts)| {
        let peeled = facts.as_ref()?.peeled;
        Some((command.new, peeled.map_or(Peel::Nothing, |(id, _)| Peel::To(id))))
    });
    of_each.collect()
}

/// Whether these changes, as far as they are not refused, are for `commit_refs`: they need
/// packed-refs or the log of HEAD. `lines`: how many lines packed-refs has.
pub(super) fn needs_commit_refs(
    asked: CommandList<'_>,
    verdicts: &[Verdict],
    reflog: bool,
    world: &World,
    lines: impl FnOnce() -> usize,
) -> bool {
    let open = asked.commands.iter().zip(verdicts).filter(|(_, verdict)| verdict.is_ok());
    let changes: Vec<&RefCommand> =
        open.map(|(command, _)| command).filter(|command| command.old != command.new).collect();
    let all_or_none = asked.atomic && asked.commands.len() > 1 && !changes.is_empty();
    let of_head = |command: &&RefCommand| {
        reflog && Some(target(&world.aliases, command).as_bytes()) == world.head.as_deref()
    };
    let many = || changes.len() >= ONE_CHANGE_FROM && worth_packing(changes.len(), lines());
    all_or_none || changes.iter().any(|command| command.new.is_null() || of_head(command)) || many()
}

impl Transaction<'_> {
    /// Changes references, and adds to the verdicts what could not be done.
    pub(crate) fn commit(
        &self,
        asked: CommandList<'_>,
        aliases: &Aliases,
        peels: &HashMap<ObjectId, Peel>,
        verdicts: &mut [Verdict],
    ) {
        if asked.atomic && verdicts.iter().any(Result::is_err) {
            return judge::all_or_none(verdicts);
        }
        let follows = aliases::follows(asked.commands, aliases, verdicts);
        let (mut updates, mut places) = (Vec::new(), Vec::new());
        for (at, (command, verdict)) in asked.commands.iter().zip(verdicts.iter()).enumerate() {
            // What does not exist, and is to be deleted, was looked up.
            let nothing = command.old.is_null() && command.new.is_null();
            if verdict.is_err() || nothing || follows.contains_key(&at) {
                continue;
            }
            let alias_of = aliases::behind(aliases, command).to_vec();
            updates.push(Update { name: command.name.clone(), old: command.old, new: command.new, alias_of });
            places.push(at);
        }
        let peel = |id: &ObjectId| peels.get(id).copied().unwrap_or(Peel::Unknown);
        let reflog = self.reflog.then(|| Reflog {
            identity: format!("{who} <{who}@gotd>", who = self.who),
            seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            message: "push".into(),
            all: self.log_all,
        });
        let options = TransactionOptions {
            ref_timeout: Duration::from_secs(5),
            packed_timeout: Duration::from_secs(30),
            one_change_from: self.one_change_from,
            reflog,
            head_log: self.head_log == HeadLog::Written,
            peel: &peel,
        };
        let commit = if asked.atomic { transaction::commit_atomic } else { transaction::commit_each };
        let results = commit(self.fs, &self.staging, self.hash, &updates, &options);
        for (at, result) in places.into_iter().zip(results) {
            if let (Err(e), Some(verdict)) = (result, verdicts.get_mut(at)) {
                *verdict = Err(judge::not_changed(&e, self.hides));
            }
        }
        for (at, leader) in follows {
            let verdict = verdicts.get(leader).cloned();
            if let (Some(refused @ Err(_)), Some(follower)) = (verdict, verdicts.get_mut(at)) {
                *follower = refused;
            }
        }
    }
}
