//! The two protocols of gotd.
