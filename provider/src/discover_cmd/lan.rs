//! Listens on the local network, in a thread of its own, until nobody wants to hear any more.

use std::time::{Duration, Instant};

use discovery::{Browser, Change, DiscoveryError};
use tokio::sync::mpsc::Sender;

use crate::discover_cmd::News;

/// Between two looks at whether somebody still listens; also after the sockets were lost.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// After so long the listener begins anew, and asks everybody again: each is told of once, and the table may have been full
/// of inventions just then.
const LISTEN_ANEW: Duration = Duration::from_secs(8);

/// Starts to listen. The thread ends soon after the other end of the channel is gone.
pub(super) fn start(news: Sender<News>) -> Result<(), DiscoveryError> {
    let mut browser = Browser::start()?;
    std::thread::spawn(move || {
        loop {
            if let Err(error) = listen(browser, &news) {
                tracing::debug!(%error, "the local network cannot be searched");
                std::thread::sleep(LOOK_INTERVAL);
            }
            browser = loop {
                if news.is_closed() {
                    return;
                }
                match Browser::start() {
                    Ok(again) => break again,
                    Err(_) => std::thread::sleep(LOOK_INTERVAL),
                }
            };
        }
    });
    Ok(())
}

/// Listens for a while, or until nobody wants to hear any more.
fn listen(mut browser: Browser, news: &Sender<News>) -> Result<(), DiscoveryError> {
    let until = Instant::now() + LISTEN_ANEW;
    while Instant::now() < until && !news.is_closed() {
        let change = match browser.next_change(LOOK_INTERVAL)? {
            Some(Change::There(hint)) => News::There(hint),
            Some(Change::Gone(id)) => News::Gone(id),
            None => continue,
        };
        // Fails when nobody listens any more, which the loop sees.
        let _heard = news.blocking_send(change);
    }
    Ok(())
}
