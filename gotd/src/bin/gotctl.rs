//! gotctl(8).
fn main() {}
