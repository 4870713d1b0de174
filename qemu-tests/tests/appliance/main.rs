//! The appliance from outside.

use std::process::ExitCode;

fn main() -> ExitCode {
    qemu_tests::story::run(&[])
}
