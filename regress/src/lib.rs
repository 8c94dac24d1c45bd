//! Integration tests of gotd.
