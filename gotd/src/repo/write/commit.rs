//! The reference transaction of a push: every command that nothing is known against, tried on the
//! disk under locks. The old values are compared there, as they are at that moment.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libgit::{HashKind, ObjectId};
use libproto::message::push::CommandFacts;
use librepo::fs_ops::Fs;
use librepo::transaction::{self, Peel, Reflog, Staging, TransactionOptions, Update};

use super::judge::{self, CommandList, Verdict};

/// What a transaction works with.
pub(super) struct Transaction<'a> {
    pub fs: &'a Fs,
    pub staging: Staging,
    pub hash: HashKind,
    /// The user who pushes, for reference logs.
    pub who: &'a str,
    pub reflog: bool,
    /// Some references are hidden from this client.
    pub hides: bool,
}

impl Transaction<'_> {
    /// Changes references, and adds to the verdicts what could not be done.
    pub(super) fn commit(
        &self,
        asked: CommandList<'_>,
        facts: &[Option<CommandFacts>],
        verdicts: &mut [Verdict],
    ) {
        if asked.atomic && verdicts.iter().any(Result::is_err) {
            return judge::all_or_none(verdicts);
        }
        let (mut updates, mut places) = (Vec::new(), Vec::new());
        for (at, (command, verdict)) in asked.commands.iter().zip(verdicts.iter()).enumerate() {
            if verdict.is_err() {
                continue;
            }
            updates.push(Update { name: command.name.clone(), old: command.old, new: command.new });
            places.push(at);
        }
        let peels: HashMap<ObjectId, Peel> = asked
            .commands
            .iter()
            .zip(facts)
            .filter_map(|(command, facts)| {
                let peeled = facts.as_ref()?.peeled;
                Some((command.new, peeled.map_or(Peel::Nothing, |(id, _)| Peel::To(id))))
            })
            .collect();
        let peel = |id: &ObjectId| peels.get(id).copied().unwrap_or(Peel::Unknown);
        let reflog = self.reflog.then(|| Reflog {
            identity: format!("{who} <{who}@gotd>", who = self.who),
            seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            message: "push".into(),
        });
        let options = TransactionOptions {
            ref_timeout: Duration::from_secs(5),
            packed_timeout: Duration::from_secs(30),
            reflog,
            peel: &peel,
        };
        let commit = if asked.atomic { transaction::commit_atomic } else { transaction::commit_each };
        let results = commit(self.fs, &self.staging, self.hash, &updates, &options);
        for (at, result) in places.into_iter().zip(results) {
            if let (Err(e), Some(verdict)) = (result, verdicts.get_mut(at)) {
                *verdict = Err(judge::not_changed(&e, self.hides));
            }
        }
    }
}
