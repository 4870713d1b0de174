//! The signals that end the provider. What is drained, and for how long, is the server's business.

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{CommandError, Exit};

/// Ends when the process is told to; a second signal does not wait for the drain.
pub(super) fn shutdown_signal() -> Result<impl Future<Output = ()>, CommandError> {
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
