//! `plasmd upgrade`: what a machine does about its own image, and orders for it.
//!
//! ```text
//! GET /upgrade ──nonce──> order {action, digest, nonce, force} ──signed with --key──> POST /upgrade/orders
//!      ^                                                                                   │
//!      └── again and again: was it taken (the nonce is another one), and what became of it ┘
//! ```
//!
//! Nobody logs in to an appliance: an operator key decides, and an order is good for one machine and once. `status` and
//! `history` only read. Nothing that a machine says is verified here: it is shown.

mod follow;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use boot_manifest::{
    Action, Digest, Nonce, ORDER_SIZE_MAX, Order, SecretKey, SignError, merge_orders, sign_order,
};
use bytes::Bytes;
use fetch::Trust;
use http::StatusCode;
use serde_json::{Value, json};

use crate::exit::{CommandError, Exit};
use crate::key::{self, files};
use crate::out;
use crate::question::{Question, runtime};
use crate::tls_trust::TlsTrust;
use crate::trust;
use crate::upgrade::shown;
use crate::upgrade_cmd::follow::{Followed, Verdict};

/// The path of the status.
const STATUS: &str = "/upgrade";

/// Where orders go.
const ORDERS: &str = "/upgrade/orders";

/// The type of an order.
const ORDER_TYPE: &str = "application/json";

/// Looks at a machine that answers and has not taken the order: 15 seconds, in which it verifies some signatures. One that does
/// not answer may have begun at once, and be restarting.
const TAKEN_LOOKS: u32 = 30;

/// How long a silent machine is waited for without --wait.
const SILENCE_WAIT: Duration = Duration::from_secs(30);

/// Between two looks at what a machine does.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Time for one look: a machine that restarts does not answer.
const LOOK_TIME: Duration = Duration::from_secs(3);

/// Orders that a busy machine did not pass on are sent again so often, a second apart.
const TRIES: usize = 10;

/// The subcommands.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show which image a machine runs, what it found, what is on trial, and what failed there
    Status(ShowArgs),
    /// Show what became of every image that a machine tried
    History(ShowArgs),
    /// Order a machine to look for a newer image now
    Check(OrderArgs),
    /// Order a machine to fetch a newer image and keep it ready
    Stage(OrderArgs),
    /// Order a machine to try a newer image now, fetching it if need be
    Apply(OrderArgs),
    /// Order a machine to keep the image on trial without waiting for the rest of its soak
    Commit(OrderArgs),
    /// Order a machine to go back to the image before
    Rollback(OrderArgs),
}

/// Which machine.
#[derive(clap::Args)]
struct MachineArgs {
    /// URL of the machine
    #[arg(value_name = "URL", default_value = "http://localhost:8080")]
    url: String,
    #[command(flatten)]
    tls: TlsTrust,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What to show.
#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    machine: MachineArgs,
}

/// What to order.
#[derive(clap::Args)]
pub(crate) struct OrderArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Sign with this private key of an operator; repeat when several must sign
    #[arg(short, long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// Join an order that somebody else has signed and saved: the same order, and the machine has taken none since
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Save the signed order for somebody who signs it too, instead of sending it
    #[arg(long, value_name = "FILE", conflicts_with = "wait")]
    save: Option<PathBuf>,
    /// Only the image with this manifest
    #[arg(long, value_name = "sha256:HEX")]
    digest: Option<Digest>,
    /// Now: outside of the maintenance window, as the last server of its segment, out of turn, and an image that failed before or expired
    #[arg(long)]
    force: bool,
    /// Follow until it is done, or has failed
    #[arg(long)]
    wait: bool,
    /// With --wait: give up after so many seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 1_800,
        requires = "wait"
    )]
    timeout: u64,
}

/// Asks or orders.
pub(crate) fn run(command: Command) -> Result<Exit, CommandError> {
    let (action, args) = match &command {
        Command::Status(args) => {
            return show(&args.machine, |status| {
                for (label, text) in shown::lines(status) {
                    out::line(format_args!("{label:<11} {text}"));
                }
            });
        }
        Command::History(args) => {
            return show(&args.machine, |status| {
                let history = shown::history(status);
                history.iter().for_each(out::line);
                if history.is_empty() {
                    out::line("nothing was tried yet");
                }
            });
        }
        Command::Check(args) => (Action::Check, args),
        Command::Stage(args) => (Action::Stage, args),
        Command::Apply(args) => (Action::Apply, args),
        Command::Commit(args) => (Action::Commit, args),
        Command::Rollback(args) => (Action::Rollback, args),
    };
    order(action, args)
}

fn show(args: &MachineArgs, show: impl Fn(&Value)) -> Result<Exit, CommandError> {
    let trust = args.tls.at(&args.url)?;
    let status = runtime()?.block_on(status(&Question::get(&args.url, STATUS), &trust))?;
    match args.json {
        true => out::line(&status),
        false => show(&status),
    }
    Ok(Exit::Done)
}

/// What a machine says of itself.
async fn status(question: &Question<'_>, trust: &Trust) -> Result<Value, CommandError> {
    let answer = question.ask(trust).await?;
    let url = question.url();
    if !answer.status.is_success() {
        let (status, line) = (answer.status, answer.line());
        return Err(CommandError::failed(format!("{url}: {status}: {line}")));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| CommandError::failed(format!("{url}: the answer is not JSON: {error}")))
}

/// Orders something, sees it taken, and follows it if that is wanted.
fn order(action: Action, args: &OrderArgs) -> Result<Exit, CommandError> {
    let (machine, trust) = (&args.machine, args.machine.tls.at(&args.machine.url)?);
    let keys = args.keys.iter().map(|file| key::load_secret(file));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<_> = keys.iter().collect();
    runtime()?.block_on(async {
        let before = status(&Question::get(&machine.url, STATUS), &trust).await?;
        let nonce = nonce_of(&before).ok_or_else(|| {
            CommandError::failed(format!("{}: it shows no nonce to sign", machine.url))
                .hint("it has no random numbers yet, or takes no orders: try again in a moment")
        })?;
        let order = Order {
            action,
            digest: args.digest,
            nonce,
            force: args.force,
        };
        let signed = joined(&order, &keys, &args.with)?;
        if let Some(file) = &args.save {
            return save(file, &signed);
        }
        send(machine, &trust, signed.into()).await?;
        let followed = Followed {
            action,
            nonce: nonce.to_string(),
            before,
        };
        let patience = args.wait.then(|| Duration::from_secs(args.timeout));
        follow(machine, &trust, &followed, patience).await
    })
}

/// The order, signed with these keys and by those who saved it. What they signed is not sent unless it is just this.
fn joined(order: &Order, keys: &[&SecretKey], with: &[PathBuf]) -> Result<Vec<u8>, CommandError> {
    let failed = |error: SignError| {
        let message = CommandError::failed(format!("the order: {error}"));
        match error {
            SignError::DifferentPayloads => message.hint(
                "all must sign the same order for the same machine, and it must have taken no other since: begin anew",
            ),
            _ => message,
        }
    };
    let mut orders = vec![sign_order(order, keys).map_err(failed)?];
    for file in with {
        orders.push(trust::read(file, ORDER_SIZE_MAX, "saved order")?);
    }
    merge_orders(&orders).map_err(failed)
}

fn save(file: &Path, order: &[u8]) -> Result<Exit, CommandError> {
    files::write_atomic(file, order).map_err(|error| key::unwritable(file, &error))?;
    out::line("saved: who signs it too gives it to the same command --with this file");
    Ok(Exit::Done)
}

fn nonce_of(status: &Value) -> Option<Nonce> {
    status["nonce"].as_str()?.parse().ok()
}

async fn send(machine: &MachineArgs, trust: &Trust, order: Bytes) -> Result<(), CommandError> {
    let question = Question::post(&machine.url, ORDERS, (ORDER_TYPE, order));
    let mut tries = 0;
    loop {
        let answer = question.ask(trust).await?;
        tries += 1;
        let is_busy = matches!(
            answer.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        if answer.status.is_success() {
            return Ok(());
        }
        if !is_busy || tries == TRIES {
            let (url, status, line) = (question.url(), answer.status, answer.line());
            return Err(CommandError::failed(format!("{url}: {status}: {line}")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Looks until the order was taken, and on until it is done when somebody has patience.
async fn follow(
    machine: &MachineArgs,
    trust: &Trust,
    followed: &Followed,
    patience: Option<Duration>,
) -> Result<Exit, CommandError> {
    let (started, url) = (Instant::now(), &machine.url);
    let look = Question {
        wait: LOOK_TIME,
        ..Question::get(url, STATUS)
    };
    let (mut is_taken, mut untaken, mut told) = (false, 0, String::new());
    loop {
        let now = status(&look, trust).await.ok();
        is_taken |= now.as_ref().is_some_and(|now| followed.is_taken(now));
        untaken += u32::from(now.is_some() && !is_taken);
        if !is_taken && untaken >= TAKEN_LOOKS {
            let message = format!("{url}: the machine did not take the order");
            return Err(CommandError::failed(message).hint(
                "is the key one of its operator keys, are enough of them named, and did nobody else give an order just now? \
                 Its console has the reason",
            ));
        }
        let verdict = match (&now, is_taken) {
            (Some(now), true) => followed.judge(now),
            (Some(_), false) => Verdict::Goes("the order was sent".to_owned()),
            (None, _) => {
                Verdict::Goes("the machine does not answer: it may be restarting".to_owned())
            }
        };
        let is_over = started.elapsed() >= patience.unwrap_or(SILENCE_WAIT);
        match verdict {
            Verdict::Failed(reason) => {
                finish(machine, "failed", &reason, now.as_ref());
                return Err(CommandError::failed(format!("{url}: {reason}")));
            }
            Verdict::Done(what) => {
                finish(machine, "done", &what, now.as_ref());
                return Ok(Exit::Done);
            }
            Verdict::Goes(_) if is_taken && patience.is_none() => {
                finish(machine, "taken", "the machine took the order", now.as_ref());
                return Ok(Exit::Done);
            }
            Verdict::Goes(what) if is_over => {
                finish(machine, "unknown", &what, now.as_ref());
                return Err(CommandError::failed(format!(
                    "{url}: not done within the time: {what}"
                )));
            }
            Verdict::Goes(what) => {
                // Progress is for people, and not the result.
                if what != told && !machine.json {
                    eprintln!("{what}");
                }
                told = what;
            }
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// The result, for programs or for people; the reason of a failure is the error of the command.
fn finish(machine: &MachineArgs, outcome: &str, what: &str, status: Option<&Value>) {
    if machine.json {
        out::line(json!({ "outcome": outcome, "reason": what, "status": status }));
    } else if matches!(outcome, "done" | "taken") {
        out::line(what);
    }
}
