//! The `peerpool` command.
fn main() {}
