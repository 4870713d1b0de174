//! One machine: what is known of it, and its story since it was switched on last. Pure: events and times come in.
//!
//! ```text
//! DISCOVER ──> offer ──> boot file ──> [script ──> kernel ──> initrd] ──> Linux ──> manifest ──> mounted ──> serving
//!    ^                                                                     └────── told by the machine itself ─────┘
//!    └── a boot begins: the first packet after a silence, or of firmware that had come further before
//! ```
//!
//! Nothing that a machine says about itself decides anything; it is shown. What decides, that a payload was sent to its
//! last byte, is seen from here.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use pxe::Mac;

use crate::machines::event::{Event, Stage};
use crate::machines::limits::{
    ADDRESSES_SHOWN_MAX, BOOT_GAP, ERROR_MAX, LOOP_BOOTS, LOOP_WINDOW, MILESTONES_MAX, PARTS_MAX,
    TEXT_MAX,
};
use crate::out::steers;

/// What a machine told about itself, or what its packets show. Only ever for showing and for matching profiles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Which kind of firmware asked last.
    pub(crate) firmware: Option<String>,
    /// The architecture of its code, as the packet names it.
    pub(crate) arch: Option<String>,
    /// The vendor class of its packets.
    pub(crate) class: Option<String>,
    /// Its UUID.
    pub(crate) uuid: Option<String>,
    /// Who made it, says its SMBIOS.
    pub(crate) manufacturer: Option<String>,
    /// Its model.
    pub(crate) product: Option<String>,
    /// Its serial number.
    pub(crate) serial: Option<String>,
    /// The interface its packets came in at.
    pub(crate) interface: Option<String>,
    /// The relay between it and us.
    pub(crate) relay: Option<IpAddr>,
}

impl Facts {
    /// Takes over what `newer` knows.
    pub(crate) fn learn(&mut self, newer: Self) {
        let take = |old: &mut Option<String>, new: Option<String>| {
            if let Some(new) = new {
                *old = Some(shortened(&new, TEXT_MAX));
            }
        };
        take(&mut self.firmware, newer.firmware);
        take(&mut self.arch, newer.arch);
        take(&mut self.class, newer.class);
        take(&mut self.uuid, newer.uuid);
        take(&mut self.manufacturer, newer.manufacturer);
        take(&mut self.product, newer.product);
        take(&mut self.serial, newer.serial);
        take(&mut self.interface, newer.interface);
        self.relay = newer.relay.or(self.relay);
    }
}

/// Who asks, as far as it matters for where a boot begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The machine's own firmware.
    Firmware,
    /// iPXE, in a ROM or started by the firmware.
    Ipxe,
    /// Linux of our image.
    Linux,
}

/// What was decided about a machine when it asked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// To boot over the network.
    Network,
    /// To boot from its own disk.
    LocalDisk,
    /// Nothing, because of this.
    Nothing(Quiet),
}

/// Why a machine is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// The operator said so.
    Denied,
    /// The operator has to allow it first.
    Unknown,
    /// It cannot be: this is missing.
    Cannot(String),
}

/// What the script or the offer told a machine to fetch, so that its end is noticed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// `<channel>/<arch>`.
    pub(crate) folder: String,
    /// The file that is fetched last.
    pub(crate) last: String,
    /// Whether it is booted once, and then the disk.
    pub(crate) is_once: bool,
}

/// Bytes of a file that is fetched in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Of an answer that began at the beginning, and ended early.
    First(u64),
    /// Of a range.
    More(u64),
}

/// One boot, from its first packet on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot {
    /// When it began.
    pub(crate) started: SystemTime,
    /// Stages, each when it was reached first, in the order they were reached.
    pub(crate) milestones: Vec<(Stage, SystemTime)>,
    /// Bytes that were sent for it.
    pub(crate) bytes: u64,
    /// What is being fetched.
    pub(crate) fetching: Option<String>,
    /// Files of which parts were sent, and how many bytes.
    parts: Vec<(String, u64)>,
    /// What went wrong last, and when.
    pub(crate) error: Option<(String, SystemTime)>,
    /// Whether what it was to boot was sent to the last byte.
    pub(crate) is_sent: bool,
}

impl Boot {
    fn new(now: SystemTime) -> Self {
        Self {
            started: now,
            milestones: Vec::new(),
            bytes: 0,
            fetching: None,
            parts: Vec::new(),
            error: None,
            is_sent: false,
        }
    }

    /// The furthest stage.
    pub(crate) fn reached(&self) -> Option<Stage> {
        self.milestones.iter().map(|(stage, _)| *stage).max()
    }

    /// Time from the beginning to a stage.
    pub(crate) fn time_to(&self, stage: Stage) -> Option<Duration> {
        let (_, at) = self.milestones.iter().find(|(known, _)| *known == stage)?;
        at.duration_since(self.started).ok()
    }

    fn has(&self, stage: Stage) -> bool {
        self.milestones.iter().any(|(known, _)| *known == stage)
    }
}

/// What else follows from an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Follows {
    /// Everything that was to boot was sent: a one-shot order is used up.
    pub(crate) is_payload_sent: bool,
    /// It goes round in circles, since just now.
    pub(crate) has_begun_to_loop: bool,
    /// It serves, since just now, after so long.
    pub(crate) has_served_after: Option<Duration>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// By this it is known.
    pub(crate) mac: Mac,
    /// When it was seen first.
    pub(crate) first: SystemTime,
    /// When something happened last.
    pub(crate) last: SystemTime,
    /// Its addresses, the newest last.
    pub(crate) addresses: VecDeque<IpAddr>,
    /// What is known about it.
    pub(crate) facts: Facts,
    /// How it was answered last.
    pub(crate) strategy: Option<&'static str>,
    /// What it was told to fetch.
    pub(crate) file: Option<String>,
    /// What was decided about it.
    pub(crate) told: Option<Told>,
    /// What it is expected to fetch.
    pub(crate) given: Option<Given>,
    /// The boot that runs or has ended.
    pub(crate) boot: Option<Boot>,
    /// Boots that were seen.
    pub(crate) boots: u64,
    /// Bytes that were ever sent.
    pub(crate) bytes: u64,
    /// Boots in a row that were sent everything and never said another word, since when.
    pub(crate) mute: (u32, Option<SystemTime>),
    /// Why its last packet got no answer. Often that is as it should be: another server gives its address.
    pub(crate) silence: Option<String>,
    /// The boot for which its disk was said, when that was for one boot.
    pub(crate) local_once: Option<u64>,
}

impl Machine {
    /// One that nothing is known of.
    pub(crate) fn new(mac: Mac, now: SystemTime) -> Self {
        Self {
            mac,
            first: now,
            last: now,
            addresses: VecDeque::new(),
            facts: Facts::default(),
            strategy: None,
            file: None,
            told: None,
            given: None,
            boot: None,
            boots: 0,
            bytes: 0,
            mute: (0, None),
            silence: None,
            local_once: None,
        }
    }

    /// A packet that asks for something to boot. Whether a boot begins with it.
    pub(crate) fn asked(&mut self, asker: Asker, now: SystemTime) -> bool {
        let is_new = match &self.boot {
            None => true,
            Some(_) if self.is_quiet_since(now, BOOT_GAP) => true,
            Some(boot) => {
                let reached = boot.reached();
                match asker {
                    Asker::Firmware => boot.is_sent || reached >= Some(Stage::Script),
                    Asker::Ipxe => boot.is_sent || reached >= Some(Stage::Kernel),
                    Asker::Linux => reached == Some(Stage::Serving),
                }
            }
        };
        if is_new {
            self.begin(now);
        }
        self.reach(Stage::Discover, now);
        if asker == Asker::Linux {
            self.reach(Stage::Linux, now);
        }
        self.last = now;
        is_new
    }

    /// Something happened.
    pub(crate) fn apply(&mut self, event: Event, now: SystemTime) -> Follows {
        let mut follows = Follows::default();
        self.last = self.last.max(now);
        match event {
            Event::Offered { strategy, file } | Event::BinlAnswered { strategy, file } => {
                self.strategy = Some(strategy);
                self.silence = None;
                self.file = file.map(|file| shortened(&file, ERROR_MAX));
                self.reach(Stage::Offer, now);
            }
            Event::NotAnswered(why) => self.silence = Some(shortened(&why, ERROR_MAX)),
            Event::LeaseGiven(address) => self.has_address(address.into()),
            Event::AddressSeen(address) => self.has_address(address),
            Event::FileStarted { name, .. } => {
                self.boot(now).fetching = Some(shortened(&name, TEXT_MAX));
            }
            Event::FileSent { name, bytes, .. } => {
                follows = self.sent(&name, bytes, now);
            }
            Event::FileAborted {
                name, bytes, why, ..
            } => {
                self.bytes += bytes;
                let boot = self.boot(now);
                boot.bytes += bytes;
                boot.fetching = None;
                let text = format!("{name}: broken off after {bytes} bytes: {why}");
                boot.error = Some((shortened(&text, ERROR_MAX), now));
            }
            Event::FileRefused { name, why, .. } => {
                let text = shortened(&format!("{name}: {why}"), ERROR_MAX);
                self.boot(now).error = Some((text, now));
            }
            Event::ScriptSent => self.reach(Stage::Script, now),
            Event::Stage(stage) => {
                if stage == Stage::Linux && self.has_reached(Stage::Serving) {
                    self.begin(now);
                }
                let is_new = !self.has_reached(stage);
                self.reach(stage, now);
                self.mute = (0, None);
                let boot = self.boot(now);
                // It got on.
                boot.error = None;
                if stage == Stage::Serving && is_new {
                    follows.has_served_after = boot.time_to(stage);
                }
            }
            Event::Failed(text) => {
                self.boot(now).error = Some((shortened(&text, ERROR_MAX), now));
            }
        }
        follows
    }

    /// Body bytes that left for it and belong to no file that matters.
    pub(crate) fn took(&mut self, bytes: u64, now: SystemTime) {
        self.bytes += bytes;
        self.last = now;
        if let Some(boot) = &mut self.boot {
            boot.bytes += bytes;
        }
    }

    /// A part of a file was sent; the bytes of it that were sent by now. Which bytes they were is not looked at: what firmware
    /// has, it does not fetch again.
    pub(crate) fn took_part(&mut self, name: &str, part: Part, now: SystemTime) -> u64 {
        if name.len() > ERROR_MAX {
            return 0;
        }
        let parts = &mut self.boot(now).parts;
        let before = parts.iter().position(|(known, _)| known == name);
        let before = before.map_or(0, |at| parts.remove(at).1);
        let sum = match part {
            Part::First(bytes) => bytes,
            Part::More(bytes) => before.saturating_add(bytes),
        };
        if parts.len() >= PARTS_MAX {
            parts.remove(0);
        }
        parts.push((name.to_owned(), sum));
        sum
    }

    fn sent(&mut self, name: &str, bytes: u64, now: SystemTime) -> Follows {
        let mut follows = Follows::default();
        self.bytes += bytes;
        let is_last = self.given.as_ref().is_some_and(|given| given.last == name);
        let boot = self.boot(now);
        boot.bytes += bytes;
        boot.fetching = None;
        boot.parts.retain(|(known, _)| known != name);
        // What failed before is overcome when the same thing arrives.
        if boot
            .error
            .as_ref()
            .is_some_and(|(text, _)| text.starts_with(name))
        {
            boot.error = None;
        }
        if let Some(stage) = stage_of(name) {
            self.reach(stage, now);
        }
        if is_last && !self.boot(now).is_sent {
            self.boot(now).is_sent = true;
            follows.is_payload_sent = true;
            follows.has_begun_to_loop = self.count_mute(now);
        }
        follows
    }

    /// Counts a boot of which nothing was heard yet.
    fn count_mute(&mut self, now: SystemTime) -> bool {
        let (count, since) = self.mute;
        let is_recent = since.is_some_and(|since| {
            now.duration_since(since)
                .is_ok_and(|passed| passed < LOOP_WINDOW)
        });
        self.mute = match is_recent {
            true => (count + 1, since),
            false => (1, Some(now)),
        };
        self.mute.0 == LOOP_BOOTS
    }

    /// Whether it was sent the same again and again and never got further.
    pub(crate) fn is_looping(&self, now: SystemTime) -> bool {
        self.mute_boots(now) >= LOOP_BOOTS
    }

    /// How often, in the window that ends now.
    pub(crate) fn mute_boots(&self, now: SystemTime) -> u32 {
        let (count, since) = self.mute;
        let is_recent = since.is_some_and(|since| {
            now.duration_since(since)
                .is_ok_and(|passed| passed < LOOP_WINDOW)
        });
        if is_recent { count } else { 0 }
    }

    /// What it does, in a word or two.
    pub(crate) fn state(&self, now: SystemTime) -> State {
        match &self.told {
            Some(Told::Nothing(Quiet::Denied)) => return State::Denied,
            Some(Told::Nothing(Quiet::Unknown)) => return State::Waiting,
            Some(Told::Nothing(Quiet::Cannot(_))) => return State::NotAnswered,
            Some(Told::LocalDisk) => return State::LocalDisk,
            Some(Told::Network) | None => {}
        }
        let Some(boot) = &self.boot else {
            return State::Seen;
        };
        if self.is_looping(now) {
            return State::Looping;
        }
        let last_step = boot.milestones.iter().map(|(_, at)| *at).max();
        if boot
            .error
            .as_ref()
            .is_some_and(|(_, at)| Some(*at) >= last_step)
        {
            return State::Failed;
        }
        match boot.reached() {
            None => State::Seen,
            Some(Stage::Discover) => State::Asking,
            Some(Stage::Offer) if boot.fetching.is_none() => State::Offered,
            Some(Stage::Offer | Stage::Script) => State::Loading,
            Some(Stage::BootFile) if boot.is_sent => State::Booting,
            Some(Stage::BootFile) => State::Loading,
            Some(Stage::Kernel) if !boot.is_sent => State::Loading,
            Some(Stage::Kernel | Stage::Initrd) => State::Booting,
            Some(Stage::Linux) => State::Linux,
            Some(Stage::Manifest) => State::Verified,
            Some(Stage::Fetched) => State::Fetched,
            Some(Stage::Mounted) => State::Mounted,
            Some(Stage::Serving) => State::Serving,
        }
    }

    /// Whether the running boot has reached a stage.
    pub(crate) fn has_reached(&self, stage: Stage) -> bool {
        self.boot.as_ref().is_some_and(|boot| boot.has(stage))
    }

    fn is_quiet_since(&self, now: SystemTime, gap: Duration) -> bool {
        now.duration_since(self.last)
            .is_ok_and(|passed| passed > gap)
    }

    fn has_address(&mut self, address: IpAddr) {
        self.addresses.retain(|known| *known != address);
        if self.addresses.len() >= ADDRESSES_SHOWN_MAX {
            self.addresses.pop_front();
        }
        self.addresses.push_back(address);
    }

    fn begin(&mut self, now: SystemTime) {
        self.boot = Some(Boot::new(now));
        self.given = None;
        self.boots += 1;
    }

    /// The boot that runs; one begins when none was seen to.
    fn boot(&mut self, now: SystemTime) -> &mut Boot {
        let boots = &mut self.boots;
        self.boot.get_or_insert_with(|| {
            *boots += 1;
            Boot::new(now)
        })
    }

    fn reach(&mut self, stage: Stage, now: SystemTime) {
        let boot = self.boot(now);
        if !boot.has(stage) && boot.milestones.len() < MILESTONES_MAX {
            // What a machine tells late may have been before it was first heard.
            let at = now.max(boot.started);
            let place = boot.milestones.partition_point(|(_, known)| *known <= at);
            boot.milestones.insert(place, (stage, at));
        }
    }
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It was heard of.
    Seen,
    /// It asks.
    Asking,
    /// It was told what to fetch, and has not come.
    Offered,
    /// It fetches.
    Loading,
    /// It has everything it was to boot.
    Booting,
    /// Linux runs.
    Linux,
    /// It verified its manifest.
    Verified,
    /// It has its image.
    Fetched,
    /// It mounted its image.
    Mounted,
    /// It serves.
    Serving,
    /// Something went wrong.
    Failed,
    /// It boots again and again.
    Looping,
    /// It was told to boot from its disk.
    LocalDisk,
    /// Somebody has to allow it.
    Waiting,
    /// It is not to be answered.
    Denied,
    /// It cannot be answered.
    NotAnswered,
}

impl State {
    /// Every state, in the order of metrics.
    pub(crate) const ALL: [Self; 16] = [
        Self::Seen,
        Self::Asking,
        Self::Offered,
        Self::Loading,
        Self::Booting,
        Self::Linux,
        Self::Verified,
        Self::Fetched,
        Self::Mounted,
        Self::Serving,
        Self::Failed,
        Self::Looping,
        Self::LocalDisk,
        Self::Waiting,
        Self::Denied,
        Self::NotAnswered,
    ];

    /// As it is shown.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Asking => "asking",
            Self::Offered => "offered",
            Self::Loading => "loading",
            Self::Booting => "booting",
            Self::Linux => "linux",
            Self::Verified => "verified",
            Self::Fetched => "fetched",
            Self::Mounted => "mounted",
            Self::Serving => "serving",
            Self::Failed => "failed",
            Self::Looping => "looping",
            Self::LocalDisk => "local-disk",
            Self::Waiting => "waiting",
            Self::Denied => "denied",
            Self::NotAnswered => "not-answered",
        }
    }
}

/// The programs of iPXE: something else is booted by them.
pub(crate) fn is_loader(name: &str) -> bool {
    let name = base(name);
    name.ends_with(".kpxe")
        || name.ends_with(".pxe")
        || (name.ends_with(".efi") && (name.starts_with("snponly") || name.starts_with("ipxe")))
}

/// What it means that a file was sent.
pub(crate) fn stage_of(name: &str) -> Option<Stage> {
    let base = base(name);
    if is_loader(base) || base.ends_with(".efi") {
        return Some(Stage::BootFile);
    }
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| base.starts_with(prefix));
    if begins(&["vmlinuz", "bzImage", "linux", "kernel", "Image"]) {
        return Some(Stage::Kernel);
    }
    if begins(&["initr"]) {
        return Some(Stage::Initrd);
    }
    None
}

/// The last name of a path.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A text of others, of bounded length and without what steers a terminal.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    let mut short = String::new();
    for c in text.trim().chars() {
        let c = if steers(c) { '?' } else { c };
        if short.len() + c.len_utf8() > max {
            break;
        }
        short.push(c);
    }
    short
}

#[cfg(test)]
mod tests;
