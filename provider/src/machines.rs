//! The machines of this LAN: which were seen, how far they got, and what each is given when it asks.
//!
//! ```text
//! DHCP ── plan, note ──┐                                   ┌── `plasmd clients`, /clients, /metrics
//! TFTP ── note_address ┼──> one table, by MAC ─────────────┤
//! HTTP ── answered ────┤    (records, orders, profiles)    └── the state file: what was decided and learned
//! /boot.ipxe, reports ─┘
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | `event` | what can happen to a machine |
//! | `record` | one machine and its story; pure |
//! | `table` | all of them, bounded, and who has which address |
//! | `orders`, `state` | what was decided by command and learned, and the file it is kept in |
//! | `profiles` | what the configuration says; pure |
//! | `shelf` | what there is to boot |
//! | `policy` | what a machine is given; pure |
//! | `script` | the iPXE script of a machine |
//! | `query` | the query of `/boot.ipxe` and `/boot/report`; pure |
//! | `neighbours`, `vendor` | whose an address is, and who made a card |
//! | `show`, `page` | all of it for programs and for people |
//! | `limits` | every number with its reason |
//!
//! Nothing here answers a machine: it says what the answer is about. Nothing a machine says about itself is believed for
//! anything but showing it and choosing its profile; what it boots is verified by the machine.

pub(crate) mod event;
pub(crate) mod limits;
mod neighbours;
pub(crate) mod orders;
mod page;
pub(crate) mod policy;
pub(crate) mod profiles;
pub(crate) mod query;
pub(crate) mod record;
pub(crate) mod script;
pub(crate) mod shelf;
mod show;
pub(crate) mod state;
mod table;
mod vendor;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use boot_manifest::{Arch, Channel};
use pxe::Mac;
use pxe::boot::{Plan, Reason, Style};
use pxe::client::{Client, Firmware};
use pxe::strategy::Transfer;
use tokio::sync::Notify;

use crate::http::answered::Answered;
use crate::machines::event::{Carrier, Event, Stage, Via};
use crate::machines::limits::STATE_PAUSE;
use crate::machines::orders::{Order, Orders, TooMany, Way};
pub(crate) use crate::machines::page::{made_by, page, story};
use crate::machines::policy::{Case, Local, Place, Verdict};
use crate::machines::profiles::{InForce, Profiles, Subject};
use crate::machines::record::{Asker, Facts, Follows, Given, Quiet, Told, is_loader, stage_of};
use crate::machines::shelf::Shelf;
pub(crate) use crate::machines::show::Totals;
use crate::machines::state::StateFile;
use crate::machines::table::Table;

/// Whom to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Only {
    /// Every machine that boots from the network
    All,
    /// Those that the configuration names, or that were allowed with `plasmd clients allow`
    Known,
}

/// What does not change while serving.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// The channel of machines about which nothing else is said.
    pub(crate) channel: Channel,
    /// The architecture of files that are asked for by their names alone.
    pub(crate) arch: Arch,
    /// Whom to answer.
    pub(crate) only: Only,
    /// The port of plain HTTP that machines reach.
    pub(crate) port: Option<u16>,
}

/// Every machine that was seen. Clones of what it gives out are small; its lock is held for microseconds.
pub(crate) struct Machines {
    setup: Setup,
    shelf: Shelf,
    inner: Mutex<Inner>,
    /// Where orders are kept; in memory only without.
    state: Option<StateFile>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    writing: Mutex<()>,
    is_changed: Notify,
    /// Whether any machine was ever seen: a provider that boots none spends no time on them.
    is_used: AtomicBool,
    /// Who wants to hear of it.
    hearing: OnceLock<Hearing>,
}

/// What the part that answers machines has to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A machine asked for a file, or got all of it.
    Transfer(Transfer),
    /// The operator wants a machine to be forgotten.
    Forgotten,
}

/// Hears it. Called with nothing held; it must not wait.
pub(crate) type Hearing = Box<dyn Fn(Mac, Heard) + Send + Sync>;

struct Inner {
    table: Table,
    orders: Orders,
    profiles: Arc<Profiles>,
    /// Whether the orders are others than those in the file.
    is_unsaved: bool,
    counts: Counts,
}

/// What is counted over all machines, for metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    /// Boots that began.
    pub(crate) boots_total: u64,
    /// Boots that reached each stage, in the order of [`Stage::ALL`].
    pub(crate) stages_total: [u64; Stage::ALL.len()],
    /// Failures that machines told or that were seen.
    pub(crate) failures_total: u64,
    /// Machines that were found going round in circles.
    pub(crate) loops_total: u64,
    /// Boots that ended in serving, and the seconds they took.
    pub(crate) served: (u64, f64),
}

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// There are too many already.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// It was taken, and a restart forgets it.
    #[error("it is in force, and a restart would forget it: {0}")]
    NotKept(String),
}

impl Machines {
    /// With what was kept from before.
    pub(crate) fn new(
        setup: Setup,
        shelf: Shelf,
        profiles: Arc<Profiles>,
        state: Option<StateFile>,
    ) -> Self {
        let orders = state.as_ref().map(StateFile::load).unwrap_or_default();
        Self {
            setup,
            shelf,
            inner: Mutex::new(Inner {
                table: Table::default(),
                orders,
                profiles,
                is_unsaved: false,
                counts: Counts::default(),
            }),
            state,
            writing: Mutex::new(()),
            is_changed: Notify::new(),
            is_used: AtomicBool::new(false),
            hearing: OnceLock::new(),
        }
    }

    /// What a machine that asks is given. Notes that it asked, too.
    pub(crate) fn plan(&self, client: &Client, via: &Via) -> Plan {
        self.plan_at(client, via, SystemTime::now())
    }

    fn plan_at(&self, client: &Client, via: &Via, now: SystemTime) -> Plan {
        let arch: Option<Arch> = client.arch.folder().and_then(|folder| folder.parse().ok());
        let asker = match client.firmware {
            Firmware::Phase => Asker::Linux,
            Firmware::Ipxe { .. } => Asker::Ipxe,
            _ => Asker::Firmware,
        };
        let mut inner = self.lock_for_machine();
        let machine = inner.table.machine(client.mac, now);
        let is_new = machine.asked(asker, now);
        // What the machine itself has, not what was started on it.
        let is_own = asker == Asker::Firmware || is_new || machine.facts.firmware.is_none();
        machine.facts.learn(Facts {
            firmware: is_own.then(|| client.firmware.name().to_owned()),
            arch: is_own.then(|| client.arch.to_string()),
            class: is_own.then(|| client.class.clone()),
            uuid: client.uuid.map(show::uuid),
            interface: Some(via.interface.clone()),
            relay: via.relay,
            ..Facts::default()
        });
        if is_new {
            inner.counts.begin();
            tracing::info!(mac = %client.mac, firmware = client.firmware.name(), interface = via.interface, "a machine boots");
        }
        inner.counts.reach(Stage::Discover, is_new);
        let (in_force, order, mute) = inner.known(client.mac, arch, now);
        drop(inner);
        let Some(arch) = arch else {
            let why = format!("there are no files for {}", client.arch);
            self.tell(client.mac, Told::Nothing(Quiet::Cannot(why)), now);
            return Plan::Silence(Reason::NothingToBoot);
        };
        let case = Case {
            order: &order,
            in_force: &in_force,
            only_known: self.setup.only == Only::Known,
            mute_boots: mute,
            is_linux: asker == Asker::Linux,
        };
        let verdict = policy::decide(&case, &self.setup.channel, arch, |channel| {
            self.shelf.folder(channel, arch)
        });
        match verdict {
            Verdict::Nothing(quiet) => {
                let reason = match quiet {
                    Quiet::Denied => Reason::Denied,
                    Quiet::Unknown => Reason::Unknown,
                    Quiet::Cannot(_) => Reason::NothingToBoot,
                };
                self.tell(client.mac, Told::Nothing(quiet), now);
                Plan::Silence(reason)
            }
            Verdict::LocalDisk(why) => {
                self.tell_local(client.mac, why, now);
                Plan::LocalDisk
            }
            Verdict::Network(channel) => {
                let place = Place {
                    mac: client.mac,
                    channel: &channel,
                    arch,
                    server: via.server,
                    port: self.setup.port,
                };
                let folder = self.shelf.folder(&channel, arch);
                match policy::offer(&self.shelf, &folder, &in_force, client.firmware, &place) {
                    Ok(offer) => {
                        self.tell(client.mac, Told::Network, now);
                        Plan::Netboot(offer)
                    }
                    Err(why) => {
                        let why = folder.problem.clone().unwrap_or(why);
                        self.tell(client.mac, Told::Nothing(Quiet::Cannot(why)), now);
                        Plan::Silence(Reason::NothingToBoot)
                    }
                }
            }
        }
    }

    /// Whom to answer.
    pub(crate) fn only(&self) -> Only {
        self.setup.only
    }

    /// Something happened to a machine.
    pub(crate) fn note(&self, mac: Mac, event: Event) {
        self.note_at(mac, event, SystemTime::now());
    }

    /// Something happened to whoever has this address. Nothing is remembered of those whose machine is not known: they
    /// stand in the list of addresses when they asked over HTTP.
    pub(crate) fn note_address(&self, address: IpAddr, event: Event) {
        let address = address.to_canonical();
        let mac = self.lock().table.mac_of(address, Instant::now());
        if let Some(mac) = mac {
            self.note(mac, event);
        }
    }

    /// The same at another time: a machine may tell late what it reached earlier.
    pub(crate) fn note_at(&self, mac: Mac, event: Event, now: SystemTime) {
        if !mac.is_machine() {
            return;
        }
        let given = match &event {
            Event::FileSent { name, .. } => self.given(name),
            _ => None,
        };
        if let Some(hearing) = self.hearing.get() {
            match &event {
                Event::FileStarted { .. } => hearing(mac, Heard::Transfer(Transfer::Begun)),
                Event::FileSent { .. } => hearing(mac, Heard::Transfer(Transfer::Done)),
                _ => {}
            }
        }
        let mut inner = self.lock_for_machine();
        let is_failure = matches!(event, Event::Failed(_) | Event::FileAborted { .. });
        let reached = match &event {
            Event::Offered { .. } | Event::BinlAnswered { .. } => Some(Stage::Offer),
            Event::ScriptSent => Some(Stage::Script),
            Event::Stage(stage) => Some(*stage),
            Event::FileSent { name, .. } => stage_of(name),
            _ => None,
        };
        match &event {
            Event::LeaseGiven(address) => inner.table.has_address(mac, (*address).into()),
            Event::AddressSeen(address) => inner.table.has_address(mac, address.to_canonical()),
            _ => {}
        }
        let machine = inner.table.machine(mac, now);
        if given.is_some() {
            machine.given = given;
        }
        let is_first = reached.is_some_and(|stage| !machine.has_reached(stage));
        let boots = machine.boots;
        let follows = machine.apply(event, now);
        let begins = machine.boots > boots;
        if begins {
            inner.counts.begin();
        }
        if let Some(stage) = reached {
            inner.counts.reach(stage, is_first || begins);
        }
        if is_failure {
            inner.counts.failures_total += 1;
        }
        self.follow(&mut inner, mac, follows);
    }

    /// What else an event brings about.
    fn follow(&self, inner: &mut Inner, mac: Mac, follows: Follows) {
        if let Some(took) = follows.has_served_after {
            inner.counts.served.0 += 1;
            inner.counts.served.1 += took.as_secs_f64();
            tracing::info!(%mac, seconds = took.as_secs(), "a machine serves");
        }
        if follows.has_begun_to_loop {
            inner.counts.loops_total += 1;
            tracing::warn!(
                %mac,
                "this machine fetches the same again and again, and never says that it got further; \
                 `plasmd clients local {mac}` sends it to its disk"
            );
        }
        if !follows.is_payload_sent {
            return;
        }
        let given = inner
            .table
            .get(mac)
            .and_then(|machine| machine.given.clone());
        let is_once = given.as_ref().is_some_and(|given| given.is_once);
        let is_changed = inner.orders.change(mac, |order| {
            if order
                .once
                .as_ref()
                .is_some_and(|once| once.way == Way::Network)
            {
                order.once = None;
            }
            if is_once {
                order.installed = given.map(|given| given.folder);
            }
        });
        match is_changed {
            Ok(true) => self.changed(inner),
            Ok(false) => {}
            Err(error) => tracing::warn!(%mac, "it may be installed again: {error}"),
        }
    }

    /// An answer over HTTP. Called for every one, so it is quick for addresses that belong to no machine.
    pub(crate) fn answered(&self, answered: &Answered<'_>, now: SystemTime) {
        if !self.is_used.load(Ordering::Relaxed) {
            return;
        }
        let path = answered.path().trim_start_matches('/');
        let stage = stage_of(path);
        let mac = {
            let mut inner = self.lock();
            let known = inner.table.known(answered.client);
            let known = match (known, stage) {
                // The kernel is asked about addresses that fetch what boots.
                (None, Some(_)) => inner.table.mac_of(answered.client, Instant::now()),
                (known, _) => known,
            };
            let Some(mac) = known else {
                return;
            };
            if stage.is_none() || answered.status == 304 {
                inner.table.machine(mac, now).took(answered.sent, now);
                return;
            }
            mac
        };
        let (name, via, bytes) = (path.to_owned(), Carrier::Http, answered.sent);
        let is_get = *answered.method == http::Method::GET;
        let event = match answered.status {
            400.. => {
                let status = answered.status;
                let reason = answered.request_id.and_then(|id| id.refused);
                let why = reason.map_or_else(
                    || status.to_string(),
                    |reason| format!("{status}: {}", reason.label()),
                );
                Event::FileRefused { name, via, why }
            }
            200 if is_get && answered.is_whole() => Event::FileSent { name, bytes, via },
            200 | 206 if !answered.is_whole() => Event::FileAborted {
                name,
                bytes,
                via,
                why: "the connection ended".to_owned(),
            },
            // HEAD, and parts.
            _ => {
                self.lock().table.machine(mac, now).took(bytes, now);
                return;
            }
        };
        self.note_at(mac, event, now);
    }

    /// What the strategy engine learned about a machine's firmware.
    pub(crate) fn learned(&self) -> Vec<(Mac, Style)> {
        let inner = self.lock();
        let learned = |(mac, order): (Mac, &Order)| Some((mac, order.learned?));
        inner.orders.iter().filter_map(learned).collect()
    }

    /// Keeps what the strategy engine learned.
    pub(crate) fn learn(&self, mac: Mac, learned: Style) {
        let mut inner = self.lock();
        // Where there is no room it is learned again.
        if inner
            .orders
            .change(mac, |order| order.learned = Some(learned))
            == Ok(true)
        {
            self.changed(&mut inner);
        }
    }

    /// Has `hearing` called from now on.
    pub(crate) fn tell_everything_to(&self, hearing: Hearing) {
        // There is one part that answers.
        let _ = self.hearing.set(hearing);
    }

    /// Carries out what the operator decided about a machine. Durable when it returns, where there is a state file.
    ///
    /// # Errors
    /// When there are too many, or it is in force and could not be kept.
    pub(crate) fn order(
        &self,
        mac: Mac,
        change: impl FnOnce(&mut Order),
    ) -> Result<bool, OrderError> {
        let is_changed = {
            let mut inner = self.lock();
            let is_changed = inner.orders.change(mac, change)?;
            inner.is_unsaved |= is_changed;
            if is_changed && let Some(machine) = inner.table.get_mut(mac) {
                // What was decided before is over.
                machine.told = None;
                machine.mute = (0, None);
            }
            is_changed
        };
        self.save().map_err(OrderError::NotKept)?;
        Ok(is_changed)
    }

    /// Forgets everything about a machine; whether anything was known.
    ///
    /// # Errors
    /// When that could not be kept.
    pub(crate) fn forget(&self, mac: Mac) -> Result<bool, OrderError> {
        let is_known = {
            let mut inner = self.lock();
            let had_orders = inner.orders.forget(mac);
            inner.is_unsaved |= had_orders;
            inner.table.forget(mac) || had_orders
        };
        if let Some(hearing) = self.hearing.get() {
            hearing(mac, Heard::Forgotten);
        }
        self.save().map_err(OrderError::NotKept)?;
        Ok(is_known)
    }

    /// Whether there is a profile of that name; the names there are, when not.
    pub(crate) fn has_profile(&self, name: &str) -> Result<(), Vec<String>> {
        let inner = self.lock();
        match inner.profiles.get(name) {
            Some(_) => Ok(()),
            None => Err(inner
                .profiles
                .profiles
                .iter()
                .map(|profile| profile.name.clone())
                .collect()),
        }
    }

    /// Other profiles are in force from now on; whether they are others.
    pub(crate) fn set_profiles(&self, profiles: Arc<Profiles>) -> bool {
        let mut inner = self.lock();
        let is_changed = inner.profiles != profiles;
        inner.profiles = profiles;
        is_changed
    }

    /// Writes what changed without anybody waiting for it, for ever.
    pub(crate) async fn keep(&self) {
        loop {
            self.is_changed.notified().await;
            tokio::time::sleep(STATE_PAUSE).await;
            // A few kilobytes, seldom; the file system syncs them, so not on this thread.
            tokio::task::block_in_place(|| {
                if let Err(error) = self.save() {
                    tracing::warn!("what was learned about machines is not kept: {error}");
                }
            });
        }
    }

    /// Writes the state file, when it differs from what is in force.
    pub(crate) fn save(&self) -> Result<(), String> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = {
            let mut inner = self.lock();
            if !std::mem::take(&mut inner.is_unsaved) {
                return Ok(());
            }
            inner.orders.clone()
        };
        state.save(&orders).map_err(|error| {
            self.lock().is_unsaved = true;
            format!("{}: {error}", state.folder().display())
        })
    }

    /// Whether decisions survive a restart.
    pub(crate) fn is_kept(&self) -> bool {
        self.state.is_some()
    }

    fn changed(&self, inner: &mut Inner) {
        inner.is_unsaved = true;
        self.is_changed.notify_one();
    }

    fn tell(&self, mac: Mac, told: Told, now: SystemTime) {
        let mut inner = self.lock();
        let machine = inner.table.machine(mac, now);
        if machine.told.as_ref() == Some(&told) {
            return;
        }
        match &told {
            Told::Nothing(Quiet::Unknown) => tracing::info!(
                %mac, "a machine waits to be allowed: `plasmd clients allow {mac}`"
            ),
            Told::Nothing(Quiet::Denied) => tracing::info!(%mac, "not answered: it is denied"),
            Told::Nothing(Quiet::Cannot(why)) => tracing::warn!(%mac, why, "not answered"),
            Told::LocalDisk | Told::Network => {}
        }
        machine.told = Some(told);
    }

    fn tell_local(&self, mac: Mac, why: Local, now: SystemTime) {
        let mut inner = self.lock();
        let machine = inner.table.machine(mac, now);
        let boots = machine.boots;
        machine.local_once = (why == Local::Once).then_some(boots);
        let is_new = machine.told != Some(Told::LocalDisk);
        machine.told = Some(Told::LocalDisk);
        if is_new {
            tracing::info!(%mac, "local disk: {}", why.text());
        }
    }

    /// What a machine that was sent this file is booting.
    fn given(&self, name: &str) -> Option<Given> {
        if is_loader(name) {
            return None;
        }
        let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
        let (channel, arch, file) = match parts.as_slice() {
            [channel, arch, file] => (channel.parse().ok()?, arch.parse().ok()?, *file),
            [.., file] => (self.setup.channel.clone(), self.setup.arch, *file),
            [] => return None,
        };
        let folder = self.shelf.folder(&channel, arch);
        let last = folder.last_file().filter(|last| last.as_str() != file);
        let last = match last {
            // An EFI program has everything within it.
            Some(last) if !file.ends_with(".efi") => {
                format!("{}{last}", name.strip_suffix(file).unwrap_or_default())
            }
            _ => name.to_owned(),
        };
        Some(Given {
            folder: format!("{channel}/{arch}"),
            last,
            is_once: folder.boot.once,
        })
    }

    /// Before a machine is remembered.
    fn lock_for_machine(&self) -> MutexGuard<'_, Inner> {
        self.is_used.store(true, Ordering::Relaxed);
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whole at every unlock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What is in force for a machine, what was decided about it, and how often it booted in vain.
    fn known(&mut self, mac: Mac, arch: Option<Arch>, now: SystemTime) -> (InForce, Order, u32) {
        let (boots, local_once) = self
            .table
            .get(mac)
            .map_or((0, None), |machine| (machine.boots, machine.local_once));
        // A boot from the disk is over when the next one begins.
        if local_once.is_some_and(|once| once != boots) {
            let ended = self.orders.change(mac, |order| {
                order.once.take_if(|once| once.way == Way::Local);
            });
            // Written with the next change; who loses it sends one machine to its disk once more.
            self.is_unsaved |= ended == Ok(true);
            if let Some(machine) = self.table.get_mut(mac) {
                machine.local_once = None;
            }
        }
        let order = self.orders.get(mac).cloned().unwrap_or_default();
        let nothing = Facts::default();
        let machine = self.table.get(mac);
        let subject = Subject {
            mac,
            maker: vendor::maker(mac),
            facts: machine.map_or(&nothing, |machine| &machine.facts),
            arch,
        };
        let in_force = self.profiles.of(&subject, order.profile.as_deref());
        let mute = machine.map_or(0, |machine| machine.mute_boots(now));
        (in_force, order, mute)
    }
}

impl Counts {
    fn begin(&mut self) {
        self.boots_total += 1;
    }

    fn reach(&mut self, stage: Stage, is_first: bool) {
        let at = Stage::ALL.iter().position(|known| *known == stage);
        if let Some(count) = at.and_then(|at| self.stages_total.get_mut(at)) {
            *count += u64::from(is_first);
        }
    }
}

#[cfg(test)]
mod tests;
