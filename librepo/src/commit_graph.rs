//! Commit graphs (`gitformat-commit-graph`).
