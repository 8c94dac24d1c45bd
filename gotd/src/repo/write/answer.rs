//! What a push is answered, and what the log is told.

use super::*;

impl Push<'_> {
    /// The pack was refused, and with it every command that needed it.
    pub(super) fn unpack_failed(&mut self, text: &str) -> Result<(), String> {
        for change in &mut self.changes {
            change.refused.get_or_insert_with(|| "unpacker error".into());
        }
        self.report.text = text.to_owned();
        self.answer(text)?;
        Err(text.to_owned())
    }

    pub(super) fn answer(&mut self, unpack: &str) -> Result<(), String> {
        let (mut batch, mut bytes) = (Vec::new(), 0usize);
        for change in &self.changes {
            let command = &change.command;
            // The log first: what the client is told has been noted.
            let report = RefReport {
                name: command.name.as_bytes().to_vec(),
                old: command.old.to_string(),
                new: command.new.to_string(),
                refused: change.refused.clone().unwrap_or_default(),
            };
            role::send(self.parent, &RepoToParent::Ref(report));
            let refused = change.refused.as_ref().map(|text| {
                let mut text = escape(text.as_bytes());
                text.truncate(text.floor_char_boundary(500));
                text
            });
            bytes = bytes.saturating_add(command.name.as_bytes().len());
            batch.push(CommandResult { name: command.name.clone(), refused });
            if batch.len() >= BATCH_COMMANDS / 4 || bytes >= BATCH_NAME_BYTES {
                self.say(&WriterToSession::Results(std::mem::take(&mut batch)));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.say(&WriterToSession::Results(batch));
        }
        self.say(&WriterToSession::End(unpack.to_owned()));
        Ok(())
    }
}
