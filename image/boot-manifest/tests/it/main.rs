//! Tests of the crate from outside: what is refused and why, golden vectors, and properties of the parsers.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod attacks;
mod fixture;
mod flips;
mod forge;
mod golden;
mod keys;
mod properties;
mod roots;
mod trust;
