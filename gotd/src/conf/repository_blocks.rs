//! The grammar of `repository` and `repositories` blocks.

use libproto::message::rules::HIDDEN_MAX;
pub use libproto::message::rules::{ALL_REFERENCES, FSCK_KINDS};
use libproto::names::{NameError, RepoName};

use super::keywords::{either, nearest};
use super::lexer::TokenKind;
use super::limits::Scope;
use super::model::{
    ANONYMOUS, Access, Action, Borrow, Hidden, LimitOverride, NotifyReference, NotifyTarget, NotifyVia,
    Position, Protection, ProtectionKind, Repository, RepositoryKind, Rule, Subject, Tolerated, Wants, Who,
    branch_name, namespace,
};
use super::parser::{LimitItem, Outcome, Parser, REPOSITORIES_MAX, RULES_MAX, Skip, Word};

/// Most entries of one kind (protections, hidden namespaces, targets) in one repository.
pub const ENTRIES_MAX: usize = 10_000;

/// Findings that are always refused, because what the object names could not be followed any more.
const FSCK_FATAL: &[&str] = &[
    "badObjectSha1",
    "badParentSha1",
    "badTree",
    "badTreeSha1",
    "badType",
    "missingObject",
    "missingTag",
    "missingTagEntry",
    "missingTree",
    "missingType",
    "missingTypeEntry",
    "nulInHeader",
    "unterminatedHeader",
];

const OPTIONS: &[&str] = &[
    "path",
    "permit",
    "deny",
    "protect",
    "notify",
    "hide",
    "borrow",
    "fsck",
    "partial",
    "wants",
    "reflog",
    "limit",
    "create",
    "export-ok",
];

impl Parser<'_> {
    pub(super) fn repository(&mut self, at: Position) -> Outcome {
        let word = self.word("the name of a repository")?;
        let what = format!("repository \"{}\"", word.text);
        let (name, key) = match RepoName::parse(word.text.as_bytes()) {
            Ok(name) => {
                let key = name.without_suffix().to_vec();
                (Some(name), key)
            }
            // C gotd takes neither.
            Err(NameError::TooLong) => return self.repo_name(&word).map(|_| ()),
            Err(_) if word.text.is_empty() => return self.repo_name(&word).map(|_| ()),
            Err(error) => {
                self.unserved.push((self.config.repositories.len(), format!("{what}: {error}")));
                // No name has a line feed in it.
                (None, format!("\n{}", word.text).into_bytes())
            }
        };
        self.repository_block(Repository::new(name, RepositoryKind::One, at), key, &word.text, &what)
    }

    /// What to do about two blocks whose names differ at most in a slash at their ends or in `.git`.
    /// C gotd compares what is written, and takes the first block that a request fits.
    fn same_name(&mut self, same: usize, key: &[u8], written: &str, at: Position, what: &str) {
        let before = self.repository_words.get(same).cloned().unwrap_or_default();
        let place = self.config.repositories.get(same).map(|block| self.config.place(block.at));
        let place = place.unwrap_or_default();
        let again = self.repository_texts.contains(written);
        let plain = |word: &str| !word.starts_with('/') && !word.ends_with('/');
        let index = self.config.repositories.len();
        if again || key.ends_with(b"/") {
            // The block is read all the same, for the errors in it.
            self.error_at(at, format!("{what}: the same name is already in {place}"));
        } else if plain(written) && !plain(&before) {
            let text = format!("repository \"{before}\": no request has this name, which is in {place}");
            self.unserved.push((same, text));
            self.repository_names.insert(key.to_vec(), index);
        } else if !plain(written) || before.as_bytes() == key {
            self.unserved.push((index, format!("{what}: the same name is already in {place}")));
        } else {
            // `x.git` and then `x`: each is asked for by its own name.
            self.namesakes.push((at, format!("{what}: the same name is already in {place}")));
            self.repository_names.insert(key.to_vec(), index);
        }
    }

    /// Blocks that no request can ask for are left out with a warning: C gotd takes them. Beside a
    /// `repositories` or `borrow`, which are ours, they and namesakes are errors: the former would
    /// serve what such a block guards, the latter takes names with and without `.git` for one. They
    /// are errors, too, where nothing would be left to serve.
    pub(super) fn leave_out_unserved(&mut self) {
        let mut unserved = std::mem::take(&mut self.unserved);
        unserved.sort();
        let ours = |b: &Repository| b.kind != RepositoryKind::One || !b.borrows.is_empty();
        let nothing_left = unserved.len() >= self.config.repositories.len();
        let strict = nothing_left || self.config.repositories.iter().any(ours);
        for (at, text) in std::mem::take(&mut self.namesakes) {
            if strict {
                self.error_at(at, text);
            }
        }
        for (index, why) in &unserved {
            let at = self.config.repositories.get(*index).map(|block| block.at).unwrap_or_default();
            if strict {
                self.error_at(at, why.clone());
            } else {
                self.warn_at(at, format!("{why}: no request can ask for it, and this block is left out"));
            }
        }
        let mut index = 0;
        self.config.repositories.retain(|_| {
            index += 1;
            strict || unserved.binary_search_by_key(&(index - 1), |(at, _)| *at).is_err()
        });
    }

    pub(super) fn repositories(&mut self, at: Position) -> Outcome {
        let word = self.word("the prefix of the names of repositories")?;
        let kind = RepositoryKind::Below { create: false };
        let what = format!("repositories \"{}\"", word.text);
        if word.text.is_empty() || word.text == "/" {
            return self.repository_block(Repository::new(None, kind, at), vec![b'/'], &word.text, &what);
        }
        let prefix = self.repo_name(&word)?;
        let mut key = prefix.as_bytes().to_vec();
        key.push(b'/');
        self.repository_block(Repository::new(Some(prefix), kind, at), key, &word.text, &what)
    }

    fn repository_block(
        &mut self,
        mut block: Repository,
        key: Vec<u8>,
        written: &str,
        what: &str,
    ) -> Outcome {
        let at = block.at;
        if let Some(&same) = self.repository_names.get(&key) {
            self.same_name(same, &key, written, at, what);
        }
        if self.config.repositories.len() >= REPOSITORIES_MAX {
            return self.fail(at, format!("more than {REPOSITORIES_MAX} repositories"));
        }
        self.block("{ on the same line", &mut |parser| {
            parser.repository_item(&mut block)?;
            parser.end_of_item(OPTIONS)
        })?;
        if block.path.is_empty() {
            self.error_at(at, format!("{what}: expected a \"path\" in the block"));
        }
        if let Some(hidden) = block.hidden.first() {
            let options = &block.options;
            let gives_all = match (options.partial_clone, options.wants) {
                (true, _) => Some("partial clone"),
                (false, Wants::Any) => Some("wants any"),
                (false, Wants::Advertised | Wants::Reachable) => None,
            };
            if let Some(directive) = gives_all {
                let text = format!(
                    "{what}: \"hide namespace\" and \"{directive}\" contradict each other: with the latter, any \
                     object may be asked for by its id"
                );
                self.error_at(hidden.at, text);
            }
        }
        // Both travel in one message, together with other things.
        let fit = super::push_rules::of(&self.config, &block).fit();
        let hidden: usize = block.hidden.iter().map(|h| h.namespace.len() + 4).sum();
        if !fit || hidden > HIDDEN_MAX {
            self.error_at(
                at,
                format!("{what}: expected fewer \"protect\", \"hide\" and \"fsck\" directives"),
            );
        }
        let index = self.config.repositories.len();
        self.repository_names.entry(key).or_insert(index);
        self.repository_words.push(written.to_owned());
        self.repository_texts.insert(written.to_owned());
        self.config.repositories.push(block);
        Ok(())
    }

    /// Behind a directive in a block: the end of the line or of the block, or another directive.
    fn end_of_item(&mut self, known: &[&str]) -> Outcome {
        match &self.peek().kind {
            TokenKind::Newline | TokenKind::Close | TokenKind::End => Ok(()),
            TokenKind::Word { text, quoted: false } if known.contains(&text.as_str()) => Ok(()),
            _ => self.unexpected("the end of the line"),
        }
    }

    fn repository_item(&mut self, block: &mut Repository) -> Outcome {
        let token = self.peek().clone();
        let TokenKind::Word { text, quoted: false } = token.kind else {
            return self.unexpected("a directive");
        };
        let at = token.at;
        if !OPTIONS.contains(&text.as_str()) {
            let hint = match nearest(&text, OPTIONS.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("expected {}", either(OPTIONS)),
            };
            return self.fail(at, format!("unknown directive \"{text}\": {hint}"));
        }
        self.next();
        let below = matches!(block.kind, RepositoryKind::Below { .. });
        match text.as_str() {
            "path" => self.path(block),
            "permit" => {
                let access = match self.keyword(&["ro", "rw"], &either(&["ro", "rw"]))? {
                    "ro" => Access::Read,
                    _ => Access::Write,
                };
                self.rule(block, Action::Permit(access), at)
            }
            "deny" => self.rule(block, Action::Deny, at),
            "protect" => self.block_or_item(&mut |p| p.protect_item(block)),
            "notify" => {
                self.no_effect("notify", at);
                self.block_or_item(&mut |p| p.notify_item(block))
            }
            "hide" => self.hide(block, at),
            "borrow" => self.borrow(block, at),
            "fsck" => self.block_or_item(&mut |p| p.fsck_item(block)),
            "partial" => {
                self.keywords(&["clone"])?;
                block.options.partial_clone = true;
                Ok(())
            }
            "wants" => {
                let known = ["advertised", "reachable", "any"];
                block.options.wants = match self.keyword(&known, &either(&known))? {
                    "advertised" => Wants::Advertised,
                    "reachable" => Wants::Reachable,
                    _ => Wants::Any,
                };
                Ok(())
            }
            "reflog" => {
                block.options.reflog = true;
                Ok(())
            }
            "limit" => self.block_or_item(&mut |p| p.repository_limit_item(block)),
            word if !below => self.fail(at, format!("\"{word}\" has a place only in \"repositories\"")),
            "create" => {
                block.kind = RepositoryKind::Below { create: true };
                Ok(())
            }
            _ => {
                let Ok(name) = libproto::names::UserName::parse(ANONYMOUS.as_bytes()) else {
                    return Err(Skip);
                };
                let subject = Subject { group: false, name };
                self.push_rule(block, Rule { action: Action::PermitExported, subject, who: Who::Nobody, at })
            }
        }
    }

    fn path(&mut self, block: &mut Repository) -> Outcome {
        // Whatever is wrong with the path, it is not missing.
        block.path = "/".to_owned();
        let path = self.word("an absolute path")?;
        block.path = self.clean_path(&path)?;
        Ok(())
    }

    fn rule(&mut self, block: &mut Repository, action: Action, at: Position) -> Outcome {
        let what = "a user, or a group with a colon before it";
        let word = self.word(what)?;
        let (group, name) = match word.text.strip_prefix(':') {
            Some(name) => (true, name),
            None => (false, word.text.as_str()),
        };
        let name = self.subject_name(name)?;
        self.push_rule(block, Rule { action, subject: Subject { group, name }, who: Who::Nobody, at })
    }

    fn push_rule(&mut self, block: &mut Repository, rule: Rule) -> Outcome {
        self.rules = self.rules.saturating_add(1);
        if self.rules > RULES_MAX {
            return self.fail(rule.at, format!("more than {RULES_MAX} rules"));
        }
        block.rules.push(rule);
        Ok(())
    }

    fn branch(&mut self, word: &Word) -> Outcome<String> {
        match branch_name(&word.text) {
            Some(name) => Ok(name),
            None => self.fail(word.at, format!("expected the name of a branch, found \"{}\"", word.text)),
        }
    }

    fn namespace(&mut self) -> Outcome<String> {
        let word = self.word("a namespace below refs/")?;
        match namespace(&word.text) {
            Some(name) => Ok(name),
            None => self.fail(word.at, format!("expected a namespace below refs/, found \"{}\"", word.text)),
        }
    }

    fn protect_item(&mut self, block: &mut Repository) -> Outcome {
        let at = self.peek().at;
        let known = ["branch", "tag", "create", "delete", "linear"];
        let first = self.keyword(&known, &either(&known))?;
        if first == "linear" {
            self.keywords(&["branch"])?;
        }
        let kind = match first {
            "branch" | "linear" => {
                let below = self.accept("namespace");
                match (first, below) {
                    ("branch", false) => ProtectionKind::Branch,
                    ("branch", true) => ProtectionKind::BranchNamespace,
                    (_, false) => ProtectionKind::LinearBranch,
                    (_, true) => ProtectionKind::LinearBranchNamespace,
                }
            }
            _ => {
                self.keywords(&["namespace"])?;
                match first {
                    "tag" => ProtectionKind::TagNamespace,
                    "create" => ProtectionKind::CreateNamespace,
                    _ => ProtectionKind::DeleteNamespace,
                }
            }
        };
        let name = if kind.is_namespace() {
            self.namespace()?
        } else {
            let word = self.word("the name of a branch")?;
            self.branch(&word)?
        };
        self.push_protection(block, Protection { kind, name, at })
    }

    fn push_protection(&mut self, block: &mut Repository, new: Protection) -> Outcome {
        // As for C gotd: one namespace cannot hold branches and tags.
        let group = |kind| match kind {
            ProtectionKind::TagNamespace => ProtectionKind::BranchNamespace,
            other => other,
        };
        let same = block.protections.iter().find(|p| group(p.kind) == group(new.kind) && p.name == new.name);
        if let Some(same) = same {
            let place = self.config.place(same.at);
            return self.fail(new.at, format!("{}: already protected in {place}", new.name));
        }
        if block.protections.len() >= ENTRIES_MAX {
            return self.fail(new.at, format!("more than {ENTRIES_MAX} protections in one repository"));
        }
        block.protections.push(new);
        Ok(())
    }

    fn hide(&mut self, block: &mut Repository, at: Position) -> Outcome {
        self.keywords(&["namespace"])?;
        let word = self.peek().at;
        let namespace = self.namespace()?;
        if namespace == ALL_REFERENCES {
            let text = "expected a namespace below refs/, such as refs/pull: this one holds all references";
            return self.fail(word, text);
        }
        if block.hidden.len() >= ENTRIES_MAX {
            return self.fail(at, format!("more than {ENTRIES_MAX} hidden namespaces in one repository"));
        }
        block.hidden.push(Hidden { namespace, at });
        Ok(())
    }

    fn borrow(&mut self, block: &mut Repository, at: Position) -> Outcome {
        let word = self.word("the name of a repository")?;
        let name = self.repo_name(&word)?;
        if block.is_itself(&name) {
            return self.fail(word.at, format!("{name}: a repository cannot borrow from itself"));
        }
        if block.borrows.len() >= ENTRIES_MAX {
            return self.fail(at, format!("more than {ENTRIES_MAX} \"borrow\" in one repository"));
        }
        if !block.borrows.iter().any(|b| b.name == name) {
            block.borrows.push(Borrow { name, at: word.at });
        }
        Ok(())
    }

    /// What a block borrows from must be known. Only when all blocks were read that can be said.
    pub(super) fn check_borrows(&mut self) {
        // The block that a repository belongs to, by its name: its own, else that of the longest
        // prefix.
        let block_of = |name: &RepoName| {
            let whole = name.as_bytes();
            let all = [whole, b"/"].concat();
            let cuts = whole.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'/');
            let prefixes = cuts.map(|(at, _)| &whole[..=at]).chain([b"/".as_slice()]);
            let mut keys = [name.without_suffix(), all.as_slice()].into_iter().chain(prefixes);
            let index = keys.find_map(|key| self.repository_names.get(key))?;
            self.config.repositories.get(*index)
        };
        let borrows = || self.config.repositories.iter().flat_map(|block| &block.borrows);
        let unknown: Vec<Borrow> =
            borrows().filter(|borrow| block_of(&borrow.name).is_none()).cloned().collect();
        let hides = |name: &RepoName| block_of(name).is_some_and(|block| !block.hidden.is_empty());
        let hiding: Vec<Borrow> = borrows().filter(|borrow| hides(&borrow.name)).cloned().collect();
        for Borrow { name, at } in unknown {
            self.error_at(at, format!("{name}: no block of this configuration has this repository"));
        }
        for Borrow { name, at } in hiding {
            let text = format!(
                "\"borrow\" and the \"hide namespace\" of \"{name}\" contradict each other: with the former, what is \
                 hidden there may be asked for by its id"
            );
            self.error_at(at, text);
        }
    }

    fn fsck_item(&mut self, block: &mut Repository) -> Outcome {
        let at = self.peek().at;
        if self.keyword(&["ignore", "off"], &either(&["ignore", "off"]))? == "off" {
            block.options.fsck_off = true;
            return Ok(());
        }
        let word = self.word("the name of a finding of git fsck")?;
        if FSCK_FATAL.iter().any(|kind| kind.eq_ignore_ascii_case(&word.text)) {
            return self.fail(word.at, format!("{}: objects with this finding are never taken", word.text));
        }
        let Some(kind) = FSCK_KINDS.iter().find(|kind| kind.eq_ignore_ascii_case(&word.text)) else {
            let hint = nearest(&word.text, FSCK_KINDS.iter().copied());
            let hint = hint.map_or(String::new(), |near| format!(": did you mean \"{near}\"?"));
            return self.fail(
                word.at,
                format!("expected the name of a finding of git fsck, found \"{}\"{hint}", word.text),
            );
        };
        if !block.tolerated.iter().any(|t| t.kind == *kind) {
            block.tolerated.push(Tolerated { kind: (*kind).to_owned(), at });
        }
        Ok(())
    }

    fn repository_limit_item(&mut self, block: &mut Repository) -> Outcome {
        let at = self.peek().at;
        self.limit_item(at, &[Scope::Repository], &[], &mut |_, LimitItem { limit, value, at, .. }| {
            block.limits.retain(|o| o.limit != limit);
            block.limits.push(LimitOverride { limit, value, at });
            Ok(())
        })
    }

    // Notifications.

    fn notify_item(&mut self, block: &mut Repository) -> Outcome {
        let at = self.peek().at;
        let known = ["branch", "reference", "email", "url"];
        let full = block.notify.references.len().max(block.notify.targets.len()) >= ENTRIES_MAX;
        if full {
            return self.fail(at, format!("more than {ENTRIES_MAX} notifications in one repository"));
        }
        match self.keyword(&known, &either(&known))? {
            "branch" => {
                let word = self.word("the name of a branch")?;
                let name = self.branch(&word)?;
                self.notify_reference(block, name, at);
                Ok(())
            }
            "reference" => {
                self.keywords(&["namespace"])?;
                let name = self.namespace()?;
                self.notify_reference(block, name, at);
                Ok(())
            }
            "email" => self.email(block, at),
            _ => self.url(block, at),
        }
    }

    fn notify_reference(&mut self, block: &mut Repository, name: String, at: Position) {
        if !block.notify.references.iter().any(|r| r.name == name) {
            block.notify.references.push(NotifyReference { name, at });
        }
    }

    fn email(&mut self, block: &mut Repository, at: Position) -> Outcome {
        let sender = if self.accept("from") { Some(self.word("a sender's address")?.text) } else { None };
        self.keywords(&["to"])?;
        let recipient = self.word("a recipient's address")?.text;
        let responder = if self.accept("reply") {
            self.keywords(&["to"])?;
            Some(self.word("an address for replies")?.text)
        } else {
            None
        };
        let relay = if self.accept("relay") { Some(self.word("a host name")?.text) } else { None };
        let port =
            if relay.is_some() && self.accept("port") { Some(self.word("a port")?.text) } else { None };
        let same =
            |t: &&NotifyTarget| matches!(&t.via, NotifyVia::Email { recipient: r, .. } if *r == recipient);
        if let Some(same) = block.notify.targets.iter().find(same) {
            let place = self.config.place(same.at);
            return self.fail(at, format!("{recipient}: already notified in {place}"));
        }
        let via = NotifyVia::Email { sender, recipient, responder, relay, port };
        block.notify.targets.push(NotifyTarget { via, at });
        Ok(())
    }

    fn url(&mut self, block: &mut Repository, at: Position) -> Outcome {
        let word = self.word("a URL")?;
        let Some(plain) = url_is_plain(&word.text) else {
            return self
                .fail(word.at, format!("expected http://HOST/… or https://HOST/…, found \"{}\"", word.text));
        };
        let auth =
            if self.accept("auth") { Some(self.word("a label of gotd-secrets.conf")?.text) } else { None };
        let insecure = auth.is_some() && self.accept("insecure");
        let hmac =
            if self.accept("hmac") { Some(self.word("a label of gotd-secrets.conf")?.text) } else { None };
        if plain && auth.is_some() && !insecure {
            return self
                .fail(word.at, "expected https:// or \"insecure\": credentials would go over plain HTTP");
        }
        let same = |t: &&NotifyTarget| matches!(&t.via, NotifyVia::Url { url, .. } if *url == word.text);
        if let Some(same) = block.notify.targets.iter().find(same) {
            let place = self.config.place(same.at);
            return self.fail(at, format!("{}: already notified in {place}", word.text));
        }
        let via = NotifyVia::Url { url: word.text, auth, insecure, hmac };
        block.notify.targets.push(NotifyTarget { via, at });
        Ok(())
    }
}

/// Whether a URL is plain HTTP; `None` if it is not `http://HOST[:PORT]/…` or `https://…`. Nothing
/// more is asked of host and port, as by C gotd.
fn url_is_plain(url: &str) -> Option<bool> {
    let (plain, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return None,
    };
    let (authority, _) = rest.split_once('/')?;
    let (host, port) = authority.split_once(':').unwrap_or((authority, "none"));
    (!host.is_empty() && !port.is_empty()).then_some(plain)
}
