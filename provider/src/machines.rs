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
//! | `plan` | a machine asks, and is given something |
//! | `event`, `heard` | what can happen to a machine, and what follows from it |
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
mod heard;
pub(crate) mod limits;
mod neighbours;
pub(crate) mod orders;
mod page;
mod plan;
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

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use boot_manifest::{Arch, Channel};
use pxe::Mac;
use pxe::boot::Style;
use pxe::strategy::Transfer;
use tokio::sync::Notify;

use crate::log::Lines;
use crate::machines::event::Stage;
use crate::machines::limits::{STATE_PAUSE, STATE_RETRY};
use crate::machines::orders::{Order, Orders, TooMany};
pub(crate) use crate::machines::page::{escaped, made_by, page, story};
use crate::machines::profiles::Profiles;
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
    /// How many lines strangers may cause.
    lines: Lines,
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
            lines: Lines::default(),
        }
    }

    /// Whom to answer.
    pub(crate) fn only(&self) -> Only {
        self.setup.only
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
                machine.local_once = None;
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
            if let Err(error) = tokio::task::block_in_place(|| self.save()) {
                tracing::warn!("what was learned about machines is not kept: {error}");
                tokio::time::sleep(STATE_RETRY).await;
                self.is_changed.notify_one();
            }
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

    /// Whether one more line about what a machine did may be logged: anybody can pretend to be a thousand machines.
    fn may_log(&self) -> bool {
        self.lines.may_tell(Instant::now())
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
