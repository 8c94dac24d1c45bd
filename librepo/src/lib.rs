//! One Git repository.
