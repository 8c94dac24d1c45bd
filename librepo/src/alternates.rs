//! Object directories that a repository borrows from (`objects/info/alternates`).
