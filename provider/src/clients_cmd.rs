//! `plasmd clients`: the machines that boot from the provider on this machine, live if wanted, and what they are to boot.
//!
//! | module | holds |
//! | --- | --- |
//! | `table` | the list and the story of one machine, as text |
//!
//! Everything is said to the control socket; nothing is decided here.

mod table;

use std::io::IsTerminal as _;
use std::time::Duration;

use boot_manifest::Channel;
use http::Method;
use pxe::Mac;
use serde_json::{Value, json};

use crate::control::cmd::{SocketArgs, ask};
use crate::exit::{CommandError, Exit};
use crate::out;
use crate::status_cmd::{show_clients, shown};

/// How often the list is shown anew.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// Clears a terminal and begins at its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Arguments of `plasmd clients`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

/// What is done about machines. MAC is like aa:bb:cc:dd:ee:ff, or aa-bb-..., aabb.ccdd.eeff, aabbccddeeff.
#[derive(clap::Subcommand)]
enum Command {
    /// List the machines (what `plasmd clients` alone does)
    List(ListArgs),
    /// Show everything that is known of one machine
    Show(ShowArgs),
    /// Answer machines from now on, whatever else is said about them
    Allow(MacArgs),
    /// Do not answer machines any more
    Deny(MacArgs),
    /// Boot machines from the network once (or their disk, with --local), then as before
    Once(OnceArgs),
    /// Boot machines from their own disk from now on
    Local(MacArgs),
    /// Boot machines from the network from now on
    Network(MacArgs),
    /// Give machines a profile of the configuration, or take it away with `none`
    Profile(ProfileArgs),
    /// Forget everything that is known of machines and was decided about them
    Forget(MacArgs),
}

/// How to list.
#[derive(clap::Args)]
struct ListArgs {
    /// Show the list again every second, until it is interrupted
    #[arg(short, long)]
    watch: bool,
    /// Print the provider's own JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Which machine to show.
#[derive(clap::Args)]
struct ShowArgs {
    /// The machine
    mac: Mac,
    /// Print the provider's own JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Which machines.
#[derive(clap::Args)]
struct MacArgs {
    /// The machines
    #[arg(required = true, value_name = "MAC")]
    macs: Vec<Mac>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// What to boot once.
#[derive(clap::Args)]
struct OnceArgs {
    /// The machines
    #[arg(required = true, value_name = "MAC")]
    macs: Vec<Mac>,
    /// From this channel
    #[arg(long)]
    channel: Option<Channel>,
    /// From their own disk
    #[arg(long, conflicts_with = "channel")]
    local: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Which profile.
#[derive(clap::Args)]
struct ProfileArgs {
    /// The profile, or `none`
    #[arg(value_name = "NAME")]
    name: String,
    /// The machines
    #[arg(required = true, value_name = "MAC")]
    macs: Vec<Mac>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Asks or tells the provider.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    match args.command {
        None => list(&args.list),
        Some(Command::List(args)) => list(&args),
        Some(Command::Show(args)) => show(&args),
        Some(Command::Allow(args)) => all("allow", &args, &json!({})),
        Some(Command::Deny(args)) => all("deny", &args, &json!({})),
        Some(Command::Local(args)) => all("local", &args, &json!({})),
        Some(Command::Network(args)) => all("network", &args, &json!({})),
        Some(Command::Forget(args)) => all("forget", &args, &json!({})),
        Some(Command::Once(args)) => {
            let body = json!({ "channel": args.channel, "local": args.local });
            let macs = MacArgs {
                macs: args.macs,
                socket: args.socket,
            };
            all("once", &macs, &body)
        }
        Some(Command::Profile(args)) => {
            let name = Some(args.name).filter(|name| name != "none");
            let macs = MacArgs {
                macs: args.macs,
                socket: args.socket,
            };
            all("profile", &macs, &json!({ "profile": name }))
        }
    }
}

fn list(args: &ListArgs) -> Result<Exit, CommandError> {
    let is_screen = args.watch && std::io::stdout().is_terminal();
    loop {
        let answer = ask(&args.socket, Method::GET, "/clients", Value::Null)?;
        if args.json {
            out::line(&answer);
        } else {
            let clear = if is_screen { CLEAR } else { "" };
            out::exactly(format_args!("{clear}{}", table::list(&answer)));
            if !args.watch {
                show_others(&answer);
            }
        }
        if !args.watch {
            return Ok(Exit::Done);
        }
        std::thread::sleep(WATCH_PERIOD);
    }
}

/// The addresses that fetched something and belong to no machine.
fn show_others(answer: &Value) {
    let others = answer["clients"].as_array().into_iter().flatten();
    let others: Vec<Value> = others
        .filter(|client| client["mac"].is_null())
        .cloned()
        .collect();
    show_clients(&Value::Array(others));
}

fn show(args: &ShowArgs) -> Result<Exit, CommandError> {
    let answer = ask(&args.socket, Method::GET, "/clients", Value::Null)?;
    let mac = args.mac.to_string();
    let is_it = |value: &&Value| value["mac"].as_str() == Some(&mac);
    let list = |name: &str| answer[name].as_array().into_iter().flatten();
    let Some(machine) = list("machines").find(is_it) else {
        return Err(CommandError::failed(format!("{mac}: this machine was not seen"))
            .hint("does it boot from the network, and from this one? `plasmd doctor --packets` watches"));
    };
    let fetches: Vec<Value> = list("clients").filter(is_it).cloned().collect();
    if args.json {
        out::line(json!({ "machine": machine, "clients": fetches }));
        return Ok(Exit::Done);
    }
    out::exactly(table::story(machine));
    show_clients(&Value::Array(fetches));
    Ok(Exit::Done)
}

/// Says the same about each machine. What can be done is; the first failure is reported at the end.
fn all(route: &str, args: &MacArgs, body: &Value) -> Result<Exit, CommandError> {
    let mut failure = None;
    let mut is_kept = true;
    for mac in &args.macs {
        let mut body = body.clone();
        body["mac"] = json!(mac);
        match ask(
            &args.socket,
            Method::POST,
            &format!("/clients/{route}"),
            body,
        ) {
            Ok(answer) => {
                is_kept &= answer["kept"] != json!(false);
                out::line(format_args!("{mac}: {route}: {}", shown(&answer["said"])));
            }
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    if !is_kept {
        eprintln!("this provider has no state directory: a restart forgets it (--state-dir DIR)");
    }
    failure.map_or(Ok(Exit::Done), Err)
}
