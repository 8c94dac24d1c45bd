//! gotd(8).
fn main() {}
