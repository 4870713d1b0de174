//! Whom a command that asks one provider believes over https: the same two flags everywhere.

use std::path::PathBuf;

use boot_manifest::Digest;
use fetch::Trust;

use crate::exit::CommandError;
use crate::fetch_cmd::flags;

/// The flags.
#[derive(clap::Args)]
pub(crate) struct TlsTrust {
    /// For https: believe the certificate authorities in this PEM file instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    cacert: Option<PathBuf>,
    /// For https: believe only this certificate, or this public key (SHA-256)
    #[arg(long, value_name = "sha256:HEX", value_parser = flags::pin)]
    pin: Option<Digest>,
}

impl TlsTrust {
    /// What to believe at `url`; flags that would do nothing there are refused.
    pub(crate) fn at(&self, url: &str) -> Result<Trust, CommandError> {
        let trust = match (&self.cacert, self.pin) {
            (Some(file), _) => Trust::File(file.clone()),
            (None, Some(pin)) => Trust::Pin(pin),
            (None, None) => Trust::System,
        };
        if trust != Trust::System && !url.starts_with("https:") {
            let message = "--cacert and --pin are about https, and this is no https URL";
            return Err(CommandError::usage(message));
        }
        Ok(trust)
    }
}
