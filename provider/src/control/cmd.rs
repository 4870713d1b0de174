//! `plasmd reload` and `plasmd log-level`, and the way that `plasmd clients` takes too: what they say to the control socket of a provider on this
//! machine, and how the answer is shown.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::control::DEFAULT_SOCKET;
use crate::exit::{CommandError, Exit};
use crate::out;
use crate::status_cmd::shown;

/// Time for an answer; a reload may read some files and make a certificate.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of an answer: the story of every machine and every client that is remembered.
const ANSWER_SIZE_MAX: usize = 16 << 20;

/// Which provider.
#[derive(Clone, clap::Args)]
pub(crate) struct SocketArgs {
    /// The control socket of the provider
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    control_socket: PathBuf,
}

/// Arguments of `plasmd reload`.
#[derive(clap::Args)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

/// Arguments of `plasmd log-level`.
#[derive(clap::Args)]
pub(crate) struct LogLevelArgs {
    /// The new level: error, warn, info, debug, trace, off, or a list like info,plasmd::serve=debug
    level: Option<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Reads keys, certificates and the configuration again, and says what changed.
pub(crate) fn reload(args: &ReloadArgs) -> Result<Exit, CommandError> {
    let answer = ask(&args.socket, Method::POST, "/reload", Value::Null)?;
    for (label, list) in [
        ("changed", "changed"),
        ("unchanged", "same"),
        ("needs a restart", "restart"),
        ("problem", "problems"),
    ] {
        for part in answer[list].as_array().into_iter().flatten() {
            out::line(format_args!("{label}: {}", shown(part)));
        }
    }
    match answer["problems"].as_array() {
        Some(problems) if !problems.is_empty() => Err(CommandError::failed(
            "not everything could be reloaded; what failed stays as it was",
        )),
        _ => Ok(Exit::Done),
    }
}

/// Shows or changes what is logged.
pub(crate) fn log_level(args: &LogLevelArgs) -> Result<Exit, CommandError> {
    let answer = match &args.level {
        Some(level) => ask(
            &args.socket,
            Method::PUT,
            "/log-level",
            json!({ "level": level }),
        )?,
        None => ask(&args.socket, Method::GET, "/log-level", Value::Null)?,
    };
    out::line(shown(&answer["level"]));
    Ok(Exit::Done)
}

/// Asks the provider, and gives back what it answers.
pub(crate) fn ask(
    socket: &SocketArgs,
    method: Method,
    route: &str,
    body: Value,
) -> Result<Value, CommandError> {
    let path = &socket.control_socket;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("cannot start: {error}")))?;
    let exchange = exchange(path, method, route, body);
    let answer = runtime.block_on(async { tokio::time::timeout(ANSWER_WAIT_MAX, exchange).await });
    let (status, answer) = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(path, &error)),
        Err(_) => {
            let seconds = ANSWER_WAIT_MAX.as_secs();
            let text = format!("{}: no answer within {seconds} s", path.display());
            return Err(CommandError::failed(text));
        }
    };
    if status.is_success() {
        return Ok(answer);
    }
    Err(CommandError::failed(shown(&answer["error"])))
}

fn unreachable(path: &Path, error: &anyhow::Error) -> CommandError {
    let failed = CommandError::failed(format!("{}: {error}", path.display()));
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => failed.hint(
            "no provider is controlled there: is one running on this machine? --control-socket names another socket",
        ),
        Some(io::ErrorKind::PermissionDenied) => {
            failed.hint("ask as root, or as the user that the provider runs as")
        }
        _ => failed.hint("did the provider refuse this user? Its log says so"),
    }
}

async fn exchange(
    path: &Path,
    method: Method,
    route: &str,
    body: Value,
) -> anyhow::Result<(StatusCode, Value)> {
    let stream = UnixStream::connect(path).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let body = match body {
        Value::Null => Bytes::new(),
        body => Bytes::from(body.to_string()),
    };
    let request = Request::builder()
        .method(method)
        .uri(route)
        .header(HOST, "plasmd")
        .header(CONNECTION, "close")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_SIZE_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok((status, serde_json::from_slice(&body)?))
    };
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}
