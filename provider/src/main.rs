//! provider.

fn main() {}
