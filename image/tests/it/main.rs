//! Every kind of image, read back by programs that others wrote: cpio, unsquashfs, squashfs-ng, mtools, sfdisk, `object`.
//! And the appliance that `cargo appliance run` announces, shown by avahi.
//!
//! With `PHASE_APPLIANCE_DIR` set, the images of `cargo appliance build` are read back too.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::process::{Command, Output};

/// Says why a test cannot do its work here; `cargo appliance test` counts it as skipped.
macro_rules! skip {
    ($name:expr, $($reason:tt)*) => {{
        println!("SKIPPED: {}: {}", $name, format_args!($($reason)*));
        return;
    }};
}

mod announce;
mod disk;
mod initramfs;
mod package;
mod release;
mod squashfs;
mod uki;
mod whole;

/// Runs a program that must succeed; `None` when it is not installed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .output()
    {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {arguments:?}: {errors}");
            Some(output)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Bytes that do not compress, the same in every run.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next)
        .flatten()
        .take(length)
        .collect()
}
