//! artifact-store.
