//! Something happened to a machine: DHCP, TFTP and HTTP tell what they saw, and the machine itself how far it got. What
//! follows from it, that a boot which was to happen once has happened, is decided here, by bytes that left.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use boot_manifest::{Arch, Channel};
use http::Method;
use pxe::Mac;
use pxe::strategy::Transfer;

use crate::http::answered::Answered;
use crate::machines::event::{Carrier, Event, Stage};
use crate::machines::limits::ERROR_MAX;
use crate::machines::orders::Way;
use crate::machines::record::{Follows, Given, Part, Told, is_loader, stage_of};
use crate::machines::{Heard, Inner, Machines};

impl Machines {
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
        self.pass_on(mac, &event);
        let mut inner = self.lock_for_machine();
        let is_failure = matches!(event, Event::Failed(_) | Event::FileAborted { .. });
        let reached = reached_by(&event);
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

    /// Somebody says over HTTP to be the machine `mac`, from this address.
    pub(crate) fn claims(&self, mac: Mac, address: IpAddr, now: SystemTime) {
        let address = address.to_canonical();
        let is_its = self.lock().table.claims(mac, address, now);
        if is_its {
            self.note_at(mac, Event::AddressSeen(address), now);
        }
    }

    /// Tells the part that answers machines.
    fn pass_on(&self, mac: Mac, event: &Event) {
        let transfer = match event {
            Event::FileStarted { .. } => Transfer::Begun,
            Event::FileSent { .. } => Transfer::Done,
            _ => return,
        };
        if let Some(hearing) = self.hearing.get() {
            hearing(mac, Heard::Transfer(transfer));
        }
    }

    /// What else an event brings about.
    fn follow(&self, inner: &mut Inner, mac: Mac, follows: Follows) {
        if let Some(took) = follows.has_served_after {
            inner.counts.served.0 += 1;
            inner.counts.served.1 += took.as_secs_f64();
            if self.may_log() {
                tracing::info!(%mac, seconds = took.as_secs(), "a machine serves");
            }
        }
        if follows.has_begun_to_loop {
            inner.counts.loops_total += 1;
            if self.may_log() {
                tracing::warn!(
                    %mac,
                    "this machine fetches the same again and again, and never says that it got further; \
                     `plasmd clients local {mac}` sends it to its disk"
                );
            }
        }
        if !follows.is_payload_sent {
            return;
        }
        let given = inner
            .table
            .get(mac)
            .and_then(|machine| machine.given.clone());
        let is_once = given.as_ref().is_some_and(|given| given.is_once);
        let folder = given.as_ref().map(|given| given.folder.as_str());
        let is_changed = inner.orders.change(mac, |order| {
            order
                .once
                .take_if(|once| once.way == Way::Network && once.is_for(folder));
            if is_once {
                order.installed = folder.map(str::to_owned);
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
            let machine = inner.table.machine(mac, now);
            // Firmware that is sent to its disk asks for a program that there is not, on purpose.
            let is_meant = answered.status >= 400 && machine.told == Some(Told::LocalDisk);
            if stage.is_none() || answered.status == 304 || is_meant {
                machine.took(answered.sent, now);
                return;
            }
            mac
        };
        match self.event_of(mac, path.to_owned(), answered, now) {
            Some(event) => self.note_at(mac, event, now),
            None => self.lock().table.machine(mac, now).took(answered.sent, now),
        }
    }

    /// What an answer about a boot file means for its machine. Nothing, when it is a HEAD, or a part and more have to follow.
    fn event_of(
        &self,
        mac: Mac,
        name: String,
        answered: &Answered<'_>,
        now: SystemTime,
    ) -> Option<Event> {
        let (via, bytes) = (Carrier::Http, answered.sent);
        if answered.status >= 400 {
            let status = answered.status;
            let reason = answered.request_id.and_then(|id| id.refused);
            let why = reason.map_or_else(
                || status.to_string(),
                |reason| format!("{status}: {}", reason.label()),
            );
            return Some(Event::FileRefused { name, via, why });
        }
        if *answered.method != Method::GET {
            return None;
        }
        let part = match answered.status {
            200 if answered.is_whole() => return Some(Event::FileSent { name, bytes, via }),
            200 => Part::First(bytes),
            206 => Part::More(bytes),
            _ => return None,
        };
        let mut inner = self.lock();
        let machine = inner.table.machine(mac, now);
        // Linux fetches in pieces, from several at once, and tells by itself when it has everything.
        if answered.is_whole() && machine.has_reached(Stage::Linux) {
            return None;
        }
        let sum = machine.took_part(&name, part, now);
        drop(inner);
        if !answered.is_whole() {
            let why = "the connection ended".to_owned();
            return Some(Event::FileAborted {
                name,
                bytes,
                via,
                why,
            });
        }
        let (channel, arch, file) = self.place_of(&name)?;
        let size = self.shelf.size(&channel, arch, file)?;
        (sum >= size).then_some(Event::FileSent { name, bytes, via })
    }

    /// What a machine that was sent this file is booting.
    fn given(&self, name: &str) -> Option<Given> {
        // Nobody spells one of our files so long.
        if is_loader(name) || name.len() > ERROR_MAX {
            return None;
        }
        let (channel, arch, file) = self.place_of(name)?;
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

    /// In which folder a file is that is served by this name.
    fn place_of<'a>(&self, name: &'a str) -> Option<(Channel, Arch, &'a str)> {
        let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            [channel, arch, file] => Some((channel.parse().ok()?, arch.parse().ok()?, file)),
            [.., file] => Some((self.setup.channel.clone(), self.setup.arch, file)),
            [] => None,
        }
    }
}

/// The stage that is reached by an event.
fn reached_by(event: &Event) -> Option<Stage> {
    match event {
        Event::Offered { .. } | Event::BinlAnswered { .. } => Some(Stage::Offer),
        Event::ScriptSent => Some(Stage::Script),
        Event::Stage(stage) => Some(*stage),
        Event::FileSent { name, .. } => stage_of(name),
        _ => None,
    }
}
