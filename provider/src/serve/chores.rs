//! What a provider does besides answering: it hashes ahead, and tells init where it can be reached. No request waits for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use boot_manifest::handoff::Report;
use tokio::task::JoinSet;

use crate::dht::announcer::reached;
use crate::http::target::ArtifactTarget;
use crate::serve::app::App;
use crate::serve::health;
use crate::serve::limits::LOOK_PERIOD;
use crate::serve::refusal::Refusal;
use crate::serve::sockets::Scheme;

/// Hashes what lies in the default folder before anybody asks, now and whenever it changes, so that `/health` knows and no
/// client waits for it.
pub(super) async fn hash_ahead(app: Arc<App>) {
    let mut period = tokio::time::interval(LOOK_PERIOD);
    loop {
        period.tick().await;
        // Hashes what it is about and signs it when that is due; a refusal stands in /health.
        let _ = app.catalog.manifest(&app.channel, app.arch).await;
        // A manifest that was signed elsewhere needed no hashes; its files are hashed several at a time.
        let mut tasks = JoinSet::new();
        for target in health::unhashed(&app.catalog, &app.channel, app.arch) {
            tasks.spawn(hash_one(Arc::clone(&app), target));
        }
        let mut unhashable = Vec::new();
        while let Some(done) = tasks.join_next().await {
            unhashable.extend(done.ok().flatten());
        }
        app.set_unhashable(unhashable);
    }
}

/// What stands in the way, when the file cannot be read.
async fn hash_one(app: Arc<App>, target: ArtifactTarget) -> Option<String> {
    let started = Instant::now();
    // Refusals are logged where they are found, and stand in /health.
    let outcome = app.catalog.artifact(&target, None).await;
    let served = outcome.is_ok();
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(file = %target.name, served, millis, "hashed ahead");
    match outcome {
        Err(refusal @ Refusal::Unreadable(..)) => Some(refusal.to_string()),
        _ => None,
    }
}

/// Tells init that the role works and where it can be reached, again whenever the addresses change.
pub(super) async fn keep_init_informed(app: Arc<App>) {
    tell_init(&app, Report::Ready {}).await;
    let mut told = None;
    let mut period = tokio::time::interval(LOOK_PERIOD);
    loop {
        period.tick().await;
        let mut urls: Vec<String> = app.process.addresses(Scheme::Http).flat_map(urls).collect();
        urls.dedup();
        let scan = app.catalog.store().scan(&app.channel, app.arch);
        let artifacts = u32::try_from(scan.found.len()).unwrap_or(u32::MAX);
        let now = Report::Serving {
            urls,
            artifacts,
            advertised: app.announcement.is_on(),
        };
        if told.as_ref() != Some(&now) {
            tell_init(&app, now.clone()).await;
            told = Some(now);
        }
    }
}

async fn tell_init(app: &App, report: Report) {
    let init = Arc::clone(&app.init);
    // Sending may wait for init, which must not stop requests.
    let sent = tokio::task::spawn_blocking(move || init.send(&report)).await;
    if let Ok(Err(error)) = sent {
        tracing::warn!(%error, "init could not be told");
    }
}

/// Where clients on other machines reach `address`; on this machine only when there is nothing else.
fn urls(address: SocketAddr) -> Vec<String> {
    let port = address.port();
    reached(address.ip())
        .iter()
        .map(|ip| format!("http://{}/", SocketAddr::new(*ip, port)))
        .collect()
}
