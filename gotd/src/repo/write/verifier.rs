//! The link to `verify`.

use super::*;

impl Push<'_> {
    /// Has the pack received and checked, and waits until whoever did it is gone.
    pub(super) fn verify(
        &mut self,
        fs: &Fs,
        quarantine: &mut Quarantine,
        begin: &PushBegin,
    ) -> Result<Option<IndexedPack>, String> {
        let (pack, idx) = quarantine.create_files(fs).map_err(|e| e.to_string())?;
        role::send(self.parent, &RepoToParent::NeedVerify(()));
        match self.parent.recv() {
            Ok(Received { message: ParentToRepo::Verify(true), .. }) => {}
            Ok(Received { message: ParentToRepo::Verify(false), .. }) => {
                return Err("verify: not started".into());
            }
            _ => crate::os::system::exit_now(1),
        }
        let input = self.input.take().ok_or("verify: asked for twice")?;
        let sent = self.instruct(&pack, &idx, input.as_fd(), begin);
        drop((pack, idx, input));
        self.give_up_sending()?;
        if let Err(e) = sent {
            return Err(format!("verify: {e}"));
        }
        if begin.pack {
            self.say(&WriterToSession::TakePack(()));
        }
        let facts = self.facts();
        // Only when it is gone nobody can change the files any more.
        let clean = loop {
            match self.parent.recv() {
                Ok(Received { message: ParentToRepo::Reaped(clean), .. }) => break clean,
                Err(e) if e.is_transient() => {}
                _ => crate::os::system::exit_now(1),
            }
        };
        let (indexed, facts) = facts?;
        if !clean {
            return Err("verify: ended early".into());
        }
        let asked = self.changes.iter_mut().filter(|c| c.refused.is_none() && !c.command.new.is_null());
        let mut facts = facts.into_iter();
        for change in asked {
            change.facts = Some(facts.next().ok_or("verify: too few facts")?);
        }
        if facts.next().is_some() {
            return Err("verify: too many facts".into());
        }
        self.report.objects = indexed.received;
        self.report.bytes = indexed.bytes;
        Ok((indexed.objects > 0).then_some(indexed))
    }

    pub(super) fn instruct(
        &self,
        pack: &std::fs::File,
        idx: &std::fs::File,
        input: BorrowedFd<'_>,
        begin: &PushBegin,
    ) -> Result<(), libproto::channel::SendError> {
        let limit = |limit: Limit| self.rules.limit(limit);
        let task = VerifyTask {
            pack_bytes: limit(Limit::PackSize),
            objects: limit(Limit::PackObjects),
            object_bytes: limit(Limit::ObjectSize),
            delta_bytes: limit(Limit::DeltaResult),
            chain: u32::try_from(limit(Limit::DeltaDepth)).unwrap_or(u32::MAX),
            external_bases: limit(Limit::ThinBases),
            tree_depth: u32::try_from(limit(Limit::TreeDepth)).unwrap_or(u32::MAX),
            blob_bytes: limit(Limit::BlobSize),
            fsck: self.rules.fsck,
            tolerated: self.rules.tolerated.clone(),
            disk_reserve: limit(Limit::DiskReserve),
            pack: begin.pack,
            hidden: self.serve.hidden.clone(),
        };
        let fds = [pack.as_fd(), idx.as_fd(), input];
        self.verify.send_with_fds(0, 0, &WriterToVerify::Files(task), &fds)?;
        let asked: Vec<_> = self
            .changes
            .iter()
            .filter(|c| c.refused.is_none() && !c.command.new.is_null())
            .map(|c| (c.command.old, c.command.new))
            .collect();
        for batch in asked.chunks(BATCH_COMMANDS) {
            self.verify.send(0, 0, &WriterToVerify::Commands(batch.to_vec()))?;
        }
        for batch in self.shallows.chunks(BATCH_IDS) {
            self.verify.send(0, 0, &WriterToVerify::Shallows(batch.to_vec()))?;
        }
        self.verify.send(0, 0, &WriterToVerify::Go(()))
    }

    /// What verify reports. Its own error texts are for the client.
    pub(super) fn facts(&self) -> Result<(IndexedPack, Vec<CommandFacts>), String> {
        let (mut indexed, mut facts) = (None, Vec::new());
        loop {
            match self.verify.recv() {
                Ok(Received { message: VerifyToWriter::Indexed(pack), .. }) if indexed.is_none() => {
                    indexed = Some(pack);
                }
                Ok(Received { message: VerifyToWriter::Facts(batch), .. }) => {
                    if facts.len() > self.changes.len() {
                        return Err("verify: too many facts".into());
                    }
                    facts.extend(batch);
                }
                Ok(Received { message: VerifyToWriter::Done(()), .. }) => {
                    return Ok((indexed.ok_or("verify: no pack")?, facts));
                }
                Ok(Received { message: VerifyToWriter::Failed(text), .. }) => {
                    let mut text = escape(text.as_bytes());
                    text.truncate(text.floor_char_boundary(1000));
                    return Err(text);
                }
                Ok(Received { message: VerifyToWriter::Indexed(_), .. }) => {
                    return Err("verify: two packs".into());
                }
                Err(e) if e.is_transient() => {}
                Err(_) => return Err("the pack could not be checked".into()),
            }
        }
    }
}
