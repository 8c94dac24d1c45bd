//! The limits that a configuration sets, as gotctl tells them: of all, of one user, of the
//! repositories of one block.

use crate::conf::limits::Limit;
use crate::conf::model::{Config, RepositoryKind};

/// Most limits that are reported one by one.
const MOST: usize = 1024;

/// A limit that was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetLimit {
    /// Which.
    pub limit: Limit,
    /// The block that the limit is set in, unless it is global: a word of gotd.conf and a name.
    pub of: Option<(&'static str, String)>,
    /// In its unit.
    value: u64,
}

/// The limits that were set, in the order of the table, and how many more there are.
#[derive(Debug, Clone, Default)]
pub struct SetLimits {
    /// At most [`MOST`].
    pub told: Vec<SetLimit>,
    /// The rest.
    pub more: usize,
}

impl SetLimits {
    /// Of a configuration.
    pub fn of(config: &Config) -> SetLimits {
        let all = config.limits.changed().map(|(limit, value, _)| SetLimit { limit, of: None, value });
        let users = config.user_limits.iter().map(|user| SetLimit {
            limit: Limit::ConnectionsOfUser,
            of: Some(("user", user.subject.name.to_string())),
            value: user.connections.into(),
        });
        let blocks = config.repositories.iter().flat_map(|block| {
            let word = match block.kind {
                RepositoryKind::One => "repository",
                RepositoryKind::Below { .. } => "repositories",
            };
            block.limits.iter().map(move |own| SetLimit {
                limit: own.limit,
                of: Some((word, block.name.as_ref().map(ToString::to_string).unwrap_or_default())),
                value: own.value,
            })
        });
        let mut limits = SetLimits::default();
        for set in all.chain(users).chain(blocks) {
            if limits.told.len() < MOST {
                limits.told.push(set);
            } else {
                limits.more += 1;
            }
        }
        limits
    }
}

impl SetLimit {
    /// Its number; `None` where the word `none` stands.
    pub fn number(&self) -> Option<u64> {
        (!self.limit.row().none || self.value > 0).then_some(self.value)
    }

    /// For people, much as gotd.conf has it.
    pub fn line(&self) -> String {
        let (directive, value) = (self.limit.directive(), self.limit.row().spell(self.value));
        match &self.of {
            None => format!("{directive} {value}"),
            Some(("user", name)) => format!("{directive} {name} {value}"),
            Some((word, name)) => format!("{word} \"{name}\" {directive} {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::source::Texts;

    #[test]
    fn every_line_that_sets_a_limit_is_told() {
        let text = "connection { limit user flan 16\n limit per user 5\n minimum rate none }\nlimit blob size 5M\n\
                    repository \"a\" {\n path /a\n limit blob size none\n}\nrepositories / {\n path /b\n limit packs per repository 2\n}\n";
        let config = crate::conf::parse("f", &mut Texts::one("f", text)).config;
        let limits = SetLimits::of(&config);
        let lines: Vec<String> = limits.told.iter().map(SetLimit::line).collect();
        assert_eq!(
            lines,
            [
                "connection minimum rate none",
                "connection limit per user 5",
                "limit blob size 5M",
                "connection limit user flan 16",
                "repository \"a\" limit blob size none",
                "repositories \"\" limit packs per repository 2",
            ]
        );
        let numbers: Vec<Option<u64>> = limits.told.iter().map(SetLimit::number).collect();
        assert_eq!(numbers, [None, Some(5), Some(5 << 20), Some(16), None, Some(2)]);
    }

    #[test]
    fn of_very_many_the_first_are_told() {
        let users: String = (0..3000).map(|n| format!("connection limit user u{n} 1\n")).collect();
        let config = crate::conf::parse("f", &mut Texts::one("f", users)).config;
        let limits = SetLimits::of(&config);
        assert_eq!((limits.told.len(), limits.more), (MOST, 3000 - MOST));
    }
}
