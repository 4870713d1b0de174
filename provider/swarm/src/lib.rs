//! Who fetches which chunk from whom, when everybody who fetches serves as well.
//!
//! A crate of its own because it does no I/O, is fuzzed and simulated by itself, and owns a wire format.
