//! gotsh(1).
fn main() {}
