//! The signals: those that end the provider, and the one that makes it read its files again. What is drained, and for how
//! long, is the server's business.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{CommandError, Exit};
use crate::serve::limits::END_WAIT_MAX;
use crate::serve::notify::Notifier;
use crate::serve::reload::Reloads;

/// Ends when the process is told to; a second signal does not wait for the drain.
pub(super) fn shutdown_signal(
    notifier: Arc<Notifier>,
    drain_max: Duration,
) -> Result<impl Future<Output = ()>, CommandError> {
    let listen = |kind| {
        signal(kind).map_err(|error| CommandError::local(format!("cannot handle signals: {error}")))
    };
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    let (told, shutdown) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
        let name = next().await;
        tracing::info!(signal = name, "stopping: running downloads may finish");
        notifier.stopping("running downloads may finish", drain_max + END_WAIT_MAX);
        let _ = told.send(());
        let name = next().await;
        tracing::warn!(signal = name, "stopping at once");
        std::process::exit(Exit::Done as i32);
    });
    Ok(async {
        // The sender lives until it has sent.
        let _ = shutdown.await;
    })
}

/// Reads the files again at each SIGHUP.
pub(super) fn reload_signal(
    reloads: Arc<Reloads>,
) -> Result<impl Future<Output = ()>, CommandError> {
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| CommandError::local(format!("cannot handle signals: {error}")))?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            let reloads = Arc::clone(&reloads);
            // A part that panicked was logged; the next signal tries again.
            let _ = tokio::task::spawn_blocking(move || reloads.run()).await;
        }
    })
}
