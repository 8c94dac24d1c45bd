//! What the owner of a repository has forbidden in its own `config` (`git-config`): it holds
//! whatever gotd.conf permits.
//!
//! The keys are those of [`KEYS`] and no others. A value counts only where it makes something
//! stricter; what asks for more than that is kept as a note for the log, as is an `include`, whose
//! file is not read. A key of one service that has no valid value ends requests of that service
//! alone, as with git.

use std::collections::BTreeMap;

use libgit::{Filter, FilterKind};

use crate::config::{Variable, Variables};
use crate::error::{Error, Result};
use crate::receive::check::{Message, Policy};

/// The keys that are read, as git-config(1) spells them.
pub const KEYS: &[&str] = &[
    "core.logAllRefUpdates",
    "daemon.uploadpack",
    "receive.denyCurrentBranch",
    "receive.denyDeleteCurrent",
    "receive.denyDeletes",
    "receive.denyNonFastForwards",
    "receive.fsck.<msg-id>",
    "receive.fsckObjects",
    "receive.hideRefs",
    "receive.maxInputSize",
    "receive.shallowUpdate",
    "transfer.fsckObjects",
    "transfer.hideRefs",
    "uploadpack.allowAnySHA1InWant",
    "uploadpack.allowFilter",
    "uploadpack.allowReachableSHA1InWant",
    "uploadpack.hideRefs",
    "uploadpackfilter.<filter>.allow",
    "uploadpackfilter.allow",
    "uploadpackfilter.tree.maxDepth",
];

/// Most notes that are kept, and bytes of one: a user may have written the file.
const NOTES: usize = 16;
const NOTE: usize = 200;

/// Which references get a reflog (`core.logAllRefUpdates`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogRefs {
    /// Nothing is said, or that none gets a new one.
    #[default]
    None,
    /// Branches and notes: `true`.
    Branches,
    /// Everything below `refs/`: `always`.
    All,
}

/// The safeguards of one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Safeguards {
    /// Branches cannot be deleted.
    pub deny_deletes: bool,
    /// The history of branches can only grow.
    pub deny_rewrites: bool,
    /// Most bytes of an incoming pack.
    pub max_input: Option<u64>,
    /// Objects of a push are checked for findings of fsck.
    pub fsck: bool,
    /// There is no partial clone.
    pub no_filter: bool,
    /// What would let fetches ask for more, and has no effect by itself.
    pub asks: Asks,
    /// It is not served over git://.
    pub no_git_daemon: bool,
    /// Which references get a reflog.
    pub log: LogRefs,
    hidden_from_fetches: Vec<Vec<u8>>,
    hidden_from_pushes: Vec<Vec<u8>>,
    errors: Vec<Message>,
    /// By the name of the kind; the empty name is for all others.
    filters: BTreeMap<Vec<u8>, bool>,
    tree_depth: Option<u64>,
    notes: Vec<String>,
    bad_for_fetches: Option<String>,
    bad_for_pushes: Option<String>,
}

/// What a fetch would be let do by a `config` whose word on it does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// Filter objects (`uploadpack.allowFilter`).
    pub filter: bool,
    /// Name any reachable object (`uploadpack.allowReachableSHA1InWant`).
    pub reachable: bool,
    /// Name any object (`uploadpack.allowAnySHA1InWant`).
    pub any: bool,
}

/// The service that a key is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Fetch,
    Push,
    Both,
}

impl Safeguards {
    /// Reads them from the text of a `config` that is well-formed up to its first error.
    pub fn parse(text: &[u8]) -> Safeguards {
        let mut found = Safeguards::default();
        let mut fsck = [None; 2];
        let mut findings = BTreeMap::new();
        for variable in Variables::new(text).map_while(std::result::Result::ok) {
            let whose = match &variable.section[..] {
                b"receive" => Of::Push,
                b"uploadpack" | b"uploadpackfilter" | b"daemon" => Of::Fetch,
                _ => Of::Both,
            };
            if found.read(&variable, &mut fsck, &mut findings).is_none() {
                found.bad(&variable, whose);
            }
        }
        found.fsck = fsck[0].or(fsck[1]) == Some(true);
        if let Some(false) = fsck[0].or(fsck[1]) {
            let key = if fsck[0].is_some() { "receive" } else { "transfer" };
            found.note(&format!("{key}.fsckObjects=false: gotd.conf decides"));
        }
        for (name, (shown, error)) in findings {
            match (Message::from_name(&name), error) {
                (Some(message), true) => found.errors.push(message),
                (None, true) => found.note(&format!("{shown}: no finding that is looked for")),
                (_, false) => found.note(&format!("{shown}: only error is honoured, gotd.conf decides")),
            }
        }
        found
    }

    /// Takes one assignment; `None` if its value is no possible one.
    fn read(
        &mut self,
        variable: &Variable,
        fsck: &mut [Option<bool>; 2],
        findings: &mut BTreeMap<String, (String, bool)>,
    ) -> Option<()> {
        let value = variable.value.as_deref();
        let lower = value.map(<[u8]>::to_ascii_lowercase);
        let word = lower.as_deref();
        match (&variable.section[..], variable.subsection.as_deref(), &variable.key[..]) {
            (b"receive", None, b"denydeletes") => self.deny_deletes = variable.bool()?,
            (b"receive", None, b"denynonfastforwards") => self.deny_rewrites = variable.bool()?,
            (b"receive", None, key @ (b"denycurrentbranch" | b"denydeletecurrent")) => {
                let current = key == b"denycurrentbranch";
                match word {
                    None | Some(b"refuse") => {}
                    Some(b"ignore" | b"warn") => self.always_refused(variable),
                    Some(b"updateinstead") if current => self.always_refused(variable),
                    _ if variable.bool()? => {}
                    _ => self.always_refused(variable),
                }
            }
            (section @ (b"receive" | b"uploadpack" | b"transfer"), None, b"hiderefs") => {
                let pattern = trimmed(value?);
                if section != b"receive" {
                    self.hidden_from_fetches.push(pattern.clone());
                }
                if section != b"uploadpack" {
                    self.hidden_from_pushes.push(pattern);
                }
            }
            (b"receive", None, b"fsckobjects") => fsck[0] = Some(variable.bool()?),
            (b"transfer", None, b"fsckobjects") => fsck[1] = Some(variable.bool()?),
            (b"receive", Some(b"fsck"), key) => {
                let (key, value) = (text(key), text(value?));
                let shown = format!("receive.fsck.{key}={value}");
                let error = value.eq_ignore_ascii_case("error");
                findings.insert(key, (shown, error));
            }
            (b"receive", None, b"maxinputsize") => {
                // 0, and with git less than that, is no bound.
                self.max_input = u64::try_from(variable.number()?).ok().filter(|most| *most > 0);
            }
            (b"receive", None, b"shallowupdate") if !variable.bool()? => {}
            (b"receive", None, b"shallowupdate") => {
                self.note("receive.shallowUpdate=true: a push never makes this repository shallow");
            }
            (b"uploadpack", None, b"allowfilter") => {
                self.asks.filter = variable.bool()?;
                self.no_filter = !self.asks.filter;
            }
            (b"uploadpack", None, b"allowreachablesha1inwant") => self.asks.reachable = variable.bool()?,
            (b"uploadpack", None, b"allowanysha1inwant") => self.asks.any = variable.bool()?,
            (b"uploadpackfilter", None, b"allow") => {
                self.filters.insert(Vec::new(), variable.bool()?);
            }
            (b"uploadpackfilter", Some(kind), b"allow") => {
                self.filters.insert(kind.to_vec(), variable.bool()?);
            }
            (b"uploadpackfilter", Some(b"tree"), b"maxdepth") => {
                self.filters.insert(b"tree".to_vec(), true);
                self.tree_depth = Some(u64::try_from(variable.number()?).ok()?);
            }
            (b"daemon", None, b"uploadpack") => self.no_git_daemon = !variable.bool()?,
            (b"core", None, b"logallrefupdates") => {
                self.log = match word {
                    Some(b"always") => LogRefs::All,
                    _ if variable.bool()? => LogRefs::Branches,
                    _ => LogRefs::None,
                }
            }
            (b"include" | b"includeif", _, b"path") => {
                let path = text(value.unwrap_or_default());
                self.note(&format!("{}.path={path}: is not read", text(&variable.section)));
            }
            _ => {}
        }
        Some(())
    }

    /// A word that would take a push to a branch that is refused here in any case.
    fn always_refused(&mut self, variable: &Variable) {
        let key = match &variable.key[..] {
            b"denycurrentbranch" => "denyCurrentBranch",
            _ => "denyDeleteCurrent",
        };
        let value = text(variable.value.as_deref().unwrap_or_default());
        self.note(&format!("receive.{key}={value}: is always refused"));
    }

    fn note(&mut self, note: &str) {
        if self.notes.len() < NOTES {
            self.notes.push(note.chars().take(NOTE).collect());
        }
    }

    fn bad(&mut self, variable: &Variable, of: Of) {
        let between = variable.subsection.as_ref().map_or(String::new(), |sub| format!("{}.", text(sub)));
        let name = format!("{}.{between}{}", text(&variable.section), text(&variable.key));
        let value = text(variable.value.as_deref().unwrap_or_default());
        let said: String = format!("config: {name}: bad value '{value}'").chars().take(NOTE).collect();
        if of != Of::Push {
            self.bad_for_fetches.get_or_insert(said.clone());
        }
        if of != Of::Fetch {
            self.bad_for_pushes.get_or_insert(said);
        }
    }

    /// The same, if all keys about fetches have possible values.
    ///
    /// # Errors
    /// The first key that has no possible value.
    pub fn for_fetches(&self) -> Result<&Safeguards> {
        self.bad_for_fetches.as_ref().map_or(Ok(self), |bad| Err(Error::Invalid(bad.clone())))
    }

    /// The same for pushes.
    ///
    /// # Errors
    /// The first key that has no possible value.
    pub fn for_pushes(&self) -> Result<&Safeguards> {
        self.bad_for_pushes.as_ref().map_or(Ok(self), |bad| Err(Error::Invalid(bad.clone())))
    }

    /// Patterns of references that do not exist for a fetch: the last that matches decides, and
    /// with `!` before it a reference is there. None at all if nothing can be hidden by them.
    pub fn hidden_from_fetches(&self) -> &[Vec<u8>] {
        hiding(&self.hidden_from_fetches)
    }

    /// The same for a push.
    pub fn hidden_from_pushes(&self) -> &[Vec<u8>] {
        hiding(&self.hidden_from_pushes)
    }

    /// Has all findings refused that are errors here.
    pub fn tighten(&self, policy: &mut Policy) {
        self.errors.iter().for_each(|message| policy.refuse(*message));
    }

    /// Whether a fetch may use this filter.
    ///
    /// # Errors
    /// The first kind in what the client wrote that is not permitted, in git's words: two ways to
    /// write one filter are two kinds, and each part of a combination counts.
    pub fn permits(&self, filter: &Filter) -> std::result::Result<(), String> {
        for kind in filter.kinds().map(FilterKind::name) {
            let of_all = || self.filters.get(&b""[..]);
            let permitted = self.filters.get(kind.as_bytes()).or_else(of_all).is_none_or(|allow| *allow);
            if !permitted {
                return Err(format!("filter '{kind}' not supported"));
            }
        }
        match (filter.deepest_tree(), self.tree_depth) {
            (Some(depth), Some(most)) if depth > most => {
                Err(format!("filter 'tree' not supported (maximum depth: {most}, but got: {depth})"))
            }
            _ => Ok(()),
        }
    }

    /// What is set and not honoured, a line each, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// As git takes slashes off the end of a pattern.
fn trimmed(pattern: &[u8]) -> Vec<u8> {
    let end = pattern.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    pattern.get(..end).unwrap_or_default().to_vec()
}

fn hiding(patterns: &[Vec<u8>]) -> &[Vec<u8>] {
    if patterns.iter().all(|pattern| pattern.starts_with(b"!")) { &[] } else { patterns }
}

/// These bytes, or as many as a note has room for, in printable characters.
fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().take(NOTE).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Safeguards {
        Safeguards::parse(text.as_bytes())
    }

    #[test]
    fn every_key_of_the_table_does_something_or_is_noted() {
        for (key, text) in [
            ("core.logAllRefUpdates", "[core]\nlogAllRefUpdates = always"),
            ("daemon.uploadpack", "[daemon]\nuploadpack = false"),
            ("receive.denyCurrentBranch", "[receive]\ndenyCurrentBranch = updateInstead"),
            ("receive.denyDeleteCurrent", "[receive]\ndenyDeleteCurrent = no"),
            ("receive.denyDeletes", "[receive]\ndenyDeletes"),
            ("receive.denyNonFastForwards", "[receive]\ndenyNonFastforwards = 1"),
            ("receive.fsck.<msg-id>", "[receive \"fsck\"]\nzeroPaddedFilemode = ERROR"),
            ("receive.fsckObjects", "[receive]\nfsckObjects = on"),
            ("receive.hideRefs", "[receive]\nhideRefs = refs/pull"),
            ("receive.maxInputSize", "[receive]\nmaxInputSize = 1m"),
            ("receive.shallowUpdate", "[receive]\nshallowUpdate"),
            ("transfer.fsckObjects", "[transfer]\nfsckObjects = true"),
            ("transfer.hideRefs", "[transfer]\nhideRefs = refs/pull/"),
            ("uploadpack.allowAnySHA1InWant", "[uploadpack]\nallowAnySHA1InWant = true"),
            ("uploadpack.allowFilter", "[uploadpack]\nallowFilter = false"),
            ("uploadpack.allowReachableSHA1InWant", "[uploadpack]\nallowReachableSHA1InWant"),
            ("uploadpack.hideRefs", "[uploadpack]\nhideRefs = refs/x"),
            ("uploadpackfilter.<filter>.allow", "[uploadpackfilter \"tree\"]\nallow = false"),
            ("uploadpackfilter.allow", "[uploadpackfilter]\nallow = false"),
            ("uploadpackfilter.tree.maxDepth", "[uploadpackfilter \"tree\"]\nmaxDepth = 1"),
        ] {
            assert!(KEYS.contains(&key), "{key}");
            assert_ne!(parse(text), Safeguards::default(), "{key}");
        }
        assert!(KEYS.is_sorted());
    }

    #[test]
    fn what_widens_is_noted_and_has_no_effect() {
        let found = parse(
            "[receive]\ndenyCurrentBranch = ignore\ndenyDeleteCurrent = warn\nshallowUpdate = true\n\
             fsckObjects = false\nmaxInputSize = 0\n[receive \"fsck\"]\nzeroPaddedFilemode = warn\n\
             skipList = .git/x\nnosuch = error\n[include]\npath = /etc/more\n[includeIf \"gitdir:/\"]\n\
             path = y\n[uploadpack]\nallowFilter = true\n[daemon]\nuploadpack = true\n",
        );
        let notes = found.notes().to_vec();
        assert_eq!(
            notes,
            [
                "receive.denyCurrentBranch=ignore: is always refused",
                "receive.denyDeleteCurrent=warn: is always refused",
                "receive.shallowUpdate=true: a push never makes this repository shallow",
                "include.path=/etc/more: is not read",
                "includeif.path=y: is not read",
                "receive.fsckObjects=false: gotd.conf decides",
                "receive.fsck.nosuch=error: no finding that is looked for",
                "receive.fsck.skiplist=.git/x: only error is honoured, gotd.conf decides",
                "receive.fsck.zeropaddedfilemode=warn: only error is honoured, gotd.conf decides",
            ]
        );
        let asks = Asks { filter: true, ..Asks::default() };
        assert_eq!(found, Safeguards { notes, asks, ..Safeguards::default() });
        let many = "[receive]\nshallowUpdate = true\n".repeat(100);
        assert_eq!(parse(&many).notes().len(), NOTES);
    }

    #[test]
    fn the_last_word_counts_and_receive_before_transfer() {
        let fsck = |text| parse(text).fsck;
        assert!(!fsck("[receive]\nfsckObjects = false\n[transfer]\nfsckObjects = true\n"));
        assert!(fsck("[receive]\nfsckObjects = true\n[transfer]\nfsckObjects = false\n"));
        assert!(!parse("[receive]\ndenyDeletes = true\ndenyDeletes = false\n").deny_deletes);
        let mut policy = Policy::default();
        parse("[receive \"fsck\"]\nmissingTaggerEntry = warn\nmissingTaggerEntry = error\n")
            .tighten(&mut policy);
        assert!(!policy.tolerates(Message::MissingTaggerEntry));
    }

    #[test]
    fn a_bad_value_is_no_value_and_ends_its_own_service() {
        for (text, fetch, push) in [
            ("[receive]\ndenyDeletes = maybe", true, false),
            ("[receive]\nmaxInputSize = 3x", true, false),
            ("[receive]\nhideRefs", true, false),
            ("[transfer]\nhideRefs", false, false),
            ("[uploadpack]\nallowFilter = maybe", false, true),
            ("[core]\nlogAllRefUpdates = maybe", false, false),
            ("[receive]\ndenyCurrentBranch = maybe", true, false),
            ("[receive]\ndenyDeleteCurrent = updateInstead", true, false),
        ] {
            let found = parse(text);
            assert_eq!((found.for_fetches().is_ok(), found.for_pushes().is_ok()), (fetch, push), "{text}");
        }
    }

    #[test]
    fn patterns_that_only_show_hide_nothing() {
        assert!(parse("[transfer]\nhideRefs = !refs/x").hidden_from_fetches().is_empty());
        let found =
            parse("[transfer]\nhideRefs = refs//\nhideRefs = !refs/heads\n[receive]\nhideRefs=refs/a");
        assert_eq!(found.hidden_from_fetches(), [b"refs".to_vec(), b"!refs/heads".to_vec()]);
        assert_eq!(found.hidden_from_pushes().len(), 3);
    }

    #[test]
    fn filters_are_permitted_by_kind() {
        let found = parse(
            "[uploadpackfilter]\nallow = false\n[uploadpackfilter \"tree\"]\nmaxDepth = 1\n[uploadpackfilter \"blob:none\"]\nallow",
        );
        for (spec, permitted) in [
            ("blob:none", true),
            ("blob:limit=3", false),
            ("tree:1", true),
            ("tree:2", false),
            ("object:type=tag", false),
            ("combine:blob:none+tree:1", false),
            ("blob:limit=0", false),
            ("combine:blob:none", false),
            ("combine:blob:none+blob:none", false),
            ("combine:blob:none+blob:limit=5", false),
        ] {
            let filter = Filter::parse(spec.as_bytes()).unwrap();
            assert_eq!(found.permits(&filter).is_ok(), permitted, "{spec}");
            assert!(Safeguards::default().permits(&filter).is_ok());
        }
        let refused =
            |config: &str, spec: &str| parse(config).permits(&Filter::parse(spec.as_bytes()).unwrap()).err();
        let no = |kind: &str| Some(format!("filter '{kind}' not supported"));
        let limit = "[uploadpackfilter \"blob:limit\"]\nallow = false";
        assert_eq!(refused(limit, "blob:limit=0"), no("blob:limit"));
        assert_eq!(refused(limit, "combine:blob:none+blob:limit=0"), no("blob:limit"));
        assert_eq!(refused(limit, "combine:tree:0+combine:blob:limit=9%2bblob:none"), no("blob:limit"));
        assert_eq!(refused(limit, "blob:none"), None);
        let depth = "[uploadpackfilter \"tree\"]\nmaxDepth = 1";
        assert!(refused(depth, "combine:tree:0+tree:2").is_some());
        assert_eq!(refused(depth, "combine:tree:0+tree:1"), None);
    }
}
