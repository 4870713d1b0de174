//! The upgrade as a whole, without a machine: a disk that fails as disks fail, a machine that carries out what the state
//! machine asks for, and images that die in every way.
//!
//! `disk` and `world` are the simulator, `check` the invariants I1 to I10 that it asserts at every write and every jump.
//! The other files tell stories and break them at every point.

mod check;
mod decisions;
mod disk;
mod exhaustive;
mod properties;
mod stories;
mod world;
