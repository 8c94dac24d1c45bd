//! The reference transaction of a push.

use super::*;

impl Push<'_> {
    pub(super) fn commit(&mut self, fs: &Fs, quarantine: &Quarantine, begin: &PushBegin) {
        let mut updates = Vec::new();
        let mut places = Vec::new();
        for (at, change) in self.changes.iter_mut().enumerate().filter(|(_, c)| c.refused.is_none()) {
            match RefName::new(change.command.name.as_bytes()) {
                Ok(name) => {
                    updates.push(Update { name, old: change.command.old, new: change.command.new });
                    places.push(at);
                }
                Err(_) => change.refused = Some("funny refname".into()),
            }
        }
        if begin.atomic && places.len() != self.changes.len() {
            return judge::all_or_none(&mut self.changes);
        }
        let peels: HashMap<ObjectId, Peel> = self
            .changes
            .iter()
            .filter_map(|c| {
                let facts = c.facts.as_ref()?;
                let peel = facts.peeled.map_or(Peel::Nothing, |(id, _)| Peel::To(id));
                Some((c.command.new, peel))
            })
            .collect();
        let peel = |id: &ObjectId| peels.get(id).copied().unwrap_or(Peel::Unknown);
        let reflog = self.rules.reflog.then(|| Reflog {
            identity: format!("{} <{}@gotd>", self.serve.who, self.serve.who),
            seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            message: "push".into(),
        });
        let options = Options {
            ref_timeout: Duration::from_secs(5),
            packed_timeout: Duration::from_secs(30),
            reflog,
            peel: &peel,
        };
        let staging = quarantine.staging();
        let hash = self.repository.hash();
        let results: Vec<RefResult> = if begin.atomic {
            transaction::commit_atomic(fs, &staging, hash, &updates, &options)
        } else {
            transaction::commit_each(fs, &staging, hash, &updates, &options)
        };
        for (at, result) in places.into_iter().zip(results) {
            if let (Err(e), Some(change)) = (result, self.changes.get_mut(at)) {
                // A name that stands in the way may be a hidden one.
                let tells = matches!(e, RefError::Conflict(_) | RefError::Symbolic);
                let told = match tells && !self.serve.hidden.is_empty() {
                    true => "failed to update ref".into(),
                    false => escape(e.to_string().as_bytes()),
                };
                change.refused = Some(told);
            }
        }
    }
}
