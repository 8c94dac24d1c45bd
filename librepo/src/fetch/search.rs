//! The search for deltas: for objects that nothing on disk makes small.

use super::PackOptions;
use super::commits::Source;
use super::plan::Plan;
use super::progress::Progress;
use super::writer::MadeDeltas;
use crate::error::Result;

/// Makes deltas for those objects of the plan that profit.
pub(crate) fn search(
    _source: &mut Source<'_>,
    _plan: &Plan,
    _options: &PackOptions,
    _threads: usize,
    _progress: &mut Progress<'_>,
) -> Result<MadeDeltas> {
    Ok(MadeDeltas::default())
}
