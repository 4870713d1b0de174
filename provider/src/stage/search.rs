//! Looks for providers when nobody said where one is: what boot servers told the `net` role, and multicast DNS.
//!
//! ```text
//! /run/phase/net/providers ──named──┐
//!                                   ├──> asked in this order; a manifest that verifies ends the search
//! multicast DNS ────────announced───┘
//! ```
//! Whoever is on the wire can put anything into both: these are addresses to ask, and nothing more. Never ends before its
//! time is over, never keeps more addresses than its limits, never decides what is believed.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use boot_manifest::{Arch, Channel};
use discovery::{Browser, DiscoveryError};
use fetch::{SOURCES_MAX, Url};

/// How long there may be nobody. Switches that check for loops keep a port deaf for 50 s; a minute more lets a provider
/// that was started with this machine come up.
const SEARCH_TIME: Duration = Duration::from_secs(120);

/// Announcements wait this long for what a boot server says, which somebody decided for this machine.
const ANNOUNCED_WAIT: Duration = Duration::from_secs(2);

/// Between two looks at what is known. A person does not see it, and it costs a read of a file in memory.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Between two looks of the listening thread at whether it is still wanted; also after a failure to listen.
const LISTEN_INTERVAL: Duration = Duration::from_secs(1);

/// The file of the `net` role has a few lines; more than this was not written by it.
const FILE_SIZE_MAX: usize = 16 << 10;

/// Servers that are asked for a manifest at the same time.
const ASKED_AT_ONCE: usize = 4;

/// Announcements on their way from the listening thread.
const QUEUE_MAX: usize = 32;

/// What is looked for, and where.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) channel: Channel,
    pub(super) arch: Arch,
    /// What the `net` role writes.
    pub(super) file: PathBuf,
    /// Whether multicast DNS is asked.
    pub(super) mdns: bool,
}

/// A search that goes on.
pub(super) struct Search {
    file: PathBuf,
    heard: Option<Receiver<Vec<Url>>>,
    named: Vec<Url>,
    announced: Vec<Url>,
    /// Since when somebody is announced.
    announced_at: Option<Instant>,
    until: Instant,
}

impl Search {
    /// Starts to look. The thread that listens ends soon after this is dropped.
    pub(super) fn start(wanted: Wanted) -> Self {
        let file = wanted.file.clone();
        let heard = wanted.mdns.then(|| {
            let (sender, receiver) = sync_channel(QUEUE_MAX);
            std::thread::spawn(move || listen(&wanted, &sender));
            receiver
        });
        Self {
            file,
            heard,
            named: Vec::new(),
            announced: Vec::new(),
            announced_at: None,
            until: Instant::now() + SEARCH_TIME,
        }
    }

    /// Whether it has lasted long enough.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// The manifests to ask for, in this order; each list is of equals.
    pub(super) fn known(&self) -> Vec<Vec<Url>> {
        let settled = self
            .announced_at
            .is_some_and(|since| since.elapsed() >= ANNOUNCED_WAIT);
        let announced = match settled {
            true => self.announced.clone(),
            false => Vec::new(),
        };
        let lists = [self.named.clone(), announced];
        lists.into_iter().filter(|urls| !urls.is_empty()).collect()
    }

    /// Waits until something else is known, at most `pause`; whether it is.
    pub(super) async fn wait(&mut self, pause: Duration) -> bool {
        let (before, end) = (self.known(), Instant::now() + pause);
        loop {
            self.look();
            if self.known() != before {
                return true;
            }
            let now = Instant::now();
            if now >= end.min(self.until) {
                return false;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn look(&mut self) {
        // Not there before the network role has something to say.
        if let Ok(bytes) = crate::trust::read(&self.file, FILE_SIZE_MAX, "list of providers") {
            self.named = urls(&String::from_utf8_lossy(&bytes));
        }
        for urls in self.heard.iter().flat_map(Receiver::try_iter) {
            self.announced_at.get_or_insert_with(Instant::now);
            take(&mut self.announced, urls);
        }
    }
}

/// A list whose beginning is another one in each round, so that those who are asked first and never answer do not keep the
/// others from being asked.
pub(super) fn in_turn(mut urls: Vec<Url>, round: usize) -> Vec<Url> {
    let first = round.saturating_mul(ASKED_AT_ONCE).checked_rem(urls.len());
    urls.rotate_left(first.unwrap_or(0));
    urls
}

/// The URLs of a list, one a line; what cannot be fetched is left out.
fn urls(text: &str) -> Vec<Url> {
    let mut all = Vec::new();
    let urls = text.lines().filter_map(|line| line.parse().ok());
    for url in urls.filter(|url: &Url| !url.is_https()) {
        take(&mut all, vec![url]);
    }
    all
}

/// Adds those that are new, as long as there is room.
fn take(known: &mut Vec<Url>, urls: Vec<Url>) {
    for url in urls {
        if !known.contains(&url) && known.len() < SOURCES_MAX {
            known.push(url);
        }
    }
}

/// Listens until nobody wants to hear any more.
fn listen(wanted: &Wanted, heard: &SyncSender<Vec<Url>>) {
    let mut told = false;
    loop {
        match listen_once(wanted, heard) {
            Ok(()) => return,
            // A machine whose network is not up yet cannot join its groups.
            Err(error) if !told => {
                tracing::warn!(%error, "providers cannot be listened for yet");
                told = true;
            }
            Err(error) => tracing::debug!(%error, "providers cannot be listened for"),
        }
        std::thread::sleep(LISTEN_INTERVAL);
    }
}

fn listen_once(wanted: &Wanted, heard: &SyncSender<Vec<Url>>) -> Result<(), DiscoveryError> {
    let mut browser = Browser::start()?;
    loop {
        let hint = browser.next(LISTEN_INTERVAL)?;
        let hint = hint.filter(|hint| (&hint.channel, hint.arch) == (&wanted.channel, wanted.arch));
        // An empty list asks whether somebody is still there.
        let urls = hint.map_or_else(Vec::new, |hint| {
            let urls = hint.urls();
            urls.iter().filter_map(|url| url.parse().ok()).collect()
        });
        match heard.try_send(urls) {
            // It comes again when something about it changes, and there are enough others.
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(file: PathBuf) -> Search {
        Search::start(Wanted {
            channel: "stable".parse().unwrap(),
            arch: Arch::X86_64,
            file,
            mdns: false,
        })
    }

    #[test]
    fn a_list_gives_what_can_be_fetched_once() {
        let text = "http://10.0.0.1/a.json\nnonsense\nhttps://10.0.0.1/b.json\n\nhttp://10.0.0.1/a.json\nhttp://10.0.0.2/c.json";
        let found: Vec<String> = urls(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["http://10.0.0.1/a.json", "http://10.0.0.2/c.json"]);
        let many: String = (0..1000)
            .map(|n| format!("http://10.0.0.1/{n}\n"))
            .collect();
        assert_eq!(urls(&many).len(), SOURCES_MAX);
    }

    #[test]
    fn everybody_is_asked_first_some_time() {
        let text: String = (0..10).map(|n| format!("http://10.0.0.1/{n}\n")).collect();
        let all = urls(&text);
        assert_eq!(in_turn(all.clone(), 0), all);
        let mut first: Vec<Url> = (0..10)
            .map(|round| in_turn(all.clone(), round))
            .flat_map(|turned| turned.into_iter().take(ASKED_AT_ONCE))
            .collect();
        first.sort_by_key(ToString::to_string);
        first.dedup();
        assert_eq!(first, all);
        assert!(in_turn(Vec::new(), 3).is_empty());
        assert_eq!(in_turn(all.clone(), usize::MAX).len(), all.len());
    }

    #[test]
    fn who_was_named_comes_first_and_announcements_wait() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("providers");
        let mut search = search(file.clone());
        search.look();
        assert!(search.known().is_empty());
        let url = |text: &str| -> Url { text.parse().unwrap() };
        take(&mut search.announced, vec![url("http://10.0.0.2/b.json")]);
        search.announced_at = Some(Instant::now());
        assert!(search.known().is_empty());
        std::fs::write(&file, "http://10.0.0.1/a.json\n").unwrap();
        search.look();
        assert_eq!(search.known(), [[url("http://10.0.0.1/a.json")]]);
        search.announced_at = Instant::now().checked_sub(ANNOUNCED_WAIT);
        assert_eq!(
            search.known(),
            [
                [url("http://10.0.0.1/a.json")],
                [url("http://10.0.0.2/b.json")]
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn news_end_the_wait_and_silence_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("providers");
        let mut search = search(file.clone());
        assert!(!search.wait(Duration::ZERO).await);
        std::fs::write(&file, "http://10.0.0.1/a.json\n").unwrap();
        assert!(search.wait(Duration::from_secs(60)).await);
        search.until = Instant::now();
        assert!(!search.wait(Duration::from_secs(60)).await && search.is_over());
    }
}
