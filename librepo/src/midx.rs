//! Multi-pack indexes (`gitformat-pack`).

/// A multi-pack index.
#[derive(Debug)]
pub struct MultiPackIndex {}
