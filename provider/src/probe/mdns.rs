//! Whether this machine finds itself by multicast DNS.

use std::time::Duration;

use discovery::{Browser, DiscoveryError};

use super::{Outcome, Problem, Subject, own_address};

/// How long one search listens. Announcements are answered within a second; the loop around it asks again.
const LISTEN_TIME: Duration = Duration::from_secs(5);

/// `mdns`
pub(super) async fn resolves(subject: &Subject) -> Outcome {
    let address = std::net::SocketAddr::new(own_address()?, subject.port);
    let wanted = (
        subject.channel.clone(),
        subject.arch,
        Some(subject.manifest.digest()),
    );
    let search = move || -> Result<Option<String>, DiscoveryError> {
        let mut browser = Browser::start()?;
        let started = std::time::Instant::now();
        while let Some(left) = LISTEN_TIME.checked_sub(started.elapsed()) {
            let Some(hint) = browser.next(left)? else {
                break;
            };
            let serves = (hint.channel, hint.arch, hint.manifest) == wanted;
            if serves && hint.addresses.contains(&address) {
                return Ok(Some(hint.id));
            }
        }
        Ok(None)
    };
    let found = tokio::task::spawn_blocking(search).await;
    match found.map_err(Problem::not_yet)? {
        Ok(Some(id)) => Ok(format!("{id} at {address}")),
        Ok(None) => Err(Problem::NotYet(format!(
            "nobody says that {address} serves this manifest"
        ))),
        Err(error) => Err(Problem::not_yet(error)),
    }
}
