//! The conversation of a push: what C git's client says, with `repo_write` and `verify` played by the test.
