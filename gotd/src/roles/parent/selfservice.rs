//! Self-service: what users of shared accounts ask through ssh without git, such as the list of
//! their repositories.
//!
//! `auth` names the configured ones and the directories; a `list` process looks into one directory
//! after the other; `auth` then says which of the found repositories this user may see.

use libproto::message::client::ClientKind;
use libproto::message::parent::{
    self as message, GitAsk, ParentToAuth, ParentToSession, RepoInfo, Seen, SeenRoot, Who,
};
use libproto::names::escape;
use libproto::refusal::Refusal;
use libproto::self_service::{ShellCommand, Task, USAGE};

use super::Parent;
use super::control::packed;
use super::job::JobRole;
use super::jobs::list::List;
use super::session::Session;
use super::session::shell::{Shell, ShellWork};
use super::user_queue::{Answer, CountedUser};

/// Bytes of a description that are shown.
const DESCRIPTION_SHOWN: usize = 2000;

/// What the repository process of a session is to do.
pub(super) fn task(session: &Session) -> Task {
    let task = session.shell().and_then(|shell| shell.ask.command.task());
    task.map_or(Task::Git, |(_, task)| task)
}

impl Parent {
    /// Asks `auth` once both are known: who it is, and what it wants.
    pub(super) fn consider_shell(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        let (Some(peer), told_user) = (session.peer().cloned(), session.told_user()) else { return };
        let kind = session.hello.as_ref().map(|hello| hello.kind);
        let Some(shell) = session.phase.shell_mut().filter(|shell| matches!(shell.work, ShellWork::New))
        else {
            return;
        };
        if kind.is_some_and(|kind| kind != ClientKind::Shell) {
            return self.end_session(number, "self-service of another kind of client");
        }
        let Ok(told_user) = told_user else {
            return self.refuse(number, Refusal::UserName);
        };
        let message = match shell.ask.command.task() {
            None => {
                shell.work = ShellWork::Overview(Box::default());
                ParentToAuth::Overview(Who { peer, told_user })
            }
            // A client without a name is the account itself, or a user who has a shell.
            Some(_) if told_user.is_none() => return self.refuse(number, Refusal::NoUserName),
            Some((repository, _)) => {
                let (service, repository) = (shell.ask.command.service(), repository.clone());
                let told_address = shell.ask.told_address.clone();
                let ask = GitAsk { service, repository, protocol: 0, told_address };
                shell.work = ShellWork::Asked(ask);
                match session.question() {
                    Some(question) => ParentToAuth::Ask(question),
                    None => return,
                }
            }
        };
        self.auth_out.send(&self.auth.channel, number, &message);
    }

    /// The repository process has changed what was asked for, or says why not.
    pub(super) fn shell_changed(&mut self, number: u64, refusal: Option<Refusal>) {
        let shell = self.table.get(number).and_then(|session| session.phase.shell_mut());
        let Some(Shell { work: ShellWork::Granted { info, .. }, .. }) = shell else { return };
        if let Some(refusal) = refusal {
            return self.refuse(number, refusal);
        }
        let lines = std::mem::take(info);
        self.send_to_control(number, packed(lines).into_iter().chain([ParentToSession::Done(())]));
    }

    /// The repository process tells about its repository.
    pub(super) fn shell_info(&mut self, number: u64, info: &RepoInfo) {
        let shell = self.table.get(number).and_then(|session| session.phase.shell_mut());
        let Some(Shell { work: ShellWork::Granted { grant, info: lines }, .. }) = shell else { return };
        let (permit, ask) = (&grant.permit, &grant.ask);
        let branch = info.head.strip_prefix(b"refs/heads/").unwrap_or(&info.head);
        let unborn = if info.born { "" } else { " (not there yet)" };
        let mut text = escape(info.description.trim_ascii());
        text.truncate(text.floor_char_boundary(DESCRIPTION_SHOWN));
        *lines = vec![
            format!("repository\t{}", escape(ask.repository.as_bytes())),
            format!("rights\t{}", if permit.write { "rw" } else { "ro" }),
            format!("head\t{}{unborn}", escape(branch)),
            format!("branches\t{}", info.branches),
            format!("tags\t{}", info.tags),
            format!("references\t{}", info.references),
            format!("changed\t{}", info.changed.map_or_else(|| "never".to_owned(), moment)),
            format!("size\t{}", info.size.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string())),
            format!("description\t{text}"),
        ];
    }

    /// `auth` names a directory of repositories.
    pub(super) fn shell_root(&mut self, number: u64, root: SeenRoot) {
        if let Some(overview) = self.table.get(number).and_then(Session::overview_mut) {
            overview.roots.push_back(root);
        }
    }

    /// `auth` names repositories that the user may see.
    pub(super) fn shell_seen(&mut self, number: u64, batch: Vec<Seen>) {
        let Some(overview) = self.table.get(number).and_then(Session::overview_mut) else { return };
        for seen in batch {
            overview.see(escape(seen.name.as_bytes()), seen.write);
        }
        if overview.identity.is_some() {
            overview.pending = overview.pending.saturating_sub(1);
            self.shell_goes_on(number);
        }
    }

    /// That was all of the configuration.
    pub(super) fn shell_told(&mut self, number: u64, overview: message::Overview) {
        let user = match &overview {
            message::Overview::Known { identity, connections, own_connections } => CountedUser {
                identity: identity.clone(),
                counted: identity.clone(),
                limit: usize::try_from(*connections).unwrap_or(usize::MAX),
                own: *own_connections,
            },
            message::Overview::NoIdentity(why) => {
                return self.refuse(number, Refusal::NoIdentity(*why));
            }
        };
        if self.has_all_sessions(&user) {
            return self.queue_for_user(number, user, Answer::Overview(overview));
        }
        let Some(session) = self.table.get(number) else { return };
        let Some(overview) = session.overview_mut() else { return };
        overview.identity = Some(user.identity);
        if session.shell().is_some_and(|shell| shell.ask.command == ShellCommand::Unknown) {
            return self.refuse(number, Refusal::Usage(USAGE.into()));
        }
        self.shell_goes_on(number);
    }

    fn next_root(&mut self, number: u64) -> Option<SeenRoot> {
        self.table.get(number)?.overview_mut()?.roots.pop_front()
    }

    /// The next directory, or the answer.
    pub(super) fn shell_goes_on(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        if session.overview().is_none() {
            return;
        }
        if List::of(session).is_some() || session.session.running().is_none() {
            return;
        }
        while let Some(root) = self.next_root(number) {
            if self.start_list(number, root) {
                return;
            }
        }
        let Some(session) = self.table.get(number) else { return };
        let (Some(child), Some(shell)) = (session.session.running(), session.phase.shell_mut()) else {
            return;
        };
        let Shell { ask, work: ShellWork::Overview(overview) } = shell else { return };
        if overview.pending > 0 {
            return;
        }
        let lines = overview.lines(&ask.command);
        for message in packed(lines).into_iter().chain([ParentToSession::Done(())]) {
            overview.out.send(&child.channel, number, &message);
        }
    }

    /// Sends more of the answer, when the session takes it.
    pub(super) fn flush_shell(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        let (Some(child), Some(shell)) = (session.session.running(), session.phase.shell_mut()) else {
            return;
        };
        if let Some(overview) = shell.overview_mut() {
            overview.out.flush(&child.channel);
        }
    }
}

/// A moment in UTC as ISO 8601 writes it, from seconds since 1970; a date with a year of more than
/// four digits is invented and is shown as those seconds.
fn moment(seconds: u64) -> String {
    const DAY: u64 = 86_400;
    const FOUR_HUNDRED_YEARS: u64 = 146_097;
    // The first second of the year 10000.
    if seconds >= 253_402_300_800 {
        return seconds.to_string();
    }
    let (mut days, second) = (seconds / DAY, seconds % DAY);
    let mut year = 1970 + days / FOUR_HUNDRED_YEARS * 400;
    days %= FOUR_HUNDRED_YEARS;
    let leap = |year: u64| {
        u64::from(year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while days >= 365 + leap(year) {
        days -= 365 + leap(year);
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn moments_are_those_of_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_800, "253402300800"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(moment(seconds), text);
        }
    }
}
