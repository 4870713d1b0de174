//! Answers at hand: by the path of a request, without any look at the file system.
//!
//! ```text
//! request ──> Hand::get ──> at hand, its stamp is good, looked at within the last second ──> sent
//!                  └──────> otherwise: looked at, answered, and kept under a new stamp
//! ```
//!
//! What is guaranteed:
//! - Bytes and digest of one answer belong together, always: they are kept together. A large file is kept as a descriptor
//!   of the very content that was hashed; whoever sends it looks whether it was overwritten before the last bytes leave.
//!   Who overwrites a file in place and sets its modification time back in the middle of a send deceives that one send.
//! - A change that the kernel tells of (see [`artifact_store::Watch`]) is in every answer to a request that begins
//!   two milliseconds after it: events are taken before an answer is used, at most once in a millisecond.
//! - A change that the kernel does not tell of (a store through a memory mapping, another machine's write on a network
//!   file system, a layer below an overlay, a mount over a folder) is in every answer after a second, because then the
//!   path is walked and everything is looked at again. Stores through a memory mapping of a file on tmpfs change no time
//!   stamp; nothing that goes by `stat` can notice them.
//! - A file that was removed is kept from being freed for two seconds at most.
//!
//! Where the kernel cannot watch, or not everything an answer depends on, nothing is at hand, and every request looks.
//!
//! Never keeps a refusal, nor anything under a path that is not spelt in the one plain way: clients cannot make the table
//! grow with paths that they invent.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use artifact_store::{Looking, Stamp, Store, Watch};
use boot_manifest::{Arch, Channel};
use tokio::sync::Notify;

use crate::http::respond::{Content, Source};
use crate::serve::limits::{HAND_BYTES_MAX, HAND_FILES_MAX, HAND_MAX, LOOK_AGAIN};

/// The answers at hand.
pub(crate) struct Hand {
    watch: Option<Watch>,
    table: RwLock<Table>,
    is_filled: Notify,
    has_complained: AtomicBool,
}

#[derive(Default)]
struct Table {
    answers: HashMap<Box<str>, Answer>,
    /// Bytes in memory and descriptors that the answers hold; what two of them share is counted twice.
    bytes: usize,
    files: usize,
}

/// A look after which an answer may be kept.
pub(crate) struct Look<'a> {
    /// What is looked at must be watched by this.
    pub(crate) looking: Looking<'a>,
    path: &'a str,
    begun: Instant,
}

struct Answer {
    content: Content,
    stamp: Stamp,
    looked: Instant,
    /// Whether somebody asked for it since room was needed last.
    is_used: AtomicBool,
}

impl Answer {
    fn is_good(&self) -> bool {
        self.stamp.is_good() && self.looked.elapsed() < LOOK_AGAIN
    }
}

impl Hand {
    /// Nothing is at hand yet.
    pub(crate) fn new(store: &Store) -> Self {
        let hand = Self {
            watch: None,
            table: RwLock::default(),
            is_filled: Notify::new(),
            has_complained: AtomicBool::new(false),
        };
        match store.watch() {
            Ok(watch) => Self {
                watch: Some(watch),
                ..hand
            },
            Err(error) => {
                hand.complain(&error);
                hand
            }
        }
    }

    /// The answer to a request for `path`.
    pub(crate) fn get(&self, path: &str) -> Option<Content> {
        // Otherwise somebody is taking events, and what they say is not known yet.
        if !self.watch.as_ref()?.is_up_to_date() {
            return None;
        }
        let table = self.read();
        let answer = table.answers.get(key(path))?;
        if !answer.is_good() {
            return None;
        }
        // Nearly always so already, and then no other processor's copy is disturbed.
        if !answer.is_used.load(Ordering::Relaxed) {
            answer.is_used.store(true, Ordering::Relaxed);
        }
        Some(answer.content.clone())
    }

    /// Begins the look after which the answer to `path` may be kept; nothing when it may not, or when another request has
    /// just done so.
    pub(crate) fn begin<'a>(
        &'a self,
        path: &'a str,
        channel: &Channel,
        arch: Arch,
    ) -> Option<Look<'a>> {
        let watch = self.watch.as_ref()?;
        let is_kept = self
            .read()
            .answers
            .get(key(path))
            .is_some_and(Answer::is_good);
        (!is_kept && is_plain(key(path))).then(|| Look {
            begun: Instant::now(),
            looking: watch.begin(channel, arch),
            path,
        })
    }

    /// Keeps an answer that holds as long as what was looked at does not change.
    pub(crate) fn keep(&self, look: Look<'_>, content: Content) {
        let Some(stamp) = look.looking.stamp() else {
            if let Some(error) = self.watch.as_ref().and_then(Watch::refused) {
                self.complain(&error);
            }
            return;
        };
        let answer = Answer {
            content,
            stamp,
            looked: look.begun,
            is_used: AtomicBool::new(true),
        };
        let mut table = self.write();
        table.insert(key(look.path), answer);
        drop(table);
        self.is_filled.notify_one();
    }

    /// Takes everything for changed.
    pub(crate) fn clear(&self) {
        if let Some(watch) = &self.watch {
            watch.end_all();
        }
        *self.write() = Table::default();
    }

    /// Lets go of what is not good any more, for ever. Without it files that were removed would not be freed.
    pub(crate) async fn tidy(&self) {
        let Some(watch) = &self.watch else {
            return;
        };
        loop {
            self.is_filled.notified().await;
            while !self.read().answers.is_empty() {
                tokio::time::sleep(LOOK_AGAIN).await;
                watch.tidy(|place| {
                    let table = self.read();
                    table
                        .answers
                        .values()
                        .any(|answer| answer.stamp.is_same_place(place))
                });
                self.write().retain(Answer::is_good);
            }
            watch.tidy(|_| false);
        }
    }

    /// Says once that nothing is at hand, and why.
    fn complain(&self, error: &io::Error) {
        if !self.has_complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "changes to the artifacts cannot be watched ({error}): every request looks at them; \
                 fs.inotify.max_user_watches may be too small"
            );
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        // Whole at every unlock.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, key: &str, answer: Answer) {
        if let Some(before) = self.answers.remove(key) {
            self.count(&before.content, usize::wrapping_sub);
        }
        self.make_room(size(&answer.content));
        self.count(&answer.content, usize::wrapping_add);
        self.answers.insert(key.into(), answer);
    }

    /// Lets go of others until this much more may be kept, or nothing helps.
    fn make_room(&mut self, (bytes, files): (usize, usize)) {
        loop {
            let is_in_the_way = if self.files + files > HAND_FILES_MAX {
                |content: &Content| matches!(content.source, Source::File(_))
            } else if self.bytes + bytes > HAND_BYTES_MAX {
                |content: &Content| matches!(content.source, Source::Bytes(_))
            } else if self.answers.len() >= HAND_MAX {
                |_: &Content| true
            } else {
                return;
            };
            if !self.let_go(is_in_the_way) {
                return;
            }
        }
    }

    /// Lets go of one: of one that nobody asked for since this was done last, if there is any.
    fn let_go(&mut self, is_in_the_way: impl Fn(&Content) -> bool) -> bool {
        let mut chosen: Option<(bool, &str)> = None;
        for (key, answer) in &self.answers {
            if is_in_the_way(&answer.content) {
                let is_used = answer.is_used.swap(false, Ordering::Relaxed);
                if chosen.is_none_or(|(was_used, _)| was_used && !is_used) {
                    chosen = Some((is_used, key));
                }
            }
        }
        let Some(key) = chosen.map(|(_, key)| Box::<str>::from(key)) else {
            return false;
        };
        if let Some(gone) = self.answers.remove(&key) {
            self.count(&gone.content, usize::wrapping_sub);
        }
        true
    }

    fn count(&mut self, content: &Content, change: fn(usize, usize) -> usize) {
        let (bytes, files) = size(content);
        self.bytes = change(self.bytes, bytes);
        self.files = change(self.files, files);
    }

    fn retain(&mut self, is_kept: impl Fn(&Answer) -> bool) {
        self.answers.retain(|_, answer| is_kept(answer));
        (self.bytes, self.files) = (0, 0);
        let sizes: Vec<_> = self
            .answers
            .values()
            .map(|answer| size(&answer.content))
            .collect();
        for (bytes, files) in sizes {
            self.bytes += bytes;
            self.files += files;
        }
    }
}

/// Bytes in memory and descriptors.
fn size(content: &Content) -> (usize, usize) {
    match &content.source {
        Source::Bytes(bytes) => (bytes.len(), 0),
        Source::File(_) => (0, 1),
    }
}

/// Firmware begins paths with several slashes.
fn key(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// Whether a path that was understood is spelt as nobody needs to spell it otherwise.
fn is_plain(key: &str) -> bool {
    !key.contains('%') && !key.contains("//")
}

#[cfg(test)]
mod tests;
