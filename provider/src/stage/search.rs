//! Looks for providers when nobody said where one is: what boot servers told the `net` role, multicast DNS, and the
//! distributed table.
//!
//! ```text
//! /run/phase/net/providers ──named──┐
//!                                   ├──> candidates ──> many are asked at once; a manifest that verifies ends the search
//! multicast DNS ────────announced───┤
//! distributed table ────elsewhere───┘
//! ```
//! Whoever is on the wire can put anything into all of them: these are addresses to ask, and nothing more. Never ends before
//! its time is over, never keeps more addresses than its limits, never decides what is believed.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use boot_manifest::{Arch, Channel, Digest};
use discovery::{Browser, DiscoveryError, Hint};
use fetch::{SOURCES_MAX, Url};

use super::candidates::{Candidates, Way};
use super::elsewhere::Elsewhere;

/// How long there may be nobody. Switches that check for loops keep a port deaf for 50 s; a minute more lets a provider
/// that was started with this machine come up.
const SEARCH_TIME: Duration = Duration::from_secs(120);

/// Between two looks at what is known. A person does not see it, and it costs a read of a file in memory.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Between two looks of the listening thread at whether it is still wanted; also after a failure to listen.
const LISTEN_INTERVAL: Duration = Duration::from_secs(1);

/// After so long the listener begins anew, and asks everybody again: a flood may have crowded out somebody honest.
const LISTEN_ANEW: Duration = Duration::from_secs(15);

/// The file of the `net` role has a few lines; more than this was not written by it.
const FILE_SIZE_MAX: usize = 16 << 10;

/// Announcements on their way from the listening thread, of which a look takes all.
const QUEUE_MAX: usize = 256;

/// What is looked for, and where.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) channel: Channel,
    pub(super) arch: Arch,
    /// What the `net` role writes.
    pub(super) file: PathBuf,
    /// Whether multicast DNS is asked.
    pub(super) mdns: bool,
    /// Peers of the distributed table to begin with; without one it is not asked.
    pub(super) bootstrap: Vec<String>,
}

/// Somebody says that a provider exists.
pub(super) struct Heard {
    pub(super) way: Way,
    pub(super) manifests: Vec<Url>,
    /// Which manifest is there.
    pub(super) digest: Option<Digest>,
}

impl Heard {
    pub(super) fn of(way: Way, hint: &Hint) -> Self {
        let urls = hint.urls();
        Self {
            way,
            manifests: urls.iter().filter_map(|url| url.parse().ok()).collect(),
            digest: hint.manifest,
        }
    }
}

/// Passes it on; whether somebody still wants to hear. What finds the queue full comes again, and there are others.
pub(super) fn send(heard: &SyncSender<Heard>, what: Heard) -> bool {
    !matches!(heard.try_send(what), Err(TrySendError::Disconnected(_)))
}

/// A search that goes on.
pub(super) struct Search {
    file: PathBuf,
    heard: Receiver<Heard>,
    _elsewhere: Option<Elsewhere>,
    candidates: Candidates,
    until: Instant,
}

impl Search {
    /// Starts to look, on the runtime of the caller. The thread that listens ends soon after this is dropped.
    pub(super) fn start(wanted: Wanted) -> Self {
        let file = wanted.file.clone();
        let (sender, heard) = sync_channel(QUEUE_MAX);
        let Wanted {
            channel,
            arch,
            bootstrap,
            ..
        } = &wanted;
        let elsewhere = Elsewhere::look(bootstrap, channel, *arch, sender.clone());
        if wanted.mdns {
            std::thread::spawn(move || listen(&wanted, &sender));
        }
        Self {
            file,
            heard,
            _elsewhere: elsewhere,
            candidates: Candidates::new(seed()),
            until: Instant::now() + SEARCH_TIME,
        }
    }

    /// Whether it has lasted long enough.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// The next manifest to ask for, if it is somebody's turn.
    pub(super) fn next(&mut self) -> Option<Url> {
        self.look();
        self.candidates.next(Instant::now())
    }

    /// Nothing of use came from there.
    pub(super) fn failed(&mut self, url: &Url) {
        self.candidates.failed(url, Instant::now());
    }

    /// Those that say to have this manifest and were not given before.
    pub(super) fn having(&mut self, manifest: &Digest) -> Vec<Url> {
        self.look();
        self.candidates.having(manifest)
    }

    /// How good the word for it is.
    pub(super) fn rank(&self, url: &Url) -> Option<Way> {
        self.candidates.rank(url)
    }

    fn look(&mut self) {
        let now = Instant::now();
        // Not there before the network role has something to say.
        if let Ok(bytes) = crate::trust::read(&self.file, FILE_SIZE_MAX, "list of providers") {
            for url in urls(&String::from_utf8_lossy(&bytes)) {
                self.candidates.heard(Way::Named, url, None, now);
            }
        }
        for heard in self.heard.try_iter().take(QUEUE_MAX) {
            for url in heard.manifests {
                self.candidates.heard(heard.way, url, heard.digest, now);
            }
        }
    }
}

/// What nobody on the wire foresees.
fn seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish()
}

/// The URLs of a list, one a line; what cannot be fetched is left out.
fn urls(text: &str) -> Vec<Url> {
    let mut all = Vec::new();
    let urls = text.lines().filter_map(|line| line.parse().ok());
    for url in urls.filter(|url: &Url| !url.is_https()) {
        if !all.contains(&url) && all.len() < SOURCES_MAX {
            all.push(url);
        }
    }
    all
}

/// Listens until nobody wants to hear any more.
fn listen(wanted: &Wanted, heard: &SyncSender<Heard>) {
    let mut told = false;
    loop {
        match listen_once(wanted, heard) {
            Ok(true) => continue,
            Ok(false) => return,
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

/// Listens for a while; whether somebody still wants to hear.
fn listen_once(wanted: &Wanted, heard: &SyncSender<Heard>) -> Result<bool, DiscoveryError> {
    let mut browser = Browser::start()?;
    let until = Instant::now() + LISTEN_ANEW;
    while Instant::now() < until {
        let hint = browser.next(LISTEN_INTERVAL)?;
        let hint = hint.filter(|hint| (&hint.channel, hint.arch) == (&wanted.channel, wanted.arch));
        // An empty list asks whether somebody is still there.
        let nobody = Heard {
            way: Way::Announced,
            manifests: Vec::new(),
            digest: None,
        };
        let heard_now = hint.map_or(nobody, |hint| Heard::of(Way::Announced, &hint));
        if !send(heard, heard_now) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[tokio::test]
    async fn what_a_boot_server_names_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("providers");
        let mut search = Search::start(Wanted {
            channel: "stable".parse().unwrap(),
            arch: Arch::X86_64,
            file: file.clone(),
            mdns: false,
            bootstrap: Vec::new(),
        });
        assert_eq!(search.next(), None);
        std::fs::write(&file, "http://10.0.0.1/a.json\n").unwrap();
        let url: Url = "http://10.0.0.1/a.json".parse().unwrap();
        assert_eq!(search.next(), Some(url.clone()));
        assert_eq!(search.rank(&url), Some(Way::Named));
        assert_eq!(search.next(), None, "it is being asked");
        search.failed(&url);
        assert_eq!(search.next(), None, "it failed just now");
        assert!(!search.is_over());
        search.until = Instant::now();
        assert!(search.is_over());
    }
}
