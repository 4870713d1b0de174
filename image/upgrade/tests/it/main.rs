//! The upgrade as a whole, without a machine.
