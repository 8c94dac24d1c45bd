//! A configuration as text in one file: what `gotd -n -vv` prints, and what the parser must read
//! back to the same.

use std::fmt::Write;

use super::keywords::RESERVED;
use super::lexer::allowed_bare;
use super::limits::Limit;
use super::model::{
    Access, Action, Config, DEFAULT_GIT_PORT, ListenAddress, LogTo, NotifyVia, Repository, RepositoryKind,
    Sandbox, Wants,
};

/// The whole configuration, without macros, includes and comments.
pub fn print(config: &Config) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = globals(&mut out, config);
    let _ = people(&mut out, config);
    for block in &config.repositories {
        let _ = repository(&mut out, block);
    }
    out
}

/// A word in quotes, unless it needs none.
pub fn quote(word: &str) -> String {
    let plain = word.starts_with(|c: char| c.is_alphanumeric() || "/:_.".contains(c))
        && word.chars().all(|c| allowed_bare(c) && c != '\\')
        && !RESERVED.contains(&word);
    if plain {
        return word.to_owned();
    }
    in_quotes(word)
}

fn in_quotes(word: &str) -> String {
    let mut out = String::from("\"");
    let mut chars = word.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => out.push_str("\\\""),
            // A backslash stands for itself, unless one of these characters follows: then it must
            // be escaped.
            '\\' if matches!(chars.peek(), Some(' ' | '\t')) => {
                out.push_str("\\\\");
                out.extend(chars.next());
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn globals(out: &mut String, config: &Config) -> std::fmt::Result {
    for listener in &config.listeners {
        match &listener.address {
            ListenAddress::Unix(path) => writeln!(out, "listen on {}", quote(path))?,
            ListenAddress::Git(address, DEFAULT_GIT_PORT) => writeln!(out, "listen on git \"{address}\"")?,
            ListenAddress::Git(address, port) => writeln!(out, "listen on git \"{address}\" port {port}")?,
        }
    }
    if let Some(user) = config.user.as_ref().filter(|u| u.at.line > 0) {
        write!(out, "user {}", quote(&user.name))?;
        for (word, other) in [("client", &config.client), ("daemon", &config.daemon)] {
            if let Some(other) = other {
                write!(out, " {word} {}", quote(&other.name))?;
            }
        }
        writeln!(out)?;
    }
    if config.sandbox == Sandbox::BestEffort {
        writeln!(out, "sandbox best-effort")?;
    }
    if config.log_verbose {
        writeln!(out, "log verbose")?;
    }
    match config.log_to {
        LogTo::Auto => {}
        LogTo::Stderr => writeln!(out, "log to stderr")?,
        LogTo::Syslog => writeln!(out, "log to syslog")?,
    }
    if config.informative_errors {
        writeln!(out, "connection informative errors")?;
    }
    for (limit, value, _) in config.limits.changed() {
        writeln!(out, "{} {}", limit.row().scope.word(), limit_line(limit, value))?;
    }
    for limit in &config.user_limits {
        let directive = Limit::ConnectionsOfUser.directive();
        writeln!(out, "{directive} {} {}", quote(limit.subject.name.as_str()), limit.connections)?;
    }
    Ok(())
}

fn limit_line(limit: Limit, value: u64) -> String {
    let row = limit.row();
    format!("{} {}", row.words.join(" "), row.spell(value))
}

fn people(out: &mut String, config: &Config) -> std::fmt::Result {
    // Accounts in their order and users in theirs, though users of two accounts may alternate.
    let mut introduced = 0;
    for run in config.users.chunk_by(|a, b| a.account == b.account) {
        let current = run.first().map_or(0, |u| u.account as usize);
        for account in config.accounts.iter().take(current).skip(introduced) {
            writeln!(out, "account {} {{ }}", quote(account.name.as_str()))?;
        }
        introduced = introduced.max(current.saturating_add(1));
        let Some(account) = config.accounts.get(current) else { continue };
        writeln!(out, "account {} {{", quote(account.name.as_str()))?;
        for user in run {
            writeln!(out, "\tuser {} {{", quote(user.name.as_str()))?;
            for key in &user.keys {
                writeln!(out, "\t\tkey \"{} {}\"", key.kind, key.base64)?;
            }
            for principal in &user.principals {
                writeln!(out, "\t\tprincipal {}", quote(principal.name.as_str()))?;
            }
            writeln!(out, "\t}}")?;
        }
        writeln!(out, "}}")?;
    }
    for account in config.accounts.iter().skip(introduced) {
        writeln!(out, "account {} {{ }}", quote(account.name.as_str()))?;
    }
    for group in &config.groups {
        write!(out, "group {} {{", quote(group.name.as_str()))?;
        for user in group.members.iter().filter_map(|&i| config.users.get(i as usize)) {
            write!(out, " {}", quote(user.name.as_str()))?;
        }
        writeln!(out, " }}")?;
    }
    Ok(())
}

fn repository(out: &mut String, block: &Repository) -> std::fmt::Result {
    let kind = if block.kind == RepositoryKind::One { "repository" } else { "repositories" };
    let name = block.name.as_ref().map_or("/".into(), |n| String::from_utf8_lossy(n.as_bytes()));
    // Always in quotes, as everybody writes it.
    writeln!(out, "{kind} {} {{", in_quotes(&name))?;
    writeln!(out, "\tpath {}", quote(&block.path))?;
    for rule in &block.rules {
        let subject = quote(&rule.subject.to_string());
        match rule.action {
            Action::Permit(Access::Read) => writeln!(out, "\tpermit ro {subject}")?,
            Action::Permit(Access::Write) => writeln!(out, "\tpermit rw {subject}")?,
            Action::Deny => writeln!(out, "\tdeny {subject}")?,
            Action::PermitExported => writeln!(out, "\texport-ok")?,
        }
    }
    if block.kind == (RepositoryKind::Below { create: true }) {
        writeln!(out, "\tcreate")?;
    }
    for protection in &block.protections {
        writeln!(out, "\tprotect {} {}", protection.kind.words().join(" "), quote(&protection.name))?;
    }
    for hidden in &block.hidden {
        writeln!(out, "\thide namespace {}", quote(&hidden.namespace))?;
    }
    for borrow in &block.borrows {
        writeln!(out, "\tborrow {}", in_quotes(&String::from_utf8_lossy(borrow.name.as_bytes())))?;
    }
    for tolerated in &block.tolerated {
        writeln!(out, "\tfsck ignore {}", tolerated.kind)?;
    }
    let options = block.options;
    for (set, line) in [
        (options.fsck_off, "fsck off"),
        (options.partial_clone, "partial clone"),
        (options.wants == Wants::Advertised, "wants advertised"),
        (options.wants == Wants::Any, "wants any"),
        (options.reflog, "reflog"),
    ] {
        if set {
            writeln!(out, "\t{line}")?;
        }
    }
    for o in &block.limits {
        writeln!(out, "\tlimit {}", limit_line(o.limit, o.value))?;
    }
    notify(out, block)?;
    writeln!(out, "}}")
}

fn word(line: &mut String, keyword: &str, value: Option<&str>) {
    if let Some(value) = value {
        let _ = write!(line, " {keyword} {}", quote(value));
    }
}

fn notify(out: &mut String, block: &Repository) -> std::fmt::Result {
    for reference in &block.notify.references {
        let (kind, name) = match reference.name.ends_with('/') {
            true => ("reference namespace", &reference.name),
            false => ("branch", &reference.name),
        };
        writeln!(out, "\tnotify {kind} {}", quote(name))?;
    }
    for target in &block.notify.targets {
        let mut line = String::from("\tnotify");
        match &target.via {
            NotifyVia::Email { sender, recipient, responder, relay, port } => {
                line.push_str(" email");
                word(&mut line, "from", sender.as_deref());
                word(&mut line, "to", Some(recipient));
                word(&mut line, "reply to", responder.as_deref());
                word(&mut line, "relay", relay.as_deref());
                word(&mut line, "port", port.as_deref());
            }
            NotifyVia::Url { url, auth, insecure, hmac } => {
                word(&mut line, "url", Some(url));
                word(&mut line, "auth", auth.as_deref());
                line.push_str(if *insecure { " insecure" } else { "" });
                word(&mut line, "hmac", hmac.as_deref());
            }
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}
