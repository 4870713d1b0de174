//! Listens for providers of this machine's channel, on a thread of its own, for as long as somebody wants to hear.

use std::time::Instant;

use boot_manifest::{Arch, Channel};
use discovery::{Browser, Change, DiscoveryError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::limits::{LISTEN_ANEW, LISTEN_INTERVAL, QUEUE_MAX};

/// Starts to listen. The thread ends soon after the receiver is dropped.
pub(super) fn start(wanted: Channel, arch: Arch) -> Receiver<Change> {
    let (sender, receiver) = channel(QUEUE_MAX);
    std::thread::spawn(move || {
        let mut told = false;
        while !sender.is_closed() {
            match listen_once(&wanted, arch, &sender) {
                Ok(()) => continue,
                // A machine whose network is not up yet cannot join its groups.
                Err(error) if !told => {
                    tracing::warn!(%error, "neighbours cannot be listened for yet");
                    told = true;
                }
                Err(error) => tracing::debug!(%error, "neighbours cannot be listened for"),
            }
            std::thread::sleep(LISTEN_INTERVAL);
        }
    });
    receiver
}

/// Listens for a while.
fn listen_once(
    wanted: &Channel,
    arch: Arch,
    sender: &Sender<Change>,
) -> Result<(), DiscoveryError> {
    let mut browser = Browser::start()?;
    let until = Instant::now() + LISTEN_ANEW;
    while Instant::now() < until && !sender.is_closed() {
        let change = match browser.next_change(LISTEN_INTERVAL)? {
            Some(Change::There(hint)) if (&hint.channel, hint.arch) != (wanted, arch) => continue,
            Some(change) => change,
            None => continue,
        };
        // What finds the queue full comes again when the listener begins anew.
        if let Err(TrySendError::Closed(_)) = sender.try_send(change) {
            break;
        }
    }
    Ok(())
}
