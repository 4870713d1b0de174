//! boot-manifest.
