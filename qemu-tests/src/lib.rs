//! qemu-tests.
