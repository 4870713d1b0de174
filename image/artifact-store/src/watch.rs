//! Noticing that what was looked at is no longer so, without looking again.
//!
//! The kernel (inotify) tells of changes to the folders and files that a look went through. They are watched *before* they
//! are looked at, so a change meanwhile is told as well:
//!
//! ```text
//! Watch::begin ──> Looking ──(folders and files: watch, then look)──> Looking::stamp ──> Stamp
//!                     any event about any of them ends the place's epoch ──> the stamp is no longer good
//! ```
//!
//! What is watched: the root, the channel's folder and the folders of both spellings for names that come, go, are renamed
//! or get other permissions; each file that was looked at for its content and attributes, whatever name it is written
//! through. When events were lost (an overflow, a file system that was unmounted, more watches than allowed), everything is
//! taken for changed.
//!
//! What is not told: stores through a memory mapping, writes on another machine of a network file system or to the layers
//! below an overlay, and a file system mounted over a folder. Whoever uses stamps looks again after a while.
//!
//! Never says that something is unchanged when it does not know.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use boot_manifest::{Arch, Channel};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::limits::{DRAIN_PERIOD, EVENTS_SIZE, PLACES_MAX, WATCHES_MAX};

/// What is told of a folder: names, permissions, and files that somebody has written to.
const OF_FOLDERS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// What is told of a file. Links to it and their removal are changes of its attributes.
const OF_FILES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// The counter of one place: it goes up when anything about the place may have changed.
type Epoch = Arc<AtomicU64>;

/// The changes beneath one store.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    root: OwnedFd,
    state: Mutex<State>,
    started: Instant,
    /// When events were last taken, in nanoseconds since `started`.
    drained_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    places: HashMap<(Channel, Arch), Epoch>,
    /// Whom to tell of the events of each watch.
    watches: HashMap<i32, Vec<Epoch>>,
    /// Why a watch was refused last, until somebody asks.
    refused: Option<Errno>,
}

/// A look at a place that is being watched.
#[derive(Debug)]
pub struct Looking<'a> {
    watch: &'a Watch,
    epoch: Epoch,
    begun: u64,
    /// Whether everything that was looked at is watched.
    is_complete: AtomicBool,
}

/// That a place was looked at, and has not changed since.
#[derive(Debug, Clone)]
pub struct Stamp {
    epoch: Epoch,
    begun: u64,
}

impl Stamp {
    /// Whether no change was told since. Ask [`Watch::is_up_to_date`] first.
    pub fn is_good(&self) -> bool {
        self.epoch.load(Ordering::Acquire) == self.begun
    }

    /// Whether both are about one place.
    pub fn is_same_place(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.epoch, &other.epoch)
    }
}

impl Watch {
    /// Watches beneath `root`; an error when this machine cannot.
    pub(crate) fn new(root: BorrowedFd<'_>) -> io::Result<Self> {
        let watch = Self {
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            root: root.try_clone_to_owned()?,
            state: Mutex::default(),
            started: Instant::now(),
            drained_ns: AtomicU64::new(0),
        };
        // Whether it works at all is better known now than at the first request.
        let probe = inotify::add_watch(&watch.inotify, path_of(root, None), OF_FOLDERS)?;
        inotify::remove_watch(&watch.inotify, probe)?;
        Ok(watch)
    }

    /// Begins to look at a place: the root is watched, everything else when it is looked at.
    pub fn begin(&self, channel: &Channel, arch: Arch) -> Looking<'_> {
        let mut state = self.lock();
        if state.places.len() >= PLACES_MAX {
            self.forget_all(&mut state);
        }
        let epoch = Arc::clone(state.places.entry((channel.clone(), arch)).or_default());
        let begun = epoch.load(Ordering::Acquire);
        drop(state);
        let looking = Looking {
            watch: self,
            epoch,
            begun,
            is_complete: AtomicBool::new(true),
        };
        looking.folder(&self.root);
        looking
    }

    /// Takes the events that came, unless that was done a moment ago or another thread is at it. False when that thread
    /// takes its time: what it will find is not known yet.
    ///
    /// After true, a good stamp means that no change was told until two milliseconds ago.
    pub fn is_up_to_date(&self) -> bool {
        let now = self.now_ns();
        let drained = self.drained_ns.load(Ordering::Acquire);
        // In nanoseconds this lasts five centuries.
        let period = DRAIN_PERIOD.as_nanos() as u64;
        let age = now.saturating_sub(drained);
        if age < period {
            return true;
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return age < 2 * period,
        };
        self.drain(&mut state);
        self.drained_ns.store(now, Ordering::Release);
        true
    }

    /// Takes the events that came, and gives up the watches of places for which `is_used` is false.
    pub fn tidy(&self, is_used: impl Fn(&Stamp) -> bool) {
        let mut state = self.lock();
        let now = self.now_ns();
        self.drain(&mut state);
        self.drained_ns.store(now, Ordering::Release);
        let unused: Vec<Epoch> = state
            .places
            .values()
            .filter(|epoch| {
                let begun = epoch.load(Ordering::Acquire);
                !is_used(&Stamp {
                    epoch: Arc::clone(epoch),
                    begun,
                })
            })
            .cloned()
            .collect();
        for epoch in unused {
            self.end(&mut state, &epoch);
            state.places.retain(|_, other| !Arc::ptr_eq(other, &epoch));
        }
        // A look that was overtaken by the end of its place leaves watches that nobody needs.
        let orphans: Vec<Epoch> = state
            .watches
            .values()
            .flatten()
            .filter(|epoch| !state.places.values().any(|place| Arc::ptr_eq(place, epoch)))
            .cloned()
            .collect();
        for epoch in orphans {
            self.end(&mut state, &epoch);
        }
    }

    /// Takes everything for changed.
    pub fn end_all(&self) {
        self.forget_all(&mut self.lock());
    }

    /// Why a watch was refused since this was asked last.
    pub fn refused(&self) -> Option<io::Error> {
        self.lock().refused.take().map(io::Error::from)
    }

    /// Watches held now.
    pub fn watches(&self) -> usize {
        self.lock().watches.len()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A watch without an entry is told as unknown, an entry without a watch is ended by its place: both are safe.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self, state: &mut State) {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_SIZE];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    self.forget_all(state);
                }
                Ok(event) => {
                    let told = state.watches.get(&event.wd()).cloned().unwrap_or_default();
                    if event.events().contains(ReadFlags::IGNORED) {
                        state.watches.remove(&event.wd());
                    }
                    for epoch in told {
                        self.end(state, &epoch);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.forget_all(state);
                    return;
                }
            }
        }
    }

    /// Ends the epoch of a place, and gives up what was watched for it alone.
    fn end(&self, state: &mut State, epoch: &Epoch) {
        epoch.fetch_add(1, Ordering::AcqRel);
        state.watches.retain(|wd, told| {
            told.retain(|other| !Arc::ptr_eq(other, epoch));
            if told.is_empty() {
                // The file may be gone, and its watch with it.
                let _ = inotify::remove_watch(&self.inotify, *wd);
            }
            !told.is_empty()
        });
    }

    fn forget_all(&self, state: &mut State) {
        for (_, epoch) in std::mem::take(&mut state.places) {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
        for (wd, _) in std::mem::take(&mut state.watches) {
            let _ = inotify::remove_watch(&self.inotify, wd);
        }
    }
}

impl Looking<'_> {
    /// Watches a folder that is about to be looked into.
    pub(crate) fn folder(&self, folder: impl AsFd) {
        self.must(self.add(&path_of(folder.as_fd(), None), OF_FOLDERS));
    }

    /// Watches the file called `name` in `folder`, which is about to be looked at; nothing when there is none.
    pub(crate) fn file(&self, folder: impl AsFd, name: &str) {
        let flags = OF_FILES | WatchFlags::DONT_FOLLOW;
        match self.add(&path_of(folder.as_fd(), Some(name)), flags) {
            // A name that comes is told by the folder.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {}
            Err(errno) => self.must(Err(errno)),
        }
    }

    fn must(&self, watched: Result<(), Errno>) {
        if watched.is_err() {
            self.is_complete.store(false, Ordering::Relaxed);
        }
    }

    /// Watches a file that is open and about to be looked at.
    pub(crate) fn opened(&self, file: impl AsFd) {
        self.must(self.add(&path_of(file.as_fd(), None), OF_FILES));
    }

    /// The proof of the look; nothing when something has changed meanwhile, or could not be watched.
    pub fn stamp(self) -> Option<Stamp> {
        let stamp = Stamp {
            epoch: self.epoch,
            begun: self.begun,
        };
        (self.is_complete.into_inner() && stamp.is_good()).then_some(stamp)
    }

    fn add(&self, path: &str, flags: WatchFlags) -> Result<(), Errno> {
        let mut state = self.watch.lock();
        if state.watches.len() >= WATCHES_MAX {
            self.watch.forget_all(&mut state);
        }
        let wd = match inotify::add_watch(&self.watch.inotify, path, flags) {
            Ok(wd) => wd,
            Err(errno) => {
                if !matches!(errno, Errno::NOENT | Errno::NOTDIR) {
                    state.refused = Some(errno);
                }
                return Err(errno);
            }
        };
        let told = state.watches.entry(wd).or_default();
        if !told.iter().any(|other| Arc::ptr_eq(other, &self.epoch)) {
            told.push(Arc::clone(&self.epoch));
        }
        Ok(())
    }
}

/// What a descriptor is open for, or a name in it, as a path: inotify takes no descriptors.
fn path_of(fd: BorrowedFd<'_>, name: Option<&str>) -> String {
    let fd = fd.as_raw_fd();
    name.map_or_else(
        || format!("/proc/self/fd/{fd}"),
        |name| format!("/proc/self/fd/{fd}/{name}"),
    )
}
