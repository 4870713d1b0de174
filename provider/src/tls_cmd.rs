//! `plasmd tls`: the certificate of this machine's provider, as clients compare it. Reads public files only; what a provider
//! has in force now stands in its `/status`.

use std::path::{Path, PathBuf};

use crate::exit::{CommandError, Exit};
use crate::out;
use crate::serve::state_dir;
use crate::serve::tls::made::Made;
use crate::serve::tls::shown::Shown;
use crate::serve::tls::{Problem, read_chain};

/// Which certificate, and what of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the provider keeps the certificate it made [default: $STATE_DIRECTORY, or /var/lib/plasm]
    #[arg(long, value_name = "DIR", conflicts_with = "cert")]
    state_dir: Option<PathBuf>,
    /// A certificate that was not made by a provider (PEM)
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Print the certificate that clients are to trust
    #[arg(long, conflicts_with = "json")]
    pem: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reads and prints.
pub(crate) fn run(args: &Args) -> Result<Exit, CommandError> {
    let made = Made::at(&state_dir(args.state_dir.as_deref()));
    let failed = |problem: Problem| {
        CommandError::local(problem.to_string()).hint(
            "`plasmd serve --tls-port PORT` makes a certificate in its --state-dir; --cert names another file",
        )
    };
    let (certificate, trusted) = match &args.cert {
        Some(file) => (file.clone(), file.clone()),
        None => (made.certificate(), made.authority_file()),
    };
    if args.pem {
        read_chain(&trusted).map_err(failed)?;
        let pem = std::fs::read_to_string(&trusted)
            .map_err(|error| CommandError::local(format!("{}: {error}", trusted.display())))?;
        out::line(pem.trim_end());
        return Ok(Exit::Done);
    }
    let shown = show(&certificate, args.cert.is_none().then_some(&made)).map_err(failed)?;
    if args.json {
        let json = serde_json::to_string_pretty(&shown)
            .map_err(|error| CommandError::failed(error.to_string()))?;
        out::line(json);
        return Ok(Exit::Done);
    }
    out::line(format_args!("pin          {}", shown.pin));
    out::line(format_args!("             {} (curl)", shown.pin_curl));
    out::line(format_args!("certificate  {}", shown.fingerprint));
    if let Some(expires_at) = shown.expires_at {
        out::line(format_args!("expires      {expires_at}"));
    }
    if let Some(authority) = shown.authority_fingerprint {
        out::line(format_args!("authority    {authority}"));
        out::line(format_args!("trust        {}", trusted.display()));
    }
    Ok(Exit::Done)
}

fn show(certificate: &Path, made: Option<&Made>) -> Result<Shown, Problem> {
    let chain = read_chain(certificate)?;
    let authority = made.map(Made::authority).transpose()?;
    Shown::of(&chain, authority.as_ref()).map_err(|error| Problem::Content {
        path: certificate.to_owned(),
        reason: error.to_string(),
    })
}
