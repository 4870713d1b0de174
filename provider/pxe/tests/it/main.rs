//! The crate as its users see it, on recorded and written conversations.

#![expect(clippy::unwrap_used, reason = "a function of a test fails the test")]

mod roms;
mod talks;
