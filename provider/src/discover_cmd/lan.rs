//! Listens on the local network, in a thread of its own, until nobody wants to hear any more.

use std::time::Duration;

use discovery::{Browser, Change, DiscoveryError};
use tokio::sync::mpsc::Sender;

use crate::discover_cmd::News;

/// Between two looks at whether somebody still listens; also after the sockets were lost.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Starts to listen. The thread ends soon after the other end of the channel is gone.
pub(super) fn start(news: Sender<News>) -> Result<(), DiscoveryError> {
    let mut browser = Browser::start()?;
    std::thread::spawn(move || {
        while !news.is_closed() {
            let change = match browser.next_change(LOOK_INTERVAL) {
                Ok(Some(Change::There(hint))) => News::There(hint),
                Ok(Some(Change::Gone(id))) => News::Gone(id),
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(%error, "the local network cannot be searched");
                    std::thread::sleep(LOOK_INTERVAL);
                    if let Ok(again) = Browser::start() {
                        browser = again;
                    }
                    continue;
                }
            };
            // Fails when nobody listens any more, which the loop sees.
            let _heard = news.blocking_send(change);
        }
    });
    Ok(())
}
