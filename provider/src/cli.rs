//! The command line: which names and subcommands exist. What each one does and which flags it has is in its module.
//!
//! `plasmd fetch|verify|discover` are the same commands as `phase-fetch`, `phase-verify`, `phase-discover`; the latter
//! are the names users of Phase type, installed as links to `plasmd`.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::exit::{CommandError, Exit};
use crate::{
    discover_cmd, fetch_cmd, key, manifest_cmd, net, out, serve, stage, status_cmd, verify_cmd,
};

/// Phase: serves signed boot images, and boots machines from them.
#[derive(Parser)]
#[command(name = "plasmd", version, arg_required_else_help = true)]
struct Plasmd {
    #[command(subcommand)]
    command: Command,
}

/// A tool started under its own name.
#[derive(Parser)]
#[command(version)]
struct Tool<A: clap::Args> {
    #[command(flatten)]
    args: A,
}

/// Every command of this binary.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve the artifacts of a directory over HTTP
    Serve(serve::Args),
    /// Ask a running provider
    #[command(subcommand)]
    Provider(status_cmd::Command),
    /// Make and look at signing keys
    #[command(subcommand)]
    Key(key::Command),
    /// Make, sign, show and verify manifests
    #[command(subcommand)]
    Manifest(manifest_cmd::Command),
    /// Find providers on the network (also: phase-discover)
    Discover(discover_cmd::Args),
    /// Fetch and verify artifacts (also: phase-fetch)
    Fetch(fetch_cmd::Args),
    /// Verify a manifest and artifacts on disk (also: phase-verify)
    Verify(verify_cmd::Args),
    /// Bring the network up (appliance role, started by init)
    Net(net::Args),
    /// Fetch a successor and hand it to init (appliance role, started by init)
    Stage(stage::Args),
    /// Print the version
    Version,
}

/// Parses the command line; prints help, version or the usage error and ends the process when that is what it says.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Command {
    let args: Vec<OsString> = args.into_iter().collect();
    let name = args
        .first()
        .and_then(|first| Path::new(first).file_name()?.to_str())
        .unwrap_or("plasmd");
    match name {
        "phase-discover" => Command::Discover(tool(
            &args,
            "phase-discover",
            "Find providers of boot images on the network",
        )),
        "phase-fetch" => Command::Fetch(tool(
            &args,
            "phase-fetch",
            "Fetch boot artifacts and verify every byte of them",
        )),
        "phase-verify" => Command::Verify(tool(
            &args,
            "phase-verify",
            "Verify a manifest, and artifacts against it",
        )),
        _ => Plasmd::parse_from(args).command,
    }
}

fn tool<A: clap::Args>(args: &[OsString], name: &'static str, about: &'static str) -> A {
    let mut command = Tool::<A>::command().name(name).bin_name(name).about(about);
    let parsed = command
        .try_get_matches_from_mut(args)
        .and_then(|matches| Tool::<A>::from_arg_matches(&matches));
    match parsed {
        Ok(tool) => tool.args,
        Err(error) => error.format(&mut command).exit(),
    }
}

impl Command {
    /// How much this command logs when `RUST_LOG` does not say: daemons tell what they do, tools only what is wrong.
    pub(crate) fn log_level(&self) -> LevelFilter {
        match self {
            Self::Serve(_) | Self::Net(_) | Self::Stage(_) => LevelFilter::INFO,
            Self::Provider(_)
            | Self::Key(_)
            | Self::Manifest(_)
            | Self::Discover(_)
            | Self::Fetch(_)
            | Self::Verify(_)
            | Self::Version => LevelFilter::WARN,
        }
    }

    /// Runs the command to its end.
    pub(crate) fn run(self) -> Result<Exit, CommandError> {
        match self {
            Self::Serve(args) => serve::run(args),
            Self::Provider(command) => status_cmd::run(command),
            Self::Key(command) => key::run(command),
            Self::Manifest(command) => manifest_cmd::run(command),
            Self::Discover(args) => discover_cmd::run(args),
            Self::Fetch(args) => fetch_cmd::run(args),
            Self::Verify(args) => verify_cmd::run(args),
            Self::Net(args) => net::run(args),
            Self::Stage(args) => stage::run(args),
            Self::Version => {
                out::line(concat!("plasmd ", env!("CARGO_PKG_VERSION")));
                Ok(Exit::Done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Plasmd::command().debug_assert();
        Tool::<discover_cmd::Args>::command().debug_assert();
        Tool::<fetch_cmd::Args>::command().debug_assert();
        Tool::<verify_cmd::Args>::command().debug_assert();
    }
}
