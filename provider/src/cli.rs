//! The command line: which names and subcommands exist. What each one does and which flags it has is in its module.
//!
//! `plasmd fetch|verify|discover` are the same commands as `phase-fetch`, `phase-verify`, `phase-discover`; the latter
//! are the names users of Phase type, installed as links to `plasmd`. What other versions and their documents call
//! differently is answered in one line by [`crate::instead`].

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::exit::{CommandError, Exit};
use crate::{
    boot_report, clients_cmd, completions_cmd, config, control, dht, discover_cmd, doctor, exit,
    fetch_cmd, instead, key, log, man_cmd, manifest_cmd, net, out, probe, root_cmd, serve, stage,
    status_cmd, tls_cmd, upgrade, upgrade_cmd, verify_cmd,
};

/// Phase: serves signed boot images, and boots machines from them.
#[derive(Parser)]
#[command(name = "plasmd", version, arg_required_else_help = true)]
struct Plasmd {
    #[command(subcommand)]
    command: Command,
}

/// The command that serves.
const SERVE: &str = "serve";

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
    /// Boot the machines of this network, and serve the artifacts of a directory over HTTP
    Serve(Box<serve::Args>),
    /// Ask a running provider
    #[command(subcommand)]
    Provider(status_cmd::Command),
    /// Look at the configuration of `plasmd serve`
    #[command(subcommand)]
    Config(config::cmd::Command),
    /// Tell the provider on this machine to read keys, certificates and settings again (same as SIGHUP)
    Reload(control::cmd::ReloadArgs),
    /// Show or change what the provider on this machine logs
    LogLevel(control::cmd::LogLevelArgs),
    /// Show the machines that boot from the provider on this machine, and decide what they boot
    Clients(clients_cmd::Args),
    /// Show what a machine does about its own image, and give it orders
    #[command(subcommand)]
    Upgrade(upgrade_cmd::Command),
    /// Make and look at signing keys
    #[command(subcommand)]
    Key(key::Command),
    /// Make trust roots, and replace their keys
    #[command(subcommand)]
    Root(root_cmd::Command),
    /// Make, sign, show and verify manifests
    #[command(subcommand)]
    Manifest(manifest_cmd::Command),
    /// Find providers on the network (also: phase-discover)
    Discover(discover_cmd::Args),
    /// Fetch and verify artifacts (also: phase-fetch)
    Fetch(fetch_cmd::Args),
    /// Verify a manifest and artifacts on disk (also: phase-verify)
    Verify(verify_cmd::Args),
    /// Show the certificate of the provider on this machine
    Tls(tls_cmd::Args),
    /// Look at everything a provider on this machine depends on, and say what to do
    Doctor(doctor::Args),
    /// Print shell completions for plasmd and the phase-* names
    Completions(completions_cmd::Args),
    /// Write the manual pages into a directory
    Man(man_cmd::Args),
    /// Make a signing key (the older name of `plasmd key generate`)
    #[command(hide = true)]
    GenerateKey(key::GenerateArgs),
    /// Add signatures to a manifest (the older name of `plasmd manifest sign`)
    #[command(hide = true)]
    SignManifest(manifest_cmd::OlderSignArgs),
    /// Bring the network up (appliance role, started by init)
    #[command(hide = true)]
    Net(net::Args),
    /// Fetch a successor and hand it to init (appliance role, started by init)
    #[command(hide = true)]
    Stage(stage::Args),
    /// Tell the provider this machine booted from how far it came (appliance role, started by init)
    #[command(hide = true)]
    Report(boot_report::Args),
    /// Use this machine's own services as others would, and tell init (appliance role, started by init)
    #[command(hide = true)]
    Probe(probe::Args),
    /// Announce in the DHT what is served here (appliance role, started by init)
    #[command(hide = true)]
    Dht(dht::role::Args),
    /// Find newer images for this machine (appliance role, started by init)
    #[command(hide = true)]
    Update(upgrade::Args),
    /// Print the version
    Version,
}

/// The names this binary is started under, the main one first, and what each is for.
pub(crate) const NAMES: [(&str, &str); 4] = [
    (
        "plasmd",
        "Phase: serves signed boot images, and boots machines from them",
    ),
    (
        "phase-discover",
        "Find providers of boot images on the network",
    ),
    (
        "phase-fetch",
        "Fetch boot artifacts and verify every byte of them",
    ),
    (
        "phase-verify",
        "Verify a manifest, and artifacts against it",
    ),
];

/// What can be typed after one of [`NAMES`]; any other name is `plasmd`.
pub(crate) fn command_of(name: &str) -> clap::Command {
    let Some((name, about)) = NAMES.iter().find(|(known, _)| *known == name) else {
        return plasmd();
    };
    let command = match *name {
        "phase-discover" => Tool::<discover_cmd::Args>::command(),
        "phase-fetch" => Tool::<fetch_cmd::Args>::command(),
        "phase-verify" => Tool::<verify_cmd::Args>::command(),
        _ => return plasmd(),
    };
    command.name(*name).bin_name(*name).about(*about)
}

fn plasmd() -> clap::Command {
    Plasmd::command().mut_subcommand(SERVE, config::with_switches)
}

/// The command whose flags are the settings of a provider.
pub(crate) fn serve_command() -> clap::Command {
    let plasmd = plasmd();
    let serve = plasmd.find_subcommand(SERVE).cloned();
    // The name is that of a variant of `Command`; a test asks for it.
    serve.unwrap_or(plasmd).bin_name("plasmd serve")
}

/// The same without what is hidden from people, for completions and manual pages.
pub(crate) fn shown_command_of(name: &str) -> clap::Command {
    without_hidden(&command_of(name)).version(env!("CARGO_PKG_VERSION"))
}

fn without_hidden(command: &clap::Command) -> clap::Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let long = command.get_long_about().cloned().unwrap_or(about.clone());
    // The names are constants that clap hands out for a shorter time; the process prints these and ends.
    let name: &'static str = Box::leak(command.get_name().into());
    clap::Command::new(name)
        .about(about)
        .long_about(long)
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()))
        .subcommands(
            command
                .get_subcommands()
                .filter(|below| !below.is_hide_set())
                .map(without_hidden),
        )
}

/// Parses the command line; prints help, version or the usage error and ends the process when that is what it says.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Command {
    let args: Vec<OsString> = args.into_iter().collect();
    let name = args
        .first()
        .and_then(|first| Path::new(first).file_name()?.to_str())
        .unwrap_or("plasmd");
    match name {
        "phase-discover" => Command::Discover(parsed::<Tool<_>>(name, &args).args),
        "phase-fetch" => Command::Fetch(parsed::<Tool<_>>(name, &args).args),
        "phase-verify" => Command::Verify(parsed::<Tool<_>>(name, &args).args),
        _ if args.get(1).is_some_and(|command| command == SERVE) => serve(&args),
        _ => parsed::<Plasmd>("plasmd", &args).command,
    }
}

/// `serve` has a configuration besides its flags.
fn serve(args: &[OsString]) -> Command {
    let places = config::Places::of_this_process();
    match config::parse::<serve::Args>(&serve_command(), &args[2..], &places) {
        Ok((mut parsed, in_force)) => {
            parsed.in_force = in_force;
            Command::Serve(Box::new(parsed))
        }
        Err(config::Failure::Flags(error)) => match instead::answer("plasmd", args, &error) {
            Some(answer) => instead::exit(&answer),
            None => error.exit(),
        },
        Err(problems) => {
            exit::report(&problems.into());
            std::process::exit(Exit::Usage as i32)
        }
    }
}

fn parsed<P: FromArgMatches>(name: &str, args: &[OsString]) -> P {
    let mut command = command_of(name);
    let parsed = command
        .try_get_matches_from_mut(args)
        .and_then(|matches| P::from_arg_matches(&matches));
    match parsed {
        Ok(parsed) => parsed,
        Err(error) => match instead::answer(name, args, &error) {
            Some(answer) => instead::exit(&answer),
            None => error.format(&mut command).exit(),
        },
    }
}

impl Command {
    /// What this command logs.
    pub(crate) fn log_wanted(&self) -> log::Wanted {
        match self {
            Self::Serve(args) => args.log_wanted(),
            other => log::Wanted {
                filter: other.log_level().to_string(),
                is_firm: false,
            },
        }
    }

    /// How much this command logs when `RUST_LOG` does not say: daemons tell what they do, tools only what is wrong.
    fn log_level(&self) -> LevelFilter {
        match self {
            Self::Serve(_)
            | Self::Net(_)
            | Self::Stage(_)
            | Self::Report(_)
            | Self::Probe(_)
            | Self::Dht(_)
            | Self::Update(_) => LevelFilter::INFO,
            Self::Provider(_)
            | Self::Config(_)
            | Self::Reload(_)
            | Self::LogLevel(_)
            | Self::Clients(_)
            | Self::Upgrade(_)
            | Self::Key(_)
            | Self::Root(_)
            | Self::Manifest(_)
            | Self::Discover(_)
            | Self::Fetch(_)
            | Self::Verify(_)
            | Self::Doctor(_)
            | Self::Tls(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::GenerateKey(_)
            | Self::SignManifest(_)
            | Self::Version => LevelFilter::WARN,
        }
    }

    /// Runs the command to its end.
    pub(crate) fn run(self) -> Result<Exit, CommandError> {
        match self {
            Self::Serve(args) => serve::run(*args),
            Self::Provider(command) => status_cmd::run(command),
            Self::Config(command) => config::cmd::run(command),
            Self::Reload(args) => control::cmd::reload(&args),
            Self::LogLevel(args) => control::cmd::log_level(&args),
            Self::Clients(args) => clients_cmd::run(args),
            Self::Upgrade(command) => upgrade_cmd::run(command),
            Self::Key(command) => key::run(command),
            Self::Root(command) => root_cmd::run(command),
            Self::Manifest(command) => manifest_cmd::run(command),
            Self::Discover(args) => discover_cmd::run(args),
            Self::Fetch(args) => fetch_cmd::run(args),
            Self::Verify(args) => verify_cmd::run(args),
            Self::Tls(args) => tls_cmd::run(&args),
            Self::Doctor(args) => doctor::run(&args),
            Self::Completions(args) => completions_cmd::run(&args),
            Self::Man(args) => man_cmd::run(&args),
            Self::GenerateKey(args) => key::run(key::Command::Generate(args)),
            Self::SignManifest(args) => manifest_cmd::run(args.into()),
            Self::Net(args) => net::run(args),
            Self::Stage(args) => stage::run(args),
            Self::Report(args) => boot_report::run(&args),
            Self::Probe(args) => probe::run(args),
            Self::Dht(args) => dht::role::run(args),
            Self::Update(args) => upgrade::run(args),
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
        for (name, _) in NAMES {
            command_of(name).debug_assert();
        }
    }
}
