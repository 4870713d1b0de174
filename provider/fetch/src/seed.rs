//! The one place where chance comes from.

use std::hash::{BuildHasher as _, Hasher as _};

/// A number that differs between processes, and from call to call. Not for secrets.
pub(crate) fn seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
