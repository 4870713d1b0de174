//! `cargo appliance`: builds, boots, tests and measures the appliance.
//!
//! Exit codes: 0 done, 1 what was asked for failed, 2 wrong usage.

use std::process::ExitCode;

use clap::Parser;
use image::cli::{Cli, Command};
use image::paths::Paths;
use image::progress::Progress;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let paths = Paths::of_this_checkout();
    let progress = Progress::new();
    let result = match cli.command {
        Command::Build(arguments) => image::build::command(&paths, &arguments, &progress),
        Command::Bench(arguments) => image::bench::command(&paths, &arguments, &progress),
        Command::Boots(arguments) => image::bench::boots::command(&arguments),
        Command::Crowd(arguments) => image::bench::crowd::command(&arguments),
        Command::TftpGet(arguments) => image::bench::tftp::getter::command(&arguments),
        Command::Package(arguments) => image::package::command(&paths, &arguments, &progress),
        Command::Inspect(arguments) => image::inspect::command(&paths, &arguments),
        Command::Release(arguments) => image::release::command(&paths, &arguments, &progress),
        Command::UpgradeDemo(arguments) => {
            image::upgrade_demo::command(&paths, &arguments, &progress)
        }
        Command::Test(arguments) => image::test::command(&paths, &arguments, &progress),
        Command::Run(arguments) => image::run::command(&paths, &arguments, &progress),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
