//! What `auth` decides.

use libproto::command::Service;
use libproto::message::parent::{Access, AuthToParent, ParentToRepo, Permit, Serve, Verdict};
use libproto::refusal::{Refusal, Unseen};
use libproto::states::{RepoState, Role};
use nix::poll::PollFlags;

use super::super::error::{Fatal, Loss};
use super::super::session::grant::Grant;
use super::super::user_queue::{Answer, CountedUser};
use super::super::{End, Parent, selfservice};
use crate::os::log::Level;

impl Parent {
    pub(in crate::roles::parent) fn on_auth(&mut self, events: PollFlags) -> Option<End> {
        if events.contains(PollFlags::POLLOUT) {
            self.auth_out.flush(&self.auth.channel);
        }
        loop {
            let received = match self.auth.channel.try_recv() {
                Ok(received) => received,
                Err(e) if e.is_transient() => return None,
                Err(e) => return Some(self.lost(self.auth.number(), Role::Auth, Loss::Recv(e))),
            };
            match received.message {
                AuthToParent::Verdict(verdict) => self.decided(received.peer, verdict),
                AuthToParent::Placed(placed) => self.placed(received.peer, placed),
                AuthToParent::Configured(()) => self.configured(),
                AuthToParent::Seen(batch) => self.shell_seen(received.peer, batch),
                AuthToParent::Root(root) => self.shell_root(received.peer, root),
                AuthToParent::Overview(overview) => self.shell_told(received.peer, overview),
                AuthToParent::Lent(answers) => self.lent(received.peer, answers),
                AuthToParent::Hello(_) => {
                    return Some(End::Lost(Fatal { role: Role::Auth, why: Loss::GreetedTwice }));
                }
                AuthToParent::NotSupported(kind) => {
                    return Some(End::Lost(Fatal { role: Role::Auth, why: Loss::UnknownType(kind) }));
                }
            }
        }
    }

    pub(in crate::roles::parent) fn decided(&mut self, number: u64, verdict: Verdict) {
        match verdict {
            Verdict::Granted(permit) => self.granted(number, permit),
            Verdict::NotFound { identity, no_rule } => {
                if let Some(session) = self.table.get(number) {
                    session.turned_away = Some(identity);
                }
                self.not_there(number, if no_rule { Unseen::NotPermitted } else { Unseen::NoSuch });
            }
            Verdict::Denied { identity, text, rule } => {
                if let Some(session) = self.table.get(number) {
                    session.turned_away = Some(identity);
                    session.refused = Some(Refusal::DeniedBy(text.clone(), rule));
                }
                self.refuse(number, Refusal::Denied(text));
            }
            Verdict::NoIdentity(why) => self.refuse(number, Refusal::NoIdentity(why)),
        }
    }

    pub(in crate::roles::parent) fn granted(&mut self, number: u64, mut permit: Permit) {
        let user = CountedUser::of_permit(&permit);
        if self.has_all_sessions(&user) {
            return self.queue_for_user(number, user, Answer::Permit(permit));
        }
        let negotiation = match self.negotiation(number, &permit.counted) {
            Ok(negotiation) => negotiation,
            Err(refusal) => return self.refuse(number, refusal),
        };
        let limits = self.settings.session.clone();
        let fields: [(&str, &dyn std::fmt::Display); 3] =
            [("number", &number), ("who", &permit.identity), ("rule", &permit.rule)];
        self.log.line(Level::Debug, "granted", &fields);
        let Some(session) = self.table.get(number) else { return };
        let task = selfservice::task(session);
        if session.shell().is_some() {
            // Only a push makes a repository.
            permit.create = None;
        }
        let asked = session.peer().is_some() && session.phase.grant(permit);
        let Some(Grant { ask, permit, .. }) = session.grant().filter(|_| asked) else {
            return self.end_session(number, "a verdict that nobody asked for");
        };
        let serve = Serve {
            access: match ask.service {
                Service::UploadPack => Access::Read,
                Service::ReceivePack => Access::Write,
            },
            repository: permit.repository.clone(),
            fetch: permit.fetch,
            hidden: permit.hidden.clone(),
            limits,
            push_rules: permit.push_rules.clone(),
            who: permit.identity.clone(),
            task,
            negotiation,
        };
        session.repo_state = RepoState::Opening;
        let sent = session
            .repo
            .running()
            .is_some_and(|child| child.channel.try_send(number, &ParentToRepo::Serve(serve)).is_ok());
        if !sent {
            self.refuse(number, Refusal::RepositoryEnded);
        }
    }
}
