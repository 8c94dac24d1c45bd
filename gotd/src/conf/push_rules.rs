//! The rules of a push, as a configuration has them for one repository.

use libproto::limits::TABLE;
use libproto::message::rules::{PushRules, travels};

use super::model::{Config, Repository};

/// The rules of one block.
pub fn of(config: &Config, block: &Repository) -> PushRules {
    PushRules {
        protections: block.protections.iter().map(|p| (p.kind, p.name.clone())).collect(),
        hidden: block.hidden.iter().map(|h| h.namespace.clone()).collect(),
        tolerated: block.tolerated.iter().map(|t| t.kind.clone()).collect(),
        fsck: !block.options.fsck_off,
        reflog: block.options.reflog,
        limits: TABLE
            .iter()
            .filter(|row| travels(row.limit))
            .map(|row| (row.limit, block.limit(row.limit, &config.limits)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use libproto::codec;
    use libproto::limits::Limit;
    use libproto::message::rules::ProtectionKind;

    use super::*;
    use crate::conf::parse;
    use crate::conf::source::Texts;

    #[test]
    fn what_a_block_says_travels() {
        let text = concat!(
            "limit pack size 5M\nrepository \"r\" {\n path \"/r\"\n",
            "protect branch main\nhide namespace refs/pull\nfsck ignore hasDotgit\nreflog\n",
            "limit blob size 1M\n}\n"
        );
        let parsed = parse("f", &mut Texts::one("f", text));
        assert_eq!(parsed.errors, []);
        let rules = of(&parsed.config, &parsed.config.repositories[0]);
        let mut bytes = Vec::new();
        codec::encode(&rules, &mut bytes).unwrap();
        assert_eq!(codec::decode(&bytes), Ok(rules.clone()));
        assert_eq!(rules.limit(Limit::PackSize), 5 << 20);
        assert_eq!(rules.limit(Limit::BlobSize), 1 << 20);
        assert!(rules.fsck && rules.reflog);
        assert_eq!(rules.protections, [(ProtectionKind::Branch, "refs/heads/main".to_owned())]);
        assert_eq!(rules.hidden, ["refs/pull/"]);
        assert_eq!(rules.tolerated, ["hasDotgit"]);
    }
}
